"""Small integer networks to rewrite, and the proof that they still compute the same."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

HEIGHT, WIDTH = 20, 28


class Net:
    """A QDQ graph that grows layer by layer, as the exporter writes it (it wrote zero points of weights, too)."""

    def __init__(self, height=HEIGHT, width=WIDTH, seed=0, zero_points=False):
        self.zero_points = zero_points
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
            if self.zero_points:
                self.store(f"{name}.zero", np.zeros(channels, np.int8))
        layer = weight.removesuffix(".weight")
        weights = [weight, f"{layer}.weight_scale", *([f"{layer}.zero"] if self.zero_points else [])]
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

    def kill(self, name, rows, *, columns=(), bias=None):
        """Take the weights of some filters and inputs of a layer; give the filters a bias in steps, if one is given."""
        weight = numpy_helper.to_array(self.stored[f"{name}.weight"]).copy()
        weight[list(rows)] = 0
        weight[:, list(columns)] = 0
        self.store(f"{name}.weight", weight)
        if bias is not None:
            steps = numpy_helper.to_array(self.stored[f"{name}.bias"]).copy()
            steps[list(rows)] = bias
            self.store(f"{name}.bias", steps)
        return self

    def back_to(self, place):
        """Go on behind another layer; `place` was read from `place_now`."""
        self.value, self.scale, self.channels = place
        return self

    @property
    def place_now(self):
        return self.value, self.scale, self.channels

    def join(self, kind, *places, **attributes):
        """Add or concatenate what other layers made."""
        output = f"{kind}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, [value for value, *_ in places], [output], **attributes))
        self.channels = sum(count for *_, count in places) if kind == "Concat" else places[0][2]
        self.quantize(output, scale=0.03, zero_point=100)
        return self

    def passing(self, kind, **attributes):
        """Add a node that works on each channel, rounded with the same steps again, as the exporter does."""
        output, scale = f"{kind}{len(self.nodes)}", float(numpy_helper.to_array(self.stored[self.scale]))
        inputs = [self.value]
        if kind == "Resize":
            inputs += ["", self.store("factors", np.array([1, 1, 2, 2], np.float32))]
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        self.quantize(output, scale=scale)
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
