"""Which network is taken: inside a size, a loss, both, or at the knee."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from compress.shrink.limits import CURVE, TOO_MUCH, Limits, along_curve, knee, smallest_that_holds, smallest_within


@dataclass(frozen=True)
class Point:
    price: float
    packed_bytes: int
    loss: float
    error: float


def at(price):
    """Return a network that loses 1 at a price of 1e-7, in proportion, and takes fewer bytes the higher it is."""
    return Point(price, int(1e6 * (price / 1e-8) ** -0.3), price / 1e-7, price / 1e-7 / 100)


def test_a_curve_ends_where_much_more_is_lost_than_at_its_fine_end():
    made = along_curve(at)
    assert [one.price for one in made] == list(CURVE[: len(made)])
    assert made[-1].loss > made[0].loss + TOO_MUCH >= made[-2].loss
    noisy = along_curve(lambda price: Point(price, 1, 30 + price, 1))  # a poor network is told, too
    assert len(noisy) == len(CURVE)


@pytest.mark.parametrize("limit", [0.3, 1.0, 2.5])
def test_a_loss_is_used_up(limit):
    made = smallest_within(along_curve(at, until=limit), at, limit)
    taken = smallest_that_holds(made, Limits(max_drop=limit))
    assert limit * 10**-0.1 < taken.loss <= limit
    assert made == sorted(made, key=lambda one: one.price)


def test_with_both_limits_what_is_smaller_but_loses_too_much_is_not_taken():
    points = [Point(1, 900, 0.1, 0.1), Point(2, 500, 0.4, 0.2), Point(3, 200, 3, 0.3)]
    assert smallest_that_holds(points, Limits(600, 0.5)).packed_bytes == 500
    assert smallest_that_holds(points, Limits(None, 0.5)).packed_bytes == 500
    assert smallest_that_holds(points, Limits(600, None)).packed_bytes == 500  # the one that loses least inside
    assert smallest_that_holds(points, Limits(100, None)) is None
    assert smallest_that_holds(points, Limits(300, 0.5)) is None


def test_the_knee_is_where_bytes_begin_to_cost():
    cheap = [Point(i, 1000 - 100 * i, 0, 0.01 * 1.05**i) for i in range(6)]
    dear = [Point(6 + i, int(500 * 0.95 ** (i + 1)), 0, 0.0128 * 2.0 ** (i + 1)) for i in range(5)]
    assert knee([*cheap, *dear]).packed_bytes == 500
    assert knee(cheap[:1]) == cheap[0]


def test_limits_say_what_they_are():
    assert str(Limits(2_000_000, 0.5)) == "at most 2.00 MB and at most 0.5 lost"
    assert str(Limits()) == ""
