"""What a recipe wants to stay of a model. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ByteSize, ConfigDict, Field, model_validator

# Shares of the model that the stage is given, by exact arithmetic.
COUNTED: tuple[Literal["macs", "params"], ...] = ("macs", "params")
_EXAMPLES = "{macs: 0.6}, {speedup: 2.5} or {latency_ms: 20, packed_bytes: 1MB}"


class PruningTarget(BaseModel):
    """What shall stay: one limit, or several that shall all hold.

    Bytes and milliseconds are those of the file that would be exported as the stage leaves the network: quantized as
    stage `qat` does it by default, untrained, and measured on this machine.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    macs: float | None = Field(None, gt=0, le=1, description="Share of the multiply-accumulates that stays.")
    params: float | None = Field(None, gt=0, le=1, description="Share of the parameters that stays.")
    packed_bytes: ByteSize | None = Field(None, gt=0, description="Bytes of the packed int8 file: 900000, 900kB.")
    latency_ms: float | None = Field(None, gt=0, description="Milliseconds of an image in int8, here, one thread.")
    speedup: float | None = Field(
        None,
        gt=1,
        description="How many times faster in int8 than what the stage is given is in float, here, one thread.",
    )

    @model_validator(mode="after")
    def _limits_something(self) -> PruningTarget:
        if not self.wanted:
            raise ValueError(f"target names no limit. Give at least one, e.g. {_EXAMPLES}.")
        if self.latency_ms is not None and self.speedup is not None:
            raise ValueError("latency_ms and speedup limit the same thing. Give one of the two.")
        return self

    @property
    def wanted(self) -> Mapping[str, float]:
        """Return name -> limit of everything that is limited."""
        return {name: float(value) for name in type(self).model_fields if (value := getattr(self, name)) is not None}

    @property
    def is_measured(self) -> bool:
        """Return whether a limit asks for the deployed file, not for counts."""
        return any(name not in COUNTED for name in self.wanted)
