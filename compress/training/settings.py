"""The fields of everything that trains, and the learning rate as a function of the step. Torch-free."""

from __future__ import annotations

import math
from bisect import bisect_right
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

WARMUP_START = 1 / 3  # share of the learning rate at step 0
STEP_GAMMA = 0.1  # factor at each milestone


class DistillFields(BaseModel):
    """How a student learns from a teacher while it trains.

    The feature term compares spatial attention maps, so student and teacher may differ in channels.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    teacher: str = Field("float", description="Label of the stage whose model teaches.")
    feature_weight: float = Field(1.0, ge=0, description="Weight of the feature term; 0 leaves it out.")
    output_weight: float = Field(1.0, ge=0, description="Weight of the raw-output term; 0 leaves it out.")

    @model_validator(mode="after")
    def _something_is_distilled(self) -> DistillFields:
        if self.feature_weight == 0 and self.output_weight == 0:
            raise ValueError("feature_weight and output_weight are both 0. Set one, or leave `distill` out.")
        return self


class TrainingFields(BaseModel):
    """The block `training:` of every stage that trains."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(12, ge=0, description="Passes over the split 'train'; 0 trains nothing.")
    max_steps: int | None = Field(None, ge=1, description="Stop after so many optimizer steps in all.")
    batch_size: int = Field(8, ge=1, description="Images a step, over all processes together.")
    optimizer: Literal["sgd", "adamw"] = Field("sgd", description="SGD with momentum, or AdamW.")
    lr: float = Field(0.01, gt=0, description="Learning rate after the warm-up.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Of SGD.")
    weight_decay: float = Field(1e-4, ge=0, description="On weights; never on biases and norm parameters.")
    warmup_steps: int = Field(100, ge=0, description="Steps of linear warm-up from a third of the rate.")
    schedule: Literal["step", "cosine", "constant"] = Field("step", description="Learning rate after the warm-up.")
    milestones: tuple[int, ...] | None = Field(
        None, description="Epochs after which 'step' divides the rate by 10; default: 2/3 and 11/12 of the epochs."
    )
    grad_clip: float | None = Field(35.0, gt=0, description="Largest L2 norm of all gradients together.")
    ema_decay: float | None = Field(
        None, gt=0, lt=1, description="Keep an exponential moving average of the weights, score it and return it."
    )
    evaluate_every: int = Field(0, ge=0, description="Score the split 'val' every so many epochs; 0 = never.")
    evaluate_limit: int | None = Field(None, ge=1, description="Score only so many images of 'val'.")
    metric: Literal["map", "map75", "map50"] = Field(
        "map", description="Score that the kept weights are chosen by; read only if evaluate_every is set."
    )
    patience: int | None = Field(None, ge=1, description="Stop after so many epochs without a better `metric`.")
    checkpoint_minutes: float = Field(5.0, ge=0, description="Between checkpoints; each epoch ends with one too.")
    precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="Arithmetic of layers in training; weights, losses and sums stay float32. bfloat16 takes a quarter "
        "less time on CPUs with AVX-512 BF16, and more without.",
    )
    channels_last: bool = Field(True, description="Memory format of images and weights; faster on CPUs.")

    @model_validator(mode="after")
    def _fits_together(self) -> TrainingFields:
        if self.milestones is not None and list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones are {list(self.milestones)}. Give epochs in ascending order.")
        if self.milestones is not None and self.schedule != "step":
            raise ValueError(f"milestones are read by schedule 'step' only, and it is {self.schedule!r}.")
        if self.patience is not None and self.evaluate_every == 0:
            raise ValueError("patience needs scores, but evaluate_every is 0. Set evaluate_every.")
        return self

    def trained_splits(self) -> tuple[str, ...]:
        """Return the splits that a training reads: 'train', and 'val' if it is scored; none without epochs."""
        return ("train", *(("val",) if self.evaluate_every else ())) if self.epochs else ()

    def chosen_by(self) -> str | None:
        """Return the metric that decides which weights are kept, None if no epoch is scored."""
        return self.metric if self.epochs and self.evaluate_every else None

    def total_steps(self, steps_per_epoch: int) -> int:
        """Return how many optimizer steps the whole training takes without early stop."""
        steps = self.epochs * steps_per_epoch
        return steps if self.max_steps is None else min(steps, self.max_steps)

    def milestone_epochs(self) -> tuple[int, ...]:
        """Return the epochs after which the rate drops (schedule 'step')."""
        if self.milestones is not None:
            return self.milestones
        return tuple(sorted({math.ceil(self.epochs * 2 / 3), math.ceil(self.epochs * 11 / 12)}))


def learning_rate(settings: TrainingFields, step: int, *, steps_per_epoch: int) -> float:
    """Return the learning rate of one step.

    Args:
        settings: the schedule.
        step: 0-based, below `settings.total_steps(steps_per_epoch)`.
        steps_per_epoch: batches in one pass.

    Returns:
        The rate, > 0.

    Source:
        Linear warm-up: Goyal et al. 2017, arXiv 1706.02677, section 2.2; start at 1/3 as in MMDetection.
        Cosine: Loshchilov and Hutter 2017, arXiv 1608.03983, equation 5, without restarts, down to 1 %.
    """
    factor = 1.0
    if settings.schedule == "step":
        passed = bisect_right(settings.milestone_epochs(), step // max(steps_per_epoch, 1))
        factor = STEP_GAMMA**passed
    elif settings.schedule == "cosine":
        total = max(settings.total_steps(steps_per_epoch), 1)
        factor = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / total))
    if step < settings.warmup_steps:
        factor *= WARMUP_START + (1 - WARMUP_START) * step / settings.warmup_steps
    return settings.lr * factor
