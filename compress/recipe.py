"""The recipe: its model, and a loader that reports every mistake at once with its place."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, SerializeAsAny, ValidationError
from pydantic.json_schema import models_json_schema

from compress import stages as stage_table
from compress.detector import Detector
from compress.errors import DetectorError, RecipeError
from compress.plan import make_plan
from compress.plugins import available_plugins, check_frameworks, find_plugin
from compress.stage import Stage
from compress.yaml_source import DataPath, Document, Place, Problem, apply_override, lookup, parse_yaml, suggest

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"

_NO_FOLDER_NAME = "cannot name a folder. Expected letters, digits, '_', '-' and '.'."

# Mistakes that pydantic forgives when it converts: text for a number, true for 1.
_CONVERTED = frozenset({"int_type", "float_type", "bool_type", "string_type"})


class Recipe(BaseModel):
    """A detector, its data, and the list of stages to put it through."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1] = Field(1, description="Version of the recipe format.")
    name: str = Field(pattern=NAME_PATTERN, description="Name of the folder below --out that takes the artifacts.")
    seed: int = Field(0, ge=0, lt=2**32, description="Seed of every stage.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where torch computes; not part of cache keys.")
    detector: dict[str, Any] = Field(description="`plugin` and the fields of the plug-in's CONFIG model.")
    data: dict[str, Any] = Field(default_factory=dict, description="The fields of the plug-in's DATA model.")
    stages: tuple[SerializeAsAny[Stage], ...] = Field(min_length=1, description="What to do, in this order.")

    _path: Path | None = PrivateAttr(None)
    _places: tuple[str, ...] = PrivateAttr(())

    @property
    def path(self) -> Path | None:
        """Return the file it was read from."""
        return self._path

    def place_of(self, index: int | None) -> str:
        """Return where a stage stands: 'file:line:column: stages[index]', or less where no more is known."""
        if index is None:
            return "stages"
        place = self._places[index] if index < len(self._places) else None
        return f"{place}: stages[{index}]" if place else f"stages[{index}]"


def load_recipe(path: str | Path, overrides: Sequence[str] = (), *, check_requires: bool = True) -> Recipe:
    """Read a recipe, apply overrides and check all of it: fields, plug-in, order of stages.

    Args:
        path: YAML 1.2 file.
        overrides: `path=value` each, e.g. 'data.root=/data', 'stages.qat.epochs=1'.
        check_requires: also ask whether the plug-in's framework is installed.

    Returns:
        The recipe. `detector` and `data` hold the plug-in's defaults as well.

    Raises:
        RecipeError: holds one 'file:line:column: path: text' per mistake.
        DetectorError: the recipe is right, but the framework of its plug-in is not installed.
    """
    path = Path(path)
    document = _read(path)
    for override in overrides:
        apply_override(document, override)
    if not isinstance(document.data, dict):
        raise RecipeError(f"{path}:1:1: expected a mapping with the fields {', '.join(Recipe.model_fields)}.")
    problems = list(document.problems)
    header = {**document.data, "stages": []}
    problems += [p for p in _validate(Recipe, header, (), document)[1] if p.path[:1] != ("stages",)]
    plugin, plugin_problems = _plugin(document)
    problems += plugin_problems
    detector, data = _section(document, "detector"), _section(document, "data")
    if plugin is not None:
        detector, found = _plugin_part(plugin.CONFIG, detector, "detector", document)
        data, more = _plugin_part(plugin.DATA, data, "data", document)
        problems += [*found, *more]
    stages, found = _stages(document)
    problems += found
    if problems:
        raise RecipeError([str(problem) for problem in sorted(_unique(problems), key=_position)])
    assert plugin is not None
    if check_requires:
        check_frameworks(plugin)
    recipe = Recipe.model_validate({**document.data, "detector": detector, "data": data, "stages": stages})
    recipe._path = path
    recipe._places = tuple(str(document.value_place(("stages", index))) for index in range(len(stages)))
    return recipe


