"""`names.json` beside a network whose layers have short names: which layer is which."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from compress.errors import CodecError
from compress.json_text import parse_json
from compress.whole_file import write_whole

NAMES_FILE = "names.json"


def write_names(folder: Path, names: Mapping[str, str]) -> None:
    """Write short name -> full name into a folder."""
    write_whole(folder / NAMES_FILE, json.dumps(names, indent=1).encode() + b"\n")


def read_names(path: Path) -> dict[str, str]:
    """Return short name -> full name.

    Raises:
        CodecError: the file cannot be read, or is no mapping of text to text.
    """
    try:
        names = parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CodecError(
            f"{path}: cannot be read as names: {error}. Expected the {NAMES_FILE} of export_onnx."
        ) from error
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise CodecError(
            f'{path}: is no table of names. Expected {{"short name": "full name", ...}}, as export_onnx writes.'
        )
    return names


def names_beside(file: Path) -> dict[str, str]:
    """Return the names that lie beside a network (in it, if it is a folder); none if there is no such file.

    Raises:
        CodecError: as `read_names`.
    """
    path = file / NAMES_FILE if file.is_dir() else file.with_name(NAMES_FILE)
    return read_names(path) if path.is_file() else {}
