"""The recipe: its model, and a loader that reports every mistake at once with its place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from compress import stages as stage_table
from compress.dataset import Dataset
from compress.detector import Detector
from compress.errors import DetectorError, RecipeError, suggest
from compress.plugins import (
    DATASETS,
    available_plugins,
    check_frameworks,
    code_refusal,
    find_dataset,
    find_plugin,
    is_code_allowed,
)
from compress.recipe.goal import MADE_FIRST, Attempt, Goal, goal_stages
from compress.recipe.model import NAME_PATTERN, Recipe
from compress.recipe.overrides import apply_override
from compress.recipe.plan import make_plan
from compress.recipe.shipped import find_recipe
from compress.recipe.validation import MOST_SHOWN, NO_FOLDER_NAME, validate
from compress.recipe.variants import apply_defaults, read_recipe
from compress.recipe.version import CURRENT, lift_training
from compress.recipe.yaml_source import DataPath, Document, Place, Problem
from compress.stage import Stage

_OF_GOAL = ("goal.", "goal=")  # overrides that are applied before the stages are planned


def load_recipe(
    path: str | Path,
    overrides: Sequence[str] = (),
    *,
    check_requires: bool = True,
    allow_code: bool = False,
    attempts: Sequence[Attempt] = (),
    chosen: Attempt | None = None,
) -> Recipe:
    """Read a recipe, apply overrides and check all of it: fields, plug-in, order of stages.

    Args:
        path: YAML 1.2 file, or the name of a shipped recipe where there is no such file.
        overrides: `path=value` each, e.g. 'data.root=/data', 'stages.qat.training.epochs=1'.
        check_requires: also ask whether the plug-in's framework is installed.
        attempts: at the recipe's goal, if it has one; default: the first.
        chosen: of them, what is reported; default: the last.
        allow_code: import the module of a `plugin:` or `format:` of the form 'package.module:NAME', whatever it is;
            else only under the environment variable `KRIMP_ALLOW_CODE`.

    Returns:
        The recipe. `detector` and `data` hold the plug-in's defaults as well.

    Raises:
        RecipeError: holds one 'file:line:column: path: text' per mistake.
        DetectorError: the recipe is right, but the framework of its plug-in is not installed.
    """
    path = find_recipe(Path(path))
    document = read_recipe(path)
    about_goal = [override for override in overrides if override.startswith(_OF_GOAL)]
    for override in about_goal:
        apply_override(document, override)
    is_planned = plan_goal(document, attempts, chosen)
    for override in overrides:
        if override not in about_goal:
            apply_override(document, override)
    if not isinstance(document.data, dict):
        raise RecipeError(f"{path}:1:1: expected a mapping with the fields {', '.join(Recipe.model_fields)}.")
    lift_training(document)  # once more: an override may name a field as version 1 does
    apply_defaults(document)
    problems = list(document.problems)
    header = {**document.data, "stages": []}
    problems += [p for p in validate(Recipe, header, (), document)[1] if p.path[:1] != ("stages",)]
    detector, data = _section(document, "detector"), _section(document, "data")
    allow_code = allow_code or is_code_allowed()
    plugin, found = _plugin(document, allow_code)
    problems += found
    dataset, found = _dataset(document, plugin, allow_code)
    problems += found
    if plugin is not None:
        detector, found = _plugin_part(plugin.CONFIG, ("detector", "plugin"), document)
        problems += found
    if dataset is not None:
        data, found = _plugin_part(dataset.CONFIG, ("data", "format"), document, getattr(plugin, "DATA", ""))
        problems += found
    stages, found = _stages(document) if is_planned else ([], [])
    problems += found
    if problems:
        unread = {problem.path for problem in document.problems}  # what was not read is not judged as well
        problems = [p for p in problems if p.path not in unread or p in document.problems]
        written = _unique([document.as_written(problem) for problem in problems])
        texts = [str(problem) for problem in sorted(written, key=_position)]
        more = [f"{path}: and more mistakes than are told at once."] if len(texts) > MOST_SHOWN else []
        raise RecipeError([*texts[:MOST_SHOWN], *more])
    assert plugin is not None
    assert dataset is not None
    if check_requires:
        check_frameworks(plugin)
        check_frameworks(dataset, DATASETS)
    recipe = Recipe.model_validate(
        {**document.data, "format_version": CURRENT, "detector": detector, "data": data, "stages": stages}
    )
    recipe._path = path
    recipe._data = {name: value for name, value in document.data.items() if name != "goal"}
    recipe._places = tuple(str(document.value_place(("stages", index))) for index in range(len(stages)))
    return recipe


def plan_goal(document: Document, attempts: Sequence[Attempt], chosen: Attempt | None) -> bool:
    """Put the stages of a recipe's goal behind those that it has; return False if that cannot be done.

    Stages that a goal does not leave to the recipe are problems of the document.
    """
    data = document.data
    if not isinstance(data, dict) or data.get("goal") is None:
        return True
    goal, problems = validate(Goal, data["goal"], ("goal",), document)
    if goal is None:
        return not problems  # they are told with the other fields of the recipe
    own = data.get("stages") or []
    if not isinstance(own, list):
        return True
    for index, entry in enumerate(own):
        kind = entry.get("stage") if isinstance(entry, dict) else None
        if kind not in MADE_FIRST:
            path = ("stages", index)
            text = f"{kind!r}: with a `goal` the stages are planned from it. Keep only {' or '.join(MADE_FIRST)} here."
            document.problems.append(Problem(document.value_place(path), path, text))
    if document.problems:
        return False
    attempts = attempts or (Attempt.first(goal),)
    data["stages"] = [*own, *goal_stages(goal, attempts, chosen or attempts[-1])]
    document.values.setdefault(("stages",), document.value_place(("goal",)))
    return True


def _section(document: Document, name: str) -> dict[str, Any]:
    section = document.data.get(name)
    return section if isinstance(section, dict) else {}


def _plugin(document: Document, allow_code: bool) -> tuple[type[Detector] | None, list[Problem]]:
    """Return the plug-in class, or the problem with its name."""
    detector = document.data.get("detector")
    if not isinstance(detector, dict):
        return None, []
    path: DataPath = ("detector", "plugin")
    name = detector.get("plugin")
    if not isinstance(name, str):
        what = "required field 'plugin' is missing" if name is None else f"{name!r} is not a name"
        expected = f"Expected one of: {', '.join(available_plugins())}, or package.module:NAME."
        return None, [Problem(document.value_place(path), path, f"{what}. {expected}")]
    refusal = None if allow_code else code_refusal(name)
    if refusal is not None:
        return None, [Problem(document.value_place(path), path, refusal)]
    try:
        return find_plugin(name), []
    except DetectorError as error:
        return None, [Problem(document.value_place(path), path, str(error))]


def _dataset(
    document: Document, plugin: type[Detector] | None, allow_code: bool
) -> tuple[type[Dataset] | None, list[Problem]]:
    """Return the class of the data set, or the problem with its format; without a format it is the detector's own."""
    path: DataPath = ("data", "format")
    section = _section(document, "data")
    name = section["format"] if "format" in section else getattr(plugin, "DATA", None)
    if name is None and "format" not in section:
        return None, []
    if not isinstance(name, str):
        expected = f"Expected one of: {', '.join(available_plugins(DATASETS))}, or package.module:NAME."
        return None, [Problem(document.value_place(path), path, f"{name!r} is not a name. {expected}")]
    refusal = None if allow_code or "format" not in section else code_refusal(name, DATASETS)
    if refusal is not None:
        return None, [Problem(document.value_place(path), path, refusal)]
    try:
        return find_dataset(name), []
    except DetectorError as error:
        return None, [Problem(document.value_place(path), path, str(error))]


