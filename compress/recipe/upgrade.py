"""Rewrite a recipe of format version 1 as one of version 2; comments stay, the result means the same."""

from __future__ import annotations

import io
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from compress.errors import RecipeError
from compress.recipe.version import BLOCK, CURRENT, is_current, lift_training, training_name
from compress.recipe.yaml_reader import parse_yaml

_ON_ONE_LINE = 6  # fields of a block that stay readable on one line


def upgrade_text(text: str, source: str) -> str:
    """Return a recipe as one of the current version; the text as it came if it is one already.

    Args:
        text: the recipe, YAML.
        source: its name, for messages.

    Raises:
        RecipeError: the text is not a recipe in YAML, or it could not be rewritten without changing its meaning.
    """
    before = parse_yaml(text, source)
    if before.problems:
        raise RecipeError([str(problem) for problem in before.problems])
    if not isinstance(before.data, dict):
        raise RecipeError(f"{source}:1:1: expected the fields of a recipe. Nothing was written.")
    if is_current(before.data):
        return text
    yaml = YAML()
    yaml.width = 160
    yaml.representer.add_representer(type(None), lambda to, _: to.represent_scalar("tag:yaml.org,2002:null", "null"))
    yaml.preserve_quotes = True
    yaml.indent(mapping=2, sequence=4, offset=2)
    try:
        recipe = yaml.load(text)
    except Exception as error:  # a date that is none, say: read as text above
        raise RecipeError(f"{source}: cannot be rewritten: {type(error).__name__}. Nothing was written.") from error
    if "format_version" in recipe:
        recipe["format_version"] = CURRENT
    else:
        recipe.insert(0, "format_version", CURRENT)
    stages = recipe.get("stages")
    for entry in stages if isinstance(stages, list) else ():
        if isinstance(entry, CommentedMap):
            _move(entry)
    out = io.StringIO()
    yaml.dump(recipe, out)
    _same_meaning(before.data, out.getvalue(), source)
    return out.getvalue()


def _move(entry: CommentedMap) -> None:
    """Put the flat training fields of a stage into its `training`, where the first of them stood."""
    texts = [key for key in entry if isinstance(key, str)]  # a key may be a number here, or nothing
    names = {key: name for key in texts if (name := training_name(entry, key)) is not None}
    if not names or not isinstance(entry.get(BLOCK, {}), dict):
        return
    first = list(entry).index(next(iter(names)))
    block = entry.get(BLOCK)
    if block is None:
        block = CommentedMap()
        if entry.fa.flow_style():  # a line a field: as a whole it would be too long to read
            entry.fa.set_block_style()
            if len(names) <= _ON_ONE_LINE:
                block.fa.set_flow_style()
    for key, name in names.items():
        block[name] = entry[key]
        if key in entry.ca.items:
            block.ca.items[name] = entry.ca.items.pop(key)
        del entry[key]
    if BLOCK not in entry:
        entry.insert(first, BLOCK, block)


def _same_meaning(before: dict[str, Any], text: str, source: str) -> None:
    """Refuse a rewritten text that reads differently from the recipe it was made of."""
    old, new = parse_yaml("{}", source), parse_yaml(text, source)
    old.data = before
    lift_training(old)
    if {**old.data, "format_version": CURRENT} != new.data or new.problems:
        raise RecipeError(
            f"{source}: cannot be rewritten without changing its meaning. Please report it; nothing was written."
        )
