"""What Ultralytics writes into the metadata of its ONNX files: the task and the names of the classes."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass

from compress.errors import printable

_MOST_LETTERS = 100_000
_MOST_CLASSES = 10_000
_LONGEST_NAME = 256


@dataclass(frozen=True)
class ExporterFacts:
    """What a file says of itself beside its graph.

    Attributes:
        task: 'detect', 'obb', 'segment', ...; None if it does not say.
        classes: names by label; empty if it does not say.
    """

    task: str | None = None
    classes: tuple[str, ...] = ()


def exporter_facts(metadata: Mapping[str, str]) -> ExporterFacts:
    """Return what the properties of an ONNX file say; what cannot be read is left out.

    Args:
        metadata: the properties, text by text: `task`, and `names` as a Python dictionary from number to name.
    """
    task = metadata.get("task")
    return ExporterFacts(printable(task[:_LONGEST_NAME]) if task else None, _names(metadata.get("names", "")))


def _names(text: str) -> tuple[str, ...]:
    """Return the names of a dictionary of literals {0: 'person', ...}, or none."""
    if not 0 < len(text) <= _MOST_LETTERS:
        return ()
    try:
        table = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return ()
    if not isinstance(table, dict) or not 0 < len(table) <= _MOST_CLASSES or set(table) != set(range(len(table))):
        return ()
    names = [table[label] for label in range(len(table))]
    if any(not isinstance(name, str) or not name.strip() or len(name) > _LONGEST_NAME for name in names):
        return ()
    return tuple(printable(name) for name in names)
