"""Rewrites for the runtime's kernels: the same numbers to the last bit, and nothing else is touched."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from compress.export.rewrites import pad_depthwise, rewrite_for_runtime, split_stem_into_phases

HEIGHT, WIDTH = 20, 28


class Net:
    """A QDQ graph that grows layer by layer, as the exporter writes it."""

    def __init__(self, height=HEIGHT, width=WIDTH, seed=0):
        self.rng = np.random.default_rng(seed)
        self.nodes, self.stored, self.channels, self.value = [], {}, 3, "images"
        self.height, self.width = height, width
        self.quantize("images", zero_point=114)

    def store(self, name, values):
        self.stored[name] = numpy_helper.from_array(np.asarray(values), name)
        return name

    def quantize(self, value, *, scale=0.02, zero_point=0):
        number = len(self.nodes)
        scale, zero = self.store(f"s{number}", np.float32(scale)), self.store(f"z{number}", np.uint8(zero_point))
        self.nodes.append(helper.make_node("QuantizeLinear", [value, scale, zero], [f"q{number}"]))
        self.nodes.append(helper.make_node("DequantizeLinear", [f"q{number}", scale, zero], [f"d{number}"]))
        self.value, self.scale = f"d{number}", scale

    def conv(self, name, channels, *, kernel=1, stride=1, pad=None, group=1, bias=True, weight=None):
        pad = kernel // 2 if pad is None else pad
        if weight is None:
            shape = (channels, self.channels // group, kernel, kernel)
            weight = self.store(f"{name}.weight", self.rng.integers(-63, 64, shape).astype(np.int8))
            self.store(f"{name}.weight_scale", self.rng.uniform(0.004, 0.02, channels).astype(np.float32))
            self.store(f"{name}.zero", np.zeros(channels, np.int8))
        layer = weight.removesuffix(".weight")
        weights = [weight, f"{layer}.weight_scale", f"{layer}.zero"]
        self.nodes.append(helper.make_node("DequantizeLinear", weights, [f"{name}.w"], axis=0))
        inputs = [self.value, f"{name}.w"]
        if bias:
            self.store(f"{name}.bias", self.rng.integers(-3000, 3000, channels).astype(np.int32))
            self.nodes.append(helper.make_node("Mul", [self.scale, f"{layer}.weight_scale"], [f"{name}.bs"]))
            self.nodes.append(
                helper.make_node("DequantizeLinear", [f"{name}.bias", f"{name}.bs"], [f"{name}.b"], axis=0)
            )
            inputs.append(f"{name}.b")
        self.nodes.append(
            helper.make_node(
                "Conv", inputs, [f"{name}.y"], name=f"{name}/Conv", kernel_shape=[kernel] * 2, strides=[stride] * 2,
                pads=[pad] * 4, group=group, dilations=[1, 1],
            )
        )  # fmt: skip
        self.channels = channels
        self.quantize(f"{name}.y")
        return self

    def depthwise(self, name, **fields):
        return self.conv(name, self.channels, kernel=3, group=self.channels, **fields)

    def model(self, *more_outputs):
        images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, self.height, self.width])
        outputs = [
            helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", None, None, None])
            for n in (self.value, *more_outputs)
        ]
        graph = helper.make_graph(self.nodes, "net", [images], outputs, list(self.stored.values()))
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)


def run(model):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    shape = [2, *(d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim[1:])]
    return session.run(None, {"images": np.random.default_rng(1).normal(0, 1, shape).astype(np.float32)})


def assert_same_numbers(before, after):
    onnx.checker.check_model(after, full_check=True)
    for a, b in zip(run(before), run(after), strict=True):
        assert np.unique(a).size > 10
        np.testing.assert_array_equal(a, b)


def copied(model):
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


@pytest.mark.parametrize("channels", [8, 24, 40])
@pytest.mark.parametrize("bias", [True, False])
def test_padded_depthwise_layers_compute_the_same(channels, bias):
    net = Net().conv("a", channels, bias=bias).depthwise("b", stride=2, bias=bias).conv("c", 20, bias=bias)
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
    from compress.export.fusion import optimized_graph

    before = Net().conv("a", 24, kernel=3, stride=2).depthwise("b").conv("c", 8).model()
    after = copied(before)
    assert [one.what for one in rewrite_for_runtime(after.graph)] == ["padded", "space_to_depth"]
    assert_same_numbers(before, after)
    onnx.save(after, tmp_path / "after.onnx")
    kinds = [node.op_type for node in optimized_graph(tmp_path / "after.onnx").graph.node]
    assert kinds.count("QLinearConv") == 3
    assert "Conv" not in kinds