def json_schema(plugins: Sequence[str] | None = None) -> dict[str, Any]:
    """Return the JSON Schema of recipes, for editors.

    Args:
        plugins: plug-ins whose fields are described; default: all that are available.
    """
    names = available_plugins() if plugins is None else list(plugins)
    classes = {name: find_plugin(name) for name in names}
    models: list[Any] = [*stage_table.STAGES.values()]
    models += [model for plugin in classes.values() for model in (plugin.CONFIG, plugin.DATA)]
    references, shared = models_json_schema([(model, "validation") for model in dict.fromkeys(models)], by_alias=True)
    reference = {model: references[model, "validation"] for model in models}
    schema = Recipe.model_json_schema()
    properties = schema["properties"]
    properties["stages"]["items"] = {
        "type": "object",
        "required": ["stage"],
        "properties": {"stage": {"enum": list(stage_table.STAGES)}},
        "allOf": [_when("stage", name, reference[stage]) for name, stage in stage_table.STAGES.items()],
    }
    definitions = shared.get("$defs", {})
    detector_rules, data_rules = [], []
    for name, plugin in classes.items():
        config = definitions[reference[plugin.CONFIG]["$ref"].rpartition("/")[2]]
        config["properties"] = {"plugin": {"const": name}, **config.get("properties", {})}
        detector_rules.append(_when("plugin", name, reference[plugin.CONFIG]))
        matches = {"properties": {"detector": {"properties": {"plugin": {"const": name}}}}}
        data_rules.append({"if": matches, "then": {"properties": {"data": reference[plugin.DATA]}}})
    properties["detector"] = {
        "type": "object",
        "required": ["plugin"],
        "properties": {"plugin": {"type": "string", "examples": names}},
        "allOf": detector_rules,
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **{key: value for key, value in schema.items() if key != "$defs"},
        "allOf": data_rules,
        "$defs": definitions,
    }


def _when(field: str, name: str, then: dict[str, Any]) -> dict[str, Any]:
    return {"if": {"properties": {field: {"const": name}}, "required": [field]}, "then": then}


def _read(path: Path) -> Document:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        near = (
            suggest(path.name, sorted(file.name for file in path.parent.glob("*.yaml"))) if path.parent.is_dir() else ""
        )
        raise RecipeError(f"{path}: there is no such file.{near}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read as UTF-8 text: {error}.") from error
    return parse_yaml(text, str(path))


def _section(document: Document, name: str) -> dict[str, Any]:
    section = document.data.get(name)
    return section if isinstance(section, dict) else {}


def _plugin(document: Document) -> tuple[type[Detector] | None, list[Problem]]:
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
    try:
        return find_plugin(name), []
    except DetectorError as error:
        return None, [Problem(document.value_place(path), path, str(error))]


def _plugin_part(
    model: type[BaseModel], section: dict[str, Any], name: str, document: Document
) -> tuple[dict[str, Any], list[Problem]]:
    """Validate the part of the recipe that a plug-in's model describes; defaults are filled in."""
    own = {key: value for key, value in section.items() if (name, key) != ("detector", "plugin")}
    instance, problems = _validate(model, own, (name,), document)
    if instance is None:
        return section, problems
    filled = instance.model_dump(mode="json", by_alias=True, round_trip=True)
    return ({"plugin": section["plugin"], **filled} if name == "detector" else filled), problems


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
        path: DataPath = ("stages", index)
        kind = entry.get("stage") if isinstance(entry, dict) else None
        if not isinstance(kind, str) or kind not in table:
            problems.append(_unknown_stage(entry, path, document))
            ordered = False
            continue
        stage, found = _validate(table[kind], entry, path, document)
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
        text = f"{name!r}: {_NO_FOLDER_NAME}"
        yield Problem(document.value_place(at), at, text)


def _stand_in(stage: type[Stage], entry: dict[str, Any]) -> Stage:
    """Return an unvalidated stage that is good enough to judge the order of the others."""
    texts = {key: entry[key] for key in ("stage", "name", "from") if isinstance(entry.get(key), str)}
    if "from" in texts:
        texts["from_"] = texts.pop("from")
    return stage.model_construct(**texts)  # type: ignore[arg-type]


def _validate(model: type[BaseModel], value: Any, prefix: DataPath, document: Document) -> tuple[Any, list[Problem]]:
    """Validate a value and translate every error of pydantic into a problem with its place."""
    instance: Any = None
    errors: list[Any] = []
    try:
        instance = model.model_validate(value)
    except ValidationError as error:
        errors = list(error.errors(include_url=False))
    try:
        model.model_validate_json(json.dumps(value, default=str), strict=True)
    except ValidationError as error:
        strict = [e for e in error.errors(include_url=False) if e["type"] in _CONVERTED and _is_scalar(e, value)]
        seen = [e["loc"] for e in strict]
        errors = [e for e in errors if e["loc"] not in seen] + strict
    if not errors:
        return instance, []
    return None, list(_problems(errors, model, value, prefix, document))


