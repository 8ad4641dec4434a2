import math

import pytest
import torch
from assigner_oracle import iou as clipped_iou
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.geometry.differentiable_iou import intersection_area, rotated_iou


@pytest.fixture(autouse=True)
def seeded():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def random_boxes(count, spread=10.0):
    boxes = torch.rand(count, 5, dtype=torch.float64)
    return torch.stack(
        (
            boxes[:, 0] * spread,
            boxes[:, 1] * spread,
            4 + 12 * boxes[:, 2],
            2 + 6 * boxes[:, 3],
            (boxes[:, 4] - 0.5) * 2 * math.pi,
        ),
        dim=1,
    )


def test_known_values():
    square = torch.tensor([[0.0, 0, 2, 2, 0]])
    cases = [
        ([0.0, 0, 2, 2, 0], 1.0),
        ([0.0, 0, 2, 2, math.pi / 2], 1.0),
        ([0.0, 0, 2, 2, math.pi], 1.0),
        ([1.0, 0, 2, 2, 0], 1 / 3),
        ([2.0, 0, 2, 2, 0], 0.0),
        ([0.0, 0, 1, 1, 0.3], 1 / 4),
        ([0.0, 0, 2, 2, math.pi / 4], 8 * (math.sqrt(2) - 1) / (8 - 8 * (math.sqrt(2) - 1))),
    ]
    for box, expected in cases:
        assert float(rotated_iou(square, torch.tensor([box]))) == pytest.approx(expected, abs=1e-6)


