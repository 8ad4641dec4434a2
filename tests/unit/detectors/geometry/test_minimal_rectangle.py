"""The smallest rectangle, against a search over all angles."""

import numpy as np
import pytest

from detectors.geometry.minimal_rectangle import minimal_rectangle


def area(corners):
    first, second = corners[1] - corners[0], corners[3] - corners[0]
    return np.hypot(*first) * np.hypot(*second)


def smallest_area(points):
    """Return the least area over 20,000 directions."""
    angles = np.linspace(0, np.pi / 2, 20_000)
    x = points @ np.stack([np.cos(angles), np.sin(angles)])
    y = points @ np.stack([-np.sin(angles), np.cos(angles)])
    return (np.ptp(x, axis=0) * np.ptp(y, axis=0)).min()


@pytest.mark.parametrize("seed", range(8))
def test_no_direction_gives_a_smaller_rectangle(seed):
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(30, 2)) * [40, 8] + rng.uniform(0, 20_000, 2)
    corners = minimal_rectangle(points)
    assert area(corners) <= smallest_area(points) * (1 + 1e-7)


@pytest.mark.parametrize("seed", range(8))
def test_all_points_lie_inside_and_the_corners_are_right_angles(seed):
    rng = np.random.default_rng(seed)
    points = rng.uniform(0, 50, (12, 2)) + 19_000
    corners = minimal_rectangle(points)
    u, v = corners[1] - corners[0], corners[3] - corners[0]
    assert abs(u @ v) < 1e-9 * np.hypot(*u) * np.hypot(*v) + 1e-9
    for side in (u, v):
        along = (points - corners[0]) @ side / (side @ side)
        assert along.min() > -1e-6
        assert along.max() < 1 + 1e-6


def test_a_rectangle_far_from_the_origin_comes_back_exactly():
    corners = np.array([[19_999.25, 3.5], [20_003.25, 6.5], [20_000.25, 10.5], [19_996.25, 7.5]])
    found = minimal_rectangle(corners)
    assert np.abs(found[:, None] - corners[None]).sum(axis=2).min(axis=1).max() < 1e-9


@pytest.mark.parametrize("points", [[[3, 4]], [[0, 0], [3, 4]], [[0, 0], [1, 1], [2, 2]]])
def test_points_on_a_line_give_a_rectangle_without_area(points):
    assert area(minimal_rectangle(np.array(points))) == pytest.approx(0, abs=1e-12)
