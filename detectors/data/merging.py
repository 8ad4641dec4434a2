"""From detections on patches to whole images: merging, DOTA's Task-1 files, scores. Imports torch only to score."""

from __future__ import annotations

import io
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from compress.errors import DataError
from compress.json_text import parse_json
from compress.progress import track
from detectors.data.dota_release import Source
from detectors.data.folder_builder import read_manifest, write_file
from detectors.data.formats.dota import IMAGE_FOLDER, label_files
from detectors.data.patch_names import Convention, PatchName, Place, places_of
from detectors.data.patch_writer import read_objects
from detectors.data.patches import Patch
from detectors.data.places import is_image
from detectors.data.problems import raise_all
from detectors.data.samples import Truth, quads_to_boxes
from detectors.geometry.corners import box_corners
from detectors.geometry.detections import Detections
from detectors.geometry.nms import rotated_nms

if TYPE_CHECKING:
    from compress.dataset import Scores

MERGE_IOU = 0.1  # overlap from which two boxes of a class are one object
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)  # the same detections give the same bytes


@dataclass(frozen=True)
class PatchDetections:
    """What was found in one patch.

    Attributes:
        patch: the window.
        width_px: of the patch as the network saw it.
        detections: in pixels of the patch as the network saw it.
        place: of the patch in the image, where another program cut it; None: as the window says.
        file_name: of the patch, without suffix, where another program named it.
    """

    patch: Patch
    width_px: int
    detections: Detections
    place: Place | None = None
    file_name: str | None = None

    @property
    def name(self) -> str:
        """Return the name of the patch's file, without suffix."""
        return self.file_name or self.patch.name

    def in_image(self) -> Detections:
        """Return the detections in pixels of the image."""
        place = self.place or Place(self.patch.side_px / self.width_px, self.patch.x, self.patch.y)
        boxes = self.detections.boxes.astype(np.float64)
        boxes[:, :4] *= place.scale
        return Detections(boxes, self.detections.scores, self.detections.labels).shifted(place.x, place.y)


def merge_patches(parts: Iterable[PatchDetections], *, iou_threshold: float = MERGE_IOU) -> dict[str, Detections]:
    """Return the detections of whole images: all patches together, suppressed class by class.

    Args:
        parts: patches in any order, several scales mixed.
        iou_threshold: overlap (>=) at which the weaker of two boxes of a class goes.

    Returns:
        Image name -> detections, best score first; images without detections are there too.

    Source:
        DOTA's ResultMerge and MMRotate's `merge_det`: rotated NMS at 0.1.
    """
    of_image: dict[str, list[PatchDetections]] = defaultdict(list)
    for part in parts:
        of_image[part.patch.image].append(part)
    merged = {}
    for name in track(sorted(of_image), "merge"):
        # Equal scores keep their order in the suppression: the order of the patches must not come from the file system.
        ordered = sorted(of_image[name], key=lambda part: part.name)
        together = Detections.concatenate([part.in_image() for part in ordered])
        kept = rotated_nms(together.boxes, together.scores, together.labels, iou_threshold=iou_threshold)
        merged[name] = together.take(kept)
    return merged


def read_detections(path: Path, convention: Convention | None = None) -> tuple[list[str], list[PatchDetections]]:
    """Return the classes and what was found, from `krimp detect`'s detections.json or from detections.jsonl.

    Args:
        path: of the file.
        convention: who cut the patches; None: their names and sizes tell.

    Raises:
        DataError: not such a file, or a picture in it is no patch, or of another size than its name says.
    """
    try:
        if path.suffix == ".jsonl":
            header, *records = [parse_json(line) for line in path.read_text().splitlines()]
        else:
            header = parse_json(path.read_text())
            records = header["images"]
        failed = [str(item["error"]) for item in header.get("failed", ())]
        raise_all(str(path), failed)
        placed = places_of(records, convention)
        parts = [patch_detections(record, *where) for record, where in zip(records, placed, strict=True)]
        return list(header["classes"]), parts
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: {error!r}, expected detections.json of `krimp detect` or detections.jsonl of `krimp data submit`."
        ) from error


def patch_detections(record: Mapping[str, Any], name: PatchName, place: Place) -> PatchDetections:
    """Return the detections of a record with `detections` (each with box, score, label)."""
    found = record["detections"]
    boxes = np.array([item["box"] for item in found], np.float64).reshape(-1, 5)
    detections = Detections(boxes, np.array([i["score"] for i in found]), np.array([i["label"] for i in found]))
    window = Patch(name.image, int(name.number), name.x, name.y)
    return PatchDetections(window, int(record["width"]), detections, place, name.text)


def check_complete(parts: Sequence[PatchDetections], folder: Path) -> list[str]:
    """Return the names of the images of a patch folder after checking that every patch was looked at.

    Raises:
        DataError: lists patches without a result, or results without a patch.
    """
    manifest = read_manifest(folder)
    wanted = {Path(name).stem for record in manifest["sources"] for name in record["files"]}
    found = {part.name for part in parts}
    problems = [f"{name}: no detections, expected a record of it." for name in sorted(wanted - found)]
    problems += [f"{name}: detections of a patch that is not in {folder}." for name in sorted(found - wanted)]
    raise_all("patches", problems)
    return [record["name"] for record in manifest["sources"]]


