"""Training inside a stage: what every stage that trains passes to the one loop in `loop.py`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import nn

from compress.model_folder import load_model
from compress.stage import StageContext
from compress.training.loop import FitResult, fit, validation_score
from compress.training.settings import DistillFields, TrainingFields


def train_in_stage(
    model: nn.Module,
    context: StageContext,
    settings: TrainingFields,
    *,
    label: str,
    distill: DistillFields | None = None,
    after_step: Callable[[int, int], None] | None = None,
    best_from_epoch: int = 0,
    seed: int | None = None,
    scratch: Path | None = None,
) -> FitResult:
    """Train a model in place as a stage's fields say; `fit` describes what is not said here.

    Args:
        model: float or fake-quantized model.
        context: of the running stage; gives detector, device and the teacher's artifact.
        settings: the training fields of the stage.
        label: name for messages.
        distill: names the teacher, which is read only if anything is trained; None: labels only.
        after_step: see `fit`.
        best_from_epoch: see `fit`.
        seed: the stage's own if None.
        scratch: folder of this training; the stage's own if None.

    Raises:
        StageError: the teacher cannot be read, a loss is not finite, or nothing can be trained.
    """
    detector, device = context.detector, context.device
    teacher = None
    if distill is not None and settings.epochs:
        teacher, _ = load_model(context.inputs[distill.teacher].path, detector)
    return fit(
        model,
        detector=detector,
        settings=settings,
        scratch=context.scratch if scratch is None else scratch,
        label=label,
        seed=context.seed if seed is None else seed,
        teacher=teacher,
        distill=distill,
        after_step=after_step,
        score=validation_score(detector, settings, device=device),
        best_from_epoch=best_from_epoch,
        device=device,
    )
