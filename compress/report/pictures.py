"""Some images with the boxes of the float and of the final model, side by side: a usual one, then the worst."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from compress.artifact import Artifact
from compress.breakdown import Breakdown, ImageOutcome
from compress.dataset import Picture as Image
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
    breakdowns: Mapping[str, Breakdown] | None = None,
) -> tuple[list[Picture], str | None]:
    """Write PNGs of `count` images of a split, one column a model.

    Args:
        folder: to write into.
        artifacts: models, left to right.
        detector: with its data set.
        forward_of: returns the forward of an artifact; called only where pictures can be drawn.
        split: where the images come from.
        count: how many.
        score_threshold: draw and count only what scores more; None takes the deployed threshold.
        breakdowns: by label of a model, its outcome on each image; they choose the images, else the first are taken.

    Returns:
        (pictures, None), or ([], why there are none).
    """
    try:
        deploy = deploy_of(detector)
    except DetectorError as error:
        return [], f"no pictures: {error}"
    outcomes = [_outcomes((breakdowns or {}).get(artifact.label)) for artifact in artifacts]
    predictors = {
        artifact.label: Predictor(forward_of(artifact), deploy, score_threshold=score_threshold)
        for artifact in artifacts
    }
    above = "" if score_threshold is None else f" above {score_threshold:g}"
    pictures = []
    chosen = telling_images(outcomes[0], outcomes[-1], count) if outcomes else []
    for number, (name, image, _) in enumerate(_some(detector.data.images(split), chosen, count)):
        panels, counts = [], {}
        for label, predictor in predictors.items():
            found = predictor.detect(image)
            counts[label] = len(found)
            panels.append(_captioned(deploy.draw(image, found), f"{label}: {len(found)} detections{above}"))
        file = f"picture_{number + 1}_{re.sub(r'[^A-Za-z0-9_-]+', '_', Path(name).stem)[:60]}.png"
        _write_png(folder / file, side_by_side(panels))
        height, width = panels[0].shape[:2]
        seen = {a.label: one[name] for a, one in zip(artifacts, outcomes, strict=True) if name in one}
        pictures.append(
            Picture(
                file=file,
                image=Path(name).name,
                num_detections=counts,
                score_threshold=score_threshold,
                size=(image.shape[0], image.shape[1]),
                panel=(0, CAPTION_PX, width, height - CAPTION_PX),
                gap=GAP_PX,
                missed={label: one.missed_corners for label, one in seen.items()},
                wrong={label: one.wrong_corners for label, one in seen.items()},
            )
        )
    return pictures, None


def telling_images(before: Mapping[str, ImageOutcome], after: Mapping[str, ImageOutcome], count: int) -> list[str]:
    """Return names of images: a usual one, then those on which most was lost, the worst first.

    Args:
        before: outcome of the float model, by name of the image.
        after: of the final model.
        count: how many.

    Returns:
        Names; none without outcomes of both.
    """
    lost = {name: before[name].f1 - one.f1 for name, one in after.items() if name in before}
    if not lost or count < 1:
        return []
    worst = sorted(lost, key=lambda name: (-lost[name], after[name].f1, name))
    middle = float(np.median([lost[name] for name in lost]))
    score = float(np.median([after[name].f1 for name in lost]))
    usual = min(
        lost,
        key=lambda name: (not after[name].objects, abs(lost[name] - middle) + abs(after[name].f1 - score), name),
    )
    return [usual, *(name for name in worst if name != usual)][:count]


def _outcomes(made_of: Breakdown | None) -> dict[str, ImageOutcome]:
    return {} if made_of is None else {one.name: one for one in made_of.images}


def side_by_side(panels: Sequence[np.ndarray]) -> np.ndarray:
    """Return (H, W, 3) uint8 panels in a row with a gap, lower ones padded with white."""
    height = max(panel.shape[0] for panel in panels)
    columns = []
    for panel in panels:
        padded = np.full((height, panel.shape[1], 3), 255, np.uint8)
        padded[: panel.shape[0]] = panel
        columns += [padded, np.full((height, GAP_PX, 3), 255, np.uint8)]
    return np.concatenate(columns[:-1], axis=1)


def _some(images: Any, chosen: Sequence[str], count: int) -> Iterator[Image]:
    """Yield the images of some names in their order, or the first ones where no name is given."""
    if not chosen:
        yield from islice(images, count)
        return
    found: dict[str, Image] = {}
    for image in images:
        if image.name in chosen:
            found[image.name] = image
        if len(found) == len(chosen):
            break
    yield from (found[name] for name in chosen if name in found)


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