def task1_files(merged: Mapping[str, Detections], classes: Sequence[str]) -> dict[str, str]:
    """Return DOTA's Task-1 files: name -> lines `image score x1 y1 x2 y2 x3 y3 x4 y4`, one file a class, pixels.

    Args:
        merged: image name -> detections.
        classes: names by label; each gets a file, an empty one without detections.
    """
    lines: dict[int, list[str]] = defaultdict(list)
    for image, detections in merged.items():
        corners = box_corners(detections.boxes).reshape(-1, 8)
        for eight, score, label in zip(corners, detections.scores, detections.labels, strict=True):
            numbers = " ".join(f"{value:.2f}" for value in eight)
            lines[int(label)].append(f"{image} {score:.6f} {numbers}\n")
    return {f"Task1_{name}.txt": "".join(lines[label]) for label, name in enumerate(classes)}


def write_submission(path: Path, merged: Mapping[str, Detections], classes: Sequence[str]) -> None:
    """Write the zip file that DOTA's server takes: the Task-1 files, without folders. Equal input, equal bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in task1_files(merged, classes).items():
            info = zipfile.ZipInfo(name, _ZIP_TIME)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = 0o644 << 16
            archive.writestr(info, text)
    write_file(path, buffer.getvalue())


def read_submission(path: Path, classes: Sequence[str]) -> dict[str, Detections]:
    """Return the detections of a Task-1 zip file or folder, whoever wrote it.

    Raises:
        DataError: a class has no file, or a line is wrong.
    """
    rows: dict[str, list[tuple[list[float], float, int]]] = defaultdict(list)
    for label, name in enumerate(classes):
        for number, line in enumerate(_task1_text(path, f"Task1_{name}.txt").splitlines(), start=1):
            columns = line.split()
            try:
                score, *corners = map(float, columns[1:])
                if len(corners) != 8:
                    raise ValueError(f"{len(columns)} columns")
            except ValueError as error:
                raise DataError(
                    f"{path}: Task1_{name}.txt:{number}: {error}, expected image score x1 y1 x2 y2 x3 y3 x4 y4."
                ) from error
            rows[columns[0]].append((corners, score, label))
    found = {}
    for image, items in rows.items():
        quads, scores, labels = zip(*items, strict=True)
        together = Detections(quads_to_boxes(np.array(quads)), np.array(scores), np.array(labels))
        found[image] = together.take(np.argsort(-together.scores, kind="stable"))
    return found


def _task1_text(path: Path, name: str) -> str:
    try:
        if path.is_dir():
            return (path / name).read_text()
        with zipfile.ZipFile(path) as archive:
            return archive.read(name).decode()
    except (OSError, KeyError, zipfile.BadZipFile, UnicodeDecodeError) as error:
        raise DataError(f"{path}: {error}, expected a folder or zip file with {name}.") from error


def read_truths(labels: Path, classes: Sequence[str], images: Sequence[str] | None = None) -> dict[str, Truth]:
    """Return the truth of whole images from label files as published.

    Args:
        labels: folder of NAME.txt files.
        classes: names by label. Boxes without area are left out; difficult ones are ignored in scoring.
        images: which images; None means every file.

    Raises:
        DataError: lists missing files and wrong lines.
    """
    files = label_files(labels)[0] if labels.is_dir() else {}
    names = sorted(files) if images is None else images
    truths, problems = {}, []
    for name in names:
        path = files.get(name, labels / f"{name}.txt")
        objects, found, _ = read_objects(Source(name, path, path), classes)
        truths[name] = Truth.from_objects(objects)
        problems += found
    if not names:
        raise DataError(f"{labels}: no label file, expected NAME.txt for each image.")
    raise_all(str(labels), problems)
    return truths


def score_images(merged: Mapping[str, Detections], truths: Mapping[str, Truth], classes: Sequence[str]) -> Scores:
    """Score whole images: area AP at IoU 0.5, 11-point AP (DOTA's) as `extra['map50_voc07']`, and `map` of all found.

    A whole aerial image holds thousands of objects of a class, so `max_dets` leaves none of the detections out.

    Args:
        merged: image name -> detections; an image that is missing has none.
        truths: image name -> truth; these images are scored.
        classes: names by label.

    Raises:
        DataError: detections of an image without truth.
    """
    from detectors.data.scoring import MAX_DETS, score_detections

    strangers = sorted(set(merged) - set(truths))
    if strangers:
        raise DataError(f"{len(strangers)} images with detections have no labels, e.g. {strangers[0]}. Give theirs.")
    found = [merged.get(name, Detections.empty()) for name in truths]
    most = max([MAX_DETS, *map(len, found)])
    return score_detections(found, list(truths.values()), classes, max_dets=most)


def patch_images(folder: Path) -> Iterator[Path]:
    """Yield the image files of a patch folder, sorted.

    Raises:
        DataError: the folder is not there or holds no image.
    """
    where = folder / IMAGE_FOLDER
    files = sorted(path for path in where.glob("*") if is_image(path))
    if not files:
        raise DataError(f"{where}: no patch in it, expected the images that `krimp data prepare-dota` writes.")
    yield from files
