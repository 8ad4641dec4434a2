"""Stage qat: integer weights and uint8 activations, calibrated on real images, then trained with the rounding."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from compress.kind import Kind
from compress.quantization.settings import ONLY_RANGES, PostTraining, QuantizationSettings
from compress.quantization.size_target import RateFields
from compress.stage import Stage
from compress.training.settings import DistillFields, TrainingFields


class QatTraining(TrainingFields):
    """Training with the rounding in it: short, at a small rate."""

    epochs: int = Field(3, ge=0, description="Passes over the split 'train'; 0: calibrate only.")
    optimizer: Literal["sgd", "adamw"] = Field("adamw", description="SGD with momentum, or AdamW.")
    lr: float = Field(5e-5, gt=0, description="Learning rate after the warm-up.")
    schedule: Literal["step", "cosine", "constant"] = Field("cosine", description="Learning rate after the warm-up.")


class PostTrainingFields(BaseModel):
    """What is chosen from the calibration images; unset fields are on where no training follows, off where one does."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ranges: Literal["percentile", "least_error"] | None = Field(
        None,
        description="Of activations: `activation_percentile`, or tensor by tensor what loses least.",
    )
    rounding: Literal["nearest", "feedback"] | None = Field(
        None,
        description="Of weights: each to its nearest integer, or together, so that their errors cancel on real images.",
    )
    equalize: bool | None = Field(None, description="Give channels that share a range similar sizes first.")
    correct_bias: bool | None = Field(None, description="Take back what rounded weights add to the mean of an output.")


class Qat(Stage, QuantizationSettings):
    """Quantize, calibrate and train a model; `training: {epochs: 0}` is post-training quantization.

    With a `rate` the weights are first rounded to a size of the packed file, as `round_weights` does it, and then
    trained at that size: each is in every step the integer that loses least, bits included.

    Weights that are zero in sparse layers stay zero, also as integers; the stage checks it.
    """

    NEEDS: ClassVar[tuple[Kind, ...]] = (Kind.MODEL,)
    MAKES: ClassVar[Kind] = Kind.QUANTIZED
    NOT_AFTER: ClassVar[tuple[str, ...]] = ("qat",)
    SPLITS: ClassVar[tuple[str, ...]] = ("train",)
    LIBRARIES: ClassVar[tuple[str, ...]] = ("torch", "torchvision", "brevitas")
    PRELOAD: ClassVar[tuple[str, ...]] = ("brevitas.nn", "brevitas.graph.calibrate")
    COSMETIC: ClassVar[frozenset[str]] = frozenset({"training.checkpoint_minutes"})
    TRAINS: ClassVar[bool] = True
    CODE_VERSION: ClassVar[int] = 2  # a file that training made too large: weights choose again, at a higher price
    ACTION: ClassVar[str] = "compress.actions.qat"

    stage: Literal["qat"] = "qat"
    training: QatTraining = Field(default_factory=QatTraining, description="How it is trained after calibration.")
    calibration_images: int = Field(32, ge=1, description="Images of 'train', not augmented, that set the ranges.")
    post_training: PostTrainingFields = Field(
        default_factory=PostTrainingFields, description="How ranges and integers are chosen before any training."
    )
    rate: RateFields | None = Field(
        None, description="Train at a size of the packed file, e.g. {packed_bytes: 330kB}; default: whatever it is."
    )
    distill: DistillFields | None = Field(None, description="Learn from a teacher as well; default: labels only.")

    def references(self) -> tuple[str, ...]:
        """Return the teacher's label, if there is one and anything is trained, and that of a rate's baseline."""
        teacher = (self.distill.teacher,) if self.distill and self.training.epochs else ()
        return tuple(dict.fromkeys([*teacher, *(self.rate.references() if self.rate else ())]))

    def splits(self) -> tuple[str, ...]:
        """Return 'train', and 'val' if the training is scored."""
        return ("train", "val") if self.training.evaluate_every and self.training.epochs else ("train",)

    def chosen(self) -> PostTraining:
        """Return `post_training` with its defaults: everything where nothing is trained, else the ranges only.

        With a rate the weights are rounded for a size, and biases corrected for it, afterwards.
        """
        default = ONLY_RANGES if self.training.epochs else PostTraining()
        if self.rate is not None:
            default = replace(PostTraining(), rounding="nearest", correct_bias=False)
        return replace(default, **self.post_training.model_dump(exclude_none=True))

    def key_fields(self) -> dict[str, Any]:
        """Return the fields with `post_training` as it is carried out; absent where it is what it always was."""
        fields = super().key_fields()
        fields.pop("post_training")
        if self.rate is None:  # as it was before there was one
            fields.pop("rate")
        return fields if self.chosen() == ONLY_RANGES else fields | {"post_training": asdict(self.chosen())}

    def settings(self) -> QuantizationSettings:
        """Return the fields that shape the model."""
        return QuantizationSettings(**{name: getattr(self, name) for name in QuantizationSettings.model_fields})
