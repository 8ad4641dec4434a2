"""Names of the files beside a network: which ones stay in their folder (FORMAT.md, section 4)."""

from __future__ import annotations


def unsafe_name(name: str) -> str | None:
    """Return why a file name could lead out of its folder or hurt on some system, or None."""
    parts = name.split("/")
    if not name or "" in parts or "." in parts or ".." in parts:
        return "is not a plain relative path"
    if any(ord(letter) < 32 or letter in '\\:*?"<>|\x7f' for letter in name):
        return "has a letter that file names must not have"
    return None
