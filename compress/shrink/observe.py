"""What a float network computes on real pictures: ranges of its tensors, moments of what its weights multiply."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnxruntime as ort

from compress.post_training.moments import InputMoments
from compress.post_training.ranges import ValueHistogram
from compress.shrink.network import Linear, Network, attribute

POSITIONS = 1024  # of a layer and picture that moments are taken at

Feed = dict[str, np.ndarray]
Feeds = Callable[[], Iterable[Feed]]


@dataclass
class Seen:
    """What was seen.

    Attributes:
        histograms: tensor -> how often its values occurred.
        moments: weight -> of its inputs.
        images: how many pictures.
    """

    histograms: dict[str, ValueHistogram] = field(default_factory=dict)
    moments: dict[str, InputMoments] = field(default_factory=dict)
    images: int = 0


def session_of(model: onnx.ModelProto, *, threads: int = 0) -> ort.InferenceSession:
    """Return a session of ONNX Runtime for a model in memory."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def with_outputs(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """Return a model that gives further tensors, after its own outputs."""
    more = onnx.ModelProto()
    more.CopyFrom(model)
    given = {one.name for one in more.graph.output}
    more.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in given)
    return more


def float_tensors(network: Network) -> list[str]:
    """Return the names of the float tensors between nodes, inputs first."""
    kinds = {one.name: one.type.tensor_type.elem_type for one in network.model.graph.value_info}
    kinds |= {one.name: one.type.tensor_type.elem_type for one in network.model.graph.output}
    inputs = [one.name for one in network.model.graph.input if one.type.tensor_type.elem_type == onnx.TensorProto.FLOAT]
    made = [name for name in network.makers if kinds.get(name) == onnx.TensorProto.FLOAT]
    return [*(name for name in inputs if name in network.inputs), *made]


def observe(network: Network, feeds: Feeds, *, seed: int = 0) -> Seen:
    """Run a network on pictures twice: for the extremes of each tensor, then for histograms and moments.

    Memory holds the tensors of one picture, histograms and moments, however many pictures there are.

    Args:
        network: float.
        feeds: gives the same feeds each time it is called.
        seed: of the positions.
    """
    names = float_tensors(network)
    session = session_of(with_outputs(network.model, names))
    seen, ends = Seen(), dict[str, tuple[float, float]]()
    for values in _runs(session, names, feeds()):
        for name, value in values.items():
            low, high = ends.get(name, (0.0, 0.0))
            least, most = _ends(value)
            ends[name] = min(low, least), max(high, most)
        seen.images += 1
    seen.histograms = {name: ValueHistogram(*pair) for name, pair in ends.items()}
    inputs = {one.weight: [network.nodes[node].input[0] for node in one.nodes] for one in network.linears.values()}
    for linear in network.linears.values():
        seen.moments[linear.weight] = InputMoments.empty(linear.groups, network.matrix(linear).shape[1])
    rng = np.random.default_rng(seed)
    for values in _runs(session, names, feeds()):
        for name, value in values.items():
            seen.histograms[name].add(value)
        for linear in network.linears.values():
            for node, name in zip(linear.nodes, inputs[linear.weight], strict=True):
                add_moments(seen.moments[linear.weight], columns_at(network, linear, node, values[name], rng))
    return seen


def _ends(value: np.ndarray) -> tuple[float, float]:
    """Return the least and the greatest finite value, and zero among them."""
    found = float(value.min(initial=0.0)), float(value.max(initial=0.0))
    return found if np.isfinite(found).all() else _ends(value[np.isfinite(value)])


def _runs(
    session: ort.InferenceSession, names: Sequence[str], feeds: Iterable[Feed]
) -> Iterator[dict[str, np.ndarray]]:
    given = [one.name for one in session.get_outputs()]
    wanted = [name for name in names if name in given]
    for feed in feeds:
        yield dict(zip(wanted, session.run(wanted, feed), strict=True)) | {k: v for k, v in feed.items() if k in names}


def add_moments(moments: InputMoments, columns: np.ndarray) -> None:
    """Add what a weight was multiplied by, (groups * columns, positions)."""
    blocks = columns.reshape(*moments.first.shape, -1)
    moments.first += blocks.sum(axis=2, dtype=np.float64)
    with np.errstate(over="ignore", invalid="ignore"):  # what is no number then is told where weights are rounded
        moments.second += blocks @ blocks.transpose(0, 2, 1)
    moments.positions += blocks.shape[2]


def columns_at(network: Network, linear: Linear, node: str, value: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return what a weight is multiplied by at some positions, (groups * columns of the weight, positions) float32."""
    if linear.op != "Conv":
        rows = value.reshape(-1, value.shape[-1])
        if linear.op == "Gemm" and attribute(network.nodes[node], "transA", 0):
            rows = rows.T
        return np.ascontiguousarray(_some(rows, rng).T)
    kernel = network.tensors[linear.weight].shape[2:]
    strides = attribute(network.nodes[node], "strides", [1] * len(kernel))
    dilations = attribute(network.nodes[node], "dilations", [1] * len(kernel))
    before, after = pads_of(network.nodes[node], value.shape[2:], kernel, strides, dilations)
    padded = np.pad(value, [(0, 0), (0, 0), *zip(before, after, strict=True)])
    sizes = [
        (n - d * (k - 1) - 1) // s + 1 for n, k, s, d in zip(padded.shape[2:], kernel, strides, dilations, strict=True)
    ]
    count = len(value) * int(np.prod(sizes))
    flat = rng.choice(count, POSITIONS, replace=False) if count > POSITIONS else np.arange(count)
    images, *at = np.unravel_index(flat, (len(value), *sizes))
    taps = np.indices(kernel).reshape(len(kernel), -1)
    where = [(p * s)[:, None] + (t * d)[None, :] for p, s, t, d in zip(at, strides, taps, dilations, strict=True)]
    picked = padded[images[:, None], :, *where]  # (positions, taps, channels)
    return np.ascontiguousarray(picked.transpose(2, 1, 0).reshape(-1, len(flat)), np.float32)


def pads_of(
    node: onnx.NodeProto, sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Return the zeros before and behind each axis of a convolution's input."""
    how = attribute(node, "auto_pad", b"NOTSET").decode()
    if how in ("NOTSET", ""):
        pads = attribute(node, "pads", [0] * (2 * len(kernel)))
        return list(pads[: len(kernel)]), list(pads[len(kernel) :])
    if how == "VALID":
        return [0] * len(kernel), [0] * len(kernel)
    totals = [
        max((-(-n // s) - 1) * s + d * (k - 1) + 1 - n, 0)
        for n, k, s, d in zip(sizes, kernel, strides, dilations, strict=True)
    ]
    small = [total // 2 for total in totals]
    large = [total - total // 2 for total in totals]
    return (small, large) if how == "SAME_UPPER" else (large, small)


def _some(rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return rows[rng.choice(len(rows), POSITIONS, replace=False)] if len(rows) > POSITIONS else rows


def ranges_of(seen: Seen, choose: Callable[[ValueHistogram], tuple[float, float]]) -> Mapping[str, tuple[float, float]]:
    """Return tensor -> least and greatest value that its levels cover."""
    return {name: choose(histogram) for name, histogram in seen.histograms.items()}
