"""The exported file: what is in it, and that it fuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import fake_plugin
import numpy as np
import onnx
import pytest
import quantized_lookalike
import torch
from onnx import numpy_helper
from quantized_lookalike import HEIGHT, WIDTH, Lookalike, images_of
from torch import nn

from compress.errors import DetectorError, StageError
from compress.export import check_parity, export_onnx, parity
from compress.export.deploy_graph import deploy_graph, integer_weights
from compress.export.parity import relative_error, sensitivity
from compress.onnx_graph.fusion import layer_of, optimized_graph, unfused_convolutions
from compress.quantization import QuantizationSettings, calibrate, quantize
from compress.quantization.checks import quantized_layers
from compress.quantization.graph import outputs_of

torch.set_num_threads(1)
DETECTOR = Lookalike()
ROOT = Path(__file__).resolve().parents[4]


def quantized(detector=DETECTOR, **settings):
    model = quantize(detector.build(), QuantizationSettings(**settings), detector)
    calibrate(model, images_of(detector))
    return model


@pytest.fixture(scope="module")
def model():
    return quantized()


@pytest.fixture(scope="module")
def path(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    export_onnx(model, path, detector=DETECTOR, names="full")
    return path


@pytest.fixture(scope="module")
def proto(path):
    return onnx.load(str(path))


def test_each_weight_is_in_the_file_once_and_as_int8(proto):
    stored = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    kernels = {name: t for name, t in stored.items() if t.ndim == 4}
    assert len(kernels) == 15
    assert all(t.dtype == np.int8 for t in kernels.values())


def test_no_large_float_tensor_is_left(proto):
    floats = [numpy_helper.to_array(t) for t in proto.graph.initializer if t.data_type == onnx.TensorProto.FLOAT]
    assert max(t.size for t in floats) <= 32


def test_biases_of_integer_layers_are_int32_in_steps_of_input_scale_times_weight_scale(proto):
    producers = {output: node for node in proto.graph.node for output in node.output}
    stored = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    islands = DETECTOR.not_quantizable(DETECTOR.build())
    convolutions = [n for n in proto.graph.node if n.op_type == "Conv" and len(n.input) > 2]
    integer = [n for n in convolutions if layer_of(n.name) not in islands]
    assert len(integer) > 10
    for node in integer:
        source, weight, bias = (producers[name] for name in node.input)
        assert bias.op_type == "DequantizeLinear"
        assert stored[bias.input[0]].dtype == np.int32
        product = producers[bias.input[1]]  # not stored: the runtime folds it
        assert product.op_type == "Mul"
        assert list(product.input) == [source.input[1], weight.input[1]]


def test_a_layer_that_runs_on_three_levels_has_one_weight_and_a_bias_for_each_input_scale(proto, model):
    names = [t.name for t in proto.graph.initializer if t.name.startswith("head.first.")]
    biases = ["head.first.bias", "head.first.bias_1", "head.first.bias_2"]
    assert sorted(names) == [*biases, "head.first.weight", "head.first.weight_scale"]
    layer = quantized_layers(model)["head.first"]
    own_scales = layer.integer_weight()[1].flatten().tolist()
    stored = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    producers = {output: node for node in proto.graph.node for output in node.output}
    for node in (n for n in proto.graph.node if n.name.startswith("head.first/Conv")):
        source, weight, bias = (producers[name] for name in node.input)
        scales = stored[weight.input[1]]  # of sorted filters
        order = [own_scales.index(scale) for scale in scales.tolist()]
        expected = np.round(layer.bias.detach().numpy()[order] / (stored[source.input[1]] * scales))
        np.testing.assert_array_equal(stored[bias.input[0]], expected)


def test_the_runtime_computes_with_the_biases_of_the_file(proto, path):
    stored = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    expected = {value.tobytes() for name, value in stored.items() if value.dtype == np.int32 and ".bias" in name}
    fused = optimized_graph(path)
    optimized = {t.name: numpy_helper.to_array(t) for t in fused.graph.initializer}
    used = {
        optimized[n.input[8]].tobytes() for n in fused.graph.node if n.op_type == "QLinearConv" and len(n.input) > 8
    }
    assert used
    assert used <= expected


def test_weights_are_read_without_zero_points_as_all_are_zero(proto):
    readers = [n for n in proto.graph.node if n.op_type == "DequantizeLinear" and ".weight" in n.input[0]]
    assert len(readers) > 10
    assert {len(node.input) for node in readers} == {2}


def test_filters_without_weights_are_not_in_the_file_and_the_facts_name_them(tmp_path):
    detector = Lookalike()
    model = quantized(detector)
    with torch.no_grad():
        model.backbone.block.depthwise.get_submodule("0").weight[[1, 4, 9]] = 0
    facts = export_onnx(model, tmp_path / "model.onnx", detector=detector, rewrite=False)
    cut = {one["layer"]: (one["before"][0], one["after"][0]) for one in facts["removed"]}
    assert cut == {
        "backbone.block.expand.0/Conv": (32, 29),
        "backbone.block.depthwise.0/Conv": (32, 29),
        "backbone.block.linear.0/Conv": (16, 16),
    }
    names = detector.output_names()
    errors = check_parity(model, tmp_path / "model.onnx", images_of(detector)[:2], names=names, limit=1e-4, label="x")
    assert max(errors.values()) < 1e-5


def test_only_the_images_are_an_input(proto):
    assert [v.name for v in proto.graph.input] == ["images"]
    assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert [d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim[1:]] == [3, HEIGHT, WIDTH]


def test_outputs_have_the_plug_ins_names_and_training_outputs_are_gone(proto):
    assert [v.name for v in proto.graph.output] == list(DETECTOR.output_names())


def test_operators_are_standard_and_hold_no_shape_arithmetic(proto):
    kinds = {node.op_type for node in proto.graph.node}
    quantized = {"Conv", "QuantizeLinear", "DequantizeLinear", "Add", "MaxPool", "Resize"}
    assert kinds <= quantized | {"DeformConv", "Sigmoid", "Slice", "Split", "Mul", "SpaceToDepth"}
    assert {node.domain for node in proto.graph.node} == {""}


def test_metadata_tells_what_deployment_needs(proto):
    props = {p.key: p.value for p in proto.metadata_props}
    assert json.loads(props["krimp.deploy"]) == DETECTOR.metadata()


def test_same_model_gives_the_same_bytes(model, path, tmp_path):
    export_onnx(quantized(), tmp_path / "again.onnx", detector=DETECTOR, names="full")
    assert (tmp_path / "again.onnx").read_bytes() == path.read_bytes()


WRITE_AGAIN = """
import sys
sys.path[:0] = sys.argv[2:]
from pathlib import Path
from test_onnx_export import DETECTOR, export_onnx, quantized
export_onnx(quantized(), Path(sys.argv[1]), detector=DETECTOR, names="full")
"""


def test_another_process_with_other_hashes_writes_the_same_bytes(path, tmp_path):
    places = [str(Path(module.__file__).parent) for module in (sys.modules[__name__], quantized_lookalike, fake_plugin)]
    environment = os.environ | {"PYTHONHASHSEED": "77", "PYTHONPATH": str(ROOT)}
    call = [sys.executable, "-c", WRITE_AGAIN, str(tmp_path / "again.onnx"), *places]
    subprocess.run(call, check=True, env=environment, cwd=tmp_path)
    assert (tmp_path / "again.onnx").read_bytes() == path.read_bytes()


def test_the_file_tells_nothing_of_the_machine_that_wrote_it(path, proto):
    data = path.read_bytes()
    assert not any(word in data for word in (b".py", b"site-packages", str(ROOT).encode(), b"pytorch", b"torch."))
    assert [entry.key for entry in proto.metadata_props] == ["krimp.deploy"]
    assert not any(node.metadata_props or node.doc_string for node in proto.graph.node)
    assert not proto.graph.value_info


class Behind(nn.Module):
    """A network whose first output goes through something else."""

    def __init__(self, network, change) -> None:
        super().__init__()
        self.network, self.change = network, change

    def forward(self, images):
        first, *others = self.network(images)
        return (self.change(first), *others)


def test_what_torch_cannot_translate_is_named_in_the_message(tmp_path):
    class Spectral(nn.Module):
        def forward(self, x):
            return torch.linalg.svdvals(x)

    with pytest.raises(StageError, match=r"export to ONNX opset 19 failed: No ONNX function found for .*linalg_svd"):
        export_onnx(Behind(DETECTOR.build(), Spectral()), tmp_path / "m.onnx", detector=DETECTOR)
    assert not list(tmp_path.iterdir())


def test_a_batch_that_is_treated_as_channels_is_refused_with_the_cure(tmp_path):
    class KernelForEachImage(nn.Module):
        def forward(self, x):
            n, c, height, width = x.shape
            kernels = x.mean((2, 3)).reshape(n * c, 1, 1, 1)
            return torch.conv2d(x.reshape(1, n * c, height, width), kernels, groups=n * c).view(n, c, height, width)

    with pytest.raises(StageError, match=r"failed: .*with a free number of images: .* made of `x\.shape\[0\]`"):
        export_onnx(Behind(DETECTOR.build(), KernelForEachImage()), tmp_path / "m.onnx", detector=DETECTOR)


def test_the_refusal_of_a_network_reaches_the_user_as_it_is(tmp_path):
    def refuse(_module, _inputs):
        if torch.compiler.is_exporting():
            raise DetectorError("export to ONNX is not supported: because.")

    refusing = nn.Identity()
    refusing.register_forward_pre_hook(refuse)
    with pytest.raises(DetectorError, match=r"^export to ONNX is not supported: because\.$"):
        export_onnx(Behind(DETECTOR.build(), refusing), tmp_path / "m.onnx", detector=DETECTOR)


def test_every_convolution_outside_the_declared_islands_is_fused(path):
    islands = DETECTOR.not_quantizable(None)
    unfused = unfused_convolutions(path, islands)
    assert Counter(u.layer for u in unfused) == dict.fromkeys(islands, 3)
    assert all(u.reason == islands[u.layer] for u in unfused)


def test_additions_pooling_and_resizing_run_on_integers(path):
    count = Counter(node.op_type for node in optimized_graph(path).graph.node)
    assert count["QLinearConv"] == 15
    assert count["QLinearAdd"] == 2
    assert count["Add"] == count["Relu"] == count["Clip"] == 0
    assert count["QuantizeLinear"] == 1  # the image
    assert count["DequantizeLinear"] == 3 * 2 + 3 * 4  # inputs and weights of the islands, a level at a time


def test_convolution_without_a_quantized_input_is_reported_with_the_reason(path, tmp_path):
    proto = onnx.load(str(path))
    conv = next(n for n in proto.graph.node if n.name == "head.first/Conv")
    pair = next(n for n in proto.graph.node if conv.input[0] in n.output)
    source = next(n for n in proto.graph.node if pair.input[0] in n.output).input[0]
    conv.input[0] = source
    onnx.save(proto, str(tmp_path / "m.onnx"))
    found = {u.name: u.reason for u in unfused_convolutions(tmp_path / "m.onnx")}
    assert found["head.first/Conv"] == "its input is not quantized"
    assert "no integer DeformConv" in found["head.deform/DeformConv"]


def test_runtime_equals_the_fake_quantized_model(model, path):
    errors = check_parity(model, path, images_of(DETECTOR, split="val"), names=DETECTOR.output_names(), limit=0.01)
    assert max(errors.values()) > 0


def test_parity_message_names_output_error_limit_and_index(model, path):
    with pytest.raises(StageError, match=r"stage x: output '\w+' .* differs from torch by \d+.*limit.*index \(0, \d"):
        check_parity(model, path, images_of(DETECTOR), names=DETECTOR.output_names(), limit=1e-9, label="x")


def test_parity_message_tells_a_network_that_answers_rounding_errors(model, path, monkeypatch):
    monkeypatch.setattr(parity, "sensitivity", lambda model, images: [0.3] * len(DETECTOR.output_names()))
    with pytest.raises(StageError, match=r"own output moves by 30.00% when the images move by a millionth: train"):
        check_parity(model, path, images_of(DETECTOR), names=DETECTOR.output_names(), limit=1e-9)


def test_sensitivity_is_what_a_rounding_error_of_the_input_does_to_each_output():
    class TwoOutputs(torch.nn.Module):
        def forward(self, images):
            return 3 * images, (1e9 * images).sin()

    smooth, chaotic = sensitivity(TwoOutputs(), [torch.rand(1, 3, 8, 8), torch.rand(2, 3, 8, 8)])
    assert 0 < smooth < 1e-5
    assert chaotic > 0.5


def test_parity_without_images_is_an_error(model, path):
    with pytest.raises(StageError, match="no image"):
        check_parity(model, path, [], names=DETECTOR.output_names(), limit=1)


def test_relative_error_of_equal_and_of_zero_arrays():
    assert relative_error(np.ones(3), np.ones(3)) == 0
    assert relative_error(np.ones(3), np.zeros(3)) == 1
    assert relative_error(np.zeros(3), np.zeros(3)) == 0


@pytest.mark.parametrize("deform", ["DeformConv", "GridSample"])
@pytest.mark.parametrize("opset", [19, 20])
def test_both_forms_and_opsets_export_and_agree(model, tmp_path, deform, opset):
    path = tmp_path / "m.onnx"
    facts = export_onnx(model, path, detector=DETECTOR, deform=deform, opset=opset)
    assert facts["opset"] == opset
    check_parity(model, path, images_of(DETECTOR, 1), names=DETECTOR.output_names(), limit=0.01)


def test_float_model_has_no_quantizers_and_no_batch_norms(tmp_path):
    path = tmp_path / "float.onnx"
    model = DETECTOR.build()
    export_onnx(model, path, detector=DETECTOR)
    kinds = {node.op_type for node in onnx.load(str(path)).graph.node}
    assert not kinds & {"QuantizeLinear", "DequantizeLinear", "BatchNormalization"}
    check_parity(model, path, images_of(DETECTOR), names=DETECTOR.output_names(), limit=1e-4)


def test_uncalibrated_model_is_refused(tmp_path):
    model = quantize(DETECTOR.build(), QuantizationSettings(), DETECTOR)
    with pytest.raises(StageError, match="has no range"):
        export_onnx(model, tmp_path / "m.onnx", detector=DETECTOR)


def test_deploy_graph_equals_the_model_up_to_the_rounding_of_biases(model):
    graph = deploy_graph(model, 6, DETECTOR.example_input(2))
    x = images_of(DETECTOR, split="val")[0]
    for a, b in zip(outputs_of(graph, x), outputs_of(model, x), strict=False):
        assert relative_error(a.numpy(), b.numpy()) < 0.02


def test_emptied_channel_keeps_its_bias_inside_int32(tmp_path):
    model = quantized()
    layer = quantized_layers(model)["neck.smooth"]
    with torch.no_grad():
        layer.weight[0] = 0
        layer.weight[1] *= 1e-12
        layer.bias[:2] = torch.tensor([3.0, -2.0])
    codes, scale = integer_weights(layer, 0.02)
    assert int(codes[0].abs().max()) == 0
    assert (layer.bias.abs() / (0.02 * scale)).max() <= 2**30 * 1.001
    path = tmp_path / "m.onnx"
    export_onnx(model, path, detector=DETECTOR)
    check_parity(model, path, images_of(DETECTOR), names=DETECTOR.output_names(), limit=0.01)
