"""Extreme weights and activations in ONNX Runtime's integer kernels, against the same graph unfused."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from compress.quantization.settings import saturation_problem

LAYERS = {  # groups, in, out, kernel
    "plain": (1, 16, 16, 3),
    "pointwise": (1, 32, 16, 1),
    "stem": (1, 3, 16, 3),
    "depthwise": (32, 32, 32, 3),
}


def extreme(layer: str, bits: int) -> ModelProto:
    groups, channels, out_channels, kernel = LAYERS[layer]
    limit = 2 ** (bits - 1) - 1
    weight = np.full((out_channels, channels // groups, kernel, kernel), limit, np.int8)
    weight[1::2] = -limit
    tensors = {
        "w": weight,
        "ws": np.full(out_channels, 0.01, np.float32),
        "wz": np.zeros(out_channels, np.int8),
        "s": np.float32(1),
        "z": np.uint8(0),
        "so": np.float32(10 * channels / groups),
        "zo": np.uint8(128),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["a"]),
        helper.make_node("DequantizeLinear", ["a", "s", "z"], ["b"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["c"], axis=0),
        helper.make_node(
            "Conv", ["b", "c"], ["d"], group=groups, pads=[kernel // 2] * 4, kernel_shape=[kernel, kernel]
        ),
        helper.make_node("QuantizeLinear", ["d", "so", "zo"], ["e"]),
        helper.make_node("DequantizeLinear", ["e", "so", "zo"], ["y"]),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, channels, 16, 16])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    stored = [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "g", inputs, outputs, stored), opset_imports=[helper.make_opsetid("", 19)]
    )
    model.ir_version = 9
    return model


def run(model: ModelProto, x: np.ndarray, *, fused: bool) -> np.ndarray:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if fused else level.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


@pytest.mark.parametrize("layer", LAYERS)
def test_allowed_bit_widths_are_exact_at_the_extremes(layer):
    role = "plain" if layer == "pointwise" else layer
    bits = max(b for b in range(2, 9) if saturation_problem(b, "avx2", role) is None)
    assert bits == (8 if layer == "depthwise" else 7)
    model = extreme(layer, bits)
    x = np.random.default_rng(0).choice([0, 255], size=(1, LAYERS[layer][1], 16, 16), p=[0.1, 0.9]).astype(np.float32)
    np.testing.assert_array_equal(run(model, x, fused=True), run(model, x, fused=False))
