"""Every error that a user can cause, one tree, one exit code each.

A message says where, what is wrong with the value, what was expected and what to do,
in two sentences at most.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence


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
