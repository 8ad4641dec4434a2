"""Where the files of a data set lie, and the sentences for what is not there."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from compress.errors import DataError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


def root_folder(root: str | None) -> Path:
    """Return the root of a data set.

    Raises:
        DataError: none is given.
    """
    if root is None:
        raise DataError("data.root: not given, expected the folder of the data set. Pass --set data.root=/path/to/it.")
    return Path(root).expanduser()


def split_entry(splits: Mapping[str, str], split: str) -> str:
    """Return what `data.splits` says of a split.

    Raises:
        DataError: it does not know the split.
    """
    if split not in splits:
        raise DataError(f"data.splits: no split '{split}', expected one of {', '.join(splits)}.")
    return splits[split]


def is_image(path: Path) -> bool:
    """Return whether a file is named like a picture; hidden files are not."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def class_name(text: str) -> str:
    """Return a class name as recipes and DOTA's label files hold it: hyphens for white space ('storage-tank')."""
    return "-".join(text.split())


def image_names(paths: Sequence[Path]) -> tuple[list[str], list[str]]:
    """Return a name for every image of a split: its path below the folder that they share, without suffix.

    Returns:
        The names, in the order of `paths`, and a problem for each name that is there twice.
    """
    if not paths:
        return [], []
    shared = os.path.commonpath([path.parent for path in paths])
    names = [PurePosixPath(Path(os.path.relpath(path, shared)).as_posix()).with_suffix("").as_posix() for path in paths]
    first: dict[str, Path] = {}
    problems = []
    for name, path in zip(names, paths, strict=True):
        if first.setdefault(name, path) != path:
            problems.append(f"{path}: same name as {first[name].name}, expected one image a name.")
    return names, problems


def below(root: Path, paths: Iterable[Path]) -> list[tuple[str, Path]]:
    """Return (name below the root, path) of files, sorted by name; files elsewhere go by their last two parts."""
    named = {}
    for path in paths:
        inside = path.is_relative_to(root)
        named[path.relative_to(root).as_posix() if inside else "/".join(("..", *path.parts[-2:]))] = path
    return sorted(named.items())
