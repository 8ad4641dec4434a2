"""Where the file of `detector.checkpoint` lies. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from compress.errors import DetectorError

SUFFIXES = (".safetensors",)


def find_checkpoint(name: str, *, folders: Sequence[Path] = (Path(),), suffixes: Sequence[str] = SUFFIXES) -> Path:
    """Return the file of a checkpoint.

    Args:
        name: a path; one of the suffixes may be left out.
        folders: where relative paths are looked for, in this order.
        suffixes: tried after the name as it is.

    Raises:
        DetectorError: there is no such file.
    """
    path = Path(name).expanduser()
    tried = [folder / f"{path}{suffix}" for folder in folders for suffix in ("", *suffixes)]
    for candidate in tried:
        if candidate.is_file():
            return candidate.resolve()
    raise DetectorError(
        f"detector.checkpoint: no file {name!r}, looked for {', '.join(dict.fromkeys(map(str, tried)))}. "
        "Correct the path."
    )
