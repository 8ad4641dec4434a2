"""The file of a record: what every benchmark says of itself, and that a record is written once and never edited."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from compress.errors import CompressError, printable
from compress.machine import describe_machine
from compress.whole_file import write_whole

_WITHIN = re.compile(r"(?<!\S)/(?:[^\s/]+/)+(?=[^\s/])")
RECORDS = Path(__file__).parent / "records"


def refuse_existing(path: Path | None) -> None:
    """Refuse to measure for a record that is there already; None means that no record is wanted.

    Raises:
        CompressError: something has that name.
    """
    if path is not None and (path.exists() or path.is_symlink()):
        raise CompressError(f"{printable(path)}: exists, and records are not edited. Choose another name.")


def head(benchmark: str, *, version: int = 1) -> dict[str, Any]:
    """Return the fields that every record opens with: its form, what measured, when and on which machine."""
    return {
        "format_version": version,
        "benchmark": benchmark,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": describe_machine(),
    }


def write_record(path: Path | None, record: dict[str, Any]) -> None:
    """Write a record, without the folders of this machine; None writes nothing.

    Raises:
        CompressError: something has that name by now.
        OSError: it cannot be written.
    """
    if path is None:
        return
    refuse_existing(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(without_folders(record), indent=1, sort_keys=True, default=str) + "\n")


def without_folders(value: Any) -> Any:
    """Return a JSON value in which each absolute path is cut to its last part: a record tells nothing of a home.

    A text that begins with one is a path as a whole, blanks too; within a sentence a path ends at a blank.
    """
    if isinstance(value, dict):
        return {name: without_folders(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [without_folders(entry) for entry in value]
    if not isinstance(value, str):
        return value
    return Path(value).name if value.startswith("/") else _WITHIN.sub("", value)
