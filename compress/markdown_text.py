"""Words of strangers' files in Markdown: names of tensors, classes and pictures that stay in their cell."""

from __future__ import annotations

import os
import re
from urllib.parse import quote

from compress.errors import printable


def cell(text: object) -> str:
    r"""Return text in one line that ends no cell, opens no tag and makes no link.

    >>> cell("a|b\n<i>")
    'a\\|b\\n\\<i\\>'
    """
    return re.sub(r"([|<>\[\]])", r"\\\1", printable(text))


def code(text: object) -> str:
    r"""Return text as code in a cell.

    >>> code("a`|b")
    "`a'\\|b`"
    """
    return f"`{printable(text).replace('`', chr(39)).replace('|', chr(92) + '|')}`"


def link(file: str) -> str:
    """Return the name of a file beside a report as the target of a link."""
    return quote(os.fsencode(file))
