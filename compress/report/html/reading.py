"""Read report.json, of this version or an earlier one, and say what is wrong with it if it cannot be read."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from compress.errors import CompressError, printable
from compress.report.document import FORMAT_VERSION, Document, parse

REPORT_FILE = "report.json"


def find_report(place: Path) -> Path:
    """Return the report.json that a path means: the file, that in a folder, or the one of a run.

    Raises:
        CompressError: there is none, or a folder holds several runs.
    """
    if place.is_file():
        return place
    if not place.is_dir():
        raise CompressError(f"{place}: no such file or folder. Expected a {REPORT_FILE} or the folder of a run.")
    if (place / REPORT_FILE).is_file():
        return place / REPORT_FILE
    found = sorted(place.glob(f"*/{REPORT_FILE}"))
    if not found:
        raise CompressError(f"{place}: holds no {REPORT_FILE}. Expected the folder of a run that has a stage `report`.")
    if len(found) > 1:
        names = ", ".join(printable(path.relative_to(place)) for path in found)
        raise CompressError(f"{place}: holds several reports, {names}. Name one of them.")
    return found[0]


def read_report(path: Path) -> Document:
    """Return a report.

    Raises:
        CompressError: the file cannot be read or is no report.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CompressError(f"{path}: cannot be read: {error}. Expected a {REPORT_FILE}.") from error
    try:
        document = parse(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise CompressError(
            f"{path}: {place}: {first['msg']}, no report of format {FORMAT_VERSION} as this version of krimp reads it. "
            "Expected the report.json of a run; newer ones need a newer krimp."
        ) from error
    if document.format_version > FORMAT_VERSION:
        raise CompressError(
            f"{path}: format_version: {document.format_version}, expected {FORMAT_VERSION} at most. Update krimp."
        )
    return document
