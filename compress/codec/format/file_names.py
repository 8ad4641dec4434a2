"""Names of the files beside a network: which ones stay in their folder (FORMAT.md, section 4)."""

from __future__ import annotations

import os
import re

MAX_PART_BYTES = 255  # of a folder or file: what usual file systems take
_GIT_ON_WINDOWS = re.compile(r"git~\d+", re.IGNORECASE)  # a short name of .git


def unsafe_name(name: str) -> str | None:
    """Return why a file name could lead out of its folder or hurt on some system, or None."""
    parts = name.split("/")
    if not name or "" in parts or "." in parts or ".." in parts:
        return "is not a plain relative path"
    if any(ord(letter) < 32 or letter in '\\:*?"<>|\x7f' for letter in name):
        return "has a letter that file names must not have"
    return None


def refused_name(name: str, max_part_bytes: int = MAX_PART_BYTES) -> str | None:
    """Return why a file of this name is neither packed nor unpacked beside a network, or None.

    Stricter than what a reader must refuse: the name may come from a stranger, and the file lands in somebody's folder.
    """
    reason = unsafe_name(name)
    if reason is not None:
        return reason
    if not name.isprintable():
        return "has letters that do not show"
    for part in name.split("/"):
        if part.startswith(".") or _GIT_ON_WINDOWS.fullmatch(part):
            return "is hidden, or lies in a hidden folder"
        if len(os.fsencode(part)) > max_part_bytes:
            return f"is longer than the {max_part_bytes} bytes that the file system takes"
    return None
