"""`--set path=value`: one field of a recipe is given on the command line."""

from __future__ import annotations

import re
from typing import Any

from compress.errors import RecipeError, printable, suggest
from compress.recipe.yaml_reader import MOST_LEVELS, parse_yaml
from compress.recipe.yaml_source import DataPath, Document, Place, Problem

_SHOWN = 200  # characters of an argument in a message
_TOKEN = re.compile(r"\.?([^.\[\]=]+)|\[(\d{1,9})\]")


def apply_override(document: Document, argument: str) -> None:
    """Apply one `--set path=value` to a document in place; mistakes go to its problems.

    Args:
        document: the recipe as read.
        argument: e.g. 'data.root=/data', 'stages[2].sparsity=0.5' or 'stages.qat.training.epochs=1'
            (a list entry may be named by its `name:` or `stage:`). The value is YAML.
    """
    shown = argument if len(argument) <= _SHOWN else f"{argument[:_SHOWN]}..."
    place = Place(f"--set {shown}")
    path_part, equals, value_part = argument.partition("=")
    tokens = _tokens(path_part)
    if not equals or not tokens:
        document.problems.append(Problem(place, (), "not an override. Expected path=value, such as data.root=/data."))
        return
    try:
        value = parse_yaml(value_part, place.source, has_lines=False)
    except RecipeError as error:
        what = error.problems[0].removeprefix(printable(f"{place}: "))
        document.problems.append(Problem(place, (), f"{what} Quote the value."))
        return
    document.problems += [Problem(place, (*tokens, *problem.path), problem.text) for problem in value.problems]
    if len(tokens) > MOST_LEVELS:
        document.problems.append(Problem(place, (), f"a path of more than {MOST_LEVELS} fields."))
        return
    node: Any = document.data
    path: DataPath = ()
    for position, token in enumerate(tokens):
        step, text = _step(node, token)
        if step is None:
            document.problems.append(Problem(place, path, text))
            return
        path = (*path, step)
        if position == len(tokens) - 1:
            node[step] = value.data
        elif isinstance(node, dict) and node.get(step) is None:
            node[step] = {}
            document.keys[path] = document.values[path] = place
        node = node[step]
    for places in (document.keys, document.values):
        for known in [known for known in places if known[: len(path)] == path]:
            del places[known]
        places[path] = place


def _tokens(text: str) -> list[str | int]:
    tokens: list[str | int] = []
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            return []
        tokens.append(match[1].strip() if match[1] is not None else int(match[2]))
        position = match.end()
    return tokens


def _step(node: Any, token: str | int) -> tuple[str | int | None, str]:
    """Return the key or index that a token means in a container, or (None, why not)."""
    if isinstance(node, dict):
        return str(token), ""
    if not isinstance(node, list):
        return None, f"{node!r} has no field {token!r}: it is not a mapping."
    if isinstance(token, str) and token.isdecimal() and len(token) < 10:
        token = int(token)
    if isinstance(token, int):
        if token < len(node):
            return token, ""
        return None, f"there is no entry {token}. The list has {len(node)}, counted from 0."
    labels = [entry.get("name") or entry.get("stage") if isinstance(entry, dict) else None for entry in node]
    found = [index for index, label in enumerate(labels) if label == token]
    if len(found) == 1:
        return found[0], ""
    if found:
        return None, f"{token!r} names {len(found)} entries. Use an index, such as [{found[0]}]."
    return None, f"there is no entry named {token!r}.{suggest(str(token), [str(label) for label in labels if label])}"
