"""The fields of a sweep file, without the recipe that it searches; `compress.sweep.reading` joins the two."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator

from compress.artifact import to_json
from compress.dataset import METRICS
from compress.guard import DropLimits
from compress.recipe.model import NAME_PATTERN

Objective = Literal["bytes", "ms", "map", "map75", "map50"]
_DIMENSION = "expected a list of values, such as [4, 5, 6], or a range, such as {low: 0.2, high: 0.8}"
MOST_POINTS = 100_000  # of a grid; no budget is larger


class Range(BaseModel):
    """All numbers between two."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    low: int | float = Field(description="Smallest value.")
    high: int | float = Field(description="Largest value.")
    log: bool = Field(False, description="Equal factors are equally likely, not equal differences.")
    step: int | float | None = Field(
        None, gt=0, description="Only low, low + step, ...; whole numbers have a step of 1."
    )

    @model_validator(mode="after")
    def _is_a_range(self) -> Range:
        if self.low >= self.high:
            raise ValueError(
                f"low {self.low:g} is not below high {self.high:g}. Give one value as a list, [{self.low:g}]."
            )
        if self.log and self.low <= 0:
            raise ValueError(f"low {self.low:g} has no logarithm. Begin above 0, or leave `log` out.")
        if self.log and self.step is not None:
            raise ValueError("`log` and `step` exclude each other. Leave one out, or list the values.")
        return self

    @property
    def is_whole(self) -> bool:
        """Return whether its values are whole numbers."""
        return all(isinstance(value, int) for value in (self.low, self.high, 1 if self.step is None else self.step))

    @property
    def values(self) -> list[Any] | None:
        """Return all values in order, None where there is no step between them."""
        step = 1 if self.is_whole and self.step is None else self.step
        if step is None or self.log:
            return None
        count = math.floor((self.high - self.low) / step + 1e-9) + 1
        values = [self.low + index * step for index in range(min(count, MOST_POINTS))]
        return values if self.is_whole else [float(f"{value:.12g}") for value in values]


def _form(value: Any) -> str:
    return "range" if isinstance(value, dict | Range) else "list"


def _listed(value: Any) -> Any:
    if not isinstance(value, list | tuple):
        raise ValueError(f"{_DIMENSION}.")
    texts = [to_json(one) for one in value]
    if len(set(texts)) < len(texts):
        raise ValueError("a value is given twice. Remove one.")
    return value


Choices = Annotated[tuple[Any, ...], Field(min_length=1), BeforeValidator(_listed)]
Dimension = Annotated[Annotated[Choices, Tag("list")] | Annotated[Range, Tag("range")], Discriminator(_form)]


class Budget(BaseModel):
    """How much may be spent."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    trials: int = Field(ge=1, le=100_000, description="Trials, finished or not; a grid ends when it is through.")
    hours: float | None = Field(
        None, gt=0, description="No trial is started afterwards; time of all runs of the sweep together."
    )


class Sampler(BaseModel):
    """Who chooses the values of a trial."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["nsga2", "tpe", "grid"] = Field(
        "nsga2",
        description="'nsga2': generations, each from the best before; 'tpe': a model of what is good; 'grid': all.",
    )
    seed: int = Field(0, ge=0, lt=2**32, description="Of the choice; the recipe has a seed of its own.")
    batch: int | None = Field(
        None,
        ge=1,
        description="Trials that are chosen together, before any of them has ended; so the front does not depend on "
        "which ends first. Default: a generation of nsga2 (a quarter of the trials), tpe's workers, the whole grid.",
    )


class Stop(BaseModel):
    """When a trial is given up."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    after: str = Field(description="Stage whose model is scored on 'val' in passing.")
    max_drop: DropLimits = Field(
        description="Points under the float model; a trial ends if it surely lost more (the whole paired interval)."
    )


class Sweep(BaseModel):
    """A recipe, what is varied in it, and what is wanted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1] = Field(1, description="Version of the sweep format.")
    name: str = Field(pattern=NAME_PATTERN, description="Name of the folder below --out that takes the trials.")
    recipe: str = Field(min_length=1, description="Recipe, a file relative to this one, or the name of a shipped one.")
    space: dict[str, Dimension] = Field(
        min_length=1, description="Field of the recipe, as --set names it, and its values: a list, or a range."
    )
    objectives: tuple[Objective, ...] = Field(
        description="Two or three of: bytes of the packed file, ms of its network here, map, map75 and map50 on 'val'.",
    )
    budget: Budget = Field(description="How much may be spent.")
    sampler: Sampler = Field(default_factory=Sampler, description="Who chooses; its name alone may be given.")
    stop: Stop | None = Field(None, description="When a trial is given up early; default: never.")
    model: str | None = Field(None, description="Stage whose file is measured; default: the last `pack`.")
    baseline: bool = Field(True, description="Run the recipe as it stands, too, and compare every point with it.")
    workers: int | None = Field(None, ge=1, le=1024, description="Trials at once; default: one a core.")
    machine: str | None = Field(
        None, description="With --ray: resource of the one node that times, such as timing or node:10.0.0.7."
    )

    @field_validator("sampler", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        return {"kind": value} if isinstance(value, str) else value

    @field_validator("objectives")
    @classmethod
    def _two_or_three(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not 2 <= len(value) <= 3:
            raise ValueError("expected two or three of them, such as [bytes, map].")
        if len(set(value)) < len(value):
            raise ValueError("an objective is named twice. Remove one.")
        return value

    @property
    def metrics(self) -> tuple[str, ...]:
        """Return the scores among the objectives."""
        return tuple(name for name in self.objectives if name in METRICS)

    @property
    def batch(self) -> int | None:
        """Return the trials that are chosen together; None: all that are left."""
        if self.sampler.batch is not None or self.sampler.kind == "grid":
            return self.sampler.batch
        return max(4, -(-self.budget.trials // 4)) if self.sampler.kind == "nsga2" else self.workers or 1


def is_smaller_better(objective: str) -> bool:
    """Return whether an objective is a cost."""
    return objective not in METRICS
