"""How small a packed file shall be: fields of the stages that choose weights by their bits. Torch-free."""

from __future__ import annotations

from collections.abc import Callable

from pydantic import BaseModel, ByteSize, ConfigDict, Field, model_validator

_SIZES = ("packed_bytes", "ratio", "price")


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
        if sum(getattr(self, name) is not None for name in _SIZES) != 1:
            raise ValueError(
                f"exactly one of {', '.join(_SIZES)} says how small the file shall be, e.g. {{packed_bytes: 330kB}}."
            )
        return self

    def bytes_of(self, original: Callable[[], int]) -> int | None:
        """Return the bytes that are meant; None where a price says it.

        Args:
            original: gives those of the float model; asked only where a ratio is counted from them.
        """
        if self.packed_bytes is not None:
            return int(self.packed_bytes)
        return None if self.ratio is None else int(original() / self.ratio)


class RateFields(SizeTarget):
    """A size that weights are rounded to and trained at."""

    images: int = Field(48, ge=1, description="Images of 'train', not augmented, that errors are weighed on.")
    baseline: str = Field("float", description="Label of the float model that `ratio` is counted from.")

    def references(self) -> tuple[str, ...]:
        """Return the baseline's label, if the size is counted from it."""
        return (self.baseline,) if self.ratio is not None else ()
