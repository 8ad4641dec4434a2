import math
from types import SimpleNamespace

import pytest
import torch

from detectors.dcfl.coder import decode, encode, wrap_angle
from detectors.dcfl.losses import dcfl_loss, focal_loss, iou_loss
from detectors.dcfl.prior import grid_priors, prior_shift
from detectors.dcfl.rules import Rules


@pytest.fixture(autouse=True)
def seeded():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def raw_outputs(classes=3, batch=1, size=64):
    shapes = [max(1, math.ceil(size / stride)) for stride in (8, 16, 32, 64, 128)]
    return tuple(0.1 * torch.randn(batch, width, side, side) for width in (classes, 5, 18) for side in shapes)


def batch_of(boxes, labels, ignored=()):
    return SimpleNamespace(
        boxes=[torch.tensor(boxes).reshape(-1, 5)],
        labels=[torch.tensor(labels, dtype=torch.int64)],
        ignored=[torch.tensor(ignored).reshape(-1, 5)],
    )


def test_focal_loss_is_the_definition():
    logits, labels = torch.randn(20, 3), torch.randint(0, 4, (20,))
    found = focal_loss(logits, labels)
    for row, (scores, label) in enumerate(zip(logits.sigmoid(), labels, strict=True)):
        for index, p in enumerate(scores):
            right = float(p) if index == label else 1 - float(p)
            alpha = 0.25 if index == label else 0.75
            expected = -alpha * (1 - right) ** 2 * math.log(right)
            assert float(found[row, index]) == pytest.approx(expected, rel=1e-4)


def test_focal_loss_stays_finite_at_extreme_scores():
    logits = torch.tensor([[200.0, -200.0]], requires_grad=True)
    loss = focal_loss(logits, torch.tensor([1])).sum()
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


def test_boxes_apart_cost_the_limit_and_pull_nothing():
    boxes = torch.tensor([[0.0, 0, 4, 4, 0]], requires_grad=True)
    loss = iou_loss(boxes, torch.tensor([[90.0, 0, 4, 4, 0]]))
    loss.sum().backward()
    assert float(loss) == pytest.approx(13.8155, abs=1e-3)
    assert (boxes.grad == 0).all()


def test_images_without_boxes_have_a_loss_with_finite_gradients():
    raw = tuple(value.requires_grad_() for value in raw_outputs())
    losses = dcfl_loss(raw, batch_of([], []), Rules())
    assert float(losses["loss_bbox"]) == 0
    sum(losses.values()).backward()
    assert all(value.grad.isfinite().all() for value in raw[:10])


def test_ignored_boxes_give_no_negatives():
    raw = raw_outputs()
    everything = [[32.0, 32, 500, 500, 0]]
    truth = [[30.0, 30, 16, 12, 0.3]], [1]
    free = dcfl_loss(raw, batch_of(*truth), Rules())
    hidden = dcfl_loss(raw, batch_of(*truth, everything), Rules())
    assert float(hidden["loss_cls"]) < 0.5 * float(free["loss_cls"])
    assert float(hidden["loss_bbox"]) == float(free["loss_bbox"])
    assert float(dcfl_loss(raw, batch_of([], [], everything), Rules())["loss_cls"]) == 0


def test_a_perfect_prediction_costs_nearly_nothing():
    boxes = torch.tensor([[30.0, 30, 16, 12, 0.3]])
    raw = raw_outputs(classes=2)
    grid = grid_priors([value.shape[2:] for value in raw[:5]], (8, 16, 32, 64, 128))
    deltas = encode(grid, boxes.expand(len(grid), -1)).T
    start = 0
    for level, value in enumerate(raw[5:10]):
        count = value[0, 0].numel()
        raw[5 + level].copy_(deltas[:, start : start + count].reshape(value.shape))
        start += count
    loss = dcfl_loss(raw, batch_of(boxes.tolist(), [0]), Rules())["loss_bbox"]
    assert float(loss) < 1e-4


def test_decode_undoes_encode():
    priors = torch.tensor([[100.0, 100, 32, 32, 0]])
    boxes = torch.tensor([[110.0, 90, 40, 10, 2.0]])
    torch.testing.assert_close(decode(priors, encode(priors, boxes)), boxes)
    found = decode(priors, torch.tensor([[0.1, -0.2, 0.3, -0.4, 0.05]]))
    torch.testing.assert_close(found, torch.tensor([[103.2, 93.6, 43.195482, 21.450241, 0.157080]]))


def test_angles_are_wrapped_into_half_a_turn():
    angles = torch.linspace(-20, 20, 999, dtype=torch.float64)
    wrapped = wrap_angle(angles)
    assert ((wrapped >= -math.pi / 4) & (wrapped < 3 * math.pi / 4)).all()
    assert torch.allclose(torch.sin(2 * wrapped), torch.sin(2 * angles), atol=1e-9)


def test_priors_move_by_half_a_stride_a_cell():
    offset = torch.zeros(1, 18, 1, 1)
    offset[:, 0::2] = 1.0  # dy of every tap
    offset[:, 1::2] = -2.0
    shift = prior_shift([offset, offset], (8, 16))
    assert shift.tolist() == [[[-8.0, 4.0], [-16.0, 8.0]]]
    published = prior_shift([offset, offset], (8, 16), image_height=1024)
    assert torch.equal(published, shift)
