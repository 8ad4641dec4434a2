"""Distillation losses against a naive reference, and students that changed shape."""

from __future__ import annotations

import collections

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from compress.training.distillation import Distiller, as_tensors, attention_loss, output_loss
from compress.training.settings import DistillFields

torch.set_num_threads(1)


class Net(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.neck = nn.Conv2d(3, channels, 1)
        self.head = nn.Conv2d(channels, 2, 1)

    def forward(self, images):
        maps = [self.neck(images), self.neck(images[..., ::2, ::2])]  # a shared module, called twice
        return tuple(self.head(x) for x in maps)


class Plugin:
    def __init__(self, points=("neck",)):
        self.points = points

    def distill_points(self, model):
        return self.points

    def output_names(self):
        return ("a", "b")


def naive_attention_loss(student, teacher):
    total = 0.0
    for s, t in zip(student.numpy(), teacher.numpy(), strict=True):
        maps = [(x**2).mean(0).ravel() for x in (s, t)]
        maps = [m / np.linalg.norm(m) for m in maps]
        total += ((maps[0] - maps[1]) ** 2).sum()
    return total / len(student)


def test_attention_loss_equals_the_naive_reference():
    torch.manual_seed(0)
    student, teacher = torch.randn(3, 5, 4, 6), torch.randn(3, 7, 4, 6)
    assert attention_loss(student, teacher).item() == pytest.approx(naive_attention_loss(student, teacher), rel=1e-5)


def test_attention_loss_ignores_scale_and_is_zero_for_the_same_map():
    feature = torch.randn(2, 3, 4, 4)
    assert attention_loss(feature, 7 * feature).item() == pytest.approx(0, abs=1e-6)


def test_attention_loss_of_an_all_zero_map_has_a_finite_gradient():
    student = torch.zeros(1, 3, 4, 4, requires_grad=True)
    attention_loss(student, torch.randn(1, 3, 4, 4)).backward()
    assert torch.isfinite(student.grad).all()


def test_attention_loss_refuses_maps_of_another_size():
    with pytest.raises(ValueError, match=r"\(1, 3, 4, 4\)"):
        attention_loss(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 2, 2))


def test_output_loss_does_not_depend_on_the_scale_of_an_output():
    torch.manual_seed(0)
    s, t = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3)
    assert output_loss((s,), (t,)).item() == pytest.approx(output_loss((s * 50,), (t * 50,)).item(), rel=1e-5)
    assert output_loss((t,), (t,)).item() == 0


def test_an_almost_constant_output_does_not_drown_the_others():
    teacher = torch.full((1, 3, 8, 8), -4.6)
    assert output_loss((teacher + 0.1,), (teacher,)).item() < 0.1


def test_a_student_with_other_channel_counts_learns_from_features_and_outputs():
    torch.manual_seed(0)
    student, teacher, images = Net(4), Net(8), torch.randn(2, 3, 8, 8)
    with Distiller(student, teacher, Plugin(), DistillFields(feature_weight=2.0)) as distiller:
        distiller.teach(images)
        losses = distiller.losses(None, student(images))
    assert set(losses) == {"distill_feature", "distill_output"}
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in student.parameters())
    assert all(p.grad is None for p in teacher.parameters())


def test_a_point_that_the_student_lost_is_dropped_with_one_warning(monkeypatch):
    warnings = []
    monkeypatch.setattr("compress.progress.warn", warnings.append)
    student, teacher, images = Net(4), Net(4), torch.randn(1, 3, 8, 8)
    del student.neck
    student.renamed = nn.Conv2d(3, 4, 1)
    student.forward = lambda x: tuple(student.head(student.renamed(y)) for y in (x, x[..., ::2, ::2]))
    with Distiller(student, teacher, Plugin(), DistillFields()) as distiller:
        for _ in range(2):
            distiller.teach(images)
            losses = distiller.losses(None, student(images))
    assert set(losses) == {"distill_output"}
    assert len(warnings) == 1
    assert "neck" in warnings[0]


def test_the_plugins_own_output_loss_is_used_if_it_has_one():
    class Own(Plugin):
        def distill_loss(self, student_raw, teacher_raw, batch):
            assert batch == "batch"
            return student_raw[0].sum() * 0 + 3.0

    student, images = Net(4), torch.randn(1, 3, 8, 8)
    fields = DistillFields(feature_weight=0, output_weight=0.5)
    with Distiller(student, Net(4), Own(), fields) as distiller:
        distiller.teach(images)
        losses = distiller.losses("batch", student(images))
    assert {name: value.item() for name, value in losses.items()} == {"distill_output": 1.5}


def test_hooks_are_gone_after_the_training():
    student = Net(4)
    with Distiller(student, Net(4), Plugin(), DistillFields()):
        assert student.neck._forward_hooks
    assert not student.neck._forward_hooks


def test_quantized_tensors_are_unwrapped_before_tuples():
    quantized = collections.namedtuple("Quantized", "value scale")(torch.ones(1), torch.ones(2))
    assert [t.numel() for t in as_tensors((quantized, [torch.zeros(3)]))] == [1, 3]


def test_two_weights_of_zero_are_refused():
    with pytest.raises(ValidationError, match="both 0"):
        DistillFields(feature_weight=0, output_weight=0)
