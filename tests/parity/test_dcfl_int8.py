"""DCFL itself: ResNet-18 and MobileNetV2, quantized, exported and run in ONNX Runtime, tiny sizes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn
from torch.nn import functional as F

from compress.export import check_parity, export_onnx
from compress.onnx_graph.fusion import optimized_graph, unfused_convolutions
from compress.quantization import QuantizationSettings, calibrate, quantize
from detectors.data.formats.dota import DotaData, DotaDataset
from detectors.dcfl.adapter import Dcfl

torch.set_num_threads(1)
SIZE = 128


def smooth_images(number: int, seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(number, 3, SIZE // 8, SIZE // 8, generator=generator)
    return list(F.interpolate(coarse, size=(SIZE, SIZE), mode="bilinear").split(1))


@pytest.fixture(scope="module", params=["resnet18", "mobilenet_v2"])
def exported(request, tmp_path_factory):
    """Return detector, fake-quantized model, path of the ONNX file."""
    config = Dcfl.CONFIG(backbone=request.param, channels=16, classes=["a", "b"])
    detector = Dcfl(config, DotaDataset(DotaData(image_size=(SIZE, SIZE)), config.classes))
    torch.manual_seed(0)
    model = detector.build().eval()
    for layer in [*model.neck.modules(), *model.head.modules()]:
        if isinstance(layer, nn.Conv2d):  # the published initial values make signals vanish: no test of anything
            nn.init.kaiming_normal_(layer.weight)
    with torch.no_grad():
        model.head.conv_offset.weight.mul_(0.2)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):  # real statistics, for the same reason
            layer.momentum = 1.0
    with torch.no_grad():
        model.train()(torch.cat(smooth_images(4, seed=2)))
    model.eval()
    quantized = quantize(model, QuantizationSettings(), detector)
    calibrate(quantized, smooth_images(4, seed=0))
    path = tmp_path_factory.mktemp("dcfl") / "model.onnx"
    export_onnx(quantized, path, detector=detector, names="full")
    return detector, quantized, path


def test_only_the_declared_layers_run_in_float_once_a_level(exported):
    detector, model, path = exported
    islands = detector.not_quantizable(model)
    assert Counter(u.layer for u in unfused_convolutions(path, islands)) == dict.fromkeys(islands, 5)


def test_additions_are_fused_and_one_quantize_node_is_left(exported):
    count = Counter(node.op_type for node in optimized_graph(exported[2]).graph.node)
    assert count["Add"] == count["Relu"] == count["Clip"] == 0
    assert count["QLinearAdd"] >= 2
    assert count["QuantizeLinear"] == 1


def test_weights_of_the_shared_head_are_in_the_file_once(exported):
    stored = onnx.load(str(exported[2])).graph.initializer
    kernels = [t for t in stored if t.name.startswith("head.") and len(t.dims) == 4]
    assert len(kernels) == 11
    assert all(numpy_helper.to_array(t).dtype == np.int8 for t in kernels)


def test_runtime_equals_the_fake_quantized_model(exported):
    detector, model, path = exported
    check_parity(model, path, smooth_images(2, seed=1), names=detector.output_names(), limit=0.03)
