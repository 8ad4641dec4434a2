"""Read YAML 1.2 into plain data, within limits: a recipe of a stranger may be made to take a machine.

A file has a largest size, depth and number of values, counted as the aliases in it make them; a text and a number have
a largest length. What is beyond is a RecipeError before it costs time or memory. Tags build nothing: a value is text, a
number, true, false or null, whatever stands before it.
"""

from __future__ import annotations

import io
import math
import unicodedata
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from compress.errors import RecipeError, printable, shortened
from compress.recipe.yaml_source import DataPath, Document, Place, Problem

MOST_BYTES = 128 * 1024  # of a file; the shipped recipes have 2 to 5 kB
MOST_LEVELS = 32
MOST_VALUES = 5_000  # keys, values, lists and mappings; a quarter of a second of reading
MOST_FIELDS = 1_500  # of one mapping
MOST_CHARACTERS = 4_096  # of a text
MOST_DIGITS = 40  # of a number as it is written
LARGEST_INTEGER = 2**63 - 1

_CORE = "tag:yaml.org,2002:"
_BUILT = frozenset({"null", "bool", "int", "float"})
_TEXT = frozenset({"str", "timestamp", "value", "merge"})  # a date is text in YAML 1.2


def parse_yaml(text: str, source: str, *, has_lines: bool = True) -> Document:
    """Parse one YAML 1.2 document.

    Args:
        text: the document.
        source: file name (or `--set` argument) that starts each message.
        has_lines: False if `source` alone says where (an argument of the command line).

    Returns:
        The document; keys given twice are in its `problems`, the first value is kept.

    Raises:
        RecipeError: the text is not YAML, or is beyond a limit; nothing more can then be said about it.
    """
    if len(text) > MOST_BYTES:
        raise RecipeError(too_large(source))
    yaml = YAML(typ="safe", pure=True)
    yaml.Composer = _LimitedComposer
    document = Document(None, source)
    place = Place(source)
    try:
        root = yaml.compose(io.StringIO(text))
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        if mark and has_lines:
            place = Place(source, mark.line + 1, mark.column + 1)
        raise RecipeError(printable(f"{place}: not valid YAML: {error.problem or error.context}.")) from error
    except YAMLError as error:
        raise RecipeError(printable(f"{place}: not valid YAML: {' '.join(str(error).split())}")) from error
    except _BeyondLimitError as error:
        raise RecipeError(str(_placed(error, source, has_lines))) from error
    except Exception as error:  # the scanner of ruamel.yaml trips over some texts that are no YAML
        raise RecipeError(printable(f"{place}: not valid YAML: {type(error).__name__}: {error}.")) from error
    if root is not None:
        try:
            document.data = _Reader(yaml, document, has_lines).read(root, ())
        except _BeyondLimitError as error:
            raise RecipeError(str(_placed(error, source, has_lines))) from error
    return document


def too_large(source: str) -> str:
    """Return the message for a file of more than `MOST_BYTES`."""
    return f"{source}: larger than {MOST_BYTES // 1024} kB, expected a recipe. Name another file."


class _BeyondLimitError(Exception):
    """A limit was met; `mark` says where."""

    def __init__(self, text: str, mark: Any) -> None:
        super().__init__(text)
        self.mark = mark


def _placed(error: _BeyondLimitError, source: str, has_lines: bool) -> Problem:
    place = Place(source, error.mark.line + 1, error.mark.column + 1) if has_lines else Place(source)
    return Problem(place, (), str(error))


