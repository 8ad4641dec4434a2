"""The price of a bit at which a network has the size that is asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from compress.errors import StageError
from compress.rate_rounding.choice import LayerChooser
from compress.rate_rounding.layer import Rounded

TOLERANCE = 0.01  # of the bytes that are asked for
_START = 1e-9  # price; of a loss that is about 1 where a network sees nothing
_MOST = 12  # sizes that are measured
_FARTHEST = 16.0  # factor between one price and the next
_NEAR = 3.0  # factor up to which what was found at one price is where the search for the next begins
_SLOPE = -0.2  # of the logarithm of the size over that of the price, as long as only one size is known
_FLATTEST = -0.05

Measure = Callable[[Mapping[str, Rounded]], int]


@dataclass(frozen=True)
class Priced:
    """A network rounded at a price.

    Attributes:
        layers: name -> what it became.
        price: loss that a bit was worth.
        num_bytes: of the packed file; 0 if that was not measured.
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
    while len(tried) < _MOST:
        layers = round_network(choosers, price, start)
        tried.append(Priced(layers, price, measure(layers)))
        tell(tried[-1])
        if target * (1 - TOLERANCE) <= tried[-1].num_bytes <= target:
            return tried[-1]
        if tried[-1].num_bytes > target and not any(one.codes.any() for one in layers.values()):
            raise StageError(
                f"the file has {tried[-1].num_bytes:,} bytes with all weights zero, and {target:,} were asked for. "
                "Ask for more."
            )
        following = next_price(tried, target * (1 - TOLERANCE / 2))
        start = layers if max(price / following, following / price) <= _NEAR else None
        price = following
    fitting = [one for one in tried if one.num_bytes <= target]
    if not fitting:
        sizes = ", ".join(f"{one.num_bytes:,}" for one in tried)
        raise StageError(f"no price of a bit made a file of {target:,} bytes; tried were files of {sizes}.")
    return max(fitting, key=lambda one: one.num_bytes)


def next_price(tried: Sequence[Priced], target: float) -> float:
    """Return where the curve of sizes through what was tried meets the target.

    The logarithm of the size falls about evenly with the logarithm of the price.
    """
    over = max((one for one in tried if one.num_bytes > target), key=lambda one: one.price, default=None)
    under = min((one for one in tried if one.num_bytes <= target), key=lambda one: one.price, default=None)
    if over and under and over.price < under.price:
        share = math.log(target / over.num_bytes) / math.log(under.num_bytes / over.num_bytes)
        return over.price * math.pow(under.price / over.price, min(max(share, 0.1), 0.9))
    last, slope = tried[-1], _SLOPE
    if len(tried) > 1 and tried[-2].num_bytes != last.num_bytes:
        slope = math.log(last.num_bytes / tried[-2].num_bytes) / math.log(last.price / tried[-2].price)
    step = math.exp(math.log(target / last.num_bytes) / min(slope, _FLATTEST))
    return last.price * min(max(step, 1 / _FARTHEST), _FARTHEST)
