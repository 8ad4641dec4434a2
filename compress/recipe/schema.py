"""The JSON Schema of recipes, for editors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic.json_schema import models_json_schema

from compress import stages as stage_table
from compress.plugins import DATASETS, available_plugins, find_dataset, find_plugin
from compress.recipe.goal import Goal
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
    models: list[Any] = [*stage_table.STAGES.values(), Goal]
    defaults = {name: plugin.DATA for name, plugin in classes.items()}
    formats = {name: find_dataset(name) for name in dict.fromkeys([*available_plugins(DATASETS), *defaults.values()])}
    models += [plugin.CONFIG for plugin in classes.values()] + [dataset.CONFIG for dataset in formats.values()]
    references, shared = models_json_schema([(model, "validation") for model in dict.fromkeys(models)], by_alias=True)
    reference = {model: references[model, "validation"] for model in models}
    schema = Recipe.model_json_schema()
    properties = schema["properties"]
    definitions = shared.get("$defs", {})
    choices = [("plugin", name, plugin.CONFIG) for name, plugin in classes.items()]
    choices += [("format", name, dataset.CONFIG) for name, dataset in formats.items()]
    for field, name, model in choices:
        config = definitions[reference[model]["$ref"].rpartition("/")[2]]
        config["properties"] = {field: {"const": name}, **config.get("properties", {})}
    detector_rules = [_when("plugin", name, reference[plugin.CONFIG]) for name, plugin in classes.items()]
    format_rules = [_when("format", name, reference[dataset.CONFIG]) for name, dataset in formats.items()]
    default_rules = [
        {
            "if": {
                "properties": {
                    "detector": {"properties": {"plugin": {"const": name}}},
                    "data": {"not": {"required": ["format"]}},
                }
            },
            "then": {"properties": {"data": reference[formats[default].CONFIG]}},
        }
        for name, default in defaults.items()
    ]
    properties["detector"] = {
        "type": "object",
        "properties": {"plugin": {"type": "string", "examples": names}},
        "allOf": detector_rules,
    }
    properties["data"] = {
        "type": "object",
        "properties": {"format": {"type": "string", "examples": list(formats)}},
        "allOf": format_rules,
    }
    properties["stages"] = _stages(properties["stages"], reference)
    properties["goal"] = {**properties["goal"], "anyOf": [reference[Goal], {"type": "null"}]}
    properties |= _OF_VARIANTS
    required = [name for name in schema.pop("required") if name != "stages"]
    planned = {"anyOf": [{"required": ["stages"]}, {"required": ["goal"]}]}
    whole = {"required": required, "properties": {"detector": {"required": ["plugin"]}}, **planned}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **{key: value for key, value in schema.items() if key != "$defs"},
        "allOf": [*default_rules, {"if": {"not": {"required": ["base"]}}, "then": whole}],
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
