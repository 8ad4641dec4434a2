"""What a recipe wants to stay of a model. Imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class PruningTarget(BaseModel):
    """What shall stay, as a share of the model that the stage is given; one of the two."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    macs: float | None = Field(None, gt=0, le=1, description="Share of the multiply-accumulates that stays.")
    params: float | None = Field(None, gt=0, le=1, description="Share of the parameters that stays.")

    @model_validator(mode="after")
    def _exactly_one(self) -> PruningTarget:
        if (self.macs is None) == (self.params is None):
            raise ValueError("target needs exactly one of macs and params, e.g. {macs: 0.6}.")
        return self

    @property
    def metric(self) -> Literal["macs", "params"]:
        """Return what is counted."""
        return "params" if self.macs is None else "macs"

    @property
    def share(self) -> float:
        """Return the share that stays, 0..1."""
        share = self.params if self.macs is None else self.macs
        assert share is not None
        return share
