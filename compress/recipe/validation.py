"""Validate a part of a recipe: every error of pydantic becomes a problem with its place, in the words of the field."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from compress.errors import suggest
from compress.recipe.model import NAME_PATTERN
from compress.recipe.yaml_source import DataPath, Document, Problem, lookup

NO_FOLDER_NAME = "cannot name a folder. Expected letters, digits, '_', '-' and '.'."
MOST_SHOWN = 100  # mistakes that are put into words; who makes more has another kind of file

# Mistakes that pydantic forgives when it converts: text for a number, true for 1.
_CONVERTED = frozenset({"int_type", "float_type", "bool_type", "string_type"})


def validate(model: type[BaseModel], value: Any, prefix: DataPath, document: Document) -> tuple[Any, list[Problem]]:
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
    return None, list(_problems(errors[:MOST_SHOWN], model, value, prefix, document))


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
            inner = _inner_place(model, path)
            near = f" It stands in a block: write {inner}." if inner else suggest(str(path[-1]), names)
            text = f"unknown field {path[-1]!r}.{near}"
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
        return NO_FOLDER_NAME
    if error["type"] == "string_type" and isinstance(error["input"], bool | int | float):
        return f'expected text. Put it in quotes: "{error["input"]}".'
    message = error["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    return f"expected {message.removeprefix('Input should be ')}" if message.startswith("Input should be") else message


def _field_names(model: type[BaseModel], path: DataPath) -> list[str]:
    """Return the names a mapping at a path may have, through nested models."""
    models = _models_at(model, path)
    names = [field.alias or name for found in models for name, field in found.model_fields.items()]
    return sorted(dict.fromkeys(names))


def _inner_place(model: type[BaseModel], path: DataPath) -> str | None:
    """Return 'block: {name: ...}' if a block of the mapping has the field that the mapping has not."""
    for found in _models_at(model, path[:-1]):
        for name, field in found.model_fields.items():
            if any(path[-1] in inner.model_fields for inner in _models_in(field.annotation)):
                return f"{field.alias or name}: {{{path[-1]}: ...}}"
    return None


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
        if annotations:  # else it is a key of a mapping, whose values have the same models
            models = [nested for annotation in annotations for nested in _models_in(annotation)]
    return models


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)
