"""A few test images with the boxes of the float and of the final model, side by side."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from compress.artifact import Artifact
from compress.detector import Detector, Forward
from compress.errors import DetectorError, StageError
from compress.plugins import deploy_of
from compress.predictor import Predictor
from compress.report.document import Picture

GAP_PX, CAPTION_PX = 6, 24


def draw_pictures(
    folder: Path,
    artifacts: Sequence[Artifact],
    detector: Detector,
    *,
    forward_of: Callable[[Artifact], Forward],
    split: str,
    count: int,
    score_threshold: float | None = None,
) -> tuple[list[Picture], str | None]:
    """Write PNGs of `count` images of a split, one column a model.

    Args:
        folder: to write into.
        artifacts: models, left to right.
        detector: with its data set, whose first images are taken.
        forward_of: returns the forward of an artifact; called only where pictures can be drawn.
        split: where the images come from.
        count: how many.
        score_threshold: draw and count only what scores more; None takes the deployed threshold.

    Returns:
        (pictures, None), or ([], why there are none).
    """
    try:
        deploy = deploy_of(detector)
    except DetectorError as error:
        return [], f"no pictures: {error}"
    predictors = {
        artifact.label: Predictor(forward_of(artifact), deploy, score_threshold=score_threshold)
        for artifact in artifacts
    }
    above = "" if score_threshold is None else f" above {score_threshold:g}"
    pictures = []
    for number, (name, image, _) in enumerate(islice(detector.data.images(split), count)):
        panels, counts = [], {}
        for label, predictor in predictors.items():
            found = predictor.detect(image)
            counts[label] = len(found)
            panels.append(_captioned(deploy.draw(image, found), f"{label}: {len(found)} detections{above}"))
        file = f"picture_{number + 1}_{re.sub(r'[^A-Za-z0-9_-]+', '_', Path(name).stem)[:60]}.png"
        _write_png(folder / file, side_by_side(panels))
        pictures.append(
            Picture(file=file, image=Path(name).name, num_detections=counts, score_threshold=score_threshold)
        )
    return pictures, None


def side_by_side(panels: Sequence[np.ndarray]) -> np.ndarray:
    """Return (H, W, 3) uint8 panels in a row with a gap, lower ones padded with white."""
    height = max(panel.shape[0] for panel in panels)
    columns = []
    for panel in panels:
        padded = np.full((height, panel.shape[1], 3), 255, np.uint8)
        padded[: panel.shape[0]] = panel
        columns += [padded, np.full((height, GAP_PX, 3), 255, np.uint8)]
    return np.concatenate(columns[:-1], axis=1)


def _captioned(image: np.ndarray, text: str) -> np.ndarray:
    import cv2

    strip = np.full((CAPTION_PX, image.shape[1], 3), 255, np.uint8)
    cv2.putText(strip, text, (4, CAPTION_PX - 8), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (60, 60, 60), 1, cv2.LINE_AA)
    return np.concatenate([strip, image])


def _write_png(path: Path, image: np.ndarray) -> None:
    import cv2

    done, data = cv2.imencode(".png", image)
    if not done:
        raise StageError(f"{path}: the picture could not be encoded as PNG.")
    path.write_bytes(data.tobytes())
