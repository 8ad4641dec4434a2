"""What every field of a stage means, as text and as a page: read from the models that check recipes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from compress import stages as stage_table
from compress.recipe.plan import stage_table as stage_table_text
from compress.stage import Stage

_KINDS = {
    "integer": "whole number",
    "number": "number",
    "string": "text",
    "boolean": "true or false",
    "object": "mapping",
}
_BOUNDS = {"minimum": ">= {}", "exclusiveMinimum": "> {}", "maximum": "<= {}", "exclusiveMaximum": "< {}"}
_HEADINGS = ("field", "value", "default", "meaning")


@dataclass(frozen=True)
class FieldRow:
    """One field of a stage.

    Attributes:
        name: as recipes write it; a field of a block has the block's name before it, 'training.lr'.
        value: kind and bounds, in words.
        default: as YAML; 'required' if there is none.
        meaning: what it does.
    """

    name: str
    value: str
    default: str
    meaning: str


def stage_fields(stage: type[Stage]) -> list[FieldRow]:
    """Return the fields of a stage, those of its blocks after each block."""
    schema = stage.model_json_schema(by_alias=True)
    return [row for row in _rows(schema, schema.get("$defs", {})) if row.name != "stage"]


def stage_text(name: str) -> str:
    """Return one stage for a terminal: what it does, and a paragraph a field."""
    stage = stage_table.STAGES[name]
    lines = [f"{name}: {_summary(stage)}", ""]
    for row in stage_fields(stage):
        lines += [f"  {row.name}: {row.value}, {_default_text(row)}", f"      {row.meaning}"]
    return "\n".join(lines)


def stages_page() -> str:
    """Return `recipes/README.md`: every stage with its fields, as markdown."""
    lines = [
        "# Stages and their fields",
        "",
        "Made by `make docs` from the models that check recipes; `krimp stages STAGE` prints the same. A stage takes",
        "the latest artifact of a kind that it needs, or the one that `from:` names.",
        "",
        stage_table_text(),
        "",
        "Fields that every stage has are said once:",
        "",
        *_table(_common()),
    ]
    common = {row.name for row in _common()}
    for name, stage in stage_table.STAGES.items():
        rows = [row for row in stage_fields(stage) if row.name not in common]
        lines += ["", f"## {name}", "", _summary(stage), *(["", *_table(rows)] if rows else [])]
    return "\n".join(lines) + "\n"


def _common() -> list[FieldRow]:
    return [row for row in stage_fields(stage_table.STAGES["pack"]) if row.name in ("name", "from")]


def _summary(stage: type[Stage]) -> str:
    return " ".join((stage.__doc__ or "").split())


def _default_text(row: FieldRow) -> str:
    return row.default if row.default == "required" else f"default {row.default}"


def _table(rows: list[FieldRow]) -> list[str]:
    cells = [[f"`{row.name}`", row.value, _default_text(row).removeprefix("default "), row.meaning] for row in rows]
    escaped = [[cell.replace("|", "\\|") for cell in line] for line in cells]
    return [f"| {' | '.join(line)} |" for line in (_HEADINGS, ("---",) * len(_HEADINGS), *escaped)]


def _rows(schema: Mapping[str, Any], definitions: Mapping[str, Any], prefix: str = "") -> Iterator[FieldRow]:
    required = schema.get("required", ())
    for name, field in schema["properties"].items():
        inner, optional = _resolved(field, definitions)
        default = "required" if name in required else _yaml(field.get("default", {} if "properties" in inner else None))
        meaning = " ".join(str(field.get("description") or inner.get("description") or "").split())
        block = "properties" in inner
        kind = "block" if block else _kind(inner, definitions)
        yield FieldRow(prefix + name, kind + (" or null" if optional else ""), default, meaning)
        if block:
            yield from _rows(inner, definitions, f"{prefix}{name}.")


def _resolved(field: Mapping[str, Any], definitions: Mapping[str, Any]) -> tuple[Mapping[str, Any], bool]:
    """Return what a field holds with references followed, and whether null is allowed beside it."""
    if "$ref" in field:
        return definitions[field["$ref"].rpartition("/")[2]], False
    if "anyOf" in field:
        others = [one for one in field["anyOf"] if one.get("type") != "null"]
        inner = _resolved(others[0], definitions)[0] if len(others) == 1 else {"anyOf": others}
        return inner, len(others) < len(field["anyOf"])
    return field, False


def _kind(field: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return "one of " + ", ".join(f"`{value}`" for value in field["enum"])
    if "anyOf" in field:
        return " or ".join(_kind(_resolved(one, definitions)[0], definitions) for one in field["anyOf"])
    if field.get("type") == "array":
        entries = _kind(_resolved(field["items"], definitions)[0], definitions) if "items" in field else "values"
        return f"list of {entries}"
    bounds = [text.format(field[name]) for name, text in _BOUNDS.items() if name in field]
    return " ".join([_KINDS.get(str(field.get("type")), "value"), *bounds])


def _yaml(value: Any) -> str:
    return "null" if value is None else json.dumps(value) if not isinstance(value, str) else value
