"""A synthetic data set in DOTA format that needs no download; the seed decides every byte of it."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2

from compress.errors import DataError
from compress.json_text import parse_json
from compress.progress import track
from detectors.data.formats.dota import IMAGE_FOLDER, LABEL_FOLDER
from detectors.data.synthetic_scenes import SceneSettings, make_scene

RECORD = "synthetic.json"
GENERATOR_VERSION = 1  # raise when the same seed gives other files
HEADER = "imagesource:synthetic\ngsd:0.4\n"


def write_dataset(folder: Path, settings: SceneSettings) -> tuple[str, bool]:
    """Write a data set in DOTA format, whole or not at all.

    Args:
        folder: the root; its parent is created.
        settings: what to draw.

    Returns:
        sha256 (hex) over all files, and whether anything was written: a complete folder with the same settings stays.

    Raises:
        DataError: the folder holds something else.
    """
    record = _read_record(folder)
    wanted = _record_of(settings)
    if record is not None and record.get("settings") == wanted and record.get("digest") == _digest(folder):
        return record["digest"], False
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        _write_splits(scratch, settings)
        digest = _digest(scratch)
        (scratch / RECORD).write_text(json.dumps({"settings": wanted, "digest": digest}, indent=1) + "\n")
        scratch.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return digest, True


def _write_splits(folder: Path, settings: SceneSettings) -> None:
    for split in settings.counts:
        for part in (IMAGE_FOLDER, LABEL_FOLDER):
            (folder / split / part).mkdir(parents=True)
    places = [
        (split, number, index)
        for number, (split, count) in enumerate(settings.counts.items())
        for index in range(count)
    ]
    for split, number, index in track(places, "draw"):
        image, objects = make_scene(settings, (number, index))
        name = f"{split}_{index:05d}"
        png = cv2.imencode(".png", image)[1].tobytes()
        (folder / split / IMAGE_FOLDER / f"{name}.png").write_bytes(png)
        labels = HEADER + "".join(item.line() for item in objects)
        (folder / split / LABEL_FOLDER / f"{name}.txt").write_text(labels)


def _read_record(folder: Path) -> dict[str, Any] | None:
    """Return the record of an earlier run, None if there is nothing; refuse a folder with files that are not ours."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    try:
        record: dict[str, Any] = parse_json((folder / RECORD).read_text())
        ours = _file_names(record["settings"]["counts"])
    except (OSError, ValueError, KeyError, TypeError):
        text = f"{folder}: not empty and without a valid {RECORD}, expected a new folder. Choose another."
        raise DataError(text) from None
    strangers = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - ours
    if strangers:
        raise DataError(
            f"{folder}: {min(strangers)} was not made by this generator. Move it away, or choose another folder."
        )
    return record


def _file_names(counts: dict[str, int]) -> set[str]:
    parts = ((IMAGE_FOLDER, "png"), (LABEL_FOLDER, "txt"))
    return {RECORD} | {
        f"{split}/{part}/{split}_{index:05d}.{suffix}"
        for split, count in counts.items()
        for index in range(count)
        for part, suffix in parts
    }


def _record_of(settings: SceneSettings) -> dict[str, Any]:
    plain = asdict(settings) | {"counts": dict(settings.counts), "generator_version": GENERATOR_VERSION}
    record: dict[str, Any] = json.loads(json.dumps(plain))
    return record


def _digest(folder: Path) -> str:
    listing = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != RECORD):
        listing.update(
            f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder).as_posix()}\n".encode()
        )
    return listing.hexdigest()
