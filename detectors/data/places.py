"""Where the files of a data set lie, what is wrong with them, and the objects of its labels."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from compress.errors import DataError
from compress.pictures import decoding
from compress.pictures.decoding import AS_IT_IS, Reading
from compress.pictures.header import SUFFIXES as IMAGE_SUFFIXES
from compress.progress import track
from compress.whole_file import read_whole
from detectors.data.boxes import Check
from detectors.data.labels import IGNORED, LabelledObject, check_geometry, label_of

_THREADS = 4
LABEL_SUFFIX = ".txt"  # in any case: .TXT too


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


def is_label(path: Path) -> bool:
    """Return whether a file is named like a label file; hidden files (macOS writes ._NAME.txt) are not."""
    return path.suffix.lower() == LABEL_SUFFIX and not path.name.startswith(".")


@dataclass(frozen=True)
class Inspection:
    """What a look at an image file found.

    Attributes:
        size: (height, width), px; None where it was not looked at or is wrong.
        problems: what is wrong with it.
        flat: where it has nearly no contrast, the sentence that says so.
    """

    size: tuple[int, int] | None = None
    problems: tuple[str, ...] = ()
    flat: str | None = None


def inspect_image(path: Path, check: Check | None, reading: Reading = AS_IT_IS) -> Inspection:
    """Look at an image file.

    Args:
        path: the file.
        check: 'header' reads its size and all that tells whether it can be decoded, 'full' decodes it, None does not
            look at it.
        reading: how it will be read.
    """
    if check is None:
        return Inspection()
    try:
        header, decoded = decoding.inspect(read_whole(path), full=check == "full", reading=reading)
    except (OSError, ValueError) as error:
        return Inspection(problems=(f"{path}: {decoding.reason(error, path)}, expected a complete image.",))
    return Inspection(header.size, flat=None if decoded is None else decoded.flat)


def inspect_images(
    paths: Sequence[Path], check: Check | None, reading: Reading = AS_IT_IS, label: str = "check images"
) -> list[Inspection]:
    """Look at image files, several at once, in their order; see `inspect_image`."""
    if check is None:
        return [Inspection()] * len(paths)
    with ThreadPoolExecutor(_THREADS) as pool:  # reading and decoding release the lock
        found = pool.map(lambda path: inspect_image(path, check, reading), paths)
        return list(track(found, label, len(paths)))


def read_label_text(path: Path) -> tuple[str, list[str]]:
    """Return the text of a label file, or '' and why it cannot be read."""
    try:
        return read_whole(path).decode("utf-8-sig"), []
    except UnicodeDecodeError:
        return "", [f"{path}: not UTF-8, expected a text file. Save it as UTF-8."]
    except OSError as error:
        return "", [f"{path}: {decoding.reason(error, path)}, expected a text file that can be read."]


class NearNames:
    """File names that are nearly those that are looked for in vain.

    Args:
        names: of files that are there.
    """

    def __init__(self, names: Iterable[str]) -> None:
        names = sorted(name for name in names if not name.startswith("."))
        self._near = {_alike(name.partition(".")[0]): name for name in names}
        self._near |= {_alike(name.rpartition(".")[0]): name for name in names}

    def hint(self, name: str) -> str:
        """Return ' There is NAME.' for a name without suffix, '' where nothing is near."""
        near = self._near.get(_alike(name))
        if near is None:
            return ""
        same = not near.startswith(name) and _composed(near).startswith(_composed(name))
        why = " Its accents are stored in another way (Unicode NFC and NFD); rename one." if same else ""
        return f" There is {near}.{why}"


def names_in(folder: Path) -> list[str]:
    """Return the names in a folder, none if there is no such folder."""
    return [path.name for path in folder.iterdir()] if folder.is_dir() else []


def _alike(name: str) -> str:
    """Return what names have in common that differ by case or by how accents are stored."""
    return _composed(name).casefold()


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


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