def test_gradient_agrees_with_finite_differences():
    first, second = random_boxes(30, 4.0).requires_grad_(), random_boxes(30, 4.0).requires_grad_()
    assert torch.autograd.gradcheck(rotated_iou, (first, second), eps=1e-6, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradient_is_never_nan(dtype):
    box = [50.0, 60, 20, 10, 0.4]
    cases = [
        (box, box),
        (box, [50, 60, 20, 10, 0.4 + math.pi]),
        (box, [50, 60, 20, 10, 0.4 + 1e-7]),
        (box, [50, 60, 10, 5, 0.4]),
        (box, [50, 60, 10, 5, 1.4]),
        ([0, 0, 4, 2, 0], [4, 0, 4, 2, 0]),
        ([0, 0, 4, 2, 0], [4, 2, 4, 2, 0]),
        (box, [50, 60, 0, 0, 0]),
        ([50, 60, 0, 0, 0], [50, 60, 0, 0, 0]),
        (box, [500, 60, 20, 10, 0]),
        (box, [50, 60, 1e6, 1e-6, 0]),
        ([1e5, 1e5, 3, 2, 0], [1e5 + 1, 1e5, 3, 2, 0.1]),
    ]
    first, second = (torch.tensor(list(side), dtype=dtype).requires_grad_() for side in zip(*cases, strict=True))
    found = rotated_iou(first, second)
    assert ((found >= 0) & (found <= 1)).all()
    (-found.clamp(min=1e-6).log()).sum().backward()
    assert first.grad.isfinite().all()
    assert second.grad.isfinite().all()


def test_symmetric_and_unchanged_by_a_common_shift_and_turn():
    first, second = random_boxes(50), random_boxes(50)
    expected = rotated_iou(first, second)
    torch.testing.assert_close(rotated_iou(second, first), expected)
    far = torch.tensor([4000.0, -3000.0, 0, 0, 0], dtype=torch.float64)
    torch.testing.assert_close(rotated_iou(first + far, second + far), expected, atol=1e-9, rtol=0)
    cos, sin = math.cos(0.7), math.sin(0.7)
    turn = torch.tensor([[cos, sin], [-sin, cos]], dtype=torch.float64)
    turned = [torch.cat((b[:, :2] @ turn, b[:, 2:4], b[:, 4:] + 0.7), dim=1) for b in (first, second)]
    torch.testing.assert_close(rotated_iou(*turned), expected, atol=1e-9, rtol=0)


side = st.sampled_from([0.0, 1e-6, 1e-3, 1.0, 7.5, 40.0, 1e4, 1e8])
angle = st.one_of(
    st.sampled_from([0.0, math.pi / 4, math.pi / 2, math.pi, -math.pi / 2, 3 * math.pi]), st.floats(-4, 4)
)
place = st.one_of(st.sampled_from([0.0, 10.0, -3e5, 1e8]), st.floats(-60, 60))
box = st.tuples(place, place, side, side, angle)


@st.composite
def pairs(draw):
    """Two boxes, often related: equal, turned, moved by whole sides, scaled about the centre, or nearly so."""
    first = draw(box)
    x, y, w, h, a = first
    relation = draw(st.sampled_from(["any", "equal", "turned", "touching", "contained", "nearly"]))
    quarter = draw(st.integers(-2, 2)) * math.pi / 2
    factor = draw(st.sampled_from([0.0, 0.5, 1.0, 2.0]))
    others = {
        "any": draw(box),
        "equal": first,
        "turned": (x, y, w, h, a + quarter),
        "touching": (x + w * math.cos(a), y + w * math.sin(a), w, h, a + quarter),
        "contained": (x, y, w * factor, h * factor, a + draw(angle)),
        "nearly": (x + 1e-9, y, w * (1 + 1e-12), h, a + draw(st.sampled_from([1e-16, 1e-9, 1e-6]))),
    }
    return first, others[relation]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(pair=pairs(), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_no_pair_gives_a_nan_or_leaves_the_range(pair, dtype):
    first, second = (torch.tensor([values], dtype=dtype).requires_grad_() for values in pair)
    found = rotated_iou(first, second)
    assert 0 <= float(found) <= 1
    (-found.clamp(min=1e-6).log()).sum().backward()
    assert first.grad.isfinite().all()
    assert second.grad.isfinite().all()


@settings(max_examples=150, deadline=None, derandomize=True)
@given(pair=pairs())
def test_value_is_that_of_clipped_polygons(pair):
    if max(*pair[0][2:4], *pair[1][2:4]) > 1e4 or max(abs(v) for one in pair for v in one[:2]) > 1e6:
        return  # the slow clip loses its own digits there
    found = rotated_iou(*(torch.tensor([values], dtype=torch.float64) for values in pair))
    assert float(found) == pytest.approx(clipped_iou(*pair), abs=1e-6)


def test_gradients_at_boxes_that_coincide_touch_or_are_contained():
    def gradients(first, second):
        first, second = (torch.tensor([v], dtype=torch.float64).requires_grad_() for v in (first, second))
        rotated_iou(first, second).sum().backward()
        return first.grad[0].tolist(), second.grad[0].tolist()

    base = (3.0, -2.0, 8.0, 4.0, 0.3)
    zero = [0.0] * 5
    # Equal boxes are the best there is: the mean of the two one-sided derivatives is 0, whatever the turn.
    for turn in (0.0, math.pi, -math.pi):
        for side_gradients in gradients(base, (*base[:4], base[4] + turn)):
            assert side_gradients == pytest.approx(zero, abs=1e-9)
    for side_gradients in gradients((0, 0, 4, 4, 0), (0, 0, 4, 4, math.pi / 2)):
        assert side_gradients == pytest.approx(zero, abs=1e-9)
    # Contained: only sizes matter. IoU = area / area.
    inner, outer = gradients((0, 0, 2, 2, 0.5), (0, 0, 8, 8, 0.1))
    assert inner == pytest.approx([0, 0, 2 / 64, 2 / 64, 0], abs=1e-12)
    assert outer == pytest.approx([0, 0, -4 / 8**3, -4 / 8**3, 0], abs=1e-12)
    # Apart, and boxes without area far from each other: nothing to learn from.
    assert gradients((0, 0, 4, 4, 0), (50, 0, 4, 4, 0)) == (zero, zero)
    assert gradients((0, 0, 0, 0, 0), (50, 0, 0, 0, 0)) == (zero, zero)


def test_shift_of_both_boxes_far_from_the_origin_keeps_the_gradient():
    first, second = random_boxes(40, 4.0), random_boxes(40, 4.0)
    far = torch.tensor([2.0**20, -(2.0**21), 0, 0, 0], dtype=torch.float64)

    def gradient(offset):
        moved = (first + offset).requires_grad_()
        rotated_iou(moved, second + offset).sum().backward()
        return moved.grad

    torch.testing.assert_close(gradient(far), gradient(0 * far), atol=1e-8, rtol=1e-7)


def test_gradient_of_the_area_is_that_of_finite_differences_for_all_kinds_of_overlap():
    kinds = [
        ([0.0, 0, 8, 4, 0.0], [1.0, 0.5, 8, 4, 0.2]),  # eight-cornered
        ([0.0, 0, 8, 1, 0.0], [0.0, 0.1, 8, 1, 1.5]),  # crossing
        ([0.0, 0, 8, 8, 0.1], [0.3, 0.2, 2, 1, 0.7]),  # contained
        ([0.0, 0, 2, 2, 0.0], [1.5, 1.5, 2, 2, 0.7]),  # one corner
        ([0.0, 0, 100, 0.5, 0.3], [20.0, 6.5, 3, 100, 1.8]),  # thin
        ([5e5, -3e5, 6, 3, 2.0], [5e5 + 1, -3e5 + 0.5, 5, 4, -1.0]),  # far away
    ]
    first, second = (torch.tensor(list(one), dtype=torch.float64).requires_grad_() for one in zip(*kinds, strict=True))
    assert (intersection_area(first, second) > 0).all()
    assert torch.autograd.gradcheck(intersection_area, (first, second), eps=1e-6, atol=1e-5, rtol=1e-4)