def _plugin_part(
    model: type[BaseModel], choice: tuple[str, str], document: Document, default: str = ""
) -> tuple[dict[str, Any], list[Problem]]:
    """Validate the part of the recipe that a plug-in's model describes; defaults are filled in.

    Args:
        model: of the fields.
        choice: section and field that names the plug-in; the model does not have that field.
        document: the recipe.
        default: what that field is where the recipe leaves it out.
    """
    name, chosen = choice
    section = _section(document, name)
    instance, problems = validate(model, {k: v for k, v in section.items() if k != chosen}, (name,), document)
    if instance is None:
        return section, problems
    filled = instance.model_dump(mode="json", by_alias=True, round_trip=True)
    return {chosen: section.get(chosen, default), **filled}, problems


def _stages(document: Document) -> tuple[list[Stage], list[Problem]]:
    """Return the stages and every problem with their fields and their order."""
    entries = document.data.get("stages")
    if not isinstance(entries, list) or not entries:
        what = (
            "required field 'stages' is missing" if "stages" not in document.data else "this list is empty or no list"
        )
        place = document.key_place(("stages",))
        return [], [Problem(place, ("stages",), f"{what}. Expected a list of stages.")]
    table = stage_table.STAGES
    stages: list[Stage] = []
    problems: list[Problem] = []
    ordered = True  # whether the order of what was read so far can be judged
    to_order: list[Stage] = []
    for index, entry in enumerate(entries):
        if len(problems) > MOST_SHOWN:
            break
        path: DataPath = ("stages", index)
        kind = entry.get("stage") if isinstance(entry, dict) else None
        if not isinstance(kind, str) or kind not in table:
            problems.append(_unknown_stage(entry, path, document))
            ordered = False
            continue
        stage, found = validate(table[kind], entry, path, document)
        problems += [*found, *_name_problems(entry, path, document)]
        if stage is not None:
            stages.append(stage)
        if ordered:
            to_order.append(stage or _stand_in(table[kind], entry))
    for problem in make_plan(to_order)[1] if to_order else []:
        under: DataPath = ("stages", problem.origin)
        at = document.find_scalar(under, problem.name) if problem.name else None
        if problem.name is not None and entries[problem.origin].get("name") == problem.name and at is None:
            at = (*under, "name")
        problems.append(Problem(document.value_place(at or under), at or under, problem.text))
    return stages, problems


