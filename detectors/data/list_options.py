"""What the commands of the group share: options that take several values at once, and JSON on standard output."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

AsJson = Annotated[bool, typer.Option("--json", help="Print the facts as one JSON document.")]


class ListOptions(TyperCommand):
    """A command whose repeatable options take all their values at once, too: `--split a b` is `--split a --split b`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse arguments after spreading the values of repeatable options."""
        names = {name for option in self.params if getattr(option, "multiple", False) for name in option.opts}
        return super().parse_args(ctx, spread(args, names))


@contextlib.contextmanager
def progress_aside(as_json: bool) -> Iterator[None]:
    """Send what is said on the way to standard error where standard output is for JSON."""
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        yield


def spread(arguments: Sequence[str], names: set[str]) -> list[str]:
    """Return arguments with the name of a repeatable option repeated before each of its values.

    >>> spread(["a", "--scales", "0.5", "1.0", "--out", "b"], {"--scales"})
    ['a', '--scales', '0.5', '--scales', '1.0', '--out', 'b']
    """
    result: list[str] = []
    name, waits = "", False  # the option whose values come, and whether its name stands already
    for argument in arguments:
        if argument.startswith("-") and not _is_number(argument):
            name, waits = (argument, True) if argument in names else ("", False)
            result.append(argument)
            continue
        result += [argument] if waits or not name else [name, argument]
        waits = False
    return result


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
