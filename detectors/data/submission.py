"""From patches to whole images: detect, merge, write a submission, score.

Results of the network are kept patch by patch, so that a killed run goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from compress.errors import DataError
from compress.json_text import parse_json
from compress.pictures.brightness import range_of_text
from compress.pictures.decoding import Reading, read_image
from compress.progress import say, track
from detectors.data import merging
from detectors.data.folder_builder import write_json
from detectors.data.patch_names import Convention
from detectors.data.samples import Truth
from detectors.geometry.detections import Detections

DETECTIONS = "detections.jsonl"
SUBMISSION = "submission.zip"
FORMAT_VERSION = 1


class Predictor(Protocol):
    """What is needed of a model that looks at pictures (`compress.predictor.Predictor`)."""

    deploy: Any

    def detect(self, image: np.ndarray) -> Any:
        """Return the detections of a picture."""


def detect_patches(
    model: Path, patches: Path, out: Path, open_model: Callable[[], Predictor], *, score_threshold: float | None = None
) -> Path:
    """Look at every patch that has no record yet and append its record.

    Args:
        model: ONNX or .krimp file.
        patches: folder of a split that `krimp data prepare-dota` made.
        out: folder of the records.
        open_model: opens the file.
        score_threshold: with which it is opened, for the record.

    Returns:
        The file of all records.

    Raises:
        DataError: there is no patch, or the records are of another model or threshold.
    """
    files = list(merging.patch_images(patches))
    predictor = open_model()
    header = {
        "format_version": FORMAT_VERSION,
        "model": model.name,
        "model_sha256": hashlib.sha256(model.read_bytes()).hexdigest(),
        "classes": list(predictor.deploy.classes),
        "score_threshold": score_threshold,
    }
    path = out / DETECTIONS
    done = resume_records(path, header)
    # Patches of other programs may have more than 8 bits.
    try:
        limits = range_of_text(predictor.deploy.meta.get("value_range"))
    except ValueError as error:
        raise DataError(f"{model}: krimp.deploy: {error}. Export the model again.") from error
    read = read_image if limits is None else partial(read_image, reading=Reading(limits))
    waiting = [file for file in files if file.stem not in done]
    if done:
        say(f"{len(done)} of {len(files)} patches are done already")
    with path.open("a") as records:
        for file in track(waiting, "detect", len(waiting)):
            image = read(file)
            found = predictor.deploy.to_json(predictor.detect(image))
            records.write(
                json.dumps({"name": file.stem, "width": image.shape[1], "height": image.shape[0], "detections": found})
                + "\n"
            )
            records.flush()
    return path


def merge_detections(
    found: Path, out: Path, *, patches: Path | None, merge_iou: float, patch_names: Convention | None = None
) -> tuple[dict[str, Detections], list[str], list[str] | None]:
    """Put the detections of patches together to whole images and write `submission.zip`.

    Args:
        found: detections.json of `krimp detect`, or detections.jsonl.
        out: folder of the submission.
        patches: folder of the split; given, each of its patches must have been looked at.
        merge_iou: overlap at which the weaker of two boxes of a class goes.
        patch_names: who cut the patches; None: `patches` or else their names and sizes tell.

    Returns:
        Detections of each image, the classes, and the names of all images of `patches`.

    Raises:
        DataError: the file is wrong or incomplete.
    """
    classes, parts = merging.read_detections(found, patch_names or (None if patches is None else "krimp"))
    images = None if patches is None else merging.check_complete(parts, patches)
    merged = merging.merge_patches(parts, iou_threshold=merge_iou)
    path = out / SUBMISSION
    merging.write_submission(path, merged, classes)
    count, before = sum(map(len, merged.values())), sum(len(part.detections) for part in parts)
    say(f"{path}: {count} objects in {len(merged)} images, from {before} detections on {len(parts)} patches")
    return merged, classes, images


def resume_records(path: Path, header: dict[str, Any]) -> set[str]:
    """Make a record file ready to be appended to and return the names of its records.

    A last line that a killed run left incomplete is cut off.

    Raises:
        DataError: the file belongs to another model or threshold.
    """
    first = f"{json.dumps(header)}\n"
    content = path.read_bytes() if path.exists() else b""
    if b"\n" not in content:
        if not first.encode().startswith(content):
            raise DataError(f"{path}: is no record of an earlier run. Move it away, or take another --out.")
        path.write_text(first)
        return set()
    whole = content[: content.rindex(b"\n") + 1]
    if len(whole) < len(content):
        with path.open("r+b") as file:
            file.truncate(len(whole))
    try:
        before, *records = [parse_json(line) for line in whole.splitlines()]
        names = {record["name"] for record in records}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: {error!r}, expected records of an earlier run. Move it away.") from error
    for key, value in header.items():
        if before.get(key) != value:
            raise DataError(
                f"{path}: made with {key} = {before.get(key)}, now it is {value}. Move it away, or take another --out."
            )
    return names


def score_submission(
    merged: Mapping[str, Detections], truths: Mapping[str, Truth], classes: Sequence[str], path: Path
) -> dict[str, Any]:
    """Score whole images, write the numbers as JSON, say them, and return them.

    Raises:
        DataError: detections of an image without truth.
    """
    scores = merging.score_images(merged, truths, classes)
    values = {
        "map": scores.map,
        "map75": scores.map75,
        "map_interval": scores.map_interval,
        "max_dets": scores.max_dets,
        "map50_voc07_11point": scores.extra["map50_voc07"],
        "map50_area": scores.map50,
        "map50_area_interval": scores.map50_interval,
        "iou_threshold": scores.iou_threshold,
        "recall": scores.recall,
        "num_images": scores.num_images,
        "num_detections": scores.num_detections,
        "ap_area_per_class": {name: ap if ap == ap else None for name, ap in scores.ap_per_class.items()},
    }
    write_json(path, values)
    for name, ap in scores.ap_per_class.items():
        say(f"  {name:25s} {'no truth' if ap != ap else f'{ap:.4f}'}")
    say(
        f"map {scores.map:.4f} (IoU 0.50 to 0.95), "
        f"map50 {values['map50_voc07_11point']:.4f} (voc07_11point), {scores.map50:.4f} (area), IoU 0.5, "
        f"{scores.num_images} whole images; {path}"
    )
    return values
