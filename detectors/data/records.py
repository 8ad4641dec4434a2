"""Match records: which detection was right, image by image, and all that average precision needs. NumPy only.

Gathered once, they give AP on any resampling of the images, so bootstrap intervals cost no second matching.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from compress.errors import DataError

CHUNK_VALUES = 4_000_000  # resamples x detections held at once


@dataclass(frozen=True)
class MatchRecords:
    """Outcome of every detection of a split. All arrays share the order of the detections.

    Attributes:
        classes: names.
        iou_threshold: overlap that made a match.
        image: (n,) int32, index of the image.
        label: (n,) int32, index of the class.
        score: (n,) float32.
        size_px: (n,) float32, square root of the area of the true box it found, else of its own.
        right: (n,) bool, true positive.
        wrong: (n,) bool, false positive; neither: it lies on an ignored box.
        num_truths: (images, classes) int64, boxes to be found.
        truth_image: (t,) int32.
        truth_label: (t,) int32.
        truth_size_px: (t,) float32, square root of the area of every true box.
        truth_found: (t,) bool.
    """

    classes: tuple[str, ...]
    iou_threshold: float
    image: np.ndarray
    label: np.ndarray
    score: np.ndarray
    size_px: np.ndarray
    right: np.ndarray
    wrong: np.ndarray
    num_truths: np.ndarray
    truth_image: np.ndarray
    truth_label: np.ndarray
    truth_size_px: np.ndarray
    truth_found: np.ndarray

    def save(self, path: Path) -> None:
        """Write all fields to an .npz file without pickle."""
        np.savez_compressed(
            path, allow_pickle=False, **{f.name: np.asarray(getattr(self, f.name)) for f in fields(self)}
        )

    @classmethod
    def load(cls, path: Path) -> MatchRecords:
        """Read what `save` wrote.

        Raises:
            DataError: not such a file.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                values = {f.name: file[f.name] for f in fields(cls)}
        except (OSError, KeyError, ValueError) as error:
            raise DataError(f"{path}: {error}, expected match records. Score the model again.") from error
        values["classes"] = tuple(str(name) for name in values["classes"])
        values["iou_threshold"] = float(values["iou_threshold"])
        return cls(**values)


def of_size(records: MatchRecords, low_px: float, high_px: float) -> MatchRecords:
    """Return the records as if only boxes of low <= size < high were to be found.

    A detection that found a box of another size is neither right nor wrong; nor is one that found nothing and is of
    another size itself.

    Source:
        COCO's area ranges (Lin et al. 2014, `cocoeval.py`), with oriented boxes.
    """
    inside = (records.size_px >= low_px) & (records.size_px < high_px)
    kept = (records.truth_size_px >= low_px) & (records.truth_size_px < high_px)
    num_truths = np.zeros_like(records.num_truths)
    np.add.at(num_truths, (records.truth_image[kept], records.truth_label[kept]), 1)
    return replace(
        records,
        right=records.right & inside,
        wrong=records.wrong & inside,
        num_truths=num_truths,
        truth_image=records.truth_image[kept],
        truth_label=records.truth_label[kept],
        truth_size_px=records.truth_size_px[kept],
        truth_found=records.truth_found[kept],
    )


def precision_recall(records: MatchRecords, label: int) -> tuple[np.ndarray, np.ndarray]:
    """Return precision and recall of one class after each detection, best score first, float64.

    Ties in score keep the order of the records.
    """
    order = _order(records, label)
    right = np.cumsum(records.right[order])
    wrong = np.cumsum(records.wrong[order])
    truths = records.num_truths[:, label].sum()
    return right / np.maximum(right + wrong, 1), right / np.maximum(truths, 1)


def average_precision(precision: np.ndarray, recall: np.ndarray) -> float:
    """Return the area under the precision that is reached at each recall or beyond, 0..1; 0 without a detection.

    Args:
        precision: (n,) after each detection, best score first.
        recall: (n,) likewise.

    Source:
        PASCAL VOC 2010. Rounded to float32 as MMDetection's `average_precision` is, for equal digits.
    """
    reached = np.maximum.accumulate(np.append(precision, 0.0)[::-1])[::-1]
    edges = np.concatenate([[0.0], recall, [1.0]])
    moved = np.flatnonzero(edges[1:] != edges[:-1])
    return float(np.float32(np.sum((edges[moved + 1] - edges[moved]) * reached[moved])))


def eleven_point_precision(precision: np.ndarray, recall: np.ndarray) -> float:
    """Return the mean of the precision that is reached at recall 0, 0.1, ..., 1 or beyond; arguments as above.

    Source:
        PASCAL VOC 2007, summed in float32 as MMDetection does.
    """
    total = np.float32(0)
    for least in np.arange(0, 1 + 1e-3, 0.1):
        total = np.float32(total + precision[recall >= least].max(initial=0.0))
    return float(total / np.float32(11))


def bootstrap_map50(records: MatchRecords, *, samples: int, seed: int) -> np.ndarray:
    """Return the mean area AP over the classes with truth, for images drawn with replacement.

    Args:
        records: outcome on n images.
        samples: resamples, each of n images.
        seed: decides the draws; equal seeds and image counts give the same draws for any records.

    Returns:
        (samples,) float64.
    """
    return np.concatenate([_resampled_map50(records, weights) for weights in _draws(records, samples, seed)])


def interval(values: np.ndarray, coverage: float = 0.95) -> tuple[float, float]:
    """Return the central interval that holds `coverage` of the values."""
    tail = (1 - coverage) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def area_map50(records: MatchRecords) -> float:
    """Return the mean area AP on the images as they are, 0..1; 0 without any truth."""
    return float(_resampled_map50(records, np.ones((1, len(records.num_truths))))[0])


def _order(records: MatchRecords, label: int) -> np.ndarray:
    of_class = np.flatnonzero(records.label == label)
    return of_class[np.argsort(-records.score[of_class], kind="stable")]


def _draws(records: MatchRecords, samples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield how often each image is drawn, (chunk, images) float64; the chunks do not change the draws."""
    images = len(records.num_truths)
    chunk = max(1, CHUNK_VALUES // max(len(records.score), 1))
    generator = np.random.default_rng(seed)
    for start in range(0, samples, chunk):
        yield generator.multinomial(images, np.full(images, 1 / images), size=min(chunk, samples - start)).astype(float)


def _resampled_map50(records: MatchRecords, weights: np.ndarray) -> np.ndarray:
    """Return the mean area AP for each row of image weights (resamples, images)."""
    truths = weights @ records.num_truths
    scores = np.stack([_resampled_ap(records, label, weights) for label in range(len(records.classes))], axis=1)
    counted = truths > 0
    means: np.ndarray = (scores * counted).sum(axis=1) / np.maximum(counted.sum(axis=1), 1)
    return means


def _resampled_ap(records: MatchRecords, label: int, weights: np.ndarray) -> np.ndarray:
    """Return the area AP of one class for each row of image weights.

    Recall moves only at true positives, and the largest precision at or after one of them is reached
    at a true positive, so the curve is evaluated at these alone.
    """
    order = _order(records, label)
    image, right, wrong = records.image[order], records.right[order], records.wrong[order]
    at = np.flatnonzero(right)
    truths = weights @ records.num_truths[:, label]
    if not len(at):
        return np.zeros(len(weights))
    gained = weights[:, image[at]]
    found = np.cumsum(gained, axis=1)
    missed = np.cumsum(weights[:, image] * wrong, axis=1)[:, at]
    precision = found / np.maximum(found + missed, 1)
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    areas: np.ndarray = (gained * envelope).sum(axis=1) / np.maximum(truths, 1)
    return areas
