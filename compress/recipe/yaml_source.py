"""Read YAML 1.2 into plain data and remember where every key and value stands.

Nothing here knows what a recipe is. Duplicate keys are collected, not raised, so that the caller
can report every mistake of a file at once.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import ConstructorError
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from compress.errors import RecipeError, suggest

DataPath = tuple[str | int, ...]

_TOKEN = re.compile(r"\.?([^.\[\]=]+)|\[(\d+)\]")


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
        return f"{self.place}: {name}: {self.text}" if name else f"{self.place}: {self.text}"


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


def parse_yaml(text: str, source: str, *, has_lines: bool = True) -> Document:
    """Parse one YAML 1.2 document.

    Args:
        text: the document.
        source: file name (or `--set` argument) that starts each message.
        has_lines: False if `source` alone says where (an argument of the command line).

    Returns:
        The document; keys given twice are in its `problems`, the first value is kept.

    Raises:
        RecipeError: the text is not YAML; nothing more can then be said about it.
    """
    yaml = YAML(typ="safe", pure=True)
    document = Document(None, source)
    try:
        root = yaml.compose(io.StringIO(text))
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(source, mark.line + 1, mark.column + 1) if mark and has_lines else Place(source)
        raise RecipeError(f"{place}: not valid YAML: {error.problem or error.context}.") from error
    except YAMLError as error:
        raise RecipeError(f"{source}: not valid YAML: {' '.join(str(error).split())}") from error
    if root is not None:
        reader = _Reader(yaml, document, has_lines)
        document.data = reader.read(root, ())
    return document


class _Reader:
    """Turns composed nodes into data; one instance reads one document."""

    def __init__(self, yaml: YAML, document: Document, has_lines: bool) -> None:
        self._constructor = yaml.Constructor(loader=yaml)
        self._document = document
        self._has_lines = has_lines
        self._open: set[int] = set()

    def read(self, node: Node, path: DataPath) -> Any:
        """Return the data of a node and note its place."""
        document = self._document
        document.values[path] = self._place(node)
        if isinstance(node, ScalarNode):
            return self._scalar(node, path)
        if id(node) in self._open:
            document.problems.append(Problem(self._place(node), path, "an alias refers to what contains it."))
            return None
        self._open.add(id(node))
        data: Any = None
        if isinstance(node, SequenceNode):
            data = self._sequence(node, path)
        elif isinstance(node, MappingNode):
            data = self._mapping(node, path)
        self._open.remove(id(node))
        return data

    def _place(self, node: Node) -> Place:
        source = self._document.source
        mark = node.start_mark
        return Place(source, mark.line + 1, mark.column + 1) if self._has_lines else Place(source)

    def _scalar(self, node: ScalarNode, path: DataPath) -> Any:
        try:
            value = self._constructor.construct_object(node)
        except (ConstructorError, ValueError) as error:
            what = getattr(error, "problem", None) or str(error)
            self._document.problems.append(Problem(self._place(node), path, f"cannot read {node.value!r}: {what}."))
            return None
        if isinstance(value, float) and not math.isfinite(value):
            text = f"{node.value!r}: expected a finite number."
            self._document.problems.append(Problem(self._place(node), path, text))
        return value

    def _sequence(self, node: SequenceNode, path: DataPath) -> list[Any]:
        return [self.read(item, (*path, index)) for index, item in enumerate(node.value)]

    def _mapping(self, node: MappingNode, path: DataPath) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, ScalarNode):
                self._document.problems.append(Problem(self._place(key_node), path, "a key must be plain text."))
                continue
            key, below = key_node.value, (*path, key_node.value)
            if key in data:
                first = self._document.keys[below]
                where = f" (first on line {first.line})" if first.line else ""
                text = f"this field is given twice{where}. Remove one."
                self._document.problems.append(Problem(self._place(key_node), below, text))
                continue
            self._document.keys[below] = self._place(key_node)
            data[key] = self.read(value_node, below)
        return data


def apply_override(document: Document, argument: str) -> None:
    """Apply one `--set path=value` to a document in place; mistakes go to its problems.

    Args:
        document: the recipe as read.
        argument: e.g. 'data.root=/data', 'stages[2].sparsity=0.5' or 'stages.qat.training.epochs=1'
            (a list entry may be named by its `name:` or `stage:`). The value is YAML.
    """
    place = Place(f"--set {argument}")
    path_part, equals, value_part = argument.partition("=")
    tokens = _tokens(path_part)
    if not equals or not tokens:
        document.problems.append(Problem(place, (), "not an override. Expected path=value, such as data.root=/data."))
        return
    try:
        value = parse_yaml(value_part, place.source, has_lines=False)
    except RecipeError as error:
        document.problems.append(Problem(place, (), f"{error.problems[0].split(': ', 1)[1]} Quote the value."))
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
    if isinstance(token, str) and token.isdigit():
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
