"""The distillation loss of DCFL: zero for equal outputs, blind to the background, against a plain loop."""

import math

import pytest
import torch

from detectors.dcfl.distillation import BOX_SCALE, CONFIDENT, distill_loss

SIZES = ((4, 6), (2, 3))
CLASSES = 3


def _raw(seed, *, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    scores = [torch.randn(2, CLASSES, *size, generator=generator) * 2 - 3 + shift for size in SIZES]
    boxes = [torch.randn(2, 5, *size, generator=generator) for size in SIZES]
    return (*scores, *boxes)


def _plain(student, teacher):
    total, mass = 0.0, 0.0
    for level in range(len(SIZES)):
        for n in range(2):
            for row in range(SIZES[level][0]):
                for column in range(SIZES[level][1]):
                    s, t = (raw[level][n, :, row, column].double() for raw in (student, teacher))
                    sb, tb = (raw[level + len(SIZES)][n, :, row, column].double() for raw in (student, teacher))
                    for a, b in zip(s.sigmoid().tolist(), t.sigmoid().tolist(), strict=True):
                        total += (a - b) ** 2 * -(b * math.log(a) + (1 - b) * math.log(1 - a))
                    best = max(t.sigmoid().tolist())
                    if best <= CONFIDENT:
                        continue
                    mass += best
                    for d in (sb - tb).abs().tolist():
                        total += best * (0.5 * d * d / BOX_SCALE if d < BOX_SCALE else d - BOX_SCALE / 2)
    return total / max(mass, 1.0)


def test_equal_outputs_cost_nothing():
    raw = _raw(0)
    assert float(distill_loss(raw, raw)) == 0.0


def test_the_loss_equals_a_plain_loop_over_cells():
    student, teacher = _raw(1), _raw(2)
    assert float(distill_loss(student, teacher)) == pytest.approx(_plain(student, teacher), rel=1e-5)


def test_boxes_of_background_cells_do_not_matter():
    teacher = _raw(3, shift=-20.0)
    student = (*teacher[:2], *(box + 1 for box in teacher[2:]))
    assert float(distill_loss(student, teacher)) == 0.0


def test_a_gradient_step_brings_the_student_closer():
    teacher = _raw(4)
    student = [value.clone().requires_grad_() for value in _raw(5)]
    before = distill_loss(tuple(student), teacher)
    gradients = torch.autograd.grad(before, student)
    after = distill_loss(tuple(v - 0.05 * g for v, g in zip(student, gradients, strict=True)), teacher)
    assert float(after) < float(before)


def test_outputs_of_different_number_are_refused():
    with pytest.raises(ValueError, match="4 and 2 outputs"):
        distill_loss(_raw(0), _raw(0)[:2])
