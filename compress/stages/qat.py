"""Stage qat: integer weights and uint8 activations, calibrated on real images, then trained with the rounding."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from compress.quantization.settings import QuantisationSettings
from compress.stage import Kind, Stage, StageContext
from compress.stage_training import train_in_stage
from compress.training_settings import DistillFields, TrainingFields

if TYPE_CHECKING:
    from torch import Tensor


class Qat(Stage, TrainingFields, QuantisationSettings):
    """Quantise, calibrate and train a model; `epochs: 0` is post-training quantisation.

    Weights that are zero in sparse layers stay zero, also as integers; the stage checks it.
    """

    NEEDS: ClassVar[tuple[Kind, ...]] = (Kind.MODEL,)
    MAKES: ClassVar[Kind] = Kind.QUANTISED
    NOT_AFTER: ClassVar[tuple[str, ...]] = ("qat",)
    SPLITS: ClassVar[tuple[str, ...]] = ("train",)
    LIBRARIES: ClassVar[tuple[str, ...]] = ("torch", "torchvision", "brevitas")
    PRELOAD: ClassVar[tuple[str, ...]] = ("brevitas.nn", "brevitas.graph.calibrate")
    COSMETIC: ClassVar[frozenset[str]] = frozenset({"checkpoint_minutes"})
    TRAINS: ClassVar[bool] = True

    stage: Literal["qat"] = "qat"
    optimizer: Literal["sgd", "adamw"] = "adamw"
    lr: float = Field(5e-5, gt=0, description="Learning rate after the warm-up.")
    schedule: Literal["step", "cosine", "constant"] = "cosine"
    epochs: int = Field(3, ge=0, description="Passes over the split 'train'; 0: calibrate only.")
    calibration_images: int = Field(32, ge=1, description="Images of 'train', not augmented, that set the ranges.")
    distill: DistillFields | None = Field(None, description="Learn from a teacher as well; default: labels only.")

    def references(self) -> tuple[str, ...]:
        """Return the teacher's label, if there is one and anything is trained."""
        return (self.distill.teacher,) if self.distill and self.epochs else ()

    def splits(self) -> tuple[str, ...]:
        """Return 'train', and 'val' if the training is scored."""
        return ("train", "val") if self.evaluate_every and self.epochs else ("train",)

    def settings(self) -> QuantisationSettings:
        """Return the fields that shape the model."""
        return QuantisationSettings(**{name: getattr(self, name) for name in QuantisationSettings.model_fields})

    def run(self, context: StageContext) -> dict[str, Any]:
        """Quantise, calibrate, train, check and save.

        Raises:
            StageError: the model cannot be quantised, or a zero weight did not stay zero.
        """
        from compress.devices import on_device
        from compress.metrics.model_facts import model_facts, training_facts
        from compress.quantization import calibrate, quantise
        from compress.quantization.checks import check_zeros, quantisation_facts
        from compress.weights import keep_zeros, load_model, masks_of, save_model

        detector, settings = context.detector, self.settings()
        float_model, build = load_model(context.source.path, detector)
        masks = masks_of(float_model, build)
        facts = model_facts(float_model, detector)
        model = quantise(float_model, settings, detector)
        with on_device(model, context.recipe.device) as device:
            images = calibrate(model, (batch.to(device) for batch in self._calibration_batches(context)))
        keep = keep_zeros(model, masks)
        result = train_in_stage(model, context, self, label=self.label, distill=self.distill, after_step=keep)
        check_zeros(model, masks, label=self.label)
        quantisation = settings.model_dump(mode="json")
        save_model(context.folder, model, build.model_copy(update={"quantisation": quantisation}))
        # Counted on the float model: folding changes neither MACs nor what a float deployment needs.
        own = {"calibration_images": images, **quantisation_facts(model)}
        return facts | own | training_facts(result)

    def _calibration_batches(self, context: StageContext) -> Iterator[Tensor]:
        from compress.progress import track
        from compress.quantization.calibration import first_images

        batches = first_images(context.detector, "train", self.calibration_images, seed=context.seed)
        return track(batches, f"{self.label}: calibrate", total=self.calibration_images)
