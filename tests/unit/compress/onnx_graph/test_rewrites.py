"""Rewrites for the runtime's kernels: the same numbers to the last bit, and nothing else is touched."""

from __future__ import annotations

import onnx
import pytest
from onnx import helper
from qdq_net import Net, assert_same_numbers, copied

from compress.onnx_graph.rewrites import pad_depthwise, rewrite_for_runtime, split_stem_into_phases


@pytest.mark.parametrize("channels", [8, 24, 40])
@pytest.mark.parametrize(("bias", "zero_points"), [(True, False), (True, True), (False, False)])
def test_padded_depthwise_layers_compute_the_same(channels, bias, zero_points):
    net = (
        Net(zero_points=zero_points)
        .conv("a", channels, bias=bias)
        .depthwise("b", stride=2, bias=bias)
        .conv("c", 20, bias=bias)
    )
    before = net.depthwise("d", bias=bias).conv("e", 5, bias=bias).model()
    after = copied(before)
    done = pad_depthwise(after.graph)
    assert [one.layer for one in done] == ["b/Conv", "d/Conv"]
    assert [one.after[0] for one in done] == [-(-channels // 16) * 16, 32]
    assert_same_numbers(before, after)
    assert pad_depthwise(after.graph) == []


def test_full_kernels_dense_layers_and_shared_values_are_left():
    assert pad_depthwise(Net().conv("a", 32).depthwise("b").conv("c", 4).model().graph) == []
    assert pad_depthwise(Net().conv("a", 24, kernel=3).conv("c", 4).model().graph) == []
    assert pad_depthwise(Net().conv("a", 24).depthwise("b").model().graph) == []  # nothing reads it but the output
    net = Net().conv("a", 24)
    shared = net.value
    assert pad_depthwise(net.depthwise("b").conv("c", 4).model(shared).graph) == []


def test_a_layer_of_one_channel_is_a_dense_one():
    before = Net().conv("a", 1).conv("b", 1, kernel=3).conv("c", 4).model()
    for node in before.graph.node:  # as the exporter writes it: one group goes without saying
        for attribute in [a for a in node.attribute if a.name == "group"]:
            node.attribute.remove(attribute)
    assert pad_depthwise(copied(before).graph) == []


def test_a_weight_that_two_layers_read_is_left():
    net = Net().conv("a", 24).depthwise("b").conv("c", 24)
    net.conv("d", 24, kernel=3, group=24, weight="b.weight").conv("e", 4)
    before = net.model()
    after = copied(before)
    assert pad_depthwise(after.graph) == []
    assert after == before


@pytest.mark.parametrize(("kernel", "pad"), [(3, 1), (3, 0), (5, 2), (7, 3), (4, 1), (2, 0), (1, 0), (3, 2)])
@pytest.mark.parametrize("height", [20, 26])
def test_a_stem_on_the_phases_of_the_image_computes_the_same(kernel, pad, height):
    before = Net(height).conv("a", 10, kernel=kernel, stride=2, pad=pad).conv("b", 4, kernel=3).model()
    after = copied(before)
    (done,) = split_stem_into_phases(after.graph)
    assert (done.layer, done.what, done.before) == ("a/Conv", "space_to_depth", (10, 3, kernel, kernel))
    assert done.after[1] == 12
    assert_same_numbers(before, after)
    assert split_stem_into_phases(after.graph) == []


@pytest.mark.parametrize(
    "model",
    [
        Net(height=21).conv("a", 10, kernel=3, stride=2).model(),
        Net().conv("a", 10, kernel=3).model(),
        Net().conv("a", 9, kernel=3, stride=2, group=3).model(),
    ],
    ids=["odd height", "stride 1", "groups"],
)
def test_other_stems_are_left(model):
    before = copied(model)
    assert split_stem_into_phases(model.graph) == []
    assert model == before


def test_an_image_that_two_layers_read_is_left():
    net = Net()
    images, scale = net.value, net.scale
    net.conv("a", 10, kernel=3, stride=2)
    other = net.value
    net.value, net.scale, net.channels = images, scale, 3
    model = net.conv("b", 10, kernel=3, stride=2).model(other)
    assert split_stem_into_phases(model.graph) == []


@pytest.mark.parametrize(("end", "rewritten"), [(1, 1), (4, 0)])
def test_an_image_whose_batch_is_asked_for_is_rewritten_but_not_one_whose_sides_are(end, rewritten):
    net = Net()
    net.nodes.append(helper.make_node("Shape", ["images"], ["asked"], end=end))
    net.conv("a", 10, kernel=3, stride=2)
    assert len(split_stem_into_phases(net.model().graph)) == rewritten


def test_both_together_and_the_runtime_still_computes_in_integers(tmp_path):
    from compress.onnx_graph.fusion import optimized_graph

    before = Net().conv("a", 24, kernel=3, stride=2).depthwise("b").conv("c", 8).model()
    after = copied(before)
    assert [one.what for one in rewrite_for_runtime(after.graph)] == ["padded", "space_to_depth"]
    assert_same_numbers(before, after)
    onnx.save(after, tmp_path / "after.onnx")
    kinds = [node.op_type for node in optimized_graph(tmp_path / "after.onnx").graph.node]
    assert kinds.count("QLinearConv") == 3
    assert "Conv" not in kinds
