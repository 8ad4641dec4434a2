import math

import pytest
import torch

from detectors.dcfl.rotated_iou import rotated_iou


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


def counted_iou(first, second, steps=800):
    """IoU from counting the points of a fine grid."""
    axis = torch.linspace(-30, 50, steps, dtype=torch.float64)
    y, x = torch.meshgrid(axis, axis, indexing="ij")

    def inside(box):
        dx, dy = x - box[0], y - box[1]
        u = dx * torch.cos(box[4]) + dy * torch.sin(box[4])
        v = dy * torch.cos(box[4]) - dx * torch.sin(box[4])
        return (u.abs() <= box[2] / 2) & (v.abs() <= box[3] / 2)

    a, b = inside(first), inside(second)
    return (a & b).sum() / (a | b).sum()


def test_value_agrees_with_counting_points():
    first, second = random_boxes(20), random_boxes(20)
    expected = torch.stack([counted_iou(a, b) for a, b in zip(first, second, strict=True)])
    assert (rotated_iou(first, second) - expected).abs().max() < 0.02


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
