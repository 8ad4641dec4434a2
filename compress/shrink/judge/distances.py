"""How far outputs are from those of the float network, over many pictures: relative error and cosine of each."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


class Distances:
    """Sums over pictures, output by output.

    Where the float output is no finite number, nothing is compared. An output whose shape depends on the picture, and
    is another one here, counts as wholly different: as if all of both stood at different places.

    Attributes:
        names: of the outputs.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._difference, self._found, self._expected, self._product = np.zeros((4, len(names)))

    def add(self, found: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> None:
        """Add the outputs of a picture; `expected` are those of the float network."""
        for number, (one, other) in enumerate(zip(found, expected, strict=True)):
            first, second = (np.asarray(values, np.float64).ravel() for values in (one, other))
            if one.shape == other.shape:
                finite = np.isfinite(second)
                if not finite.all():
                    first, second = first[finite], second[finite]
                error = first - second
                self._difference[number] += error @ error
                self._product[number] += first @ second
            else:
                self._difference[number] += first @ first + second @ second
            self._found[number] += first @ first
            self._expected[number] += second @ second

    @property
    def relative_errors(self) -> dict[str, float]:
        """Return output -> ||found - expected|| / ||expected||; infinite if it is no number.

        Of a float output that is all zero it is 0 if the other one is zero, too, else 1.
        """
        pairs = zip(self._difference, self._expected, strict=True)
        return dict(zip(self.names, (_ratio(float(a), float(b)) for a, b in pairs), strict=True))

    @property
    def cosines(self) -> dict[str, float]:
        """Return output -> cosine: 1 if both are zero, 0 if one of them is or it is no number."""
        found = {}
        for name, product, one, other in zip(self.names, self._product, self._found, self._expected, strict=True):
            both = math.sqrt(one) * math.sqrt(other) if one >= 0 and other >= 0 else math.nan
            known = math.isfinite(both) and math.isfinite(product)
            found[name] = (float(product / both) if both else float(one == other)) if known else 0.0
        return found


def _ratio(difference: float, scale: float) -> float:
    if math.isnan(difference):
        return math.inf
    return math.sqrt(difference / scale) if scale else float(difference > 0)
