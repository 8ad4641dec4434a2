"""Where the files of a data set lie, what is wrong with them, and the objects of its labels."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from compress.errors import DataError
from detectors.data.boxes import Check
from detectors.data.image_header import decode, image_size
from detectors.data.labels import IGNORED, LabelledObject, check_geometry, label_of

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


def inspect_image(path: Path, check: Check | None) -> tuple[tuple[int, int] | None, list[str]]:
    """Return (height, width) of an image file and what is wrong with it; no look at it where `check` is None.

    Args:
        path: the file.
        check: 'header' reads its size and its end, 'full' decodes it.
    """
    if check is None:
        return None, []
    try:
        content = path.read_bytes()
        size = image_size(content)
        if check == "full":
            decode(content)
    except (OSError, ValueError) as error:
        return None, [f"{path}: {error}, expected a complete image."]
    return size, []


def labelled_object(
    quad: Sequence[float],
    name: str,
    table: Mapping[str, int],
    *,
    difficult: int = 0,
    image_size: tuple[int, int] | None = None,
) -> LabelledObject:
    """Return an object after looking its class up and checking its box.

    Args:
        quad: x1, y1, ..., x4, y4, px.
        name: of its class.
        table: class name -> label index, `IGNORED` for ignored classes.
        difficult: 0 for an ordinary object.
        image_size: (height, width), px; given, a box that lies wholly outside is wrong.

    Raises:
        ValueError: unknown class, or a box without area or outside the image; the text says what was expected.
    """
    label = label_of(name, table)
    check_geometry(tuple(quad), image_size)
    return LabelledObject(tuple(quad), label, ignored=label == IGNORED or difficult > 0, difficult=difficult)


def image_names(paths: Sequence[Path], base: Path | None = None) -> tuple[list[str], list[str]]:
    """Return a name for every image of a split: its path below a folder, without suffix.

    Args:
        paths: files.
        base: the folder; None takes the deepest one that they share.

    Returns:
        The names, in the order of `paths`, and a problem for each name that is there twice.
    """
    if not paths:
        return [], []
    base = base or Path(os.path.commonpath([path.parent for path in paths]))
    names = [path.relative_to(base).with_suffix("").as_posix() for path in paths]
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
