"""Pictures resized into an input of one size, and boxes brought back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.geometry.corners import box_corners
from detectors.geometry.metadata import Resize
from detectors.geometry.resizing import boxes_to_picture, clip_upright, fit, resize_picture

SIDES = st.integers(1, 700)
RULES = [
    Resize(kind="letterbox"),
    Resize(kind="letterbox", position="corner", pad_value=0),
    Resize(kind="letterbox", enlarge=False),
    Resize(kind="stretch"),
]


def to_input(boxes, placed):
    """Return upright boxes of the picture in pixels of the input, written out side by side."""
    across, down = placed.size[1] / placed.picture_size[1], placed.size[0] / placed.picture_size[0]
    begin, end = boxes[:, :2] - boxes[:, 2:4] / 2, boxes[:, :2] + boxes[:, 2:4] / 2
    begin, end = (corner * [across, down] + [placed.left, placed.top] for corner in (begin, end))
    return np.concatenate([(begin + end) / 2, end - begin, np.zeros((len(boxes), 1))], axis=1)


@pytest.mark.parametrize("rule", RULES, ids=str)
@given(picture=st.tuples(SIDES, SIDES), size=st.tuples(SIDES, SIDES))
def test_boxes_come_back_and_the_picture_lies_inside(rule, picture, size):
    placed = fit(picture, size, rule)
    assert 0 <= placed.top <= size[0] - placed.size[0]
    assert 0 <= placed.left <= size[1] - placed.size[1]
    assert min(placed.size) >= 1
    if rule.kind == "letterbox" and rule.enlarge:
        assert any(made == wanted for made, wanted in zip(placed.size, size, strict=True))
    boxes = np.random.default_rng(0).random((5, 5)) * [picture[1], picture[0], 50, 50, 0]
    np.testing.assert_allclose(boxes_to_picture(to_input(boxes, placed), placed), boxes, atol=1e-6, rtol=1e-9)


@pytest.mark.parametrize(
    ("picture", "rule", "rows", "columns"),
    [
        ((101, 57), RULES[0], (0, 64), (14, 50)),
        ((101, 57), RULES[1], (0, 64), (0, 36)),
        ((33, 31), RULES[2], (15, 48), (16, 47)),
        ((101, 57), RULES[3], (0, 64), (0, 64)),
    ],
)
def test_what_is_left_is_filled(picture, rule, rows, columns):
    image = np.full((*picture, 3), 200, np.uint8)
    made = resize_picture(image, (64, 64), rule)
    inside = np.zeros((64, 64), bool)
    inside[slice(*rows), slice(*columns)] = True
    assert (made[inside] == 200).all()
    assert (made[~inside] == rule.pad_value).all()


def test_a_turned_box_keeps_its_form_where_the_ratio_of_the_sides_is_kept():
    placed = fit((200, 300), (100, 150), Resize(kind="letterbox"))
    boxes = np.array([[50.0, 40, 20, 8, 0.7], [50, 40, 8, 20, -2.9], [50, 40, 10, 10, 2.3]])
    np.testing.assert_allclose(boxes_to_picture(boxes, placed), boxes * [2, 2, 2, 2, 1], atol=1e-9)


def test_a_stretched_turned_box_keeps_its_area_and_the_direction_of_its_longer_side():
    placed = fit((100, 300), (100, 100), Resize(kind="stretch"))
    boxes = np.array([[50.0, 40, 20, 4, 0.6], [50, 40, 4, 20, 0.6], [50, 40, 20, 4, 1.4], [50, 40, 6, 5, -0.3]])
    back = boxes_to_picture(boxes, placed)
    np.testing.assert_allclose(back[:, 2] * back[:, 3], 3 * boxes[:, 2] * boxes[:, 3])
    lying = (boxes[:, 2] >= boxes[:, 3])[:, None]
    wanted, found = (
        np.where(lying, corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 1])
        for corners in (box_corners(boxes) * [3.0, 1.0], box_corners(back))
    )
    np.testing.assert_allclose(found, wanted, atol=1e-9)


def test_boxes_are_cut_at_the_border():
    boxes = np.array([[5.0, 5, 20, 20, 0], [200, 50, 20, 20, 0]])
    np.testing.assert_allclose(clip_upright(boxes, (100, 150)), [[7.5, 7.5, 15, 15, 0], [150, 50, 0, 20, 0]])
