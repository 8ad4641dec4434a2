"""Stage round_weights: integer weights for a size, each chosen by what it loses and by what it costs in the file."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ByteSize, ConfigDict, Field, model_validator

from compress.kind import Kind
from compress.stage import Stage


class SizeTarget(BaseModel):
    """How small the packed file shall be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    packed_bytes: ByteSize | None = Field(None, gt=0, description="Bytes of the .krimp file: 330000, 330kB, 1.2MB.")
    ratio: float | None = Field(None, gt=1, description="How many times smaller than the float model named `baseline`.")
    price: float | None = Field(
        None, gt=0, description="Loss that a bit is worth, e.g. 4e-9; whatever size comes of it."
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> SizeTarget:
        if sum(value is not None for value in (self.packed_bytes, self.ratio, self.price)) != 1:
            raise ValueError("target needs exactly one of packed_bytes, ratio and price, e.g. {packed_bytes: 330kB}.")
        return self


class RoundWeights(Stage):
    """Choose integers and steps of all weights for a size of the packed file; nothing is trained.

    Every weight becomes zero, its nearest integer or a neighbour, whichever is least in error plus bits. An error
    counts as much as the deployed outputs bend with it on real images, and later weights make up for earlier ones.
    Zeros stay zero.
    """

    NEEDS: ClassVar[tuple[Kind, ...]] = (Kind.QUANTIZED,)
    MAKES: ClassVar[Kind] = Kind.QUANTIZED
    SPLITS: ClassVar[tuple[str, ...]] = ("train",)
    LIBRARIES: ClassVar[tuple[str, ...]] = (
        "torch", "torchvision", "brevitas", "numpy", "onnx", "onnx-ir", "onnxscript",
    )  # fmt: skip
    PRELOAD: ClassVar[tuple[str, ...]] = ("brevitas.nn",)
    CODE_VERSION: ClassVar[int] = 2  # coarse biases; short names and sorted channels in the size
    ACTION: ClassVar[str] = "compress.actions.round_weights"

    stage: Literal["round_weights"] = "round_weights"
    target: SizeTarget = Field(..., description="The size: exactly one of packed_bytes, ratio and price.")
    images: int = Field(48, ge=1, description="Images of 'train', not augmented, that errors are weighed on.")
    baseline: str = Field("float", description="Label of the float model that `ratio` is counted from.")

    def references(self) -> tuple[str, ...]:
        """Return the baseline's label, if the target is counted from it."""
        return (self.baseline,) if self.target.ratio is not None else ()

    def key_fields(self) -> dict[str, Any]:
        """Return the fields; a baseline that is not read changes nothing."""
        fields = super().key_fields()
        if self.target.ratio is None:
            fields.pop("baseline")
        return fields
