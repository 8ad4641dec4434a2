"""Whole ONNX files for benchmarks/codec.py: quantized trained networks, and a detector-shaped one of 36 M weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.codec_weights import prune, quantize

OPSET = 19


def quantized_onnx(path: Path, bit_width: int, zeros: float) -> bytes:
    """Return torchvision's MobileNetV2 with the weights of a file as ONNX, convolutions in integers per channel.

    Weights are int8 initializers behind DequantizeLinear, as every runtime reads them; activations stay float.

    Args:
        path: its state dictionary, .pth.
        bit_width: of the weights, 2 to 8.
        zeros: share of zeros.
    """
    model = onnx.load_model_from_string(_float_onnx(path))
    readers = {node.input[1] for node in model.graph.node if node.op_type in ("Conv", "Gemm")}
    chosen = [tensor for tensor in model.graph.initializer if tensor.name in readers]
    arrays = [numpy_helper.to_array(tensor) for tensor in chosen]
    pruned = prune([array.reshape(len(array), -1) for array in arrays], zeros)
    top = 2 ** (bit_width - 1) - 1
    for tensor, array, matrix in zip(chosen, arrays, pruned, strict=True):
        name = tensor.name
        scale = (np.abs(matrix).max(axis=1) / top).astype(np.float32)
        integers = quantize(matrix, bit_width).reshape(array.shape)
        tensor.CopyFrom(numpy_helper.from_array(integers, f"{name}_int8"))
        model.graph.initializer.append(numpy_helper.from_array(scale, f"{name}_scale"))
        model.graph.node.insert(
            0, helper.make_node("DequantizeLinear", [f"{name}_int8", f"{name}_scale"], [name], axis=0)
        )
    return bytes(model.SerializeToString())


def float_onnx(path: Path, *, half: bool = False) -> bytes:
    """Return the same network as exported, float32, or with float16 initializers behind Cast."""
    data = _float_onnx(path)
    if not half:
        return data
    model = onnx.load_model_from_string(data)
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype == np.float32 and array.size >= 128:
            name = tensor.name
            tensor.CopyFrom(numpy_helper.from_array(array.astype(np.float16), f"{name}_half"))
            model.graph.node.insert(0, helper.make_node("Cast", [f"{name}_half"], [name], to=TensorProto.FLOAT))
    return bytes(model.SerializeToString())


def _float_onnx(path: Path) -> bytes:
    import io
    import warnings

    import torch
    from torchvision.models import mobilenet_v2

    network = mobilenet_v2()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network.eval(), (torch.zeros(1, 3, 224, 224),),
            buffer,  # type: ignore[arg-type]  # which its annotation leaves out
            opset_version=OPSET, dynamo=False,
            input_names=["image"], output_names=["scores"],
        )  # fmt: skip
    return buffer.getvalue()


class LargeNetwork:
    """A quantized detector: ResNet-50's bottlenecks, a feature pyramid and two towers, QDQ throughout.

    Every weight is int8 per channel, biases int32, activations uint8, as a quantizing exporter writes them; the
    weights are Gaussian, each channel scaled to its largest: about 6.9 bits each, like trained ones (ANCHORS 2.6).
    """

    def __init__(self, *, scale: float = 1.0, zeros: float = 0.0, seed: int = 0) -> None:
        """Build the graph.

        Args:
            scale: of all widths; 1 gives 36 M weights.
            zeros: share of zeros in every tensor.
            seed: of the weights.
        """
        self._rng = np.random.default_rng(seed)
        self._scale = scale
        self._zeros = zeros
        self._nodes: list[onnx.NodeProto] = []
        self._tensors: list[TensorProto] = []
        self.weights = 0

    def bytes(self) -> bytes:
        """Return the ONNX file."""
        self._tensors += [
            numpy_helper.from_array(np.array(0.05, dtype=np.float32), "step"),
            numpy_helper.from_array(np.array(0, dtype=np.uint8), "zero"),
        ]
        image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 256, 256])
        outputs = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", channels, "rows", "columns"])
            for name, channels in self._body(self._quantized("image"))
        ]
        graph = helper.make_graph(self._nodes, "detector", [image], outputs, self._tensors)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
        return bytes(model.SerializeToString())

    def _width(self, channels: int) -> int:
        return max(8, round(channels * self._scale / 8) * 8)

    def _body(self, value: str) -> list[tuple[str, int]]:
        channels = self._width(64)
        value = self._conv(value, 3, channels, 7, stride=2)
        levels = []
        for stage, (blocks, width) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512))):
            for block in range(blocks):
                stride = 2 if block == 0 and stage else 1
                value, channels = self._bottleneck(value, channels, self._width(width), stride)
            levels.append((value, channels))
        width = self._width(256)
        laterals = [self._conv(level, inputs, width, 1, relu=False) for level, inputs in levels[1:]]
        pyramid = [self._conv(lateral, width, width, 3, relu=False) for lateral in laterals]
        outputs = []
        for tower, channels in (("scores", 90), ("boxes", 40)):
            inner = self._width(384)
            for number, level in enumerate(pyramid):
                value = level
                for layer in range(4):
                    value = self._conv(value, width if layer == 0 else inner, inner, 3, share=f"{tower}{layer}")
                value = self._conv(value, inner, channels, 3, share=f"{tower}_out", relu=False)
                self._nodes.append(helper.make_node("Identity", [value], [f"{tower}_{number}"]))
                outputs.append((f"{tower}_{number}", channels))
        return outputs

    def _bottleneck(self, value: str, channels: int, width: int, stride: int) -> tuple[str, int]:
        inner = self._conv(self._conv(value, channels, width, 1), width, width, 3, stride=stride)
        branch = self._conv(inner, width, 4 * width, 1, relu=False)
        if stride != 1 or channels != 4 * width:
            value = self._conv(value, channels, 4 * width, 1, stride=stride, relu=False)
        name = f"add{len(self._nodes)}"
        self._nodes.append(helper.make_node("Add", [value, branch], [name]))
        return self._quantized(name), 4 * width

    def _quantized(self, value: str) -> str:
        """Return the value through uint8: negative ones become 0, which stands for ReLU."""
        self._nodes += [
            helper.make_node("QuantizeLinear", [value, "step", "zero"], [f"{value}_q"]),
            helper.make_node("DequantizeLinear", [f"{value}_q", "step", "zero"], [f"{value}_dq"]),
        ]
        return f"{value}_dq"

    def _conv(
        self, value: str, inputs: int, outputs: int, kernel: int, *, stride: int = 1, relu: bool = True, share: str = ""
    ) -> str:
        name = f"conv{len(self._nodes)}"
        owner = share or name
        if not any(tensor.name == f"{owner}_w" for tensor in self._tensors):
            self._weights(owner, (outputs, inputs, kernel, kernel))
        self._nodes += [
            helper.make_node("DequantizeLinear", [f"{owner}_w", f"{owner}_s"], [f"{name}_wf"], axis=0),
            helper.make_node("DequantizeLinear", [f"{owner}_b", f"{owner}_bs"], [f"{name}_bf"], axis=0),
            helper.make_node(
                "Conv", [value, f"{name}_wf", f"{name}_bf"], [name], kernel_shape=[kernel, kernel],
                strides=[stride, stride], pads=[kernel // 2] * 4,
            ),
        ]  # fmt: skip
        if relu:
            self._nodes.append(helper.make_node("Relu", [name], [f"{name}_r"]))
            name = f"{name}_r"
        return self._quantized(name)

    def _weights(self, owner: str, shape: tuple[int, int, int, int]) -> None:
        floats = self._rng.standard_normal((shape[0], int(np.prod(shape[1:]))), dtype=np.float32)
        integers = quantize(prune([floats], self._zeros)[0], 8).reshape(shape)
        scale = np.full(shape[0], 0.001, dtype=np.float32)
        bias = self._rng.integers(-2000, 2000, shape[0]).astype(np.int32)
        for suffix, array in (("w", integers), ("s", scale), ("b", bias), ("bs", scale * np.float32(0.05))):
            self._tensors.append(numpy_helper.from_array(array, f"{owner}_{suffix}"))
        self.weights += integers.size