def _is_scalar(error: Any, value: Any) -> bool:
    """Return whether a strict error is about a scalar of the source that has the wrong type."""
    path, rest = _known_path(error["loc"], value)
    found = lookup(value, path)
    return not rest and isinstance(found, str | bool | int | float)


def _problems(
    errors: Sequence[Any], model: type[BaseModel], value: Any, prefix: DataPath, document: Document
) -> Iterator[Problem]:
    located = [(_known_path(error["loc"], value), error) for error in errors]
    paths = [path for (path, _), _ in located]
    grouped: dict[DataPath, list[str]] = {}
    for (path, rest), error in located:
        deeper = any(len(other) > len(path) and other[: len(path)] == path for other in paths)
        if deeper and error["type"].endswith("_type"):
            continue  # another member of a union got further
        if error["type"] == "missing":
            field = str(rest[-1]) if rest else "?"
            text = f"required field {field!r} is missing.{_described(model, (*path, field))}"
            yield Problem(document.value_place(prefix + path), prefix + path, text)
        elif error["type"] == "extra_forbidden":
            names = _field_names(model, path[:-1])
            text = f"unknown field {path[-1]!r}.{suggest(str(path[-1]), names)}"
            yield Problem(document.key_place(prefix + path), prefix + path, text)
        else:
            grouped.setdefault(path, []).append(_expected(error))
    for path, texts in grouped.items():
        found = lookup(value, path)
        shown = "" if isinstance(found, dict | list) and len(str(found)) > 60 else f"{found!r}: "
        text = shown + " or ".join(dict.fromkeys(texts))
        text = text if text.endswith((".", "?")) else f"{text}."
        yield Problem(document.value_place(prefix + path), prefix + path, text)


def _known_path(loc: tuple[str | int, ...], value: Any) -> tuple[DataPath, tuple[str | int, ...]]:
    """Split an error's location into the path that exists in the data and the rest without union tags."""
    path: DataPath = ()
    rest: tuple[str | int, ...] = ()
    for item in loc:
        at_key = isinstance(value, dict) and item in value
        at_index = isinstance(value, list) and isinstance(item, int) and item < len(value)
        if at_key or at_index:
            value, path, rest = value[item], (*path, item), ()
        else:
            rest = (*rest, item)
    return path, rest


def _expected(error: Any) -> str:
    if error["type"] in ("literal_error", "enum"):
        text = f"expected {error['ctx']['expected']}"
        names = [part.strip().strip("'") for part in error["ctx"]["expected"].replace(" or ", ", ").split(",")]
        near = suggest(str(error["input"]), names)
        return f"{text}.{near}" if "Did you mean" in near else text
    if error["type"] == "string_pattern_mismatch" and error["ctx"]["pattern"] == NAME_PATTERN:
        return _NO_FOLDER_NAME
    if error["type"] == "string_type" and isinstance(error["input"], bool | int | float):
        return f'expected text. Put it in quotes: "{error["input"]}".'
    message = error["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    return f"expected {message.removeprefix('Input should be ')}" if message.startswith("Input should be") else message


def _field_names(model: type[BaseModel], path: DataPath) -> list[str]:
    """Return the names a mapping at a path may have, through nested models."""
    models = _models_at(model, path)
    names = [field.alias or name for found in models for name, field in found.model_fields.items()]
    return sorted(dict.fromkeys(names))


def _described(model: type[BaseModel], path: DataPath) -> str:
    for found in _models_at(model, path[:-1]):
        for name, field in found.model_fields.items():
            if path[-1] in (name, field.alias) and field.description:
                return f" It is: {field.description.rstrip('.')}."
    return ""


def _models_at(model: type[BaseModel], path: DataPath) -> list[type[BaseModel]]:
    models = [model]
    for item in path:
        if isinstance(item, int):
            continue
        annotations = [
            field.annotation
            for found in models
            for name, field in found.model_fields.items()
            if item in (name, field.alias)
        ]
        models = [nested for annotation in annotations for nested in _models_in(annotation)]
    return models


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)


def _unique(problems: Sequence[Problem]) -> list[Problem]:
    return list({str(problem): problem for problem in problems}.values())


def _position(problem: Problem) -> tuple[int, int]:
    place: Place = problem.place
    return (place.line or 10**9, place.column or 0)
