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
_CHEAPEST, _DEAREST = 1e-18, 1e3  # prices; of a loss that is about 1 where a network sees nothing
_ROUGH = 0.01  # of the bits, that the rough curve is searched to
_FINE = 1e-3  # of the logarithm of the price, likewise
_MOST = 14  # sizes that are measured
_FARTHEST = 64.0  # factor between one price and the next
_NEAR = 3.0  # factor up to which what was found at one price is where the search for the next begins
_FLATTEST = -0.05  # slope of the logarithm of the size over that of the price that is believed
_SLOPE = 0.2  # by which the logarithm of a file's size falls with that of the price, about
_CLOSE = 1.5  # factor between prices around the target from which on rows of both are mixed
_MIXTURES = 6  # that are measured
_LEAST_MOVED = 0.1  # of what a mixture should have moved the size by

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
    curve = RoughCurve(choosers)
    # What rounding saves on the rough bits is about what the rest of a file takes.
    price, start = curve.price(8.0 * target), None

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
                if not mixed.learn(tried[-1].num_bytes, target):
                    break
            break
        following = next_price(tried, target * (1 - TOLERANCE / 2), curve)
        start = layers if max(price / following, following / price) <= _NEAR else None
        price = following
    below = [one for one in tried if one.num_bytes <= target]
    if not below:
        sizes = ", ".join(f"{one.num_bytes:,}" for one in tried)
        raise StageError(f"no price of a bit made a file of {target:,} bytes; tried were files of {sizes}.")
    return max(below, key=lambda one: one.num_bytes)


def price_for_size(size_at: Callable[[float], int], price: float, size: int, target: int) -> tuple[float, int]:
    """Return a price at which a file fits, and its bytes, from a price at which it is somewhat too large.

    Args:
        size_at: gives the bytes at a price; falls with it.
        price: where it is too large.
        size: bytes there.
        target: bytes; 99 to 100 % of them are used where that can be met.

    Raises:
        StageError: no price fits.
    """
    over, under, aim = (price, size), None, target * (1 - TOLERANCE / 2)
    for number in range(_MOST):
        if under is None:
            step = math.log(over[1] / aim) / _SLOPE * 2**number
        else:
            distance = math.log(under[0] / over[0])
            share = math.log(over[1] / aim) / math.log(over[1] / under[1])
            step = min(max(share, 0.1), 0.9) * distance
        tried = over[0] * math.exp(min(step, math.log(_FARTHEST)))
        found = (tried, size_at(tried))
        if target * (1 - TOLERANCE) <= found[1] <= target:
            return found
        if found[1] > target:
            over = found
        else:
            under = found
    if under is None:
        raise StageError(f"no price of a bit made a file of {target:,} bytes; the last one had {over[1]:,}.")
    return under


class RoughCurve:
    """About how many bits a network takes at a price; what it does not foresee is learnt from the sizes measured."""

    def __init__(self, choosers: Mapping[str, LayerChooser]) -> None:
        self._choosers = choosers
        self._known: dict[float, float] = {}

    def bits(self, price: float) -> float:
        """Return them."""
        if price not in self._known:
            self._known[price] = sum(one.rough_bits(price) for one in self._choosers.values())
        return self._known[price]

    def price(self, bits: float) -> float:
        """Return the price at which there are so many, to a percent, or the end of what is tried."""
        low, high = math.log(_CHEAPEST), math.log(_DEAREST)
        while high - low > _FINE:
            middle = (low + high) / 2
            found = self.bits(math.exp(middle))
            if abs(found - bits) < _ROUGH * bits:
                return math.exp(middle)
            low, high = (middle, high) if found > bits else (low, middle)
        return math.exp((low + high) / 2)

    def price_behind(self, last: Priced, target: float) -> float:
        """Return the price at which a file should have a size, as things went at the last one."""
        bits = sum(float(one.row_bits(last.layers[name]).sum()) for name, one in self._choosers.items())
        rest = last.num_bytes - bits / 8
        wanted = 8 * (target - rest)
        if wanted <= 0 or bits <= 0:
            return last.price * _FARTHEST
        return self.price(wanted * self.bits(last.price) / bits)


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

    def learn(self, num_bytes: int, target: float) -> bool:
        """Take note of the size of the last network; return whether rows are what the two networks differ by.

        The rest of a file depends on the price too: biases, and filters that are gone. Where that makes the jump, any
        mixture is about as large as the network that fits.
        """
        (low, small), (high, large) = self._low, self._high
        part, whole = (self._total[count] - self._total[low] for count in (self._count, high))
        if num_bytes > target:
            self._high = (self._count, num_bytes)
        else:
            self._low = (self._count, num_bytes)
        return bool((num_bytes - small) * whole >= _LEAST_MOVED * part * (large - small))

    def _mixed(self, name: str, chosen: np.ndarray) -> Rounded:
        over, under = self._over[name], self._under[name]
        codes = np.where(chosen[:, None], over.codes, under.codes)
        exponents = np.where(chosen, over.exponents, under.exponents)
        mixed = Rounded(codes, exponents, 0.0, price=under.price)
        return replace(mixed, loss=float(self._choosers[name].row_losses(mixed).sum()))


def next_price(tried: Sequence[Priced], target: float, curve: RoughCurve) -> float:
    """Return where the curve of sizes meets the target, between the prices known to be too low and too high."""
    over, under = around(tried, target)
    last = tried[-1]
    price = curve.price_behind(last, target)
    price = min(max(price, last.price / _FARTHEST), last.price * _FARTHEST)
    if over and under and over.price < under.price:
        distance = math.log(under.price / over.price)
        share = min(max(math.log(price / over.price) / distance, 0.2), 0.8)
        return over.price * math.exp(share * distance)
    if len(tried) > 1 and tried[-2].num_bytes != last.num_bytes:  # the curve was wrong once: as these two go on
        slope = math.log(last.num_bytes / tried[-2].num_bytes) / math.log(last.price / tried[-2].price)
        step = math.exp(min(abs(math.log(target / last.num_bytes) / min(slope, _FLATTEST)), math.log(_FARTHEST)))
    else:
        step = _CLOSE
    return max(price, last.price * step) if last.num_bytes > target else min(price, last.price / step)
