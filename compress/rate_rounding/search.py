"""The price of a bit at which a network has the size that is asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from compress.errors import StageError
from compress.rate_rounding.choice import LayerChooser
from compress.rate_rounding.layer import Rounded

TOLERANCE = 0.01  # of the bytes that are asked for
_START = 1e-9  # price; of a loss that is about 1 where a network sees nothing
_MOST = 14  # sizes that are measured
_FARTHEST = 64.0  # factor between one price and the next
_NEAR = 3.0  # factor up to which what was found at one price is where the search for the next begins
_SLOPE = -0.2  # of the logarithm of the size over that of the price, as long as only one size is known
_CLOSE = 1.2  # factor between prices around the target from which on rows of both are mixed
_MIXTURES = 6  # that are measured
_FLATTEST = -0.05  # slope that is believed

Measure = Callable[[Mapping[str, Rounded]], int]


@dataclass(frozen=True)
class Priced:
    """A network rounded at a price.

    Attributes:
        layers: name -> what it became.
        price: loss that a bit was worth.
        num_bytes: of the packed file.
    """

    layers: Mapping[str, Rounded]
    price: float
    num_bytes: int

    @property
    def loss(self) -> float:
        """Return by how much the loss of the network grows, to second order, layers taken one by one."""
        return sum(one.loss for one in self.layers.values())


def round_network(
    choosers: Mapping[str, LayerChooser], price: float, start: Mapping[str, Rounded] | None = None
) -> dict[str, Rounded]:
    """Round all layers at one price: then no bit would win more in another layer."""
    return {name: one.choose(price, None if start is None else start[name]) for name, one in choosers.items()}


def round_to_bytes(
    choosers: Mapping[str, LayerChooser],
    measure: Measure,
    target: int,
    *,
    tell: Callable[[Priced], None] = lambda _: None,
) -> Priced:
    """Return the network rounded at the least price at which it fits.

    Args:
        choosers: of all layers.
        measure: gives the bytes of the packed file.
        target: bytes; 99 to 100 % of them are used.
        tell: called with everything that was tried.

    Raises:
        StageError: what is no weight is larger than the target, or no price fits.
    """
    tried: list[Priced] = []
    price, start = _START, None

    def found(layers: Mapping[str, Rounded], price: float) -> Priced | None:
        tried.append(Priced(layers, price, measure(layers)))
        tell(tried[-1])
        return tried[-1] if target * (1 - TOLERANCE) <= tried[-1].num_bytes <= target else None

    while len(tried) < _MOST:
        layers = round_network(choosers, price, start)
        if fitting := found(layers, price):
            return fitting
        if tried[-1].num_bytes > target and not any(one.codes.any() for one in layers.values()):
            raise StageError(
                f"the file has {tried[-1].num_bytes:,} bytes with all weights zero, and {target:,} were asked for. "
                "Ask for more."
            )
        over, under = around(tried, target)
        if over and under and under.price / over.price < _CLOSE:
            mixed = Mixture(choosers, over, under)
            for _ in range(_MIXTURES):
                if (between := mixed.layers(target * (1 - TOLERANCE / 2))) is None:
                    break
                if fitting := found(between, under.price):
                    return fitting
                mixed.learn(tried[-1].num_bytes, target)
            break
        following = next_price(tried, target * (1 - TOLERANCE / 2))
        start = layers if max(price / following, following / price) <= _NEAR else None
        price = following
    below = [one for one in tried if one.num_bytes <= target]
    if not below:
        sizes = ", ".join(f"{one.num_bytes:,}" for one in tried)
        raise StageError(f"no price of a bit made a file of {target:,} bytes; tried were files of {sizes}.")
    return max(below, key=lambda one: one.num_bytes)


def around(tried: Sequence[Priced], target: float) -> tuple[Priced | None, Priced | None]:
    """Return the smallest of the too large ones and the largest of those that fit, as far as there are any.

    Of equal sizes those whose prices are nearest to each other.
    """
    over = [one for one in tried if one.num_bytes > target]
    under = [one for one in tried if one.num_bytes <= target]
    return (
        min(over, key=lambda one: (one.num_bytes, -one.price), default=None),
        max(under, key=lambda one: (one.num_bytes, -one.price), default=None),
    )


class Mixture:
    """Networks with some rows of a too large one and the others of one that fits.

    Where steps change, the size jumps at a price. Between the two sides of a jump both are as good, row by row.
    """

    def __init__(self, choosers: Mapping[str, LayerChooser], over: Priced, under: Priced) -> None:
        self._choosers, self._over, self._under = choosers, over.layers, under.layers
        names = list(over.layers)
        pairs = [(choosers[name], over.layers[name], under.layers[name]) for name in names]
        won = np.concatenate([one.row_losses(small) - one.row_losses(large) for one, large, small in pairs])
        bits = np.concatenate([one.row_bits(large) - one.row_bits(small) for one, large, small in pairs])
        rows = np.cumsum([0, *(len(large.codes) for _, large, _ in pairs)])
        self._rows = {name: slice(rows[i], rows[i + 1]) for i, name in enumerate(names)}
        gain = np.divide(won, bits, out=np.full(len(won), -np.inf), where=bits > 0)
        self._order = np.argsort(-gain, kind="stable")
        self._total = np.concatenate([[0.0], np.cumsum(bits[self._order])])
        self._low, self._high = (0, under.num_bytes), (len(won), over.num_bytes)  # rows of the larger one -> bytes
        self._count = 0

    def layers(self, target: float) -> dict[str, Rounded] | None:
        """Return the network that should be nearest to a size, None if all between the two are known."""
        (low, small), (high, large) = self._low, self._high
        if high - low < 2:
            return None
        bits = self._total[low : high + 1] - self._total[low]
        share = (target - small) / (large - small)
        nearest = low + int(np.abs(bits - share * bits[-1]).argmin())
        self._count = min(max(nearest, low + 1), high - 1)
        chosen = np.zeros(len(self._order), bool)
        chosen[self._order[: self._count]] = True
        return {name: self._mixed(name, chosen[rows]) for name, rows in self._rows.items()}

    def learn(self, num_bytes: int, target: float) -> None:
        """Take note of the size of the last network."""
        if num_bytes > target:
            self._high = (self._count, num_bytes)
        else:
            self._low = (self._count, num_bytes)

    def _mixed(self, name: str, chosen: np.ndarray) -> Rounded:
        over, under = self._over[name], self._under[name]
        codes = np.where(chosen[:, None], over.codes, under.codes)
        exponents = np.where(chosen, over.exponents, under.exponents)
        mixed = Rounded(codes, exponents, 0.0, price=under.price)
        return replace(mixed, loss=float(self._choosers[name].row_losses(mixed).sum()))


def next_price(tried: Sequence[Priced], target: float) -> float:
    """Return where the curve of sizes through what was tried meets the target.

    The logarithm of the size falls about evenly with the logarithm of the price.
    """
    over, under = around(tried, target)
    if over and under and over.price < under.price:
        share = math.log(target / over.num_bytes) / math.log(under.num_bytes / over.num_bytes)
        return over.price * math.pow(under.price / over.price, min(max(share, 0.2), 0.8))
    last, slope = tried[-1], _SLOPE
    if len(tried) > 1 and tried[-2].num_bytes != last.num_bytes:
        slope = math.log(last.num_bytes / tried[-2].num_bytes) / math.log(last.price / tried[-2].price)
    step = math.exp(math.log(target / last.num_bytes) / min(slope, _FLATTEST))
    return last.price * min(max(step, 1 / _FARTHEST), _FARTHEST)
