"""How much the outputs of a network suffer from errors in each of its weights, by moving them a little."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import islice

import numpy as np
import onnx

from compress.post_training.correction import bias_shift
from compress.rate_rounding.layer import Layer
from compress.shrink.network import Network
from compress.shrink.observe import Feed, Feeds, Seen, session_of

PICTURES = 4  # that noise is sent through
SHARE = 0.02  # of the largest weight of a row that the noise is large: about what rounding to a few bits does
_MOST_CHANNELS = 4096  # an axis 1 longer than this is no axis of channels


class OutputDistance:
    """Squared error of outputs, each channel in units of its own spread: what a head makes of them is not known.

    One scale for a whole tensor would hear only its largest channels: boxes in pixels beside scores. Where the float
    network's value is no finite number, nothing is compared.
    """

    def __init__(self, samples: Iterable[list[np.ndarray]]) -> None:
        """Take the outputs of some pictures."""
        sums: list[np.ndarray] = []
        squares: list[np.ndarray] = []
        counts: list[int] = []
        for outputs in samples:
            values = [_by_channel(one) for one in outputs]
            if not sums:
                sums, squares = ([np.zeros(len(one)) for one in values] for _ in range(2))
                counts = [0] * len(values)
            for number, one in enumerate(values):
                if len(one) == len(sums[number]):
                    one = np.where(np.isfinite(one), one, np.float32(0))
                    sums[number] += one.sum(axis=1, dtype=np.float64)
                    squares[number] += np.square(one, dtype=np.float64).sum(axis=1)
                    counts[number] += one.shape[1]
        self._worth = []
        for total, square, count in zip(sums, squares, counts, strict=True):
            variance = square / max(count, 1) - (total / max(count, 1)) ** 2
            floor = max(float(variance.mean()) * 1e-4, 1e-12)
            self._worth.append(1 / np.maximum(variance, floor) / len(total) / max(len(sums), 1))

    def of(self, outputs: list[np.ndarray], reference: list[np.ndarray]) -> float:
        """Return the distance of a picture's outputs: 1 is an error as large as what the outputs vary by.

        Infinite if an output is no finite number where the float network's is.
        """
        total = 0.0
        for one, other, worth in zip(outputs, reference, self._worth, strict=True):
            expected = np.asarray(other, np.float32)
            with np.errstate(invalid="ignore"):
                difference = np.asarray(one, np.float32) - expected
            difference = _by_channel(np.where(np.isfinite(expected), difference, np.float32(0)))
            per_channel = np.square(difference, dtype=np.float64).sum(axis=1) / max(difference.shape[1], 1)
            total += float(per_channel @ worth) if len(per_channel) == len(worth) else float(per_channel.mean())
        return total if math.isfinite(total) else math.inf


def _by_channel(value: np.ndarray) -> np.ndarray:
    """Return an output as (channels, values): by its axis 1, or as one channel."""
    value = np.asarray(value, np.float32)
    if value.ndim >= 2 and 1 <= value.shape[1] <= _MOST_CHANNELS and value.size > value.shape[1]:
        return np.moveaxis(value, 1, 0).reshape(value.shape[1], -1)
    return value.reshape(1, -1)


def importances(
    network: Network, seen: Seen, feeds: Feeds, distance: OutputDistance, *, seed: int = 0
) -> dict[str, np.ndarray]:
    """Return weight -> what an error of one in each output channel costs, summed over positions, (out,).

    Weights are moved at random, a layer at a time, and biases take up what that does to means, as when they are
    rounded: errors of a weight are the same at all positions, and noise on outputs, which is not, says far too little.
    The same for all channels of a layer: telling them apart would take a run each.

    Args:
        network: float.
        seen: moments of what the weights multiply.
        feeds: of pictures; the first ones are used.
        distance: of outputs.
        seed: of the noise.
    """
    rng = np.random.default_rng(seed)
    session = session_of(with_open_weights(network))
    pictures = list(islice(feeds(), PICTURES))
    clean = [session.run(network.outputs, feed) for feed in pictures]
    found = {}
    for weight, linear in network.linears.items():
        matrix = network.matrix(linear).astype(np.float64)
        spread = spread_of(network, seen, weight)
        costs = []
        for feed, reference in zip(pictures, clean, strict=True):
            noise = rng.standard_normal(matrix.shape) * (SHARE * np.abs(matrix).max(axis=1, keepdims=True))
            error = Layer(np.zeros_like(matrix), np.ones(len(matrix)), 1, np.ones(len(matrix)), spread)
            power = error.loss(noise, np.ones(len(matrix)))
            if power <= 0:
                continue
            moved = changed_weight(network, seen, weight, matrix + noise)
            costs.append(distance.of(session.run(network.outputs, {**feed, **moved}), reference) / power)
        found[weight] = np.full(len(matrix), float(np.mean(costs)) if costs else 0.0)
    return found


def with_open_weights(network: Network) -> onnx.ModelProto:
    """Return a model whose weights and biases can be fed; they are as they were unless they are."""
    opened = onnx.ModelProto()
    opened.CopyFrom(network.model)
    given = {one.name for one in opened.graph.input}
    names = {name for weight in network.linears for name in (weight, *biases_of(network, weight))}
    opened.graph.input.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, network.tensors[name].shape)
        for name in sorted(names - given)
    )
    return opened


def changed_weight(network: Network, seen: Seen, weight: str, matrix: np.ndarray) -> Feed:
    """Return a weight with another matrix, (out, columns), and its biases, which take up what it adds to means."""
    linear = network.linears[weight]
    changed = {weight: network.unmatrix(linear, matrix.astype(np.float32))}
    shift = bias_shift(network.matrix(linear), matrix, seen.moments[weight])
    for name in biases_of(network, weight):
        bias = network.tensors[name]
        changed[name] = (bias.reshape(-1) + shift).astype(np.float32).reshape(bias.shape)
    return changed


def biases_of(network: Network, weight: str) -> list[str]:
    """Return the constants that only the nodes of a weight add to their outputs, a value a channel."""
    linear = network.linears[weight]
    nodes = [network.nodes[name] for name in linear.nodes]
    names = dict.fromkeys(node.input[2] for node in nodes if len(node.input) > 2)
    channels = len(network.matrix(linear))
    own = [name for name in names if name in network.tensors and network.tensors[name].size == channels]
    return [name for name in own if all(reader in linear.nodes for reader in network.readers[name])]


def spread_of(network: Network, seen: Seen, weight: str) -> np.ndarray:
    """Return second moments of what a weight multiplies, about their means where biases take these up."""
    moments = seen.moments[weight]
    spread = moments.second.astype(np.float64) / (moments.positions or 1)
    nodes = [network.nodes[name] for name in network.linears[weight].nodes]
    own = biases_of(network, weight)
    if own and all(len(node.input) > 2 and node.input[2] in own for node in nodes):
        mean = moments.mean
        spread -= mean[:, :, None] * mean[:, None, :]
    return spread