def _unknown_stage(entry: Any, path: DataPath, document: Document) -> Problem:
    names = list(stage_table.STAGES)
    if not isinstance(entry, dict) or "stage" not in entry:
        text = f"required field 'stage' is missing. Expected one of: {', '.join(names)}."
        return Problem(document.value_place(path), path, text)
    at = (*path, "stage")
    text = f"there is no stage {entry['stage']!r}.{suggest(str(entry['stage']), names)}"
    return Problem(document.value_place(at), at, text)


def _name_problems(entry: dict[str, Any], path: DataPath, document: Document) -> Iterator[Problem]:
    import re

    name = entry.get("name")
    if isinstance(name, str) and not re.match(NAME_PATTERN, name):
        at = (*path, "name")
        text = f"{name!r}: {NO_FOLDER_NAME}"
        yield Problem(document.value_place(at), at, text)


def _stand_in(stage: type[Stage], entry: dict[str, Any]) -> Stage:
    """Return an unvalidated stage that is good enough to judge the order of the others."""
    texts = {key: entry[key] for key in ("stage", "name", "from") if isinstance(entry.get(key), str)}
    if "from" in texts:
        texts["from_"] = texts.pop("from")
    return stage.model_construct(**texts)


def _unique(problems: Sequence[Problem]) -> list[Problem]:
    return list({str(problem): problem for problem in problems}.values())


def _position(problem: Problem) -> tuple[int, int]:
    place: Place = problem.place
    return (place.line or 10**9, place.column or 0)
