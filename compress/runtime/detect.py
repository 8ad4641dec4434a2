"""`krimp detect`: pictures in, boxes out, from a model file alone.

Everything the model needs to know travels in its own metadata; of the plug-in only the
torch-free part is imported. Pictures of any size are looked at in overlapping windows.
"""

from __future__ import annotations

import glob
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from compress.errors import DataError, StageError
from compress.runtime.forwards import session_forward
from compress.runtime.session import deploy_metadata_of, open_session

if TYPE_CHECKING:
    from compress.detector import Forward

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
RESULT_FILE = "detections.json"
FORMAT_VERSION = 1
DRAWN_SCORE = 0.3


@dataclass(frozen=True)
class Predictor:
    """A model file that is ready to look at pictures.

    Attributes:
        forward: images -> raw outputs.
        deploy: the plug-in's torch-free part.
        meta: the model's `krimp.deploy`.
        tile_size: (height, width) of a window, pixels; smaller pictures are padded to it, as in scoring.
        overlap_px: pixels that neighbouring windows share; None leaves it to the plug-in.
        score_threshold: replaces the one of `meta`; None keeps it.
    """

    forward: Forward
    deploy: ModuleType
    meta: dict[str, Any]
    tile_size: tuple[int, int]
    overlap_px: int | None
    score_threshold: float | None

    @property
    def drawn_threshold(self) -> float:
        """Return the score above which boxes are drawn: the wanted one, else at least `DRAWN_SCORE`.

        Models are scored at a low threshold, which would bury a picture in weak boxes.
        """
        if self.score_threshold is not None:
            return self.score_threshold
        return max(DRAWN_SCORE, float(self.meta.get("score_threshold", 0.0)))

    def windows(self, image_size: tuple[int, int]) -> list[Any]:
        """Return the windows in which a picture of (height, width) pixels is looked at."""
        return self.deploy.tile_windows(image_size, self.meta, tile_size=self.tile_size, overlap_px=self.overlap_px)

    def detect(self, image: np.ndarray) -> Any:
        """Return the detections of a picture.

        Args:
            image: (H, W, 3) uint8, BGR, any size.

        Returns:
            The plug-in's detections object, in pixels of the picture.
        """
        size = (image.shape[0], image.shape[1])
        windows = self.windows(size)
        parts = []
        for x, y, width, height in windows:
            tile = image[y : y + height, x : x + width]
            images = self.deploy.preprocess(tile, self.meta, minimum_size=self.tile_size)
            parts += self.deploy.postprocess(
                self.forward(images), self.meta, image_size=(height, width), score_threshold=self.score_threshold
            )
        return self.deploy.merge(parts, windows, self.meta, image_size=size)


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
    from compress.plugins import load_deploy

    session = open_session(model, threads=threads)
    meta = deploy_metadata_of(session, str(model))
    deploy = load_deploy(str(meta.get("plugin")))
    deploy.check_meta(meta)
    rows, columns = session.get_inputs()[0].shape[2:]
    fixed = (rows, columns) if isinstance(rows, int) and isinstance(columns, int) else None
    if fixed is not None and tile_size is not None and tile_size != fixed:
        raise StageError(
            f"{model}: the network takes {fixed[0]}x{fixed[1]} px only, --tile is {tile_size[0]}x{tile_size[1]}. "
            "Leave --tile out."
        )
    wanted = tile_size or fixed or (int(meta["image_size"][0]), int(meta["image_size"][1]))
    predictor = Predictor(session_forward(session), deploy, meta, wanted, overlap_px, score_threshold)
    predictor.windows((2 * wanted[0], 2 * wanted[1]))  # refuses an overlap that does not fit, before any work
    return predictor


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


def read_image(path: Path) -> np.ndarray:
    """Return a picture as (H, W, 3) uint8, BGR.

    Raises:
        DataError: the file cannot be read or decoded.
    """
    import cv2

    try:
        content = np.fromfile(path, np.uint8)
        image = cv2.imdecode(content, cv2.IMREAD_COLOR) if content.size else None
    except (OSError, cv2.error) as error:
        raise DataError(f"{path}: cannot be read as a picture: {error}. Check or remove the file.") from error
    if image is None:
        raise DataError(
            f"{path}: {content.size} bytes that are no picture OpenCV can decode. Check or remove the file."
        )
    return image


def detect(
    predictor: Predictor, images: Iterable[Path], out: Path, *, pictures: bool = True, model_name: str = ""
) -> dict[str, Any]:
    """Detect on pictures and write `<name>.txt`, `<name>.png` and `detections.json` into a folder.

    A picture that cannot be decoded is noted under `failed`; the others go on.

    Args:
        predictor: the model.
        images: picture files.
        out: folder for the results; made if missing.
        pictures: also write the pictures with boxes.
        model_name: for the record.

    Returns:
        What `detections.json` holds.
    """
    out.mkdir(parents=True, exist_ok=True)
    meta, taken = predictor.meta, set[str]()
    threshold = predictor.score_threshold
    record: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "model": model_name,
        "plugin": meta["plugin"],
        "classes": list(meta["classes"]),
        "score_threshold": meta.get("score_threshold") if threshold is None else threshold,
        "drawn_score_threshold": predictor.drawn_threshold,
        "tile_size": list(predictor.tile_size),
        "images": [],
        "failed": [],
    }
    for path in images:
        try:
            image = read_image(path)
        except DataError as error:
            record["failed"].append({"file": str(path), "error": str(error)})
            continue
        name = _free_name(path, taken)
        found = predictor.detect(image)
        _write(out / f"{name}.txt", predictor.deploy.to_text(found, meta).encode())
        if pictures:
            drawn = predictor.deploy.draw(image, found, meta, score_threshold=predictor.drawn_threshold)
            _write(out / f"{name}.png", _encode(drawn))
        record["images"].append(
            {
                "file": str(path),
                "name": name,
                "height": image.shape[0],
                "width": image.shape[1],
                "num_windows": len(predictor.windows((image.shape[0], image.shape[1]))),
                "detections": predictor.deploy.to_json(found, meta),
            }
        )
    _write(out / RESULT_FILE, (json.dumps(record) + "\n").encode())
    return record


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES


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


def _write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        OSError: it cannot be written; its `filename` is set even where the system leaves it out (disk full).
    """
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error
