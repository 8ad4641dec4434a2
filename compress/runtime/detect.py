"""`krimp detect`: pictures in, boxes out, from a model file alone.

Everything the model needs to know travels in its own metadata; of the plug-in only the
torch-free part is imported. Pictures of any size are looked at in overlapping windows.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import itertools
import json
import os
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from compress.detector import MAX_WINDOW_PIXELS, Deploy
from compress.errors import DataError, DetectorError, StageError
from compress.outputs import Outputs, make_folder
from compress.pictures.brightness import range_of_text
from compress.pictures.decoding import Reading
from compress.pictures.header import SUFFIXES as IMAGE_SUFFIXES
from compress.plugins import load_deploy
from compress.predictor import ImageSource, Predictor
from compress.progress import track, warn
from compress.runtime.documents import CocoIds, Format, coco_results, geojson
from compress.runtime.forwards import session_forward
from compress.runtime.image_source import INSTALL, RasterSource, has_rasterio, open_source
from compress.runtime.session import deploy_metadata_of, open_session

RESULT_FILE = "detections.json"
COCO_FILE = "coco_results.json"
MANY_WINDOWS = 100  # from which a picture shows how far it is
MAX_PIXELS = 1 << 28  # of a picture that is decoded whole; 0.8 GB as pixels
MAX_NAME_BYTES = 240  # of a result without its suffix: file systems take 255
MAX_DRAWN_PIXELS = 50_000_000  # of a raster; a larger one is never held whole
FORMAT_VERSION = 1


def open_predictor(
    model: Path,
    *,
    score_threshold: float | None = None,
    tile_size: tuple[int, int] | None = None,
    overlap_px: int | None = None,
    threads: int = 0,
) -> Predictor:
    """Open a model file for detection.

    Args:
        model: an ONNX or `.krimp` file exported by Krimp.
        score_threshold: 0..1; None takes the model's own.
        tile_size: (height, width) of a window, pixels; None takes the size the model was made for.
        overlap_px: pixels that neighbouring windows share; None leaves it to the plug-in.
        threads: of ONNX Runtime; 0 means one per core.

    Raises:
        CodecError: the file is damaged or carries no metadata.
        DetectorError: the plug-in is unknown or the metadata does not fit it.
        StageError: the network does not take the wanted window size.
    """
    session = open_session(model, threads=threads)
    meta = deploy_metadata_of(session, str(model))
    try:
        deploy = load_deploy(meta)
    except DetectorError as error:
        raise DetectorError(f"{model}: {error}") from error
    forward = session_forward(session)
    rows, columns = session.get_inputs()[0].shape[2:]
    fixed = (rows, columns) if isinstance(rows, int) and isinstance(columns, int) else None
    for (high, wide), whose in ((fixed or (1, 1), "the network's input"), (tile_size or (1, 1), "--tile")):
        if high * wide > MAX_WINDOW_PIXELS:
            raise StageError(f"{model}: {whose} is {high}x{wide} px, expected at most {MAX_WINDOW_PIXELS} px in all.")
    if fixed is not None and tile_size not in (None, fixed) and padded_size(deploy, tile_size) != fixed:
        raise StageError(
            f"{model}: the network takes {fixed[0]}x{fixed[1]} px only, --tile is {tile_size[0]}x{tile_size[1]}. "
            "Leave --tile out."
        )
    if tile_size is None and fixed is not None and padded_size(deploy) != fixed:
        tile_size = fixed
        if padded_size(deploy, fixed) != fixed:
            raise StageError(
                f"{model}: the network takes {fixed[0]}x{fixed[1]} px, its metadata makes "
                f"{'x'.join(map(str, padded_size(deploy, fixed)))} px of pictures. Correct image_size there."
            )
    predictor = Predictor(forward, deploy, tile_size, overlap_px, score_threshold)
    height, width = predictor.window_size
    predictor.windows((2 * height, 2 * width))  # refuses an overlap that does not fit, before any work
    return predictor


def reading_of(meta: Mapping[str, Any], max_pixels: int = MAX_PIXELS) -> Reading:
    """Return how a model's pictures are read: brightness as in its training, sizes up to a limit.

    Args:
        meta: the model's `krimp.deploy`.
        max_pixels: larger pictures are refused; TIFFs that are read window by window have no limit.

    Raises:
        DetectorError: `value_range` of the metadata is no range.
    """
    try:
        return Reading(range_of_text(meta.get("value_range")), max_pixels)
    except ValueError as error:
        raise DetectorError(f"krimp.deploy: {error}. Export the model again.") from error


def padded_size(deploy: Deploy, size: tuple[int, int] | None = None) -> tuple[int, int]:
    """Return (height, width) of the network's input for a window of a size; None means that of the model's metadata."""
    images = deploy.preprocess(np.zeros((*(size or deploy.image_size), 3), np.uint8))
    return images.shape[2], images.shape[3]


def find_images(patterns: Sequence[str | Path]) -> list[Path]:
    """Return the pictures that files, folders and glob patterns name, each once, in the given order.

    Args:
        patterns: a file of any name, a folder (its pictures, not those of its sub-folders), or a
            pattern with `*`, `?`, `[...]` or `**`.

    Raises:
        DataError: something does not exist, matches nothing or holds no picture.
    """
    found: dict[Path, None] = {}
    for pattern in map(str, patterns):
        path = Path(pattern)
        if path.is_dir():
            files = sorted(file for file in path.iterdir() if file.is_file() and _is_picture(file))
        elif path.exists():
            files = [path]
        else:
            names = glob.glob(pattern, recursive=True)  # noqa: PTH207 (Path.glob refuses absolute patterns)
            files = sorted(file for name in names if _is_picture(file := Path(name)))
        if not files:
            what = f"the folder holds no picture ({', '.join(IMAGE_SUFFIXES)})" if path.is_dir() else "no such picture"
            raise DataError(f"{pattern}: {what}. Give image files, folders or patterns.")
        found.update(dict.fromkeys(files))
    return list(found)


@dataclass(frozen=True)
class Results:
    """What `detect` writes besides text and JSON.

    Attributes:
        folder: for all of it; made if missing.
        pictures: pictures with the boxes drawn.
        formats: COCO is one `coco_results.json`, GEOJSON a file a picture.
        coco_ids: numbers of images and categories in the COCO results.
        own_map: GeoJSON in the coordinates of each raster's own map instead of WGS 84.
        outputs: decides which files may be replaced.
    """

    folder: Path
    pictures: bool = True
    formats: frozenset[Format] = frozenset()
    coco_ids: CocoIds = field(default_factory=CocoIds)
    own_map: bool = False
    outputs: Outputs = field(default_factory=lambda: Outputs("detect", error=DataError))

    def paths(self, images: Iterable[Path]) -> list[Path]:
        """Return the files that detecting on pictures may write."""
        suffixes = [".txt", *([".png"] if self.pictures else [])]
        suffixes += [".geojson"] if Format.GEOJSON in self.formats else []
        taken: set[str] = set()
        names = [f"{name}{suffix}" for name in (_free_name(path, taken) for path in images) for suffix in suffixes]
        names += [RESULT_FILE, *([COCO_FILE] if Format.COCO in self.formats else [])]
        return [self.folder / name for name in names]


def detect(
    predictor: Predictor,
    images: Iterable[Path],
    results: Results,
    *,
    model_name: str = "",
    max_pixels: int = MAX_PIXELS,
) -> dict[str, Any]:
    """Detect on pictures and write `<name>.txt`, `<name>.png` and `detections.json` into a folder.

    A picture that cannot be read, or whose results cannot be written, is noted under `failed`; the others go on.
    Whatever ends the batch, `detections.json` then holds what was done before.

    Args:
        predictor: the model.
        images: picture files.
        results: where to, and what else.
        model_name: for the record.
        max_pixels: pictures with more are not decoded; see `reading_of`.

    Returns:
        What `detections.json` holds.

    Raises:
        DataError: the annotation file of the COCO results does not name a picture or a class, or the folder cannot be
            made.
    """
    make_folder(results.folder, DataError)
    deploy, taken = predictor.deploy, set[str]()
    threshold, reading = predictor.score_threshold, reading_of(deploy.meta, max_pixels)
    record: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "model": model_name,
        "plugin": deploy.meta["plugin"],
        "classes": list(deploy.classes),
        "score_threshold": deploy.score_threshold if threshold is None else threshold,
        "drawn_score_threshold": predictor.drawn_threshold,
        "tile_size": list(predictor.window_size),
        "images": [],
        "failed": [],
    }
    try:
        for path in images:
            _try_one(predictor, path, _free_name(path, taken), results, record, reading)
    finally:
        results.outputs.write(results.folder / RESULT_FILE, json.dumps(record) + "\n", synced=False)
    if Format.COCO in results.formats:
        rows = coco_results([(image["file"], image["detections"]) for image in record["images"]], results.coco_ids)
        results.outputs.write(results.folder / COCO_FILE, json.dumps(rows) + "\n", synced=False)
    return record


def _try_one(
    predictor: Predictor, path: Path, name: str, results: Results, record: dict[str, Any], reading: Reading
) -> None:
    """Detect on one picture and note in the record what came of it.

    Raises:
        CompressError: the model itself cannot be used.
        OSError: the disk is full.
    """
    try:
        if Format.COCO in results.formats:
            results.coco_ids.image(str(path))
        with open_source(path, reading) as source:
            record["images"].append(_detect_one(predictor, path, source, name, results))
        return
    except DataError as error:
        text = str(error)
    except MemoryError:
        text = f"{path}: there is not enough memory for it. Give a smaller picture, or a TIFF, read window by window."
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        text = f"{error.filename or path}: {error.strerror or error}. Rename the file, or check its permissions."
    record["failed"].append({"file": str(path), "error": text})


def _detect_one(predictor: Predictor, path: Path, source: ImageSource, name: str, results: Results) -> dict[str, Any]:
    """Detect on one picture, write its files and return its record."""
    deploy, (height, width) = predictor.deploy, source.size
    position = source.position if isinstance(source, RasterSource) else None
    if Format.GEOJSON in results.formats and position is None:
        raise DataError(
            f"{path}: has no place on a map, which GeoJSON is made of. Give a GeoTIFF"
            f"{'' if has_rasterio() else f'; rasterio reads them. {INSTALL}'}"
        )
    windows = predictor.windows(source.size)
    watch = partial(track, label=path.name) if len(windows) >= MANY_WINDOWS else iter
    found = predictor.detect(source, watch=watch)
    records = deploy.to_json(found)
    results.outputs.write(results.folder / f"{name}.txt", deploy.to_text(found), synced=False)
    if Format.GEOJSON in results.formats and position is not None:
        crs = position.name if results.own_map else None
        document = geojson(records, position.mapper(own_map=results.own_map), crs=crs)
        results.outputs.write(results.folder / f"{name}.geojson", json.dumps(document) + "\n", synced=False)
    if results.pictures:
        if isinstance(source, RasterSource) and height * width > MAX_DRAWN_PIXELS:
            warn(f"{path}: {width} x {height} px are too many to draw; its boxes are in {name}.txt.")
        else:
            whole = source.read((0, 0, width, height))
            drawn = deploy.draw(whole, found, score_threshold=predictor.drawn_threshold)
            results.outputs.write(results.folder / f"{name}.png", _encode(drawn), synced=False)
    return {
        "file": str(path),
        "name": name,
        "height": height,
        "width": width,
        "num_windows": len(windows),
        "detections": records,
    }


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith("._")  # what macOS leaves


def _free_name(path: Path, taken: set[str]) -> str:
    """Return the picture's stem as a name that no earlier picture has and that leaves room for a suffix.

    `A` and `a` are one name, and so are both forms of an accent: on some file systems they are one file.

    Where it is taken or too long, a digest of the path makes it another one; a further one of the same path is counted.
    """
    name, digest = path.stem, hashlib.sha256(os.fsencode(path)).hexdigest()[:8]
    short = os.fsencode(name)[: MAX_NAME_BYTES - 20].decode(errors="ignore")
    if len(os.fsencode(name)) > MAX_NAME_BYTES:
        name = f"{short}_{digest}"
    for number in itertools.count(1):
        if (key := unicodedata.normalize("NFC", name).casefold()) not in taken:
            break
        name = f"{short}_{digest}" if number == 1 else f"{short}_{digest}_{number}"
    taken.add(key)
    return name


def _encode(image: np.ndarray) -> bytes:
    import cv2

    done, content = cv2.imencode(".png", image)
    if not done:
        raise StageError(f"picture of {image.shape} cannot be encoded as PNG.")
    return content.tobytes()
