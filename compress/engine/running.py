"""Runs a recipe file: its stages, or, if it states a goal, attempts at it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compress.engine import goal, pipeline
from compress.engine.outcome import RunResult
from compress.recipe.goal import Attempt
from compress.recipe.loading import load_recipe
from compress.recipe.model import Recipe


def run_recipe(path: str | Path, overrides: Sequence[str], out: Path, *, allow_code: bool, **how: Any) -> RunResult:
    """Bring all artifacts of a recipe up to date.

    Args:
        path: YAML file, or the name of a shipped recipe.
        overrides: `path=value` each.
        out: folder of all recipes' artifacts.
        allow_code: let the recipe import any module.
        how: options of `pipeline.run`.
    """

    def load(attempts: Sequence[Attempt], chosen: Attempt | None) -> Recipe:
        return load_recipe(path, overrides, allow_code=allow_code, attempts=attempts, chosen=chosen)

    recipe = load((), None)
    results = pipeline.run(recipe, out, **how) if recipe.goal is None else goal.run(load, out, **how)
    return RunResult(recipe.name, out / recipe.name, tuple(results))
