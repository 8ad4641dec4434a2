"""Channels sorted by their scales: other places in the file, the same bits at the outputs."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir
import pytest
from onnx import helper, numpy_helper
from qdq_net import Net, assert_same_numbers, copied

from compress.onnx_graph.channel_order import order_channels
from compress.onnx_graph.tidy import sweep


def swept(model):
    """Return a model with equal tensors and nodes once, as the exporter has it."""
    ours = onnx_ir.from_proto(model)
    sweep(ours)
    after = onnx_ir.to_proto(ours)
    del after.graph.value_info[:]
    return after


def ordered(before):
    """Return a model in the order of its scales, and the layers that changed; both compute the same."""
    after = copied(before)
    done = order_channels(after)
    assert_same_numbers(before, after)
    return after, [name.removesuffix("/Conv") for name in done]


def stored(model, name):
    return numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == name))


def is_sorted(values):
    return (np.diff(values) >= 0).all()


def test_filters_are_sorted_by_scale_and_the_inputs_behind_them_follow():
    before = Net().conv("a", 12).conv("b", 6, kernel=3).model()
    after, done = ordered(before)
    assert done == ["a"]  # those of b leave the network
    assert not is_sorted(stored(before, "a.weight_scale"))
    order = np.argsort(stored(before, "a.weight_scale"))
    for name, side in (("a.weight_scale", 0), ("a.bias", 0), ("a.weight", 0), ("b.weight", 1)):
        np.testing.assert_array_equal(stored(after, name), np.take(stored(before, name), order, axis=side))
    np.testing.assert_array_equal(stored(after, "b.weight_scale"), stored(before, "b.weight_scale"))


def test_layers_with_the_same_channels_share_an_order_and_the_first_decides_where_the_last_is_even():
    net = Net().conv("a", 12).depthwise("b").conv("c", 6)
    net.store("b.weight_scale", np.repeat(np.float32([0.02, 0.01]), 6))
    after, done = ordered(net.model())
    assert done == ["a", "b"]
    assert is_sorted(stored(after, "b.weight_scale"))
    assert is_sorted(stored(after, "a.weight_scale")[:6])
    assert is_sorted(stored(after, "a.weight_scale")[6:])
    assert not is_sorted(stored(after, "a.weight_scale"))


def test_members_of_a_sum_share_an_order():
    net = Net().conv("s", 8)
    start = net.place_now
    first = net.conv("a", 10).place_now
    second = net.back_to(start).conv("b", 10, kernel=3).passing("MaxPool", kernel_shape=[1, 1]).place_now
    before = net.join("Add", first, second).conv("c", 6).model()
    after, done = ordered(before)
    assert done == ["s", "a", "b"]
    order = [stored(before, "a.bias").tolist().index(value) for value in stored(after, "a.bias")]
    np.testing.assert_array_equal(stored(after, "b.bias"), stored(before, "b.bias")[order])


def test_a_layer_on_two_maps_ties_what_it_reads():
    net = Net().conv("s", 8)
    start = net.place_now
    net.conv("a", 6).conv("h", 7, kernel=3).conv("c", 5)
    seen = net.value
    net.back_to(start).conv("b", 6).conv("h_1", 7, kernel=3, weight="h.weight").conv("d", 5)
    before = net.model(seen)
    after, done = ordered(before)
    assert done == ["s", "a", "h", "b", "h_1"]
    order = [stored(before, "a.bias").tolist().index(value) for value in stored(after, "a.bias")]
    np.testing.assert_array_equal(stored(after, "b.bias"), stored(before, "b.bias")[order])


def test_a_tensor_that_others_read_in_another_order_is_stored_for_each():
    net = Net().conv("a", 8)
    start = net.place_now
    net.conv("b", 8, kernel=3)
    first = net.place_now
    net.join("Add", start, first).conv("c", 8).conv("d", 5)
    for node in net.nodes:  # c is sorted by its own scales, b by those of a and b, and both have one bias
        for index, name in enumerate(node.input):
            node.input[index] = "b.bias" if name == "c.bias" else name
    del net.stored["c.bias"]
    before = net.model()
    after, done = ordered(before)
    assert done == ["a", "b", "c"]
    biases = [t for t in after.graph.initializer if t.name.startswith("b.bias")]
    assert len({tuple(numpy_helper.to_array(t)) for t in biases}) == 2
    assert {tuple(sorted(numpy_helper.to_array(t))) for t in biases} == {tuple(sorted(stored(before, "b.bias")))}


def test_what_a_layer_that_is_not_touched_reads_stays():
    net = Net().conv("a", 8).conv("b", 8)
    net.conv("c", 8, group=2, kernel=3)
    for node in net.nodes:
        for index, name in enumerate(node.input):
            node.input[index] = "a.weight_scale" if name == "c.weight_scale" else name
    after, done = ordered(net.model())
    assert done == ["a"]  # b is read by groups
    reads = {node.input[0]: node.input[1] for node in after.graph.node if node.op_type == "DequantizeLinear"}
    np.testing.assert_array_equal(stored(after, reads["c.weight"]), numpy_helper.to_array(net.stored["a.weight_scale"]))


@pytest.mark.parametrize("is_alone", [True, False])
def test_layers_of_equal_scales_that_share_the_node_of_their_product_agree(is_alone):
    net = Net().conv("s", 8)
    start = net.place_now
    first = net.conv("a", 10).depthwise("b").conv("c", 6).place_now
    net.back_to(start).conv("d", 10, group=1 if is_alone else 2)
    second = (net.depthwise("e") if is_alone else net).conv("f", 6).place_now
    for name in ("a", "d"):
        net.store(f"{name}.weight_scale", np.float32([0.01, 0.02] * 5))
    before = swept(net.join("Add", first, second).conv("g", 4).model())
    assert sum(node.op_type == "Mul" for node in before.graph.node) == 6 + is_alone  # one for a and d
    assert ("a" in ordered(before)[1]) == is_alone


@pytest.mark.parametrize("kind", ["cut", "concat", "float", "own steps", "other rank"])
def test_channels_with_a_place_keep_it(kind):
    net = Net().conv("a", 8)
    if kind == "cut":
        for name, values in (("from", [0]), ("to", [4]), ("axis", [1])):
            net.store(name, np.array(values, np.int64))
        net.nodes.append(helper.make_node("Slice", [net.value, "from", "to", "axis"], ["cut"]))
        net.value, net.channels = "cut", 4
    elif kind == "concat":
        net.join("Concat", net.place_now, ("d0", "s0", 3), axis=1)
    elif kind == "float":
        weight = net.store("f.weight", net.rng.normal(size=(4, 8, 1, 1)).astype(np.float32))
        net.nodes.append(helper.make_node("Conv", [net.value, weight], ["f.y"], name="f/Conv"))
        net.value, net.channels = "f.y", 4
    elif kind == "own steps":
        scales, zeros = (
            net.store("each", np.linspace(0.01, 0.02, 8, dtype=np.float32)),
            net.store("z", np.zeros(8, np.uint8)),
        )
        net.nodes.append(helper.make_node("QuantizeLinear", [net.value, scales, zeros], ["qe"], axis=1))
        net.nodes.append(helper.make_node("DequantizeLinear", ["qe", scales, zeros], ["de"], axis=1))
        net.value = "de"
    else:
        net.nodes.append(helper.make_node("Flatten", [net.value], ["flat"]))
        net.store("back", np.array([-1, 8, net.height, net.width], np.int64))
        net.nodes.append(helper.make_node("Reshape", ["flat", "back"], ["whole"]))
        net.value = "whole"
    net.quantize(net.value)
    assert ordered(net.conv("b", 5).model())[1] == []


def test_what_is_sorted_stays_as_it_is():
    after, done = ordered(Net().conv("a", 12).depthwise("b").conv("c", 6).model())
    again = copied(after)
    assert done == ["a", "b"]
    assert order_channels(again) == []
    assert again == after


@pytest.mark.parametrize("seed", range(25))
def test_nets_of_any_form_compute_the_same(seed):
    """Random nets: dense, depthwise, shared, summed, pooled and concatenated layers with few different scales."""
    rng = np.random.default_rng(seed)
    net, places = Net(seed=seed).conv("l0", 8), []
    for index in range(1, 10):
        places.append(net.place_now)
        kind, name = rng.choice(["dense", "wide", "depthwise", "sum", "concat", "pool", "shared"]), f"l{index}"
        alike = [p for p in places[:-1] if p[2] == net.channels]
        known = [n for n, t in net.stored.items() if n.endswith(".weight") and t.dims[1] == net.channels]
        if kind == "depthwise":
            net.depthwise(name)
        elif kind == "sum" and alike:
            net.join("Add", net.place_now, alike[rng.integers(len(alike))])
        elif kind == "concat":
            net.join("Concat", net.place_now, places[rng.integers(len(places))], axis=1)
        elif kind == "pool":
            net.passing("MaxPool", kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1])
        elif kind == "shared" and known:
            weight = known[rng.integers(len(known))]
            count, _, kernel, _ = net.stored[weight].dims
            net.conv(name, count, kernel=kernel, weight=weight)
        else:
            net.conv(name, int(rng.choice([6, 8])), kernel=3 if kind == "wide" else 1, bias=bool(rng.random() < 0.8))
        if f"{name}.weight_scale" in net.stored:
            scales = rng.choice(np.float32([0.004, 0.008, 0.016]), net.channels)
            net.store(f"{name}.weight_scale", scales[:1].repeat(len(scales)) if rng.random() < 0.3 else scales)
    ordered(swept(net.conv("m", 6).conv("last", 5, kernel=3).model()))


def test_sorted_scales_of_few_values_are_packed_in_half_the_bytes(tmp_path):
    from compress import codec

    rng, net = np.random.default_rng(0), Net()
    for index in range(8):
        net.conv(f"l{index}", 256)
        net.store(f"l{index}.weight", np.zeros(net.stored[f"l{index}.weight"].dims, np.int8))
        net.store(f"l{index}.weight_scale", np.exp2(rng.normal(-30, 4, 256).round() / 4).astype(np.float32))
    before = net.conv("last", 4).model()
    after = copied(before)
    assert order_channels(after) == [f"l{index}/Conv" for index in range(8)]
    sizes = []
    for name, model in (("before", before), ("after", after)):
        onnx.save(model, tmp_path / f"{name}.onnx")
        codec.pack_file(tmp_path / f"{name}.onnx", tmp_path / f"{name}.krimp")
        facts = codec.inspect_file(tmp_path / f"{name}.krimp")
        sizes.append(sum(fact.packed_bytes for fact in facts if fact.name.endswith(".weight_scale")))
    assert sizes[1] < sizes[0] / 2
