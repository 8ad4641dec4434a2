"""What the small file computes in: integers that the runtime fuses, floats that the codec takes apart."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from small_nets import SIDE, write_net

from compress.onnx_graph.fusion import optimized_graph
from compress.rate_rounding.search import round_network
from compress.shrink import form
from compress.shrink.activations import activation_costs, rounded_to_levels
from compress.shrink.choosing import islands
from compress.shrink.form import Form
from compress.shrink.importance import OutputDistance
from compress.shrink.judge.verdict import Verdict
from compress.shrink.network import open_network
from compress.shrink.observe import observe, session_of, with_outputs
from compress.shrink.rounding import choosers

FINE = 1e-12


def images(count=4):
    rng = np.random.default_rng(3)
    return [{"images": rng.uniform(0, 1, (1, 3, SIDE, SIDE)).astype(np.float32)} for _ in range(count)]


def shared_head(path):
    """Write a pyramid of two levels of very different size, with one head over both."""
    rng = np.random.default_rng(0)
    constants = {
        "stem": rng.normal(size=(16, 3, 3, 3)),
        "down": 20 * rng.normal(size=(16, 16, 3, 3)),
        "head": rng.normal(size=(16, 16, 3, 3)),
        "bias": rng.normal(size=16) * 5,
        "last": rng.normal(size=(8, 16, 1, 1)),
        "end": rng.normal(size=8),
    }
    wide = {"pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["images", "stem"], ["p0"], strides=[2, 2], **wide),
        helper.make_node("Relu", ["p0"], ["r0"]),
        helper.make_node("Conv", ["r0", "down"], ["p1"], strides=[2, 2], **wide),
        helper.make_node("Relu", ["p1"], ["r1"]),
    ]
    for level in "01":
        nodes += [
            helper.make_node("Conv", [f"r{level}", "head", "bias"], [f"h{level}"], **wide),
            helper.make_node("Relu", [f"h{level}"], [f"t{level}"]),
            helper.make_node("Conv", [f"t{level}", "last", "end"], [f"out{level}"]),
        ]
    graph = helper.make_graph(
        nodes,
        "shared",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        [
            helper.make_tensor_value_info(f"out{i}", TensorProto.FLOAT, [1, 8, SIDE // s, SIDE // s])
            for i, s in ((0, 2), (1, 4))
        ],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


@pytest.fixture(params=[write_net, shared_head], ids=["net", "shared head"])
def learnt(request, tmp_path):
    network = open_network(request.param(tmp_path / "net.onnx"))
    seen = observe(network, images)
    importance = {name: np.ones(len(network.matrix(one))) for name, one in network.linears.items()}
    return network, seen, importance


def rounded(learnt, price=FINE, largest=63):
    return round_network(choosers(*learnt, largest_code=largest), price)


def error(network, model):
    feed = images(6)[5]
    pairs = zip(session_of(model).run(None, feed), session_of(network.model).run(None, feed), strict=True)
    return [float(np.linalg.norm(one - other) / np.linalg.norm(other)) for one, other in pairs]


def test_all_convolutions_of_integers_fuse_those_that_share_weights_too(learnt):
    network, seen, importance = learnt
    made = Form(True).build(network, seen, rounded(learnt), importance)
    kinds = Counter(node.op_type for node in optimized_graph(made).graph.node)
    convolutions = sum(node.op_type == "Conv" for node in network.model.graph.node)
    assert kinds["QLinearConv"] == convolutions
    assert kinds["Conv"] == kinds["FusedConv"] == 0
    assert max(error(network, made)) < 0.1


def test_weights_in_a_file_are_the_integers_that_were_chosen(learnt):
    network, seen, importance = learnt
    layers = rounded(learnt, 1e-4)
    stored = {
        one.name: numpy_helper.to_array(one)
        for one in Form(True).build(network, seen, layers, importance).graph.initializer
    }
    floats = {
        one.name: numpy_helper.to_array(one)
        for one in Form(False).build(network, seen, layers, importance).graph.initializer
    }
    for name, one in layers.items():
        linear = network.linears[name]
        assert np.array_equal(stored[f"{name}_quantized"], network.unmatrix(linear, one.codes))
        assert np.array_equal(stored[f"{name}_scale"], one.steps)
        assert np.array_equal(floats[name], network.unmatrix(linear, one.weights.astype(np.float32)))


def test_error_falls_as_bits_rise(learnt):
    network, seen, importance = learnt
    errors = [
        np.mean(error(network, Form(False).build(network, seen, rounded(learnt, price), importance)))
        for price in (1e-2, 1e-4, 1e-6, FINE)
    ]
    assert errors == sorted(errors, reverse=True)
    wide, narrow = (
        np.mean(error(network, Form(False).build(network, seen, rounded(learnt, FINE, largest), importance)))
        for largest in (127, 15)
    )
    assert wide < narrow


def test_nodes_that_stay_float_have_no_integers_around_them(learnt):
    network, seen, importance = learnt
    last = [node.name for node in network.model.graph.node if node.op_type == "Conv"][-1]
    made = Form(True, frozenset({last})).build(network, seen, rounded(learnt), importance)
    kinds = Counter(node.op_type for node in optimized_graph(made).graph.node)
    convolutions = sum(node.op_type == "Conv" for node in network.model.graph.node)
    assert kinds["QLinearConv"] == convolutions - 1


def test_the_cost_of_a_tensor_is_what_rounding_it_alone_does(tmp_path):
    network = open_network(write_net(tmp_path / "net.onnx"))
    clean = session_of(network.model)
    distance = OutputDistance(clean.run(network.outputs, feed) for feed in images())
    name = network.model.graph.node[0].output[0]
    ends = (-1.0, 3.0)
    costs = activation_costs(network, {name: ends, "images": (0.0, 1.0)}, images, distance)
    opened = onnx.ModelProto()
    opened.CopyFrom(network.model)
    opened.graph.output.append(onnx.ValueInfoProto(name=name))
    begin = onnx.utils.Extractor(network.model)
    rest = begin.extract_model([name], list(network.outputs))
    losses = []
    for feed in images():
        (value,) = session_of(opened).run([name], feed)
        after = session_of(rest).run(network.outputs, {name: rounded_to_levels(value, ends)})
        losses.append(distance.of(after, clean.run(network.outputs, feed)))
    assert costs[name] == pytest.approx(np.mean(losses), rel=1e-3)
    assert 0 < costs["images"] < costs[name]


def verdict(loss):
    return Verdict(loss, None, None, {}, {}, {})


def tensors_of(network, nodes):
    return {name for name in network.makers if network.makers[name] in nodes}


def test_the_worst_tensors_stay_float_and_no_others(tmp_path):
    network = open_network(write_net(tmp_path / "net.onnx"))
    names = [node.output[0] for node in network.model.graph.node if node.op_type == "Conv"]
    costs = {name: 1.0 / (number + 1) for number, name in enumerate(names)}
    asked = []

    def loss(nodes):
        """Only the second and the third matter."""
        return 5.0 * (network.makers[names[1]] not in nodes) + 2.0 * (network.makers[names[2]] not in nodes)

    def judged(nodes):
        asked.append(nodes)
        return verdict(loss(nodes))

    rung, tried = islands(network, costs, lambda nodes: 0.1 + loss(nodes), judged, 0.5)
    assert rung.verdict.loss == 0
    assert set(names[1:3]) <= tensors_of(network, rung.nodes)
    assert len(asked) < len(tried)  # what the distance says is no better is not judged
    none, _ = islands(network, costs, lambda nodes: 0.1 + loss(nodes), judged, 100)
    assert none.tensors == ()
    best, _ = islands(network, costs, lambda nodes: 0.1 + loss(nodes), lambda nodes: verdict(9 + loss(nodes)), 0.5)
    assert best.verdict.loss == 9  # nothing holds: what loses least


def of_kind(model, op):
    return [node for node in model.graph.node if node.op_type == op]


def test_for_tensorrt_zero_points_are_0_and_islands_are_float16(learnt, monkeypatch):
    network, seen, importance = learnt
    last = [node.name for node in network.model.graph.node if node.op_type == "Conv"][-1]
    layers = rounded(learnt, 1e-4)
    made = Form(True, frozenset({last}), symmetric=True, half=True).build(network, seen, layers, importance)
    stored = {one.name: numpy_helper.to_array(one) for one in made.graph.initializer}
    quantizers, unfolders = of_kind(made, "QuantizeLinear"), of_kind(made, "DequantizeLinear")
    assert quantizers
    assert unfolders
    for node in (*quantizers, *unfolders):
        zero = stored[node.input[2]]
        assert zero.dtype == np.int8
        assert not zero.any()
    convolutions = of_kind(made, "Conv")
    watched = session_of(with_outputs(made, [one for node in convolutions for one in node.output]))
    kinds = {one.name: one.type for one in watched.get_outputs()}
    (island,) = [node for node in convolutions if node.name == last]
    halves = [name for name in island.output if kinds[name] == "tensor(float16)"]
    assert list(island.output) == halves
    assert sum(kinds[node.output[0]] == "tensor(float16)" for node in convolutions) == 1
    monkeypatch.setattr(form, "with_half_islands", lambda model, *_: model)
    single = Form(True, frozenset({last}), symmetric=True, half=True).build(network, seen, layers, importance)
    for feed in images(2):  # the judge runs it, in float32: ONNX Runtime's CPU has no other
        whole, other = (session_of(one).run(network.outputs, feed)[-1] for one in (single, made))
        assert np.linalg.norm(whole - other) < 0.01 * np.linalg.norm(whole)
    assert TensorProto.FLOAT16 not in {one.data_type for one in made.graph.initializer}


def test_choosers_for_other_integers_share_what_is_large_and_choose_the_same(learnt):
    network, seen, importance = learnt
    first = choosers(network, seen, importance, largest_code=127)
    fresh = choosers(network, seen, importance, largest_code=63)
    shared = choosers(network, seen, importance, largest_code=63, like=first)
    for name, one in shared.items():
        assert one.layer.spread is first[name].layer.spread
        assert one.feedback is first[name].feedback
        other, again = one.choose(1e-4), fresh[name].choose(1e-4)
        assert np.array_equal(other.codes, again.codes)
        assert np.array_equal(other.exponents, again.exponents)
