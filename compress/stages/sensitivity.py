"""Stage sensitivity: which part of a trained network can bear what."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from compress.kind import Kind
from compress.stage import Stage

SCORED_SPLIT = "val"  # test is for the end
Share = Annotated[float, Field(gt=0, lt=1)]
Bits = Annotated[int, Field(ge=2, le=16)]


class Sensitivity(Stage):
    """Change one part of a float model at a time and measure what that costs and frees; nothing is trained.

    The least important channels of each pruning group are removed, and the weights of each layer and what enters it are
    rounded. Measured are the error of the raw outputs on images of 'train' and, of the strongest step of each part, the
    loss on images of 'val'. The model stays as it is: later stages read the one before.
    """

    NEEDS: ClassVar[tuple[Kind, ...]] = (Kind.MODEL,)
    MAKES: ClassVar[Kind] = Kind.SENSITIVITY
    LIBRARIES: ClassVar[tuple[str, ...]] = ("torch", "torchvision", "torch-pruning", "numpy", "matplotlib")
    ACTION: ClassVar[str] = "compress.actions.sensitivity"

    stage: Literal["sensitivity"] = "sensitivity"
    shares: tuple[Share, ...] = Field(
        (0.25, 0.5), description="Of a pruning group's channels that are removed, the least important; none if empty."
    )
    importance: Literal["magnitude", "group_taylor", "bn_scale", "random"] = Field(
        "group_taylor", description="What ranks channels; group_taylor reads gradients of training batches."
    )
    taylor_batches: int = Field(20, ge=1, description="Batches of 4 images of 'train' for importance group_taylor.")
    weight_bits: tuple[Bits, ...] = Field(
        (3, 4, 5, 6), description="Bits that the weights of one layer are rounded to; none if empty."
    )
    activation_bits: tuple[Bits, ...] = Field(
        (4, 8), description="Bits that the input of one layer is rounded to; none if empty."
    )
    images: int = Field(16, ge=1, description="Images of 'train', not augmented, that output errors are measured on.")
    score: bool = Field(True, description="Also score the strongest step of each part on 'val'; each takes seconds.")
    score_images: int | None = Field(
        48, ge=1, description="Images of 'val' that are scored, spread over the split; null: all of them."
    )

    @field_validator("shares", "weight_bits", "activation_bits")
    @classmethod
    def _sorted_once(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(values)) < len(values):
            msg = "a value is named twice; name each one once"
            raise ValueError(msg)
        return tuple(sorted(values))

    @field_validator("activation_bits")
    @classmethod
    def _any_part(cls, values: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        if not values and info.data.get("shares") == () and info.data.get("weight_bits") == ():
            msg = "shares, weight_bits and activation_bits are all empty, so there is nothing to measure"
            raise ValueError(msg)
        return values

    def scored_splits(self) -> tuple[str, ...]:
        """Return the split whose objects are looked for, if steps are scored."""
        return (SCORED_SPLIT,) if self.score else ()

    def splits(self) -> tuple[str, ...]:
        """Return 'train', and 'val' if steps are scored; never 'test'."""
        return ("train", *self.scored_splits())