class _LimitedComposer(Composer):
    """Stops at the first value that is too many or too deep, before the rest is read."""

    def __init__(self, loader: Any = None) -> None:
        super().__init__(loader=loader)
        self.warn_double_anchors = False
        self._levels = 0
        self._values = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Return the next node."""
        mark = self.parser.peek_event().start_mark
        self._values += 1
        if self._values > MOST_VALUES:
            raise _BeyondLimitError(_too_many(), mark)
        if self._levels >= MOST_LEVELS:
            raise _BeyondLimitError(f"nested deeper than {MOST_LEVELS} levels. Expected a recipe.", mark)
        self._levels += 1
        node = super().compose_node(parent, index)
        self._levels -= 1
        return node


def _too_many() -> str:
    return f"more than {MOST_VALUES:,} values, those that aliases repeat included. Expected a recipe."


class _Reader:
    """Turns composed nodes into data; one instance reads one document."""

    def __init__(self, yaml: YAML, document: Document, has_lines: bool) -> None:
        self._constructor = yaml.Constructor(loader=yaml)
        self._document = document
        self._has_lines = has_lines
        self._open: set[int] = set()
        self._values = 0

    def read(self, node: Node, path: DataPath) -> Any:
        """Return the data of a node and note its place."""
        document = self._document
        document.values[path] = self._place(node)
        self._values += 1
        if self._values > MOST_VALUES:
            raise _BeyondLimitError(_too_many(), node.start_mark)
        if len(path) > MOST_LEVELS:
            raise _BeyondLimitError(f"aliases nest deeper than {MOST_LEVELS} levels.", node.start_mark)
        if isinstance(node, ScalarNode):
            return self._scalar(node, path)
        if id(node) in self._open:
            self._problem(node, path, "an alias refers to what contains it.")
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

    def _problem(self, node: Node, path: DataPath, text: str) -> None:
        self._document.problems.append(Problem(self._place(node), path, text))

    def _scalar(self, node: ScalarNode, path: DataPath) -> Any:
        kind = str(node.tag).removeprefix(_CORE)
        fault = text_fault(node.value)
        if fault is None and kind not in _BUILT | _TEXT:
            fault = (
                f"the tag {shortened(str(node.tag))} builds nothing here. Write text, a number, true, false or null."
            )
        if fault is None and kind in ("int", "float") and len(node.value) > MOST_DIGITS:
            fault = f"a number of {len(node.value):,} characters. Expected at most {MOST_DIGITS}."
        if fault is not None:
            self._problem(node, path, fault)
            return None
        return node.value if kind in _TEXT else self._built(node, kind, path)

    def _built(self, node: ScalarNode, kind: str, path: DataPath) -> Any:
        try:
            value = self._constructor.construct_object(node)
        except Exception as error:  # noqa: BLE001 whatever a constructor of ruamel.yaml meets where tag and text differ
            what = getattr(error, "problem", None) or f"it is no {kind}"
            self._problem(node, path, f"cannot read {node.value!r}: {what}.")
            return None
        if isinstance(value, float) and not math.isfinite(value):
            self._problem(node, path, f"{node.value!r}: expected a finite number.")
        elif isinstance(value, int) and abs(value) > LARGEST_INTEGER:
            self._problem(node, path, f"{node.value!r}: expected a number of at most {LARGEST_INTEGER}.")
            return None
        return value

    def _sequence(self, node: SequenceNode, path: DataPath) -> list[Any]:
        self._check_tag(node, path)
        return [self.read(item, (*path, index)) for index, item in enumerate(node.value)]

    def _mapping(self, node: MappingNode, path: DataPath) -> dict[str, Any]:
        self._check_tag(node, path)
        if len(node.value) > MOST_FIELDS:
            raise _BeyondLimitError(f"a mapping of more than {MOST_FIELDS:,} fields.", node.start_mark)
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            fault = text_fault(key_node.value) if isinstance(key_node, ScalarNode) else "a key must be plain text."
            if fault is not None:
                self._problem(key_node, path, fault)
                continue
            key, below = key_node.value, (*path, key_node.value)
            if key in data:
                first = self._document.keys[below]
                where = f" (first on line {first.line})" if first.line else ""
                self._problem(key_node, below, f"this field is given twice{where}. Remove one.")
                continue
            self._document.keys[below] = self._place(key_node)
            data[key] = self.read(value_node, below)
        return data

    def _check_tag(self, node: Node, path: DataPath) -> None:
        if str(node.tag).removeprefix(_CORE) not in ("seq", "map"):
            self._problem(node, path, f"the tag {shortened(str(node.tag))} builds nothing here. Leave it out.")


def text_fault(text: str) -> str | None:
    """Return what is wrong with a key or a text: its length, or what is no letter and no blank; else None."""
    if len(text) > MOST_CHARACTERS:
        return f"a text of {len(text):,} characters. Expected at most {MOST_CHARACTERS:,}."
    for letter in text:
        if letter not in "\n\t" and unicodedata.category(letter) in ("Cc", "Cs"):
            return f"the text holds the control character U+{ord(letter):04X}. Remove it."
    return None
