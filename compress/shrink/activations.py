"""What integers between the layers cost: each tensor rounded to its levels alone, the rest of the network in float."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

import numpy as np
import onnx
from onnx import helper

from compress.shrink.importance import PICTURES, OutputDistance
from compress.shrink.network import Network
from compress.shrink.observe import Feeds, float_tensors, session_of, with_outputs

LEVELS = 255  # steps between the levels of uint8
_ERROR = "krimp error of "
_CLEAN = " without error"

Ranges = Mapping[str, tuple[float, float]]


def activation_costs(
    network: Network, ranges: Ranges, feeds: Feeds, distance: OutputDistance, tensors: Sequence[str] | None = None
) -> dict[str, float]:
    """Return tensor -> distance of the outputs if it alone is rounded to the levels of its range.

    Args:
        network: float.
        ranges: tensor -> least and greatest value.
        feeds: of pictures; the first ones are used.
        distance: of outputs.
        tensors: that are asked about; default: all between nodes and the inputs.
    """
    names = [name for name in (float_tensors(network) if tensors is None else tensors) if name in ranges]
    inner = [name for name in names if name in network.makers]
    opened = _with_errors(network.model, inner)
    watch = session_of(with_outputs(network.model, inner))
    session = session_of(opened)
    costs = dict.fromkeys(names, 0.0)
    pictures = list(islice(feeds(), PICTURES))
    for feed in pictures:
        given = [one.name for one in watch.get_outputs()]
        values = dict(zip(given, watch.run(given, feed), strict=True)) | dict(feed)
        clean = [values[name] for name in network.outputs]
        for name in names:
            error = rounded_to_levels(values[name], ranges[name]) - values[name]
            if not error.any():
                continue
            moved = {f"{_ERROR}{name}": error} if name in network.makers else {name: values[name] + error}
            costs[name] += distance.of(session.run(network.outputs, {**feed, **moved}), clean) / len(pictures)
    return costs


def rounded_to_levels(value: np.ndarray, ends: tuple[float, float]) -> np.ndarray:
    """Return values as 256 levels over a range give them, float32; zero is a level."""
    low, high = min(ends[0], 0.0), max(ends[1], 0.0)
    step = np.float32((high - low) / LEVELS) or np.float32(1)
    zero = np.rint(-low / step)
    levels: np.ndarray = (np.clip(np.rint(value / step) + zero, 0, LEVELS) - zero) * step
    return levels.astype(np.float32)


def _with_errors(model: onnx.ModelProto, names: Iterable[str]) -> onnx.ModelProto:
    """Return a model in which an error can be fed for each of some tensors; without, it computes what it did."""
    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    chosen = set(names)
    made: list[onnx.NodeProto] = []
    for node in model.graph.node:
        copy = onnx.NodeProto.FromString(node.SerializeToString())
        made.append(copy)
        for index, output in enumerate(node.output):
            if output not in chosen:
                continue
            copy.output[index] = f"{output}{_CLEAN}"
            made.append(helper.make_node("Add", [copy.output[index], f"{_ERROR}{output}"], [output]))
            opened.graph.initializer.append(helper.make_tensor(f"{_ERROR}{output}", onnx.TensorProto.FLOAT, [1], [0.0]))
            opened.graph.input.append(helper.make_tensor_value_info(f"{_ERROR}{output}", onnx.TensorProto.FLOAT, None))
    del opened.graph.node[:]
    opened.graph.node.extend(made)
    return opened
