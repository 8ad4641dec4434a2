"""DIOR-R as published, turned into folders in DOTA format. Imports no torch.

ROOT/JPEGImages-trainval/00001.jpg, ROOT/JPEGImages-test/11726.jpg
ROOT/Annotations/Oriented Bounding Boxes/00001.xml      objects with `name` and `robndbox`, four corners
ROOT/ImageSets/Main/{train,val,test}.txt                a name a line
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from compress.errors import DataError
from detectors.data.dota_release import Source
from detectors.data.folder_builder import ONE_PROCESS, Limits, build_folder, link_or_copy, write_file
from detectors.data.formats.dota import IMAGE_FOLDER, LABEL_FOLDER
from detectors.data.labels import EmptyBoxError, parse_line
from detectors.data.places import inspect_image, is_image
from detectors.data.problems import raise_all

CLASSES = (
    "airplane", "airport", "baseballfield", "basketballcourt", "bridge", "chimney", "expressway-service-area",
    "expressway-toll-station", "dam", "golffield", "groundtrackfield", "harbor", "overpass", "ship", "stadium",
    "storagetank", "tenniscourt", "trainstation", "vehicle", "windmill",
)  # fmt: skip
SPLITS = ("train", "val", "trainval", "test")
_IMAGE_FOLDERS = ("JPEGImages-trainval", "JPEGImages-test")
_LABEL_FOLDERS = ("Oriented Bounding Boxes", "Oriented_Bounding_Boxes", "OBB")
_CORNERS = tuple(
    f"{axis}_{corner}" for corner in ("left_top", "right_top", "right_bottom", "left_bottom") for axis in "xy"
)


def find_sources(root: Path, split: str) -> list[Source]:
    """Return the images of a split with their annotations, in the order of their names.

    Args:
        root: folder of the release.
        split: 'train', 'val', 'test', or 'trainval' for both of the first where no list of that name is there.

    Raises:
        DataError: a folder or list is missing, or lists the names without image or annotation.
    """
    lists = root / "ImageSets" / "Main"
    parts = ("train", "val") if split == "trainval" and not (lists / "trainval.txt").is_file() else (split,)
    names: dict[str, None] = {}
    for part in parts:
        path = lists / f"{part}.txt"
        try:
            names |= dict.fromkeys(path.read_text(encoding="utf-8-sig").split())
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: {error}, expected a name of an image a line.") from error
    labels = next((f for name in _LABEL_FOLDERS if (f := root / "Annotations" / name).is_dir()), None)
    if labels is None:
        raise DataError(f"{root / 'Annotations' / _LABEL_FOLDERS[0]}: no such folder, expected the oriented boxes.")
    sources, problems = [], []
    lying = {
        path.stem: path for folder in _IMAGE_FOLDERS for path in sorted((root / folder).glob("*")) if is_image(path)
    }
    for name in sorted(names):
        images = [lying[name]] if name in lying else []
        if not images:
            problems.append(f"{name}: no {name}.jpg in {' or '.join(_IMAGE_FOLDERS)}.")
        if not (labels / f"{name}.xml").is_file():
            problems.append(f"{labels / name}.xml: missing, expected the annotation of {name}.")
        sources.append(Source(name, images[0] if images else Path(), labels / f"{name}.xml"))
    if not sources:
        raise DataError(f"{lists / split}.txt: no name in it, expected one a line.")
    raise_all(f"split '{split}'", problems)
    return sources


def convert(folder: Path, sources: Sequence[Source], *, limits: Limits = ONE_PROCESS) -> tuple[dict[str, Any], bool]:
    """Make a folder in DOTA format: links to the images (copies where links are impossible) and their labels.

    Returns:
        The manifest, and whether anything was done.

    Raises:
        DataError: lists every wrong annotation and damaged image; what is right stays for the next start.
    """
    work = partial(convert_source, classes=CLASSES)
    return build_folder(folder, sources, work, {"classes": list(CLASSES), "labelled": True}, limits=limits)


def convert_source(source: Source, folder: Path, *, classes: tuple[str, ...]) -> dict[str, Any]:
    """Write one image and its labels below `folder` and return what the manifest says of it.

    Raises:
        DataError: image or annotation is wrong.
    """
    assert source.labels is not None
    seen = inspect_image(source.image, "header")
    raise_all(source.name, seen.problems)
    assert seen.size is not None
    lines, dropped = [], []
    for number, line in enumerate(label_lines(source.labels, classes), start=1):
        try:
            parse_line(line, dict.fromkeys(classes, 0), image_size=seen.size)
            lines.append(line)
        except EmptyBoxError as error:
            dropped.append(f"{source.labels.name}: object {number}: {error}")
        except ValueError as error:
            raise DataError(f"{source.labels}: object {number}: {error}") from error
    files = {}
    for part in (IMAGE_FOLDER, LABEL_FOLDER):
        (folder / part).mkdir(exist_ok=True)
    name = f"{IMAGE_FOLDER}/{source.name}{source.image.suffix}"
    files[name] = link_or_copy(source.image, folder / name)
    name = f"{LABEL_FOLDER}/{source.name}.txt"
    files[name] = write_file(folder / name, "".join(lines).encode())
    return {"height": seen.size[0], "width": seen.size[1], "objects": len(lines), "dropped": dropped, "files": files}


def label_lines(path: Path, classes: Sequence[str]) -> list[str]:
    """Return the DOTA label lines of an annotation file; class names in lower case, as MMRotate has them.

    Raises:
        DataError: not XML, an unknown class, or an object without its four corners.
    """
    try:
        root = ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError) as error:
        raise DataError(f"{path}: {error}, expected an annotation in XML.") from error
    lines = []
    for number, item in enumerate(root.findall("object"), start=1):
        where = f"{path}: object {number}"
        name = (item.findtext("name") or "").strip().lower()
        if name not in classes:
            raise DataError(f"{where}: class '{name}', expected one of {', '.join(classes)}.")
        corners = " ".join(f"{_number(item, corner, where):g}" for corner in _CORNERS)
        difficult = (item.findtext("difficult") or "0").strip()
        if difficult not in ("0", "1"):
            raise DataError(f"{where}: difficult is '{difficult}', expected 0 or 1.")
        lines.append(f"{corners} {name} {difficult}\n")
    return lines


def _number(item: ElementTree.Element, corner: str, where: str) -> float:
    text = item.findtext(f"robndbox/{corner}")
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{where}: robndbox/{corner} is {text!r}, expected a number of pixels.")
    return value
