"""The integer network: Q/DQ where ONNX Runtime fuses them, with ranges and weights that were chosen before."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import onnx
from onnx import numpy_helper
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from compress.rate_rounding.layer import Rounded
from compress.shrink.importance import changed_weight
from compress.shrink.network import Network
from compress.shrink.observe import Seen

OPS = (
    "Conv", "Gemm", "MatMul", "Add", "Mul", "Concat", "MaxPool", "AveragePool", "GlobalAveragePool", "Relu", "Clip",
    "Resize", "Reshape", "Transpose", "Gather", "Slice", "Split", "Squeeze", "Unsqueeze", "Flatten", "Pad", "Sigmoid",
    "LeakyRelu", "HardSigmoid", "HardSwish", "Softmax",
)  # fmt: skip


def rounded_network(network: Network, seen: Seen, rounded: Mapping[str, Rounded]) -> Network:
    """Return the float network that computes with rounded weights; biases take up what they add to means."""
    model = onnx.ModelProto()
    model.CopyFrom(network.model)
    places = {one.name: number for number, one in enumerate(model.graph.initializer)}
    for weight, one in rounded.items():
        for name, value in changed_weight(network, seen, weight, one.weights).items():
            model.graph.initializer[places[name]].CopyFrom(numpy_helper.from_array(value, name))
    return Network(model)


def quantized(
    network: Network,
    ranges: Mapping[str, tuple[float, float]],
    rounded: Mapping[str, Rounded],
    *,
    floating: Iterable[str] = (),
    symmetric: bool = False,
    float_biases: bool = False,
) -> onnx.ModelProto:
    """Return the network with integers.

    Args:
        network: of `rounded_network`.
        ranges: tensor -> least and greatest value.
        rounded: weight -> its integers and steps.
        floating: names of nodes that stay float.
        symmetric: int8 with zero point 0 between layers, else uint8.
        float_biases: biases stay as they are, else they become int32.
    """
    model = onnx.ModelProto()
    model.CopyFrom(network.model)
    data = {
        name: TensorData(lowest=np.float32(low), highest=np.float32(high if high > low else low + 1e-6))
        for name, (low, high) in ranges.items()
    }
    own = {"quant_type": QuantType.QInt8, "symmetric": True, "reduce_range": True}
    overrides = {weight: [{**own, "axis": axis_of(network, weight)}] for weight in rounded}
    ops = [op for op in OPS if any(node.op_type == op for node in model.graph.node)]
    with _quiet():
        quantizer = QDQQuantizer(
            model,
            per_channel=True,
            reduce_range=True,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QInt8 if symmetric else QuantType.QUInt8,
            tensors_range=TensorsData(CalibrationMethod.MinMax, data),
            nodes_to_quantize=[],
            nodes_to_exclude=list(floating),
            op_types_to_quantize=ops,
            extra_options={
                "TensorQuantOverrides": overrides,
                "ActivationSymmetric": symmetric,
                "WeightSymmetric": True,
                "QuantizeBias": not float_biases,
            },
        )
        quantizer.quantize_model()
    made: onnx.ModelProto = quantizer.model.model
    _set_integers(made, network, rounded)
    return made


def _set_integers(made: onnx.ModelProto, network: Network, rounded: Mapping[str, Rounded]) -> None:
    """Put integers and steps that were chosen in the place of those that the quantizer made."""
    places = {one.name: number for number, one in enumerate(made.graph.initializer)}
    for weight, one in rounded.items():
        codes, scale = f"{weight}_quantized", f"{weight}_scale"
        if codes in places:
            value = network.unmatrix(network.linears[weight], one.codes).astype(np.int8)
            made.graph.initializer[places[codes]].CopyFrom(numpy_helper.from_array(value, codes))
            made.graph.initializer[places[scale]].CopyFrom(numpy_helper.from_array(one.steps, scale))


def axis_of(network: Network, weight: str) -> int:
    """Return the axis of a weight that its output channels lie along."""
    linear = network.linears[weight]
    if linear.op == "Conv":
        return 0
    value = network.tensors[weight]
    return 0 if network.matrix(linear) is value else value.ndim - 1


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the library's warnings (run pre-processing first) off the terminal: that was done."""
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logging.root.setLevel(level)
