"""Write the patches of images with their labels, as folders that training reads. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from compress.errors import DataError
from detectors.data.dota_release import Source, raise_all
from detectors.data.folder_builder import ONE_PROCESS, Limits, build_folder, link_or_copy, read_manifest, write_file
from detectors.data.formats.dota import IMAGE_FOLDER, LABEL_FOLDER
from detectors.data.image_header import PNG_SIGNATURE, decode, image_size
from detectors.data.labels import HEADERS, DegenerateBoxError, LabelledObject, parse_line
from detectors.data.patches import CUT, PatchSettings, cut_patch, image_patches, objects_in_patches, patch_quads

MAX_PIXELS = 2**30  # OpenCV decodes no larger image
SUFFIX = ".png"


def write_patches(
    folder: Path,
    sources: Sequence[Source],
    classes: Sequence[str],
    settings: PatchSettings,
    *,
    skip_empty: bool = False,
    limits: Limits = ONE_PROCESS,
) -> tuple[dict[str, Any], bool]:
    """Cut images into `folder/images` and, where the sources have labels, `folder/labelTxt`.

    Args:
        folder: to be made, with its manifest.
        sources: images with or without labels.
        classes: names that may occur in the labels.
        settings: how to cut.
        skip_empty: leave out patches without objects (of labelled images).
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
    work = partial(cut_source, classes=tuple(classes), settings=settings, skip_empty=skip_empty)
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
    try:
        text = source.labels.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        return [], [f"{source.labels}: {error}, expected a UTF-8 text file."], []
    table = {name: index for index, name in enumerate(classes)}
    objects: list[LabelledObject] = []
    problems, degenerate = [], []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.strip().lower().startswith(HEADERS):
            continue
        try:
            objects.append(parse_line(line.strip(), table))
        except DegenerateBoxError as error:
            degenerate.append(f"{source.labels.name}:{number}: {error}")
        except ValueError as error:
            problems.append(f"{source.labels}:{number}: {error}")
    return objects, problems, degenerate


def read_source_image(path: Path) -> np.ndarray:
    """Return an image as (H, W, 3) uint8 BGR: grey is repeated, 16 bits are divided by 256, as OpenCV does.

    Raises:
        DataError: missing, damaged or too large; the text says which.
    """
    import cv2

    try:
        content = path.read_bytes()
        height, width = image_size(content)
        if height * width > MAX_PIXELS:
            raise ValueError(f"{width} x {height} are more than the {MAX_PIXELS:,} pixels that OpenCV decodes")
        return decode(content)
    except (OSError, ValueError, cv2.error) as error:
        raise DataError(f"{path}: {error}, expected a complete image.") from error


def decoded_bytes(source: Source) -> int:
    """Return about how much memory the decoded image takes, from its first bytes."""
    with open(source.image, "rb") as file:
        start = file.read(29)
    encoded = source.image.stat().st_size
    if start.startswith(PNG_SIGNATURE) and len(start) >= 25:
        width, height = int.from_bytes(start[16:20], "big"), int.from_bytes(start[20:24], "big")
        wide = 2 if start[24] == 16 else 0  # OpenCV decodes 16 bits first and narrows them then
        return encoded + width * height * 3 * (1 + wide)
    return 12 * encoded


def cut_source(
    source: Source, folder: Path, *, classes: tuple[str, ...], settings: PatchSettings, skip_empty: bool
) -> dict[str, Any]:
    """Write the patches of one image below `folder` and return what the manifest says of it.

    Raises:
        DataError: image or labels are wrong.
    """
    import cv2

    cv2.setNumThreads(1)  # one process an image already keeps every core busy
    objects, problems, degenerate = read_objects(source, classes)
    raise_all(str(source.labels), problems)
    image = read_source_image(source.image)
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
