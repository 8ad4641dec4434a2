"""Recipes of format version 1: their flat training fields are moved into `training:`, and told of by their old names.

In version 1 a stage had the training fields beside its own, two of them under other names, because `epochs` and
`schedule` meant something else there.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from compress import stages as stage_table
from compress.recipe.yaml_source import DataPath, Document
from compress.stage import Stage
from compress.training.settings import TrainingFields

CURRENT = 2
BLOCK = "training"
# Stage -> name in version 1 -> name inside `training:`, where they differ.
OLD_NAMES: Mapping[str, Mapping[str, str]] = {
    "prune_structured": {"recovery_epochs": "epochs"},
    "prune_unstructured": {"lr_schedule": "schedule"},
}


def is_current(data: Any) -> bool:
    """Return whether a recipe says that it is of the current version; one that says nothing may use either form."""
    return isinstance(data, dict) and data.get("format_version") == CURRENT


def training_name(entry: Mapping[str, Any], key: str) -> str | None:
    """Return the name inside `training:` of a field that stands flat in a stage of version 1, or None.

    Args:
        entry: the stage as written.
        key: one of its keys. A misspelt one counts as what it is nearest to.
    """
    stage = stage_table.STAGES.get(str(entry.get("stage")))
    if stage is None or BLOCK not in stage.model_fields:
        return None
    own = own_names(stage)
    old = OLD_NAMES.get(stage.model_fields["stage"].default, {})
    if key in own:
        return None
    names = {name: name for name in TrainingFields.model_fields if name not in old.values()} | dict(old)
    names |= {name: name for name in TrainingFields.model_fields if name not in own}
    near = key if key in names else next(iter(difflib.get_close_matches(key, [*own, *names], n=1, cutoff=0.55)), "")
    return names.get(key, key) if near in names else None


def own_names(stage: type[Stage]) -> list[str]:
    """Return the names of a stage's fields as recipes write them."""
    return [field.alias or name for name, field in stage.model_fields.items()]


def lift_training(document: Document) -> None:
    """Move flat training fields of every stage into its `training:`, in place; the document remembers where they stood.

    Args:
        document: a recipe of any version; nothing happens to one that says it is current.
    """
    if is_current(document.data) or not isinstance(document.data, dict):
        return
    stages = document.data.get("stages")
    entries = dict(enumerate(stages)) if isinstance(stages, list) else {}
    for index, entry in entries.items():
        if not isinstance(entry, dict) or not isinstance(entry.get(BLOCK, {}), dict):
            continue
        at: DataPath = ("stages", index)
        for key in list(entry):
            name = training_name(entry, key)
            if name is not None:
                entry.setdefault(BLOCK, {})[name] = entry.pop(key)
                document.move((*at, key), (*at, BLOCK, name))
        if (*at, BLOCK) not in document.keys:
            document.shown.setdefault((*at, BLOCK), at)


def flat_training(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a stage with those of `training:` beside them, as version 1 wrote them.

    Cache keys are made of this form, so that what was trained under version 1 is not trained again.
    """
    block = fields.get(BLOCK)
    if not isinstance(block, Mapping):
        return dict(fields)
    old = {new: name for name, new in OLD_NAMES.get(str(fields.get("stage")), {}).items()}
    flat = {old.get(str(name), str(name)): value for name, value in block.items()}
    return {name: value for name, value in fields.items() if name != BLOCK} | flat
