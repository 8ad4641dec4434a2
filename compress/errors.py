"""Every error that a user can cause, one tree, one exit code each.

A message says where, what is wrong with the value, what was expected and what to do,
in two sentences at most. Names that come from files of strangers are shown by `printable`: they can hold escapes that
move the cursor, line ends that forge a message, or marks that turn the direction of writing.
"""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Sequence
from typing import Any

_MOST_BITS = 200  # of a number that a message shows
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxdict = 3, 4, 3


class CompressError(Exception):
    """Base of all errors that Krimp raises on purpose."""

    exit_code = 1


class RecipeError(CompressError):
    """The recipe is wrong; `problems` holds one 'file:line:column: text' per mistake."""

    exit_code = 2

    def __init__(self, problems: str | list[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class DetectorError(CompressError):
    """A detector plug-in, its data or its checkpoint is missing or wrong."""

    exit_code = 3


class DataError(DetectorError):
    """A data folder, image or label file is missing or wrong."""


class StageError(CompressError):
    """A stage could not do its work or one of its checks failed."""

    exit_code = 4


class CodecError(CompressError):
    """A .krimp or ONNX file is damaged, truncated or too new."""

    exit_code = 5


def suggest(name: str, valid: Sequence[str]) -> str:
    """Return ' Did you mean ...?' with the nearest valid name, else the list of valid names."""
    near = difflib.get_close_matches(name, valid, n=1, cutoff=0.55)
    if near:
        return f" Did you mean {near[0]!r}?"
    return f" Expected one of: {', '.join(valid)}." if valid else ""


def printable(text: object) -> str:
    r"""Return text in one line; letters that a terminal acts upon are shown by their numbers.

    >>> printable("w\x1b[2J\nfine")
    'w\\x1b[2J\\nfine'
    """
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii") for letter in str(text)
    )


def printable_lines(text: object) -> str:
    r"""Return a message of one or more lines; what a terminal acts upon, line ends apart, is shown by its number.

    >>> printable_lines("two\nlines\x07")
    'two\nlines\\x07'
    """
    return "\n".join(printable(line) for line in str(text).split("\n"))


def shortened(value: Any) -> str:
    """Return a value as code for a message, its middle left out where it is long."""
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        return f"a number of {value.bit_length()} bits"
    return printable(_SHORT.repr(value))
