"""What layers cost in the file that is deployed, learnt from a few measured networks of other widths.

Time is not MACs: a kernel has a fixed part, its input is read, its output written, and some layers (sampling of a
deformable convolution) take time by their inputs alone. So the cost of each layer is fitted as
c0 + c1 in + c2 out + c3 in out, all c >= 0, on the same network measured at several widths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from compress.pruning.side_widths import SideWidths

if TYPE_CHECKING:
    from torch import nn

BETWEEN = ""  # the layer of what belongs to none
_LATEST = 4.0  # weight of the latest network: the next one is nearest to it


@dataclass(frozen=True)
class LayerShape:
    """Widths of one layer, and what a forward pass computes there.

    Attributes:
        in_width, out_width: channels; a depthwise layer's input is its output, and counts as 1.
        positions: pixels of its outputs, all calls together.
    """

    in_width: int
    out_width: int
    positions: int


@dataclass(frozen=True)
class MeasuredNetwork:
    """One network as it was measured.

    Attributes:
        total: cost of the whole, milliseconds or bytes.
        parts: layer -> its part, in any one unit; `BETWEEN` is what belongs to no layer.
        shapes: layer -> its widths.
    """

    total: float
    parts: Mapping[str, float]
    shapes: Mapping[str, LayerShape]


def fit_non_negative(features: np.ndarray, values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the coefficients >= 0 of least squared error; of equal ones those of fewest and last features.

    Args:
        features: (N, F), F small: all 2^F - 1 subsets are tried, which is exact.
        values: (N,).
        weights: (N,), of the squared errors.
    """
    roots = np.sqrt(weights)
    scale = np.abs(features).max(axis=0).clip(1e-12)
    a, b = features / scale * roots[:, None], values * roots
    best, least = np.zeros(features.shape[1]), float(b @ b)
    count = features.shape[1]
    for size in range(1, count + 1):
        for chosen in sorted(combinations(range(count), size), reverse=True):
            found = np.linalg.lstsq(a[:, chosen], b, rcond=None)[0]
            error = float(((a[:, chosen] @ found - b) ** 2).sum())
            if (found >= 0).all() and error < least * (1 - 1e-3) - 1e-18:
                best, least = np.zeros(count), error
                best[list(chosen)] = found
    return np.asarray(best / scale)


class MeasuredCost:
    """Milliseconds or bytes of a network as a function of the widths of its groups."""

    def __init__(
        self,
        networks: Sequence[MeasuredNetwork],
        shapes: Mapping[str, LayerShape],
        widths: SideWidths,
        owners: Mapping[str, str],
    ) -> None:
        """Fit the layers.

        Args:
            networks: measured, the latest last; of the same layers.
            shapes: layer -> widths of the network whose groups are asked for.
            widths: of that network's groups.
            owners: layer -> the layer whose sides say how wide it is; itself if it is not named.
        """
        self._widths = widths
        self._shapes = shapes
        self._owners = owners
        latest = networks[-1]
        weights = np.array([1.0] * (len(networks) - 1) + [_LATEST])
        layers = [name for name in dict.fromkeys(n for one in networks for n in one.parts) if name in shapes]
        # Parts are scaled to the whole: what a profile leaves out, it leaves out everywhere.
        scales = [one.total / max(sum(one.parts.values()), 1e-30) for one in networks]
        self._coefficients = {}
        for name in layers:
            features = np.array([_features(one.shapes[name]) for one in networks])
            values = np.array([one.parts.get(name, 0.0) * s for one, s in zip(networks, scales, strict=True)])
            self._coefficients[name] = fit_non_negative(features, values, weights)
        between = np.array([[1.0, _written(one.shapes)] for one in networks])
        rest = np.array([
            s * sum(value for name, value in one.parts.items() if name not in shapes)
            for one, s in zip(networks, scales, strict=True)
        ])  # fmt: skip
        self._between = fit_non_negative(between, rest, weights)
        self._factor = 1.0
        if (said := self._total(latest.shapes)) > 0:
            self._factor = latest.total / said

    def cost(self, kept: Mapping[str, int]) -> float:
        """Return the cost if each group keeps so many channels."""
        return self._factor * self._total({name: self._narrowed(name, kept) for name in self._shapes})

    def _total(self, shapes: Mapping[str, LayerShape]) -> float:
        layers = sum(float(found @ _features(shapes[name])) for name, found in self._coefficients.items())
        return layers + float(self._between @ np.array([1.0, _written(shapes)]))

    def _narrowed(self, name: str, kept: Mapping[str, int]) -> LayerShape:
        shape, owner = self._shapes[name], self._owners.get(name, name)
        whole = self._shapes[owner]
        out = self._widths.left(owner, "out", whole.out_width, kept) / whole.out_width
        into = self._widths.left(owner, "in", whole.in_width, kept) / whole.in_width
        if owner != name:  # inside a layer with a rule of its own: what it reads is what that reads
            return LayerShape(round(shape.in_width * into), shape.out_width, shape.positions)
        return LayerShape(round(shape.in_width * into), round(shape.out_width * out), shape.positions)


def _features(shape: LayerShape) -> np.ndarray:
    return np.array([1.0, shape.in_width, shape.out_width, shape.in_width * shape.out_width])


def _written(shapes: Mapping[str, LayerShape]) -> float:
    return float(sum(shape.out_width * shape.positions for shape in shapes.values()))


def layer_shapes(model: nn.Module, layers: Mapping[str, int]) -> dict[str, LayerShape]:
    """Return the shapes of layers.

    Args:
        model: as it is.
        layers: name -> pixels of its outputs, all calls together.
    """
    shapes = {}
    for name, positions in layers.items():
        module = model.get_submodule(name)
        out = int(getattr(module, "out_channels", getattr(module, "out_features", 1)))
        into = int(getattr(module, "in_channels", getattr(module, "in_features", 1)))
        is_depthwise = getattr(module, "groups", 1) == into == out
        shapes[name] = LayerShape(1 if is_depthwise else into, out, positions)
    return shapes
