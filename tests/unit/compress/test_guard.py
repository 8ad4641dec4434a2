"""Backing off from a size until a score holds."""

import math

import pytest
from pydantic import ValidationError

from compress.guard import DropLimits, back_off


def search(first_price, highest_that_holds, **settings):
    """Return what was found, and all prices that were looked at."""
    looked = []

    def holds(price):
        looked.append(price)
        return price <= highest_that_holds

    return back_off(first_price, first_price, lambda price, _near: price, holds, **settings), looked


def test_what_holds_at_once_is_taken():
    assert search(1e-8, 1e-7) == (1e-8, [1e-8])


@pytest.mark.parametrize("limit", [9e-9, 3e-9, 1.1e-10, 1e-11])
def test_the_highest_price_that_holds_is_found_to_a_quarter(limit):
    found, looked = search(1e-8, limit, most_looks=20)
    assert found <= limit <= found * 1.2501
    assert len(looked) <= 3 + 2 * math.log(1e-8 / limit, 4) + 4


def test_looks_are_bounded_and_the_best_that_held_is_given_back():
    found, looked = search(1e-8, 1e-10, most_looks=5)
    assert len(looked) == 5
    assert found in looked
    assert found <= 1e-10
    found, looked = search(1e-8, 0.0, most_looks=4)
    assert (found, len(looked)) == (None, 4)


def test_each_trial_starts_from_the_one_before():
    seen = []
    back_off("a", 1.0, lambda price, near: seen.append(near) or f"{near}+", lambda tried: len(tried) > 3)
    assert seen[:3] == ["a", "a+", "a++"]


@pytest.mark.parametrize("limits", [{}, {"map": -1}, {"recall": 1}])
def test_limits_name_a_metric(limits):
    with pytest.raises(ValidationError):
        DropLimits(**limits)
    assert DropLimits(map=0.5, map50=0).limits == {"map": 0.5, "map50": 0.0}
