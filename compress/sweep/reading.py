"""Read a sweep file: its fields, the recipe that it names, and whether each value of the space fits that recipe."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from compress.artifact import hash_json, to_json
from compress.errors import RecipeError, suggest
from compress.kind import Kind
from compress.recipe.loading import load_recipe
from compress.recipe.model import Recipe
from compress.recipe.plan import MODEL_KINDS, make_plan
from compress.recipe.shipped import find_recipe, shipped_recipes
from compress.recipe.validation import validate
from compress.recipe.variants import recipe_text
from compress.recipe.yaml_reader import parse_yaml
from compress.recipe.yaml_source import DataPath, Document, Problem
from compress.sweep.model import Range, Sweep

_PATHS = ("root", "checkpoint")  # may change while a sweep is stopped: folders are moved


@dataclass(frozen=True)
class LoadedSweep:
    """A sweep that fits its recipe.

    Attributes:
        sweep: its fields; `model` is set.
        recipe: file of the recipe.
        overrides: of the recipe, `path=value` each, in every trial.
        base: the recipe as it stands, overrides included.
        allow_code: let the recipe import any module.
    """

    sweep: Sweep
    recipe: Path
    overrides: tuple[str, ...]
    base: Recipe
    allow_code: bool = False

    @property
    def model(self) -> str:
        """Return the label of the stage whose file is measured."""
        assert self.sweep.model is not None
        return self.sweep.model

    def recipe_with(self, values: dict[str, Any], name: str) -> Recipe:
        """Return the recipe with the values of a trial and a name of its own."""
        given = [*self.overrides, *(f"{path}={to_json(value)}" for path, value in values.items()), f"name={name}"]
        return load_recipe(self.recipe, given, check_requires=False, allow_code=self.allow_code)

    def identity(self) -> dict[str, Any]:
        """Return what must stay the same for a sweep to go on, part by part: what was measured depends on it."""
        sweep, record = self.sweep, self.base.model_dump(mode="json", by_alias=True)
        for part in ("data", "detector"):
            record[part] = {name: value for name, value in record[part].items() if name not in _PATHS}
        return {
            "space": to_json({path: _plain(dimension) for path, dimension in sweep.space.items()}),
            "objectives": ", ".join(sweep.objectives),
            "sampler": to_json(sweep.sampler.model_dump()),
            "stop": "none" if sweep.stop is None else to_json(sweep.stop.model_dump()),
            "model": self.model,
            "the recipe": hash_json(record)[:16],
        }


def _plain(dimension: Any) -> Any:
    return dimension.model_dump() if isinstance(dimension, Range) else list(dimension)


def load_sweep(path: Path, overrides: Sequence[str] = (), *, allow_code: bool = False) -> LoadedSweep:
    """Read a sweep and check all of it against its recipe.

    Args:
        path: YAML file, or the name of a shipped sweep.
        overrides: of the recipe, `path=value` each.
        allow_code: let the recipe import any module.

    Raises:
        RecipeError: one 'file:line:column: path: text' per mistake of the sweep, or those of the recipe itself.
    """
    path = _find(path)
    document = parse_yaml(recipe_text(path), str(path))
    if not isinstance(document.data, dict):
        raise RecipeError(f"{path}:1:1: expected a mapping with the fields {', '.join(Sweep.model_fields)}.")
    sweep, problems = validate(Sweep, document.data, (), document)
    problems = [*document.problems, *problems]
    if problems:
        _refuse(problems)
    file = find_recipe(Path(sweep.recipe)) if Path(sweep.recipe).parent == Path() else path.parent / sweep.recipe
    beside = path.parent / sweep.recipe
    file = beside if beside.is_file() else file
    if not file.is_file():
        known = sorted(each.name for each in (*path.parent.glob("*.yaml"), *shipped_recipes().glob("*.yaml")))
        text = f"{sweep.recipe}: there is no such file.{suggest(sweep.recipe, known)}"
        _refuse([Problem(document.value_place(("recipe",)), ("recipe",), text)])
    base = load_recipe(file, overrides, check_requires=False, allow_code=allow_code)
    loaded = LoadedSweep(sweep, file, tuple(overrides), base, allow_code)
    model, problems = _model(loaded, document)
    problems += list(_space_problems(loaded, document))
    problems += list(_stop_problems(loaded, document))
    if problems:
        _refuse(problems)
    return replace(loaded, sweep=sweep.model_copy(update={"model": model}))


def _refuse(problems: Sequence[Problem]) -> None:
    ordered = sorted(problems, key=lambda problem: (problem.place.line or 0, problem.place.column or 0))
    raise RecipeError(list(dict.fromkeys(str(problem) for problem in ordered)))


def _find(path: Path) -> Path:
    """Return the file that an argument means: it, or the shipped sweep of that name."""
    shipped = shipped_recipes() / "sweeps" / f"{path.name.removesuffix('.yaml')}.yaml"
    return shipped if not path.exists() and path.parent == Path() and shipped.is_file() else path


def _model(loaded: LoadedSweep, document: Document) -> tuple[str | None, list[Problem]]:
    """Return the label of the stage whose file is measured, or what is wrong with it."""
    plan, _ = make_plan(loaded.base.stages)
    packs = [planned.label for planned in plan if planned.stage.MAKES is Kind.PACKED]
    wanted = loaded.sweep.model
    if wanted in packs or (wanted is None and packs):
        return wanted or packs[-1], []
    path: DataPath = ("recipe",) if wanted is None else ("model",)
    if not packs:
        text = f"{loaded.recipe} makes no packed file, so there is nothing to measure. Add `- {{stage: pack}}` to it."
    else:
        text = f"no stage named {wanted!r} packs a file.{suggest(str(wanted), packs)}"
    return None, [Problem(document.value_place(path), path, text)]


def _stop_problems(loaded: LoadedSweep, document: Document) -> Iterator[Problem]:
    stop = loaded.sweep.stop
    if stop is None:
        return
    plan, _ = make_plan(loaded.base.stages)
    models = [planned.label for planned in plan if planned.stage.MAKES in MODEL_KINDS]
    if stop.after not in models:
        path: DataPath = ("stop", "after")
        text = f"no stage named {stop.after!r} makes a model.{suggest(stop.after, models)}"
        yield Problem(document.value_place(path), path, text)


def _space_problems(loaded: LoadedSweep, document: Document) -> Iterator[Problem]:
    """Yield what is wrong with the space: paths and values that the recipe refuses, ranges that a grid cannot walk."""
    for path, dimension in loaded.sweep.space.items():
        at: DataPath = ("space", path)
        if path.split(".")[0] in ("name", "format_version", "stages") and "." not in path and "[" not in path:
            yield Problem(document.key_place(at), at, "names the recipe itself. Vary a field of it.")
            continue
        if isinstance(dimension, Range) and loaded.sweep.sampler.kind == "grid" and dimension.values is None:
            text = "a grid needs to know the values between. Give `step`, or list the values."
            yield Problem(document.value_place(at), at, text)
        told: set[str] = set()
        for place, value in _tried(at, dimension):
            for text in _refusals(loaded, path, value):
                if text not in told:
                    is_about_path = f"{to_json(value)}: " not in text
                    where = document.key_place(at) if is_about_path else document.value_place(place)
                    yield Problem(where, at, text)
                told.add(text)


def _tried(at: DataPath, dimension: Any) -> Iterator[tuple[DataPath, Any]]:
    """Yield the values that are tried on the recipe and where they stand: all of a list, the ends of a range."""
    if isinstance(dimension, Range):
        yield (*at, "low"), dimension.low
        yield (*at, "high"), dimension.high
    else:
        for index, value in enumerate(dimension):
            yield (*at, index), value


def _refusals(loaded: LoadedSweep, path: str, value: Any) -> Iterator[str]:
    """Yield what the recipe says to one value, without the place of an argument that nobody wrote."""
    override = f"{path}={to_json(value)}"
    try:
        load_recipe(loaded.recipe, [*loaded.overrides, override], check_requires=False, allow_code=loaded.allow_code)
    except RecipeError as error:
        for text in error.problems:
            yield text.removeprefix(f"--set {override}: ")
