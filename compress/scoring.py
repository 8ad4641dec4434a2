"""Accuracy of a model on a split: whole pictures, looked at as they are when the model is deployed."""

from __future__ import annotations

from collections.abc import Callable

from compress.dataset import Scores
from compress.detector import AdaptsTruth, Detector, Forward
from compress.errors import DetectorError
from compress.plugins import deploy_of
from compress.predictor import Predictor


def evaluate(
    detector: Detector,
    forward: Forward,
    split: str,
    *,
    limit: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """Score raw outputs on a split, picture by picture, larger ones by tiles.

    Args:
        detector: what decodes the outputs, with its data set.
        forward: (1, 3, H, W) float32 -> raw outputs, `output_names` first.
        split: name of the split.
        limit: score the first so many images only.
        progress: called with (images done, images in all).

    Raises:
        DetectorError: the split does not exist, its labels are wrong, or it has no image.
    """
    pictures = detector.data.images(split)
    total = len(pictures) if limit is None else min(limit, len(pictures))
    if total == 0:
        raise DetectorError(f"data split {split!r}: no image to score, expected at least one.")
    predictor = Predictor(forward, deploy_of(detector))
    found, truths = [], []
    for done, picture in enumerate(pictures, start=1):
        found.append(predictor.detect(picture.image))
        truths.append(detector.adapt_truth(picture.truth) if isinstance(detector, AdaptsTruth) else picture.truth)
        if progress is not None:
            progress(done, total)
        if done == total:
            break
    return detector.data.score(found, truths)
