"""Text of strangers (names in models, files and folders) as a terminal and a page may safely show it.

A name can hold escapes that move the cursor, line ends that forge a message, or marks that turn the direction of
writing. Each such letter is shown by its number instead.
"""

from __future__ import annotations

import re
import reprlib
from typing import Any

_MARKUP = re.compile(r"([\\`*_\[\]<>|#~])")
_MOST_BITS = 200  # of a number that a message shows
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxdict = 3, 4, 3


def printable(text: object) -> str:
    r"""Return text in one line without letters that a terminal acts upon.

    >>> printable("w\x1b[2J\nfine")
    'w\\x1b[2J\\nfine'
    """
    text = str(text)
    return (
        text if text.isprintable() else "".join(letter if letter.isprintable() else _escaped(letter) for letter in text)
    )


def printable_lines(text: object) -> str:
    r"""Return a message of one or more lines; what a terminal acts upon, line ends apart, is shown by its number.

    >>> printable_lines("two\nlines\x07")
    'two\nlines\\x07'
    """
    return "\n".join(printable(line) for line in str(text).split("\n"))


def markdown(text: object) -> str:
    r"""Return text that a Markdown page shows as it is: in one line, without markup, links or HTML.

    >>> markdown("a|b <img src=x>")
    'a\\|b \\<img src=x\\>'
    """
    return _MARKUP.sub(r"\\\1", printable(text))


def shortened(value: Any) -> str:
    """Return a value as code for a message, its middle left out where it is long."""
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        return f"a number of {value.bit_length()} bits"
    return printable(_SHORT.repr(value))


def _escaped(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")
