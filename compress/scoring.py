"""Accuracy of a model on a split: whole pictures, looked at as they are when the model is deployed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from compress.breakdown import Breakdown
from compress.dataset import BreaksDown, Scores
from compress.detector import AdaptsTruth, Detector, Forward
from compress.errors import DetectorError
from compress.plugins import deploy_of
from compress.predictor import Predictor


@dataclass(frozen=True)
class FoundInSplit:
    """What a model found in the pictures of a split; the three lists belong together.

    Attributes:
        found: detections of each picture.
        truths: what was to be found, as the detector can find it.
        names: of the pictures.
    """

    found: list[Any]
    truths: list[Any]
    names: list[str]


def evaluate(
    detector: Detector,
    forward: Forward,
    split: str,
    *,
    limit: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """Score raw outputs on a split; arguments and errors as of `find_in_split`."""
    looked = find_in_split(detector, forward, split, limit=limit, progress=progress)
    return detector.data.score(looked.found, looked.truths)


def break_down(detector: Detector, looked: FoundInSplit) -> Breakdown | None:
    """Return what a score is made of, None if the data set does not say."""
    if not isinstance(detector.data, BreaksDown):
        return None
    return detector.data.break_down(looked.found, looked.truths, looked.names)


def find_in_split(
    detector: Detector,
    forward: Forward,
    split: str,
    *,
    limit: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> FoundInSplit:
    """Detect in the pictures of a split, picture by picture, larger ones by tiles.

    Args:
        detector: what decodes the outputs, with its data set.
        forward: (1, 3, H, W) float32 -> raw outputs, `output_names` first.
        split: name of the split.
        limit: look at the first so many images only.
        progress: called with (images done, images in all).

    Raises:
        DetectorError: the split does not exist, its labels are wrong, or it has no image.
    """
    pictures = detector.data.images(split)
    total = len(pictures) if limit is None else min(limit, len(pictures))
    if total == 0:
        raise DetectorError(f"data split {split!r}: no image to score, expected at least one.")
    predictor = Predictor(forward, deploy_of(detector))
    looked = FoundInSplit([], [], [])
    for done, picture in enumerate(pictures, start=1):
        looked.found.append(predictor.detect(picture.image))
        adapted = detector.adapt_truth(picture.truth) if isinstance(detector, AdaptsTruth) else picture.truth
        looked.truths.append(adapted)
        looked.names.append(picture.name)
        if progress is not None:
            progress(done, total)
        if done == total:
            break
    return looked
