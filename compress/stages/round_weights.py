"""Stage round_weights: integer weights for a size, each chosen by what it loses and by what it costs in the file."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from compress.guard import DropLimits
from compress.kind import Kind
from compress.quantization.size_target import SizeTarget
from compress.stage import Stage


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
    baseline: str = Field("float", description="Label of the float model that `ratio` and losses are counted from.")
    max_drop: DropLimits | None = Field(
        None,
        description="Points that may be lost on 'val', e.g. {map: 0.5}; the file gets larger until they hold.",
    )

    def references(self) -> tuple[str, ...]:
        """Return the baseline's label, if the target or losses are counted from it."""
        return (self.baseline,) if self._counts_from_baseline else ()

    def splits(self) -> tuple[str, ...]:
        """Return 'train', and 'val' if losses are looked at."""
        return ("train", "val") if self.max_drop else ("train",)

    @property
    def _counts_from_baseline(self) -> bool:
        return self.target.ratio is not None or self.max_drop is not None

    def key_fields(self) -> dict[str, Any]:
        """Return the fields; a baseline that is not read changes nothing."""
        fields = super().key_fields()
        if not self._counts_from_baseline:
            fields.pop("baseline")
        if self.max_drop is None:  # as it was before there was one
            fields.pop("max_drop")
        return fields
