"""Score any forward on a split through a plug-in's deployed code, picture by picture, tile by tile."""

from __future__ import annotations

from collections.abc import Callable

from compress.dataset import Dataset, Scores
from compress.detector import Deploy, Forward
from compress.errors import DetectorError
from compress.predictor import Predictor
from detectors.data.samples import Truth


def evaluate_split(
    forward: Forward,
    split: str,
    *,
    data: Dataset,
    deploy: Deploy,
    truth_of: Callable[[Truth], Truth] = lambda truth: truth,
    limit: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """Score raw outputs on a split.

    Args:
        forward: (1, 3, H, W) float32 -> raw outputs.
        split: name of the split.
        data: the data set.
        deploy: the plug-in's torch-free part.
        truth_of: changes the truth of an image, e.g. to axis-aligned boxes.
        limit: score the first so many images only.
        progress: called with (images done, images in all).

    Raises:
        DetectorError: the split has no image.
    """
    images = data.images(split)
    total = len(images) if limit is None else min(limit, len(images))
    if total == 0:
        raise DetectorError(f"data split {split!r}: no image to score, expected at least one.")
    predictor = Predictor(forward, deploy)
    found, truths = [], []
    for done, (_, image, truth) in enumerate(images, start=1):
        found.append(predictor.detect(image))
        truths.append(truth_of(truth))
        if progress is not None:
            progress(done, total)
        if done == total:
            break
    return data.score(found, truths)
