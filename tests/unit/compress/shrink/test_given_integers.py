"""Networks that others have quantized: their integers are rounded anew, and nothing else changes."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from small_nets import SIDE, write_net, write_pictures

from compress import codec
from compress.cli.main import main
from compress.errors import CodecError
from compress.onnx_graph.fusion import optimized_graph
from compress.post_training.moments import InputMoments
from compress.rate_rounding.layer import Rounded, exponents_of
from compress.rate_rounding.search import round_network
from compress.shrink.given.opening import open_any
from compress.shrink.importance import OutputDistance, importances
from compress.shrink.network import open_network
from compress.shrink.observe import Seen, observe, session_of
from compress.shrink.rounding import choosers
from compress.shrink.target import TARGETS

FINE = 1e-12
ZOO = Path(__file__).parents[4] / "detectors/dcfl/zoo/dcfl_mbv2_hituav_one_pass.krimp"


def images(count=4):
    rng = np.random.default_rng(3)
    return [{"images": rng.uniform(0, 1, (1, 3, SIDE, SIDE)).astype(np.float32)} for _ in range(count)]


class Reader(CalibrationDataReader):
    def __init__(self):
        self.left = images()

    def get_next(self):
        return self.left.pop() if self.left else None


def statically(path, *, form=QuantFormat.QDQ, per_channel=True, weights=QuantType.QInt8, activations=QuantType.QUInt8):
    """Write the small network as ONNX Runtime quantizes it."""
    source = path.with_name("float.onnx")
    onnx.save(open_network(write_net(source)).model, source)  # batch norms folded, as one does before
    quantize_static(
        source,
        path,
        Reader(),
        quant_format=form,
        per_channel=per_channel,
        weight_type=weights,
        activation_type=activations,
    )
    return path


STATIC = {
    "qdq": {},
    "qdq per tensor": {"per_channel": False},
    "qdq signed": {"activations": QuantType.QInt8},
    "qdq unsigned weights": {"weights": QuantType.QUInt8, "per_channel": False},
    "qoperator": {"form": QuantFormat.QOperator},
    "qoperator per tensor": {"form": QuantFormat.QOperator, "per_channel": False},
    "qoperator unsigned weights": {"form": QuantFormat.QOperator, "weights": QuantType.QUInt8, "per_channel": False},
}


def rounded(opened, price, feeds=images):
    network = opened.learning
    seen = observe(network, feeds)
    clean = session_of(network.model)
    distance = OutputDistance(clean.run(network.outputs, feed) for feed in feeds())
    importance = importances(network, seen, feeds, distance)
    largest = opened.form.largest_code(TARGETS["cpu-avx2"])
    made = choosers(network, seen, importance, largest_code=largest, steps=opened.form.steps)
    layers = round_network(made, price)
    return layers, opened.form.build(network, seen, layers, importance)


def error(given, model, feeds=None):
    """Return the mean relative error of the outputs on some images."""
    names = [one.name for one in given.graph.output]
    errors = []
    for feed in images(3) if feeds is None else feeds:
        for one, other in zip(session_of(model).run(names, feed), session_of(given).run(names, feed), strict=True):
            errors.append(np.linalg.norm(one - other) / np.linalg.norm(other))
    return float(np.mean(errors))


@pytest.mark.parametrize("how", STATIC.values(), ids=STATIC)
def test_static_integers_are_rounded_anew_and_the_structure_stays(tmp_path, how):
    path = statically(tmp_path / "net.onnx", **how)
    given = onnx.load(path)
    opened = open_any(path)
    assert len(opened.form.weights) == 6
    assert not opened.form.left
    assert error(given, opened.given.model) == 0
    assert error(given, opened.learning.model) < 0.05
    _, fine = rounded(opened, FINE)
    layers, coarse = rounded(opened, 3e-5)
    assert error(given, fine) < 0.03
    assert error(given, fine) < error(given, coarse) < 0.5
    before, after = (Counter(node.op_type for node in model.graph.node) for model in (given, coarse))
    assert before == after
    fused = [Counter(node.op_type for node in optimized_graph(model).graph.node) for model in (given, coarse)]
    assert fused[0] == fused[1]
    stored = {one.name: numpy_helper.to_array(one) for one in coarse.graph.initializer}
    old = {one.name: numpy_helper.to_array(one) for one in given.graph.initializer}
    few = sum(len(np.unique(stored[name])) for name in opened.form.weights)
    assert few < 0.5 * sum(len(np.unique(old[name])) for name in opened.form.weights)
    for name, one in layers.items():
        middle = 128 if stored[name].dtype == np.uint8 else 0
        assert stored[name].dtype == old[name].dtype
        linear = opened.learning.linears[name]
        assert np.array_equal(stored[name].astype(int) - middle, opened.learning.unmatrix(linear, one.codes))


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("weights", [QuantType.QInt8, QuantType.QUInt8], ids=str)
def test_dynamic_products_are_rounded_anew(tmp_path, per_channel, weights):
    path = two_products(tmp_path / "float.onnx")
    quantize_dynamic(path, tmp_path / "net.onnx", per_channel=per_channel, weight_type=weights)
    check_dynamic(tmp_path / "net.onnx", 2, lambda: [{"x": one} for one in np.random.default_rng(1).normal(
        size=(4, 1, 24)).astype(np.float32)])  # fmt: skip


@pytest.mark.parametrize("per_channel", [False, True])
def test_dynamic_convolutions_are_rounded_anew(tmp_path, per_channel):
    onnx.save(open_network(write_net(tmp_path / "float.onnx")).model, tmp_path / "float.onnx")
    quantize_dynamic(
        tmp_path / "float.onnx", tmp_path / "net.onnx", per_channel=per_channel, weight_type=QuantType.QUInt8
    )
    check_dynamic(tmp_path / "net.onnx", 6, images)


def check_dynamic(path, count, feeds):
    given = onnx.load(path)
    opened = open_any(path)
    assert len(opened.form.weights) == count
    assert error(given, opened.learning.model, feeds()) < 0.05
    _, fine = rounded(opened, FINE, feeds)
    _, coarse = rounded(opened, 1e-4, feeds)
    assert error(given, fine, feeds()) < 0.03
    assert error(given, fine, feeds()) < error(given, coarse, feeds()) < 0.5
    assert Counter(node.op_type for node in given.graph.node) == Counter(node.op_type for node in coarse.graph.node)


def two_products(path):
    """Write MatMul, Add, ReLU, Gemm."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"]),
        helper.make_node("Add", ["h", "c"], ["g"]),
        helper.make_node("Relu", ["g"], ["r"]),
        helper.make_node("Gemm", ["r", "b", "d"], ["y"], transB=1),
    ]
    shapes = {"a": (24, 48), "c": (48,), "b": (8, 48), "d": (8,)}
    return save(path, nodes, {name: rng.normal(size=shape) for name, shape in shapes.items()}, [1, 24], [1, 8])


