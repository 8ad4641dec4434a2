"""The JSON Schema of recipes, for editors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic.json_schema import models_json_schema

from compress import stages as stage_table
from compress.plugins import available_plugins, find_plugin
from compress.recipe.model import Recipe

# Fields that are gone once a recipe is read: see `compress.recipe.variants`.
_OF_VARIANTS = {
    "base": {"type": "string", "description": "Recipe that this one changes; a path relative to this file."},
    "defaults": {"type": "object", "description": "Fields for every stage that has them and sets none of its own."},
}


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
    definitions = shared.get("$defs", {})
    detector_rules, rules = [], []
    for name, plugin in classes.items():
        config = definitions[reference[plugin.CONFIG]["$ref"].rpartition("/")[2]]
        config["properties"] = {"plugin": {"const": name}, **config.get("properties", {})}
        detector_rules.append(_when("plugin", name, reference[plugin.CONFIG]))
        matches = {"properties": {"detector": {"properties": {"plugin": {"const": name}}}}}
        rules.append({"if": matches, "then": {"properties": {"data": reference[plugin.DATA]}}})
    properties["detector"] = {
        "type": "object",
        "properties": {"plugin": {"type": "string", "examples": names}},
        "allOf": detector_rules,
    }
    properties["stages"] = _stages(properties["stages"], reference)
    properties |= _OF_VARIANTS
    whole = {"required": schema.pop("required"), "properties": {"detector": {"required": ["plugin"]}}}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **{key: value for key, value in schema.items() if key != "$defs"},
        "allOf": [*rules, {"if": {"not": {"required": ["base"]}}, "then": whole}],
        "$defs": definitions,
    }


def _stages(listed: dict[str, Any], reference: dict[Any, Any]) -> dict[str, Any]:
    """Return the schema of `stages`: a list of stages, or in a variant the changes by label."""
    entry = {
        "type": "object",
        "required": ["stage"],
        "properties": {"stage": {"enum": list(stage_table.STAGES)}},
        "allOf": [_when("stage", name, reference[stage]) for name, stage in stage_table.STAGES.items()],
    }
    by_label = {"type": "object", "additionalProperties": {"type": ["object", "null"]}}
    meaning = f"{listed.pop('description')} With `base`: a list in place of the base's, or label -> changes."
    return {"description": meaning, "anyOf": [{**listed, "items": entry}, by_label]}


def _when(field: str, name: str, then: dict[str, Any]) -> dict[str, Any]:
    return {"if": {"properties": {field: {"const": name}}, "required": [field]}, "then": then}
