"""The integer arithmetic against slow integers in numpy, and against ONNX Runtime's kernels bit for bit."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from compress.quantization import integer_arithmetic as arithmetic

torch.set_num_threads(1)


def run(nodes, tensors, inputs, shape):
    """Run a Q/DQ graph in ONNX Runtime with all optimizations; y is float."""
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, list(x.shape)) for n, x in inputs.items()]
    out = [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)]
    stored = [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()]
    graph = helper.make_graph(nodes, "g", infos, out, stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)])
    model.ir_version = 9
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {n: x.numpy() for n, x in inputs.items()})[0]


def round_trip(source, target, scale, zero):
    return [
        helper.make_node("QuantizeLinear", [source, scale, zero], [f"{target}_codes"]),
        helper.make_node("DequantizeLinear", [f"{target}_codes", scale, zero], [target]),
    ]


def scalar(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float32)


def test_codes_are_rounded_to_even_and_saturate():
    x = torch.tensor([-9.0, -0.5, 0.5, 1.5, 2.5, 300.0])
    assert arithmetic.to_codes(x, scalar(1.0), 3).tolist() == [0, 3, 3, 5, 5, 255]


def test_grid_is_a_fixed_point():
    x = arithmetic.to_grid(torch.randn(5000) * 3, scalar(0.0213), 117)
    assert torch.equal(arithmetic.to_grid(x, scalar(0.0213), 117), x)


@pytest.mark.parametrize("groups", [1, 8])
def test_convolution_equals_onnx_runtime_in_every_value(groups):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 8, 40, 40, generator=generator)
    codes = torch.randint(-63, 64, (8, 8 // groups, 3, 3), generator=generator, dtype=torch.int8)
    weight_scale = torch.rand(8, generator=generator) * 0.01 + 0.001
    bias = torch.randn(8, generator=generator)
    scale_x, zero_x, scale_y, zero_y = scalar(0.0237), 121, scalar(0.0419), 130
    found = arithmetic.convolve(
        arithmetic.to_grid(x, scale_x, zero_x),
        codes,
        bias,
        input_scale=scale_x,
        weight_scale=weight_scale,
        output_scale=scale_y,
        padding=1,
        groups=groups,
    )
    found = arithmetic.to_grid(found, scale_y, zero_y)
    nodes = round_trip("x", "xq", "sx", "zx")
    nodes.append(helper.make_node("DequantizeLinear", ["w", "sw", "zw"], ["wq"], axis=0))
    nodes.append(helper.make_node("Conv", ["xq", "wq", "b"], ["c"], pads=[1] * 4, group=groups))
    nodes += round_trip("c", "y", "sy", "zy")
    tensors = {
        "w": codes.numpy(), "sw": weight_scale.numpy(), "zw": np.zeros(8, np.int8), "b": bias.numpy(),
        "sx": scale_x.numpy(), "zx": np.uint8(zero_x), "sy": scale_y.numpy(), "zy": np.uint8(zero_y),
    }  # fmt: skip
    expected = run(nodes, tensors, {"x": x}, list(x.shape))
    np.testing.assert_array_equal(found.numpy(), expected)


@pytest.mark.parametrize("seed", range(8))
def test_addition_equals_onnx_runtime_for_every_pair_of_codes(seed):
    generator = torch.Generator().manual_seed(seed)
    scales = (torch.rand(3, generator=generator) * 0.1 + 0.005).unbind()
    zeros = torch.randint(60, 180, (3,), generator=generator).tolist()
    grids = tuple(zip(scales, zeros, strict=True))
    codes = torch.arange(256.0)
    a = ((codes - zeros[0]) * scales[0]).view(1, 1, 256, 1).expand(1, 1, 256, 256).contiguous()
    b = ((codes - zeros[1]) * scales[1]).view(1, 1, 1, 256).expand(1, 1, 256, 256).contiguous()
    found = arithmetic.to_grid(arithmetic.add(a, b, *grids), *grids[2])
    nodes = [*round_trip("a", "aq", "s0", "z0"), *round_trip("b", "bq", "s1", "z1")]
    nodes.append(helper.make_node("Add", ["aq", "bq"], ["c"]))
    nodes += round_trip("c", "y", "s2", "z2")
    tensors = {f"s{i}": s.numpy() for i, s in enumerate(scales)} | {f"z{i}": np.uint8(z) for i, z in enumerate(zeros)}
    expected = run(nodes, tensors, {"a": a, "b": b}, list(a.shape))
    differing = np.count_nonzero(np.abs(found.numpy() - expected) > 1e-6)
    # None on AVX2. A CPU whose kernel orders the multiply-adds differently may round a few ties otherwise.
    assert differing <= (0 if "avx2" in torch.backends.cpu.get_cpu_capability().lower() else 5)


def test_convolution_is_exact_beyond_the_integers_of_float32():
    codes = torch.full((1, 700, 1, 1), 127, dtype=torch.int8)
    x = torch.full((1, 700, 1, 1), 255.0)
    x[0, 0] = 254.0
    one = scalar(1.0)
    found = arithmetic.convolve(x, codes, None, input_scale=one, weight_scale=torch.ones(1), output_scale=scalar(127.0))
    assert round(float(found) / 127) == 700 * 255 - 1