def save(path, nodes, constants, given, made, opset=17):
    stored = [
        numpy_helper.from_array(value.astype(np.float32) if value.dtype == np.float64 else value, name)
        for name, value in constants.items()
    ]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", given), ("y", made))]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.save(model, path)
    return path


def weights_only(path, *, opset=17, float_weight=False):
    """Write two convolutions over floats whose weights are unfolded, or rounded as they are loaded."""
    rng = np.random.default_rng(0)
    codes = {"a": rng.integers(-127, 128, (16, 3, 3, 3), np.int8), "b": rng.integers(-127, 128, (4, 16, 1, 1), np.int8)}
    scale = np.float32(0.011)
    constants = {"scale": np.array(scale), "zero": np.array(0, np.int8), "d": rng.normal(size=16)}
    nodes = []
    for name, value in codes.items():
        source = name
        constants[name] = value
        if float_weight:
            constants[name] = value * scale
            nodes.append(helper.make_node("QuantizeLinear", [name, "scale", "zero"], [f"{name} codes"]))
            source = f"{name} codes"
        nodes.append(helper.make_node("DequantizeLinear", [source, "scale", "zero"], [f"{name} floats"]))
    nodes += [
        helper.make_node("Conv", ["x", "a floats", "d"], ["h"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Conv", ["r", "b floats"], ["y"]),
    ]
    return save(path, nodes, constants, [1, 3, 16, 16], [1, 4, 16, 16], opset)


@pytest.mark.parametrize("how", [{}, {"opset": 11}, {"float_weight": True}], ids=str)
def test_weights_that_are_only_unfolded_are_rounded_anew(tmp_path, how):
    path = weights_only(tmp_path / "net.onnx", **how)
    given, opened = onnx.load(path), open_any(path)
    assert len(opened.form.weights) == 2

    def feeds():
        return [{"x": one} for one in np.random.default_rng(1).normal(size=(4, 1, 3, 16, 16)).astype(np.float32)]

    assert error(given, opened.given.model, feeds()) == 0
    assert error(given, opened.learning.model, feeds()) < 1e-6
    _, fine = rounded(opened, FINE, feeds)
    layers, coarse = rounded(opened, 1e-4, feeds)
    assert error(given, fine, feeds()) < 0.02 < error(given, coarse, feeds()) < 0.5
    stored = {one.name: numpy_helper.to_array(one) for one in coarse.graph.initializer}
    assert [stored[name].dtype for name in layers] == [np.int8, np.int8]
    assert set(stored) >= set(layers)
    assert not np.array_equal(stored["d"], {o.name: numpy_helper.to_array(o) for o in given.graph.initializer}["d"])


def test_our_own_files_keep_what_they_are_at_the_finest_price():
    """Their steps lie on the grid, so their integers are found again; only what heads of boxes deform stays aside."""
    model = onnx.load_from_string(codec.load(ZOO))
    with tempfile.TemporaryDirectory() as folder:
        onnx.save(model, f"{folder}/net.onnx")
        opened = open_any(Path(folder) / "net.onnx")
    form, network = opened.form, opened.learning
    assert len(form.weights) == 68
    assert set(form.left.values()) == {"multiplied by DeformConv"}
    assert set(form.steps) == set(form.weights)
    layers = {}
    for name, weight in form.weights.items():
        linear = network.linears[name]
        matrix = network.matrix(linear)
        codes = np.rint(matrix / weight.steps[:, None]).astype(np.int8)
        layers[name] = Rounded(codes, exponents_of(weight.steps), 0.0)
    seen = Seen(moments={
        name: InputMoments.empty(one.groups, network.matrix(one).shape[1]) for name, one in network.linears.items()
    })  # fmt: skip
    made = form.build(network, seen, layers, {name: np.zeros(len(one.codes)) for name, one in layers.items()})
    image = np.random.default_rng(0).normal(size=(1, 3, 512, 640)).astype(np.float32)
    feed = {model.graph.input[0].name: image}
    for one, other in zip(session_of(made).run(None, feed), session_of(model).run(None, feed), strict=True):
        assert np.array_equal(one, other)


def test_forms_that_are_not_followed_are_refused_in_words(tmp_path):
    rng = np.random.default_rng(0)
    weight = rng.integers(-8, 8, (64, 64), np.int8)
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "scale"], ["f"], axis=0),
        helper.make_node("MatMul", ["f", "x"], ["y"]),
    ]
    path = save(tmp_path / "net.onnx", nodes, {"w": weight, "scale": np.full(64, 0.1)}, [64, 2], [64, 2])
    with pytest.raises(CodecError, match=r"net\.onnx: quantized already .*w: the left side of a MatMul.*krimp pack"):
        open_any(path)


def test_the_command_makes_a_quantized_file_small_and_says_what_it_was(tmp_path):
    statically(tmp_path / "net.onnx")
    pictures = write_pictures(tmp_path / "pictures")
    out = tmp_path / "out"
    assert main(["shrink", str(tmp_path / "net.onnx"), "--data", str(pictures), "--out", str(out)]) == 0
    told = json.loads((out / "net.shrink.json").read_text())
    assert told["form"]["quantized_before"] == ["DequantizeLinear", "QuantizeLinear"]
    assert told["packed_bytes"] < 0.7 * told["packed_as_given_bytes"]
    assert told["packed_bytes"] == (out / "net.krimp").stat().st_size
    assert codec.load(out / "net.krimp") == (out / "net.small.onnx").read_bytes()
    words = (out / "net.shrink.md").read_text()
    assert "quantized already" in words
    assert "packed as it was" in words
    assert "against the quantized network as given" in words
    assert "the float network" not in words
