"""Let a student copy its teacher's feature maps and raw outputs. Knows no detector."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.detector import DistilsOutputs
from compress.training.settings import DistillFields

EPSILON = 1e-6
FLOOR = 0.1  # smallest spread of an output, as a share of its root mean square


def attention_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the distance between two spatial attention maps.

    The map of a feature is the mean over channels of its squares, scaled to length 1 an image; so the
    channel counts may differ and no adapter is needed.

    Args:
        student: (N, C1, H, W), floating.
        teacher: (N, C2, H, W), floating, no gradient wanted.

    Returns:
        Scalar in 0..2, 0 for equal maps; mean over images of the squared distance.

    Raises:
        ValueError: images or sizes differ.

    Source:
        Zagoruyko and Komodakis 2017, arXiv 1612.03928, equation 2 with F_sum^2, squared norm.
    """
    if student.shape[0] != teacher.shape[0] or student.shape[2:] != teacher.shape[2:]:
        raise ValueError(f"the student's map is {tuple(student.shape)} and the teacher's {tuple(teacher.shape)}.")
    maps = [F.normalize(x.float().square().mean(1).flatten(1), dim=1, eps=EPSILON) for x in (student, teacher)]
    return (maps[0] - maps[1]).square().sum(1).mean()


def output_loss(student: tuple[Tensor, ...], teacher: tuple[Tensor, ...]) -> Tensor:
    """Return the mean smooth-L1 distance of raw outputs in units of the teacher's spread.

    Args:
        student: raw outputs of any floating shapes.
        teacher: the same shapes.

    Returns:
        Scalar >= 0: mean over outputs of smooth_l1((s - t) / spread(t)). The spread is the standard
        deviation, at least a tenth of the root mean square, so that an almost constant output does
        not drown the others.

    Source:
        Smooth L1: Girshick 2015, arXiv 1504.08083, equation 3. The division by the spread is
        ours: logits and box deltas have different scales.
    """
    terms = []
    for s, t in zip(student, teacher, strict=True):
        size = t.float().square().mean().sqrt()
        spread = torch.maximum(t.float().std(unbiased=False), FLOOR * size).clamp_min(EPSILON)
        terms.append(F.smooth_l1_loss(s.float() / spread, t.float() / spread))
    return torch.stack(terms).mean()


def output_distance(detector: Any, student: tuple[Tensor, ...], teacher: tuple[Tensor, ...], batch: Any) -> Tensor:
    """Return how far exported raw outputs are from a teacher's: by the plug-in's own measure, if it has one."""
    if isinstance(detector, DistilsOutputs):
        return detector.distill_loss(student, teacher, batch)
    return output_loss(student, teacher)


def as_tensors(value: Any) -> list[Tensor]:
    """Return all tensors of a module's output, in order: a tensor, a quantized tensor, or nests of them."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(getattr(value, "value", None), Tensor):  # Brevitas' QuantTensor is a tuple: unwrap it first
        return [value.value]
    if isinstance(value, dict):
        return [tensor for entry in value.values() for tensor in as_tensors(entry)]
    if isinstance(value, (tuple, list)):
        return [tensor for entry in value for tensor in as_tensors(entry)]
    return []


class _Taps:
    """Collect what named modules return during forwards.

    Args:
        model: with the modules.
        names: of the modules; those that it does not have are passed over.
        in_training_only: pass over forwards without gradients, so that scoring between two epochs leaves nothing.
    """

    def __init__(self, model: nn.Module, names: Iterable[str], *, in_training_only: bool = False) -> None:
        self.seen: dict[str, list[Tensor]] = {}
        self._in_training_only = in_training_only
        modules = dict(model.named_modules())
        self._handles = [
            modules[name].register_forward_hook(lambda _module, _inputs, output, name=name: self._keep(name, output))
            for name in names
            if name in modules
        ]

    def _keep(self, name: str, output: Any) -> None:
        if torch.is_grad_enabled() or not self._in_training_only:
            self.seen.setdefault(name, []).extend(as_tensors(output))

    def take(self) -> dict[str, list[Tensor]]:
        """Return what was collected since the last call and forget it."""
        seen, self.seen = self.seen, {}
        return seen

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()


class Distiller:
    """The distillation losses of one training; a context manager that owns the hooks.

    Args:
        student: the model in training; its forward must run before each `losses`.
        teacher: float model with the same outputs; put in eval mode here.
        detector: gives `distill_points`, `output_names` and, if it has the hook `DistilsOutputs`, the loss of the
            exported outputs.
        settings: the weights.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, detector: Any, settings: DistillFields) -> None:
        self.settings = settings
        self.detector = detector
        self.teacher = teacher.eval().requires_grad_(False)
        self.points: list[str] = list(detector.distill_points(teacher)) if settings.feature_weight else []
        self._student_taps = _Taps(student, self.points, in_training_only=True)
        self._teacher_taps = _Taps(teacher, self.points)
        self._taught: tuple[Tensor, ...] = ()

    def __enter__(self) -> Distiller:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._student_taps.close()
        self._teacher_taps.close()

    def teach(self, images: Tensor) -> None:
        """Let the teacher look at what the student got, (N, 3, H, W) float32, normalized."""
        with torch.no_grad():
            self._taught = tuple(tensor.float() for tensor in as_tensors(self.teacher(images)))

    def losses(self, batch: Any, raw: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Return the weighted losses of the batch that teacher and student have just seen.

        Args:
            batch: handed to the plug-in's own `distill_loss`.
            raw: the student's outputs.

        Returns:
            'distill_feature' and 'distill_output', scalars, as far as their weights are not 0.
        """
        student_maps, teacher_maps = self._student_taps.take(), self._teacher_taps.take()
        losses = {}
        if self.points:
            self._drop_missing(student_maps, teacher_maps)
        if self.points:
            pairs = [pair for p in self.points for pair in zip(student_maps[p], teacher_maps[p], strict=True)]
            terms = [attention_loss(*pair) for pair in pairs]
            losses["distill_feature"] = self.settings.feature_weight * torch.stack(terms).mean()
        if self.settings.output_weight:
            exported = len(self.detector.output_names())
            value = output_distance(self.detector, raw[:exported], self._taught[:exported], batch)
            losses["distill_output"] = self.settings.output_weight * value
        return losses

    def _drop_missing(self, student: dict[str, list[Tensor]], teacher: dict[str, list[Tensor]]) -> None:
        """Forget the points that a traced or rebuilt student no longer has, with one warning."""

        def shapes(maps: dict[str, list[Tensor]], point: str) -> list[tuple[int, ...]]:
            return [tuple(x.shape[2:]) for x in maps.get(point, []) if x.ndim == 4]

        missing = [p for p in self.points if not shapes(student, p) or shapes(student, p) != shapes(teacher, p)]
        if missing:
            from compress.progress import warn

            self.points = [p for p in self.points if p not in missing]
            left = "the others" if self.points else "outputs only"
            warn(f"distillation: the student has no feature map at {', '.join(missing)}; matching {left}.")
