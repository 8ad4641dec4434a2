"""Plan and run a recipe from a program; `krimp.plan` and `krimp.run`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compress.artifact import to_json
from compress.engine import pipeline
from compress.engine.outcome import Plan, RunResult
from compress.engine.running import run_recipe
from compress.recipe.loading import load_recipe


def plan(
    recipe: str | Path,
    overrides: Mapping[str, Any] | None = None,
    /,
    *,
    out: str | Path = "out",
    start: str | None = None,
    until: str | None = None,
    allow_code: bool = False,
    dry_pass: bool = True,
    forecast: bool = True,
    **fields: Any,
) -> Plan:
    """Say which stages of a recipe would run and why; run nothing.

    Args:
        recipe: YAML file, or the name of a shipped recipe.
        overrides: path of a field -> value, as `--set` takes them: {'stages.qat.training.epochs': 1}.
        out: folder of all recipes' artifacts.
        start: label of the stage from which on everything runs again, cached or not.
        until: label of the last stage to consider.
        allow_code: let the recipe import any module (`plugin: package.module:NAME`).
        dry_pass: take a network with fresh weights through all stages first, in a child process, unless it passed
            before.
        forecast: say what the stages should leave, measured on the weights that the recipe starts from, untrained.
        fields: overrides as keywords: seed=3, device='cpu'.

    Raises:
        RecipeError: every mistake of the recipe with its place.
        DetectorError: a framework is not installed, or the data of what would run is wrong.
        StageError: a stage cannot work on this network.
    """
    loaded = load_recipe(recipe, _given(overrides, fields), allow_code=allow_code)
    job = pipeline.Run(loaded, Path(out), start=start, until=until)
    decisions = job.decide_all()
    job.check(decisions)
    passed = job.dry_pass(decisions) if dry_pass else None
    foreseen = job.forecast(decisions) if forecast else None
    return Plan(job.recipe.name, job.root, tuple(decisions), passed, foreseen)


def run(
    recipe: str | Path,
    overrides: Mapping[str, Any] | None = None,
    /,
    *,
    out: str | Path = "out",
    start: str | None = None,
    until: str | None = None,
    wait: bool = False,
    allow_code: bool = False,
    dry_pass: bool = True,
    forecast: bool = True,
    **fields: Any,
) -> RunResult:
    """Bring all artifacts of a recipe up to date; what did not change comes from the cache.

    Messages and progress go to the logger `krimp`. A limit of the recipe that is missed raises nothing: see
    `RunResult.requirements_met`.

    Args:
        recipe: YAML file, or the name of a shipped recipe.
        overrides: path of a field -> value, as `--set` takes them: {'stages.qat.training.epochs': 1}.
        out: folder of all recipes' artifacts.
        start: label of the stage from which on everything runs again, cached or not.
        until: label of the last stage to run.
        wait: wait for another run in the same folder instead of refusing.
        allow_code: let the recipe import any module (`plugin: package.module:NAME`).
        dry_pass: take a network with fresh weights through all stages first, in a child process, unless it passed
            before.
        forecast: say what the stages should leave, measured on the weights that the recipe starts from, untrained.
        fields: overrides as keywords: seed=3, device='cpu'.

    Raises:
        RecipeError: every mistake of the recipe with its place.
        DetectorError: a framework is not installed, or the data is wrong.
        StageError: a stage failed, or the folder is in use. What was sealed before stays; call it again to go on.
    """
    how = {"start": start, "until": until, "wait": wait, "rehearse": dry_pass, "foresee": forecast}
    return run_recipe(recipe, _given(overrides, fields), Path(out), allow_code=allow_code, **how)


def _given(overrides: Mapping[str, Any] | None, fields: Mapping[str, Any]) -> list[str]:
    return [f"{path}={to_json(value)}" for path, value in {**(overrides or {}), **fields}.items()]
