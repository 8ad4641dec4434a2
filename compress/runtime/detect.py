"""`krimp detect`: pictures in, boxes out, from a model file alone.

Everything the model needs to know travels in its own metadata; of the plug-in only the
torch-free part is imported. Pictures of any size are looked at in overlapping windows.
"""

from __future__ import annotations

import glob
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from compress.detector import Deploy
from compress.errors import DataError, DetectorError, StageError
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
from compress.whole_file import write_whole

RESULT_FILE = "detections.json"
COCO_FILE = "coco_results.json"
MANY_WINDOWS = 100  # from which a picture shows how far it is
MAX_PIXELS = 1 << 28  # of a picture that is decoded whole; 0.8 GB as pixels
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
    deploy = load_deploy(deploy_metadata_of(session, str(model)))
    rows, columns = session.get_inputs()[0].shape[2:]
    fixed = (rows, columns) if isinstance(rows, int) and isinstance(columns, int) else None
    if fixed is not None and tile_size is not None and tile_size != fixed:
        raise StageError(
            f"{model}: the network takes {fixed[0]}x{fixed[1]} px only, --tile is {tile_size[0]}x{tile_size[1]}. "
            "Leave --tile out."
        )
    if tile_size is None and fixed is not None and padded_size(deploy) != fixed:
        tile_size = fixed
    predictor = Predictor(session_forward(session), deploy, tile_size, overlap_px, score_threshold)
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


def padded_size(deploy: Deploy) -> tuple[int, int]:
    """Return (height, width) of the network's input for a picture of the size that the model was made for."""
    images = deploy.preprocess(np.zeros((*deploy.image_size, 3), np.uint8))
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
    """

    folder: Path
    pictures: bool = True
    formats: frozenset[Format] = frozenset()
    coco_ids: CocoIds = field(default_factory=CocoIds)
    own_map: bool = False


def detect(
    predictor: Predictor,
    images: Iterable[Path],
    results: Results,
    *,
    model_name: str = "",
    max_pixels: int = MAX_PIXELS,
) -> dict[str, Any]:
    """Detect on pictures and write `<name>.txt`, `<name>.png` and `detections.json` into a folder.

    A picture that cannot be read is noted under `failed`; the others go on.

    Args:
        predictor: the model.
        images: picture files.
        results: where to, and what else.
        model_name: for the record.
        max_pixels: pictures with more are not decoded; see `reading_of`.

    Returns:
        What `detections.json` holds.

    Raises:
        DataError: the annotation file of the COCO results does not name a picture or a class.
    """
    results.folder.mkdir(parents=True, exist_ok=True)
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
    for path in images:
        try:
            if Format.COCO in results.formats:
                results.coco_ids.image(str(path))
            with open_source(path, reading) as source:
                record["images"].append(_detect_one(predictor, path, source, taken, results))
        except DataError as error:
            record["failed"].append({"file": str(path), "error": str(error)})
    if Format.COCO in results.formats:
        rows = coco_results([(image["file"], image["detections"]) for image in record["images"]], results.coco_ids)
        write_whole(results.folder / COCO_FILE, (json.dumps(rows) + "\n").encode(), synced=False)
    write_whole(results.folder / RESULT_FILE, (json.dumps(record) + "\n").encode(), synced=False)
    return record


def _detect_one(
    predictor: Predictor, path: Path, source: ImageSource, taken: set[str], results: Results
) -> dict[str, Any]:
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
    name = _free_name(path, taken)
    records = deploy.to_json(found)
    write_whole(results.folder / f"{name}.txt", deploy.to_text(found).encode(), synced=False)
    if Format.GEOJSON in results.formats and position is not None:
        crs = position.name if results.own_map else None
        document = geojson(records, position.mapper(own_map=results.own_map), crs=crs)
        write_whole(results.folder / f"{name}.geojson", (json.dumps(document) + "\n").encode(), synced=False)
    if results.pictures:
        if isinstance(source, RasterSource) and height * width > MAX_DRAWN_PIXELS:
            warn(f"{path}: {width} x {height} px are too many to draw; its boxes are in {name}.txt.")
        else:
            whole = source.read((0, 0, width, height))
            drawn = deploy.draw(whole, found, score_threshold=predictor.drawn_threshold)
            write_whole(results.folder / f"{name}.png", _encode(drawn), synced=False)
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
    """Return the picture's stem, made unique by a digest of its path where two pictures share it."""
    name = path.stem
    if name in taken:
        name = f"{name}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    taken.add(name)
    return name


def _encode(image: np.ndarray) -> bytes:
    import cv2

    done, content = cv2.imencode(".png", image)
    if not done:
        raise StageError(f"picture of {image.shape} cannot be encoded as PNG.")
    return content.tobytes()
