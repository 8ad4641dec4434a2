"""Intervals of few images: what they say against what is true, in worlds where that is known."""

import numpy as np
import pytest

from compress.metrics.paired import expanded_coverage, loss_interval, needed_count, t_quantile


@pytest.mark.parametrize(
    ("degrees", "quantile", "error"),  # of the table in any book, for 0.975
    [
        (1, 12.7062, 1e-4),
        (2, 4.3027, 1e-4),
        (4, 2.7764, 1e-3),
        (9, 2.2622, 1e-4),
        (30, 2.0423, 1e-4),
        (120, 1.9799, 1e-4),
    ],
)
def test_quantiles_of_t_are_those_of_the_table(degrees, quantile, error):
    assert t_quantile(0.975, degrees) == pytest.approx(quantile, abs=error)


def test_few_images_need_more_coverage_and_many_none():
    assert expanded_coverage(10) > expanded_coverage(20) > expanded_coverage(100) > 0.95
    assert expanded_coverage(100_000) == pytest.approx(0.95, abs=1e-5)
    with pytest.raises(ValueError, match="at least 2"):
        expanded_coverage(1)


def held(count, coverage, worlds=1500, draws=600):
    """Return how often the interval of a mean difference of skewed, correlated values holds the true one, -0.1."""
    rng = np.random.default_rng(count)
    weights = rng.multinomial(count, np.full(count, 1 / count), size=draws) / count
    right = 0
    for _ in range(worlds):
        common = rng.gamma(2.0, 1.0, count)
        one, two = common + rng.normal(0, 0.5, count), common + 0.1 + rng.normal(0, 0.5, count)
        low, high = loss_interval(weights @ one, weights @ two, coverage=coverage)
        right += low <= -0.1 <= high
    return right / worlds


@pytest.mark.parametrize("count", [10, 20, 60])
def test_the_interval_holds_what_it_says_whatever_the_number_of_images(count):
    assert held(count, expanded_coverage(count)) == pytest.approx(0.95, abs=0.018)


def test_without_that_an_interval_of_ten_images_holds_too_little():
    assert held(10, 0.95) < 0.925


def test_the_number_of_images_that_would_decide_grows_with_the_square_of_the_interval():
    assert needed_count((-1.0, 2.0), 1.0, 100) == 900  # half of 1.5 at a distance of 0.5
    assert needed_count((-1.0, 2.0), 2.0, 100) == 101  # the end itself: one more
    assert needed_count((-1.0, 2.0), 0.5, 100) is None  # in the middle no number does


def test_with_so_many_images_it_is_decided_half_of_the_time_or_more():
    rng, decided = np.random.default_rng(1), 0
    for _ in range(200):
        count = 400
        for step in range(2):
            values = rng.normal(0.3, 3.0, count)
            half = 1.96 * values.std() / np.sqrt(count)
            interval = (values.mean() - half, values.mean() + half)
            if step == 0:
                needed = needed_count((0.3 - half, 0.3 + half), 0.5, count)
                count = needed
        decided += interval[1] <= 0.5
    assert 0.4 < decided / 200 < 0.65  # at this number the interval's end lies on the limit as often as not
