"""One step of everything: prune, rebuild, quantize, export, ONNX Runtime, pack, unpack, detect from the file."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from lively import copied

from compress import codec
from compress.export import check_parity, export_onnx
from compress.metrics.complexity import count_parameters
from compress.model_folder import Build, load_model, save_model
from compress.onnx_graph.fusion import unfused_convolutions
from compress.pruning.cost_model import measure_cost
from compress.pruning.settings import PruningRules, PruningSettings
from compress.pruning.structured import prune_step
from compress.quantization import QuantizationSettings, calibrate, quantize
from compress.quantization.checks import quantized_layers
from compress.quantization.graph import outputs_of
from compress.runtime.detect import open_predictor
from compress.runtime.forwards import onnx_forward, torch_forward
from compress.scoring import evaluate

SHARE = 0.7  # of the MACs that pruning leaves
IMAGES = 3  # of a split that are looked at
PARITY = 0.03  # relative error of each raw output, torch against ONNX Runtime
FLOAT_PARITY = 1e-4  # and of a float network


def images_of(detector, split):
    loader = detector.data.loader(split, detector.input_format(), batch_size=1, augment=False, seed=0)
    return [batch.images for _, batch in zip(range(IMAGES), loader, strict=False)]


@pytest.fixture(scope="module")
def pruned(detector, model):
    """Return the pruned model and what the step reported."""
    model = copied(model)
    example = detector.example_input(1)
    rules = PruningRules(protected=detector.not_prunable(model), custom_pruners=detector.custom_pruners(model))
    full = measure_cost(model, example, "macs")
    batch = next(iter(detector.data.loader("train", detector.input_format(), batch_size=2, augment=False, seed=0)))

    def loss():
        return sum(detector.loss(model, tuple(model(batch.images)), batch).values())

    settings = PruningSettings(importance="group_taylor", round_to=8)
    result = prune_step(model, example, {"macs": round(SHARE * full)}, rules=rules, settings=settings, losses=[loss])
    return SimpleNamespace(model=model.eval(), full=full, result=result)


@pytest.fixture(scope="module")
def exported(detector, pruned, tmp_path_factory):
    """Return the quantized model after one step of training, and the paths of its files."""
    folder = tmp_path_factory.mktemp("exported")
    quantized = quantize(pruned.model, QuantizationSettings(), detector)
    calibrate(quantized, images_of(detector, "train"))
    batch = next(iter(detector.data.loader("train", detector.input_format(), batch_size=2, augment=True, seed=0)))
    detector.set_train_mode(quantized)
    optimizer = torch.optim.SGD([p for p in quantized.parameters() if p.requires_grad], lr=1e-6)
    sum(detector.loss(quantized, tuple(quantized(batch.images)), batch).values()).backward()
    optimizer.step()
    quantized.eval()
    path, packed = folder / "model.onnx", folder / "model.krimp"
    names = export_onnx(quantized, path, detector=detector)["names"]
    codec.pack_file(path, packed)
    return SimpleNamespace(model=quantized, path=path, packed=packed, folder=folder, names=names)


def test_pruning_reaches_its_target_and_keeps_the_raw_outputs(detector, model, pruned):
    assert abs(pruned.result.after["macs"] / pruned.full / SHARE - 1) < 0.05
    assert count_parameters(pruned.model) < count_parameters(model)
    images = detector.example_input(1)
    shapes = [output.shape for output in outputs_of(model, images)]
    outputs = outputs_of(pruned.model, images)
    assert [output.shape for output in outputs] == shapes
    assert all(bool(torch.isfinite(output).all()) for output in outputs)


def test_every_layer_is_pruned_or_the_reason_is_given(detector, pruned):
    fixed = set(detector.not_prunable(pruned.model))
    assert fixed <= set(pruned.result.not_prunable)
    assert all(pruned.result.not_prunable.values())


def test_the_pruned_model_is_rebuilt_from_its_folder(detector, pruned, tmp_path):
    save_model(tmp_path, pruned.model, Build())
    again, _ = load_model(tmp_path, detector)
    images = detector.example_input(1)
    for found, wanted in zip(outputs_of(again, images), outputs_of(pruned.model, images), strict=True):
        assert torch.equal(found, wanted)


def test_the_quantized_model_is_rebuilt_from_its_folder(detector, pruned, exported, tmp_path):
    save_model(tmp_path, pruned.model, Build())
    _, build = load_model(tmp_path, detector)
    settings = QuantizationSettings().model_dump(mode="json")
    save_model(tmp_path, exported.model, build.model_copy(update={"quantization": settings}))
    again, _ = load_model(tmp_path, detector)
    images = images_of(detector, "val")[0]
    for found, wanted in zip(outputs_of(again, images), outputs_of(exported.model, images), strict=True):
        torch.testing.assert_close(found, wanted)


def test_float_and_onnx_runtime_agree(detector, pruned, tmp_path):
    path = tmp_path / "float.onnx"
    export_onnx(pruned.model, path, detector=detector)
    images, names = images_of(detector, "val"), detector.output_names()
    check_parity(pruned.model, path, images, names=names, limit=FLOAT_PARITY)


def test_fake_quantized_and_onnx_runtime_agree(detector, exported):
    images = images_of(detector, "val")
    check_parity(exported.model, exported.path, images, names=detector.output_names(), limit=PARITY)


def test_every_convolution_holds_integers_and_only_declared_ones_compute_in_float(detector, exported):
    assert quantized_layers(exported.model)
    stored = {tensor.name: tensor for tensor in onnx.load(str(exported.path)).graph.initializer}
    kernels = [tensor for tensor in stored.values() if len(tensor.dims) == 4]
    assert len(kernels) == len(quantized_layers(exported.model))
    assert {tensor.data_type for tensor in kernels} == {onnx.TensorProto.INT8}
    reasons = detector.not_quantizable(exported.model)
    unfused = unfused_convolutions(exported.path, reasons, exported.names)
    surprising = [one for one in unfused if one.layer not in reasons]
    assert surprising == []


def test_the_batch_of_the_file_is_free(exported, detector):
    forward = onnx_forward(exported.path, threads=1)
    images = torch.cat(images_of(detector, "val")).numpy()
    for together, alone in zip(forward(images), forward(images[1:2]), strict=True):
        np.testing.assert_allclose(together[1:2], alone, rtol=1e-3, atol=1e-3)


def test_the_packed_file_gives_the_same_bytes_back(exported):
    assert codec.unpack_bytes(exported.packed) == exported.path.read_bytes()
    assert exported.packed.stat().st_size < exported.path.stat().st_size


def test_packed_and_quantized_model_score_the_same(detector, exported):
    names = len(detector.output_names())
    scores = [
        evaluate(detector, forward, "val", limit=IMAGES)
        for forward in (torch_forward(exported.model, names), onnx_forward(exported.packed, threads=1))
    ]
    assert abs(scores[0].map50 - scores[1].map50) <= 0.005


def test_the_packed_file_detects_on_its_own_in_a_picture_of_any_size(detector, exported):
    predictor = open_predictor(exported.packed, threads=1, score_threshold=0.0)
    height, width = detector.data.image_size
    picture = np.random.default_rng(0).integers(0, 256, (height + 40, 2 * width - 10, 3), dtype=np.uint8)
    records = predictor.deploy.to_json(predictor.detect(picture))
    assert records
