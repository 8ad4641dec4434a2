"""Plain data out of YAML that remembers where every key and value stands, and what is wrong with it.

Nothing here knows what a recipe is. Mistakes are collected, not raised, so that the caller can report all of them at
once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from compress.errors import printable

DataPath = tuple[str | int, ...]


@dataclass(frozen=True)
class Place:
    """A spot in a file (line and column from 1), or a whole source such as one `--set` argument."""

    source: str
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        return self.source if self.line is None else f"{self.source}:{self.line}:{self.column}"


@dataclass(frozen=True)
class Problem:
    """One mistake: where it stands, the path of the field, what is wrong and what was expected."""

    place: Place
    path: DataPath
    text: str

    def __str__(self) -> str:
        name = path_text(self.path)
        return printable(f"{self.place}: {name}: {self.text}" if name else f"{self.place}: {self.text}")


@dataclass
class Document:
    """Plain data with the places of its keys and values, and the problems met while reading."""

    data: Any
    source: str
    keys: dict[DataPath, Place] = field(default_factory=dict)
    values: dict[DataPath, Place] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    shown: dict[DataPath, DataPath] = field(default_factory=dict)  # moved path -> the one that the file has

    def at(self, path: DataPath) -> Any:
        """Return what lies at a path."""
        return lookup(self.data, path)

    def move(self, old: DataPath, new: DataPath) -> None:
        """Note that what stood at a path is at another one now: its places go along, and messages name the old path."""
        for places in (self.keys, self.values):
            for path in [path for path in places if path[: len(old)] == old]:
                places[(*new, *path[len(old) :])] = places.pop(path)
        self.shown[new] = old

    def adopt(self, path: DataPath, other: Document, source: DataPath) -> None:
        """Take the places of what lies at a path of another document for what was put to `path` here."""
        for places, theirs in ((self.keys, other.keys), (self.values, other.values)):
            for known in [known for known in places if known[: len(path)] == path]:
                del places[known]
            places.update(
                {(*path, *p[len(source) :]): q for p, q in list(theirs.items()) if p[: len(source)] == source}
            )
        self.shown = {p: q for p, q in self.shown.items() if p[: len(path)] != path}
        moved = {p: q for p, q in other.shown.items() if p[: len(source)] == source}
        self.shown.update({(*path, *p[len(source) :]): q for p, q in moved.items()})

    def as_written(self, problem: Problem) -> Problem:
        """Return a problem under the path that its file has."""
        for length in range(len(problem.path), 0, -1):
            old = self.shown.get(problem.path[:length])
            if old is not None:
                return replace(problem, path=(*old, *problem.path[length:]))
        return problem

    def value_place(self, path: DataPath) -> Place:
        """Return the place of a value, or of the nearest enclosing one that is in the source."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.values:
                return self.values[path[:length]]
        return Place(self.source, 1, 1)

    def key_place(self, path: DataPath) -> Place:
        """Return the place of a key; for list entries and absent keys that of the value."""
        return self.keys.get(path) or self.value_place(path)

    def find_scalar(self, under: DataPath, value: str) -> DataPath | None:
        """Return the path of the first scalar equal to `value` below a path, or None."""
        for path, found in walk(lookup(self.data, under), under):
            is_own = path[:-1] == under and path[-1] in ("stage", "name")
            if found == value and isinstance(found, str) and not is_own:
                return path
        return None


def path_text(path: DataPath) -> str:
    """Return a path as people write it: ('stages', 2, 'round_to') -> 'stages[2].round_to'."""
    text = ""
    for item in path:
        text += f"[{item}]" if isinstance(item, int) else f".{item}" if text else str(item)
    return text


def lookup(data: Any, path: DataPath) -> Any:
    """Return what lies at a path of nested dicts and lists; KeyError or IndexError if nothing does."""
    for item in path:
        data = data[item]
    return data


def walk(data: Any, path: DataPath = ()) -> Iterator[tuple[DataPath, Any]]:
    """Yield (path, scalar) of everything below, in order."""
    if isinstance(data, dict):
        for key, value in data.items():
            yield from walk(value, (*path, key))
    elif isinstance(data, list):
        for index, value in enumerate(data):
            yield from walk(value, (*path, index))
    else:
        yield path, data
