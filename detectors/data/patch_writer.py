"""Write the patches of images with their labels, as folders that training reads. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from compress.errors import DataError
from compress.pictures import decoding
from compress.pictures.brightness import Range
from compress.pictures.decoding import AS_IT_IS, Reading
from compress.pictures.header import header_of
from compress.whole_file import read_whole
from detectors.data.dota_release import Source
from detectors.data.folder_builder import ONE_PROCESS, Limits, build_folder, link_or_copy, read_manifest, write_file
from detectors.data.formats.dota import IMAGE_FOLDER, LABEL_FOLDER
from detectors.data.labels import LabelledObject, parse_labels
from detectors.data.patches import CUT, PatchSettings, cut_patch, image_patches, objects_in_patches, patch_quads
from detectors.data.places import read_label_text
from detectors.data.problems import raise_all

SUFFIX = ".png"


def write_patches(
    folder: Path,
    sources: Sequence[Source],
    classes: Sequence[str],
    settings: PatchSettings,
    *,
    skip_empty: bool = False,
    value_range: Range | None = None,
    limits: Limits = ONE_PROCESS,
) -> tuple[dict[str, Any], bool]:
    """Cut images into `folder/images` and, where the sources have labels, `folder/labelTxt`.

    Args:
        folder: to be made, with its manifest.
        sources: images with or without labels.
        classes: names that may occur in the labels.
        settings: how to cut.
        skip_empty: leave out patches without objects (of labelled images).
        value_range: what becomes 0 and 255 in images of more than 8 bits; None: what each holds decides.
        limits: processes and memory.

    Returns:
        The manifest, and whether anything was done.

    Raises:
        DataError: lists wrong label lines before anything is cut; images that cannot be decoded, at the end.
    """
    raise_all("labels", [problem for source in sources for problem in read_objects(source, classes)[1]])
    labelled = any(source.labels for source in sources)
    header = {
        "settings": asdict(settings),
        "classes": list(classes),
        "labelled": labelled,
        "skip_empty": skip_empty,
    }
    if value_range is not None:
        header["value_range"] = list(value_range)
    reading = Reading(value_range)
    work = partial(cut_source, classes=tuple(classes), settings=settings, skip_empty=skip_empty, reading=reading)
    return build_folder(folder, sources, work, header, limits=limits, cost=decoded_bytes)


def join_folders(folder: Path, parts: Sequence[Path]) -> tuple[dict[str, Any], bool]:
    """Make a folder with the files of several finished ones (train and val as trainval), as links where possible.

    If one of the parts was made without patches of background only, so is the whole.

    Raises:
        DataError: a part is not finished, the parts were made differently, or share a name.
    """
    manifests = [read_manifest(part) for part in parts]
    skip_empty = any(manifest["header"]["skip_empty"] for manifest in manifests)
    headers = [manifest["header"] | {"skip_empty": skip_empty} for manifest in manifests]
    if any(header != headers[0] for header in headers):
        names = ", ".join(part.name for part in parts)
        raise DataError(f"{folder}: {names} were made with different settings. Prepare them alike.")
    sources, records = [], {}
    for part, manifest in zip(parts, manifests, strict=True):
        for record in manifest["sources"]:
            if record["name"] in records:
                raise DataError(f"{folder}: {record['name']} is in more than one of the parts.")
            records[record["name"]] = part, record
            sources.append(Source(record["name"], part / next(iter(record["files"]), "manifest.json")))
    return build_folder(folder, sources, partial(_link_source, records=records, skip_empty=skip_empty), headers[0])


def _link_source(
    source: Source, folder: Path, *, records: dict[str, tuple[Path, dict[str, Any]]], skip_empty: bool
) -> dict[str, Any]:
    part, record = records[source.name]
    names = record["files"]
    if skip_empty:
        empty = {Path(name).stem for name, size in names.items() if name.startswith(LABEL_FOLDER) and size == 0}
        names = [name for name in names if Path(name).stem not in empty]
    files = {}
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        files[name] = link_or_copy(part / name, folder / name)
    facts = {key: value for key, value in record.items() if key not in ("name", "fingerprint")}
    return facts | {"files": files, "patches": _count_images(files)}


def _count_images(files: Iterable[str]) -> int:
    return sum(name.startswith(f"{IMAGE_FOLDER}/") for name in files)


def read_objects(source: Source, classes: Sequence[str]) -> tuple[list[LabelledObject], list[str], list[str]]:
    """Return the objects of a source, what is wrong with its labels, and which boxes have no area.

    Boxes without area occur in DOTA; no window holds any share of them, so they are dropped and told.
    """
    if source.labels is None:
        return [], [], []
    text, problems = read_label_text(source.labels)
    table = {name: index for index, name in enumerate(classes)}
    objects, found = parse_labels(text, table)
    problems += [f"{source.labels}:{line}: {what}" for line, what, dropped in found if not dropped]
    return objects, problems, [f"{source.labels.name}:{line}: {what}" for line, what, dropped in found if dropped]


def read_source_image(path: Path, reading: Reading = AS_IT_IS) -> np.ndarray:
    """Return an image as (H, W, 3) uint8 BGR, upright, after a look at whether the file is whole.

    Raises:
        DataError: missing, damaged or too large; the text says which.
    """
    try:
        _, decoded = decoding.inspect(read_whole(path), full=True, reading=reading)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: {decoding.reason(error, path)}, expected a complete image.") from error
    assert decoded is not None
    return decoded.pixels


def decoded_bytes(source: Source) -> int:
    """Return about how much memory the decoded image takes, from its header."""
    encoded = source.image.stat().st_size
    try:
        header = header_of(source.image)
    except (OSError, ValueError):
        return 12 * encoded
    height, width = header.stored
    return encoded + width * height * 3 * (3 if header.deep else 1)  # more than 8 bits are decoded first, then narrowed


def cut_source(
    source: Source,
    folder: Path,
    *,
    classes: tuple[str, ...],
    settings: PatchSettings,
    skip_empty: bool,
    reading: Reading = AS_IT_IS,
) -> dict[str, Any]:
    """Write the patches of one image below `folder` and return what the manifest says of it.

    Raises:
        DataError: image or labels are wrong.
    """
    import cv2

    cv2.setNumThreads(1)  # one process an image already keeps every core busy
    objects, problems, degenerate = read_objects(source, classes)
    raise_all(str(source.labels), problems)
    image = read_source_image(source.image, reading)
    height, width = image.shape[:2]
    patches = image_patches(source.name, (height, width), settings)
    quads = np.array([item.quad for item in objects], np.float32).reshape(-1, 8)
    held = objects_in_patches(quads, patches, settings.min_object_share)
    files: dict[str, int] = {}
    counts = {"objects": 0, "cut": 0}
    for part in (IMAGE_FOLDER, LABEL_FOLDER) if source.labels else (IMAGE_FOLDER,):
        (folder / part).mkdir(exist_ok=True)
    for patch, (index, cut) in zip(patches, held, strict=True):
        if skip_empty and source.labels and not len(index):
            continue
        pixels = cut_patch(image, patch, settings)
        name = f"{IMAGE_FOLDER}/{patch.name}{SUFFIX}"
        files[name] = write_file(folder / name, cv2.imencode(SUFFIX, pixels)[1].tobytes())
        if source.labels:
            name = f"{LABEL_FOLDER}/{patch.name}.txt"
            moved = patch_quads(quads[index], patch, pixels.shape[0])
            text = _label_text(moved, [objects[i] for i in index], cut, classes)
            files[name] = write_file(folder / name, text.encode())
        counts["objects"] += len(index)
        counts["cut"] += int(cut.sum())
    found = set(np.concatenate([index for index, _ in held]).tolist())
    return {
        "height": height,
        "width": width,
        "files": files,
        "patches": _count_images(files),
        "source_objects": len(objects),
        "lost_objects": len(objects) - len(found),
        "degenerate": degenerate,
    } | counts


def _label_text(quads: np.ndarray, objects: Sequence[LabelledObject], cut: np.ndarray, classes: tuple[str, ...]) -> str:
    lines = []
    for quad, item, is_cut in zip(quads, objects, cut, strict=True):
        numbers = " ".join(str(value) for value in quad)
        lines.append(f"{numbers} {classes[item.label]} {CUT if is_cut else item.difficult}\n")
    return "".join(lines)
