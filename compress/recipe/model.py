"""The recipe as a model: what its fields are."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, SerializeAsAny

from compress.recipe.goal import Goal
from compress.recipe.yaml_writer import yaml_text
from compress.stage import Stage

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"


class Recipe(BaseModel):
    """A detector, its data, and the list of stages to put it through."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1, 2] = Field(2, description="Version of the recipe format; 1 is still read.")
    name: str = Field(pattern=NAME_PATTERN, description="Name of the folder below --out that takes the artifacts.")
    seed: int = Field(0, ge=0, lt=2**32, description="Seed of every stage.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where torch computes; not part of cache keys.")
    detector: dict[str, Any] = Field(description="`plugin` and the fields of the plug-in's CONFIG model.")
    data: dict[str, Any] = Field(default_factory=dict, description="`format` and the fields of its CONFIG model.")
    goal: Goal | None = Field(
        None, description="What is wanted; the stages behind the float model are planned from it."
    )
    stages: tuple[SerializeAsAny[Stage], ...] = Field(
        min_length=1, description="What to do, in this order; with a goal, only what makes the float model."
    )

    _path: Path | None = PrivateAttr(None)
    _data: dict[str, Any] = PrivateAttr(default_factory=dict)
    _places: tuple[str, ...] = PrivateAttr(())

    @property
    def path(self) -> Path | None:
        """Return the file it was read from."""
        return self._path

    @property
    def written(self) -> str:
        """Return it as YAML with every stage written out, no base, no defaults and no goal: a recipe that says all."""
        return yaml_text(self._data)

    def place_of(self, index: int | None) -> str:
        """Return where a stage stands: 'file:line:column: stages[index]', or less where no more is known."""
        if index is None:
            return "stages"
        place = self._places[index] if index < len(self._places) else None
        return f"{place}: stages[{index}]" if place else f"stages[{index}]"
