"""Filters that compute nothing leave the graph, and every output stays the same to the last bit."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
from onnx import helper, numpy_helper
from qdq_net import Net, assert_same_numbers, copied

from compress.onnx_graph.dead_channels import remove_dead_channels
from compress.onnx_graph.fusion import optimized_graph
from compress.onnx_graph.tidy import sweep


def removed(before):
    """Return a model without dead channels, and what was done; both compute the same."""
    after = copied(before)
    done = remove_dead_channels(after)
    swept = onnx_ir.from_proto(after)
    sweep(swept)
    after = onnx_ir.to_proto(swept)
    del after.graph.value_info[:]
    assert_same_numbers(before, after)
    return after, done


def shapes(model):
    return {t.name: tuple(t.dims) for t in model.graph.initializer if t.name.endswith(".weight")}


def kinds(model):
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize("constant", [-500, 0, 700])
def test_dead_filters_go_with_the_depthwise_filters_and_the_inputs_behind_them(constant):
    net = Net().conv("a", 12).kill("a", [1, 5, 11], bias=constant).depthwise("b", pad=0).conv("c", 6)
    after, done = removed(net.model())
    assert shapes(after) == {"a.weight": (9, 3, 1, 1), "b.weight": (9, 1, 3, 3), "c.weight": (6, 9, 1, 1)}
    assert [(one.layer, one.what, one.after[:2]) for one in done] == [
        ("a/Conv", "cut", (9, 3)), ("b/Conv", "cut", (9, 1)), ("c/Conv", "cut", (6, 9)),
    ]  # fmt: skip
    stored = {t.name: tuple(t.dims) for t in after.graph.initializer}
    assert (stored["a.bias"], stored["a.weight_scale"], stored["b.bias"]) == ((9,), (9,), (9,))
    assert (
        onnx.numpy_helper.to_array(next(t for t in after.graph.initializer if t.name == "a.bias")).tolist()
        == np.delete(numpy_helper.to_array(net.stored["a.bias"]), [1, 5, 11]).tolist()
    )


@pytest.mark.parametrize(("pad", "kept"), [(0, 9), (1, 10)])
def test_a_padded_layer_misses_a_constant_at_the_border_but_no_zero(pad, kept):
    net = (
        Net().conv("a", 12).kill("a", [2], bias=900).kill("a", [3, 4], bias=-900)
    )  # below zero is zero, as after a ReLU
    after, _ = removed(net.conv("b", 8, kernel=3, pad=pad).model())
    assert shapes(after)["b.weight"] == (8, kept, 3, 3)


def test_a_layer_without_bias_cannot_take_up_a_constant():
    net = Net().conv("a", 12).kill("a", [2], bias=900).kill("a", [3], bias=0).conv("b", 8, bias=False)
    assert shapes(removed(net.model())[0]) == {"a.weight": (11, 3, 1, 1), "b.weight": (8, 11, 1, 1)}


def test_filters_that_nobody_reads_go_although_they_answer():
    net = Net().conv("a", 12).depthwise("b").conv("c", 8).kill("c", [], columns=[0, 7])
    assert shapes(removed(net.model())[0])["b.weight"] == (10, 1, 3, 3)


@pytest.mark.parametrize(("second", "kept"), [([4, 5], 10), ([6, 7], 12), ([5, 6], 11)])
def test_a_channel_of_a_sum_goes_only_if_it_is_dead_in_both(second, kept):
    net = Net().conv("s", 8)
    start = net.place_now
    first = net.conv("a", 12).kill("a", [4, 5], bias=800).place_now
    other = net.back_to(start).conv("b", 12, kernel=3).kill("b", second, bias=300).place_now
    after, _ = removed(net.join("Add", first, other).conv("c", 6).model())
    assert shapes(after)["c.weight"] == (6, kept, 1, 1)
    assert shapes(after)["a.weight"] == (kept, 8, 1, 1)


def test_a_sum_that_others_read_keeps_what_they_need():
    net = Net().conv("a", 12).kill("a", [4, 5], bias=800)
    first = net.place_now
    second = net.conv("b", 12, kernel=1).kill("b", [4, 5], bias=100).place_now
    net.join("Add", first, second).conv("c", 6)
    seen = net.value
    net.back_to(first).conv("d", 5, kernel=3)  # padded: it needs the constants of a
    after, _ = removed(net.model(seen))
    assert shapes(after)["b.weight"] == (12, 12, 1, 1)


def test_pooling_resizing_and_concatenation_carry_dead_channels():
    net = Net().conv("s", 8)
    start = net.place_now
    one = net.conv("a", 10).kill("a", [0, 9], bias=600).passing("MaxPool", kernel_shape=[2, 2], strides=[2, 2])
    one = one.passing("Resize", mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor")
    one = one.place_now
    two = net.back_to(start).conv("b", 6).kill("b", [3], bias=0).place_now
    after, _ = removed(net.join("Concat", one, two, axis=1).conv("c", 4).model())
    assert shapes(after) == {
        "s.weight": (8, 3, 1, 1), "a.weight": (8, 8, 1, 1), "b.weight": (5, 8, 1, 1), "c.weight": (4, 13, 1, 1),
    }  # fmt: skip


def test_a_part_of_a_concatenation_of_which_nothing_is_kept_is_left_out():
    net = Net().conv("s", 8)
    start = net.place_now
    one = net.conv("a", 10).place_now
    two = net.back_to(start).conv("b", 6).kill("b", range(6), bias=600).place_now
    after, done = removed(net.join("Concat", one, two, axis=1).conv("c", 4).model())
    assert "b.weight" not in shapes(after)
    assert ("b/Conv", "gone", ()) in [(x.layer, x.what, x.after) for x in done]


def twice(constants):
    """Return a net in which layer 'h' runs on two maps; filters 0 of both maps are dead, with these biases."""
    net = Net().conv("s", 8)
    start = net.place_now
    net.conv("a", 6).kill("a", [0], bias=constants[0]).conv("h", 7, kernel=3)
    seen = net.value
    net.back_to(start).conv("b", 6).kill("b", [0], bias=constants[1])
    net.quantize(net.value, scale=0.015)
    net.conv("h_1", 7, kernel=3, weight="h.weight")
    return net.model(seen)


@pytest.mark.parametrize(("constants", "kept"), [((-900, -900), 5), ((-900, 900), 6)])
def test_a_layer_on_two_maps_loses_an_input_only_if_it_can_miss_both(constants, kept):
    after, _ = removed(twice(constants))
    assert shapes(after)["h.weight"] == (7, kept, 3, 3)
    assert kinds(after).count("Conv") == 5


def test_a_layer_of_zeros_is_stored_as_a_constant_for_any_number_of_images():
    net = Net().conv("s", 8)
    net.conv("a", 6).kill("a", range(6), bias=[300, -200, 900, 3000, 0, 500]).conv("b", 7, kernel=3)
    net.join("Add", net.place_now, net.back_to(("d0", "s0", 3)).conv("c", 7).place_now).conv("e", 4)
    after, done = removed(net.model())
    assert "a.weight" not in shapes(after)
    assert "s.weight" not in shapes(after)
    assert [one.after for one in done if one.layer == "a/Conv"] == [(4, 20, 28)]  # of six two are zero
    assert kinds(after).count("Expand") == 1


def test_what_is_behind_a_layer_of_zeros_goes_with_it_where_all_is_constant():
    net = Net().conv("s", 8)
    start = net.place_now
    net.conv("a", 6).kill("a", range(6), bias=400).depthwise("b", pad=0).conv("c", 5)
    first = net.place_now
    second = net.back_to(start).conv("d", 5, kernel=3, pad=0).place_now
    after, _ = removed(net.join("Add", first, second).conv("e", 4).model())
    assert sorted(shapes(after)) == ["d.weight", "e.weight", "s.weight"]


def test_outputs_groups_and_float_layers_keep_their_channels():
    net = Net().conv("a", 12).kill("a", [0, 1], bias=0)
    assert removed(net.model())[1] == []
    net.conv("b", 12, group=3, kernel=3)
    assert removed(net.model())[1] == []
    net = Net().conv("a", 12).kill("a", [0, 1], bias=0)
    weight = net.store("f.weight", net.rng.normal(size=(4, 12, 1, 1)).astype(np.float32))
    net.nodes.append(helper.make_node("Conv", [net.value, weight], ["f.y"], name="f/Conv"))
    net.value = "f.y"
    assert removed(net.model())[1] == []


def test_a_constant_between_two_levels_is_no_constant():
    net = Net().conv("a", 12)
    scale = float(numpy_helper.to_array(net.stored["a.weight_scale"])[3]) * 0.02
    half = next(n for n in range(1, 100_000) if abs(n * scale / 0.02 % 1 - 0.5) < 1e-6 * n * scale / 0.02)
    net.kill("a", [3], bias=half).kill("a", [4], bias=half + 2)
    assert shapes(removed(net.conv("c", 6).model())[0])["a.weight"] == (11, 3, 1, 1)


@pytest.mark.parametrize("seed", range(25))
def test_nets_with_anything_dead_compute_the_same(seed):
    """Random nets: dense, depthwise, shared and summed layers with dead filters, dead inputs and dead layers."""
    rng = np.random.default_rng(seed)
    net, places = Net(seed=seed).conv("l0", 8), []
    for index in range(1, 9):
        places.append(net.place_now)
        kind = rng.choice(["dense", "wide", "depthwise", "sum", "concat", "pool"])
        name = f"l{index}"
        alike = [p for p in places[:-1] if p[2] == net.channels]
        if kind == "depthwise":
            net.depthwise(name, pad=1)
        elif kind == "sum" and alike:
            net.join("Add", net.place_now, alike[rng.integers(len(alike))])
        elif kind == "concat":
            net.join("Concat", net.place_now, places[rng.integers(len(places))], axis=1)
        elif kind == "pool":
            net.passing("MaxPool", kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1])
        else:
            net.conv(name, int(rng.choice([6, 8])), kernel=3 if kind == "wide" else 1, bias=bool(rng.random() < 0.8))
        if f"{name}.weight" in net.stored:
            count = net.channels if rng.random() < 0.15 else rng.integers(0, net.channels // 2)
            width = net.stored[f"{name}.weight"].dims[1]
            columns = rng.permutation(width)[: rng.integers(0, width)] if rng.random() < 0.4 else ()
            bias = rng.integers(-900, 900, count) if f"{name}.bias" in net.stored else None
            net.kill(name, rng.permutation(net.channels)[:count], columns=columns, bias=bias)
    start = net.place_now
    net.conv("last", 5, kernel=3)
    last = net.value
    net.back_to(start).conv("again", 4)
    net.join("Concat", net.place_now, (last, None, 5), ("d0", None, 3), axis=1)
    removed(net.model(last))


def test_the_runtime_fuses_what_it_fused(tmp_path):
    net = Net().conv("s", 8)
    start = net.place_now
    first = net.conv("a", 6).kill("a", range(6), bias=800).conv("b", 5, kernel=3).place_now
    second = net.back_to(start).conv("c", 5).kill("c", [2], bias=0).place_now
    after, _ = removed(net.join("Add", first, second).conv("e", 4).model())
    found = [node.op_type for node in optimized_graph(after).graph.node]
    assert found.count("QLinearConv") == 4
    assert "Conv" not in found


def test_a_packed_detector_with_filters_taken_away_computes_the_same(zoo_model):
    rng = np.random.default_rng(0)
    stored = {tensor.name: tensor for tensor in zoo_model.graph.initializer}
    for name, tensor in stored.items():
        if name.endswith(".weight") and tensor.data_type == onnx.TensorProto.INT8:
            codes = numpy_helper.to_array(tensor).copy()
            rows = np.arange(len(codes)) if "fpn_convs.3" in name else rng.permutation(len(codes))[: len(codes) // 8]
            codes[rows] = 0
            tensor.CopyFrom(numpy_helper.from_array(codes, name))
    for node in zoo_model.graph.node:
        names = [name for name in node.input[2:] if node.op_type == "DequantizeLinear"]
        if names and stored[names[0]].data_type == onnx.TensorProto.INT8:
            del node.input[2]  # zero, and not written any more
    after = copied(zoo_model)
    done = remove_dead_channels(after)
    assert len({one.layer for one in done if one.what == "cut"}) > 30
    image = rng.normal(0, 1, [1, *[d.dim_value for d in after.graph.input[0].type.tensor_type.shape.dim[1:]]])
    answers = []
    for model in (zoo_model, after):
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        answers.append(session.run(None, {"images": image.astype(np.float32)}))
    for old, new in zip(*answers, strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.fixture
def zoo_model():
    from compress import codec

    return onnx.load_model_from_string(codec.load("detectors/dcfl/zoo/dcfl_mbv2_hituav.krimp"))
