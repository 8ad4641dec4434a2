"""Rows that survive a kill: one line each, and what stands in the file is not measured again."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from compress.progress import say, track
from compress.sensitivity.steps import Step
from compress.whole_file import write_whole

T = TypeVar("T")
Rows = dict[str, dict[str, Any]]
BLOCK = 12  # steps that share one pass of the unchanged network; a kill costs so many at most


class Watch(Protocol):
    """Passes items on and says how far the work is."""

    def __call__(self, items: Iterable[T]) -> Iterable[T]: ...  # noqa: D102


class Ledger:
    """Rows by a key, appended to a file; a line that a kill cut short is passed over."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.rows: Rows = {}
        whole = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []
        for line in whole:
            if (row := _parsed(line)) is not None:
                self.rows[row[0]] = row[1]
        if path.is_file():  # without what was cut short, so that the next line begins at a beginning
            write_whole(path, "".join(f"{self._line(key)}\n" for key in self.rows))

    def add(self, found: Mapping[str, Mapping[str, Any]]) -> None:
        """Add rows, and return when they are on the disk."""
        self.rows.update({key: dict(values) for key, values in found.items()})
        with self._path.open("a", encoding="utf-8") as file:
            file.write("".join(f"{self._line(key)}\n" for key in found))
            file.flush()
            os.fsync(file.fileno())

    def _line(self, key: str) -> str:
        return json.dumps({"key": key, "values": self.rows[key]})


def measured(
    path: Path, steps: Sequence[Step], measure: Callable[[list[Step], Watch], Rows], *, images: int, label: str
) -> Rows:
    """Measure the steps that are not in a ledger yet, block by block.

    Args:
        path: of the ledger.
        steps: neighbours share a block.
        measure: gets the steps of a block and what its images go through; returns the rows, of the steps at least.
        images: of a block.
        label: of what is printed.

    Returns:
        Key of a step -> its row.
    """
    ledger = Ledger(path)
    left = [step for step in steps if step.key not in ledger.rows]
    if len(left) < len(steps):
        say(f"{label}: {len(steps) - len(left)} of {len(steps)} steps were measured before")
    blocks = [left[start : start + BLOCK] for start in range(0, len(left), BLOCK)]
    ticks = iter(track(range(len(blocks) * images), f"{label}: {len(left)} steps, {BLOCK} together, by images"))
    next(ticks, None)

    def watch(items: Iterable[T]) -> Iterable[T]:
        for item in items:
            yield item
            next(ticks, None)

    for block in blocks:
        ledger.add(measure(block, watch))
    return ledger.rows


def kept(path: Path, make: Callable[[], Any]) -> Any:
    """Return the JSON of a file, made and written if it is not there."""
    if not path.is_file():
        write_whole(path, json.dumps(make()))
    return json.loads(path.read_text(encoding="utf-8"))


def _parsed(line: bytes) -> tuple[str, dict[str, Any]] | None:
    """Return key and values of a line, None if it is no row."""
    try:
        row = json.loads(line)
        return str(row["key"]), dict(row["values"])
    except (ValueError, TypeError, KeyError):
        return None
