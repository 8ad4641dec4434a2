"""Match records: which detection was right, image by image, and all that average precision needs. NumPy only.

Gathered once, they give AP on any resampling of the images, so bootstrap intervals cost no second matching.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from compress.errors import DataError
from detectors.data.weighted_precision import Ranking, area_precision, recall_point_precision

CHUNK_VALUES = 4_000_000  # resamples x true positives of a class held at once
AT_75 = 5  # index of 0.75 among COCO's thresholds


@dataclass(frozen=True)
class MatchRecords:
    """Outcome of every detection of a split. All arrays share the order of the detections.

    Two ways of matching stand side by side: that of map50 (`right`, `wrong`) and COCO's at ten thresholds (`*_at`),
    which `map` and `map75` are made of.

    Attributes:
        classes: names.
        iou_threshold: overlap that made a match in `right` and `wrong`.
        max_dets: so many detections of a class in an image count for COCO's.
        image: (n,) int32, index of the image.
        label: (n,) int32, index of the class.
        score: (n,) float32.
        size_px: (n,) float32, square root of the area of the true box it found, else of its own.
        right: (n,) bool, true positive.
        wrong: (n,) bool, false positive; neither: it lies on an ignored box.
        right_at: (10, n) bool, true positive at each of `greedy_matching.IOU_THRESHOLDS`.
        wrong_at: (10, n) bool, likewise; neither: on an ignored box, or beyond `max_dets`.
        size_px_at: (10, n) float32, as `size_px`.
        num_truths: (images, classes) int64, boxes to be found.
        truth_image: (t,) int32.
        truth_label: (t,) int32.
        truth_size_px: (t,) float32, square root of the area of every true box.
        truth_found: (t,) bool.
    """

    classes: tuple[str, ...]
    iou_threshold: float
    max_dets: int
    image: np.ndarray
    label: np.ndarray
    score: np.ndarray
    size_px: np.ndarray
    right: np.ndarray
    wrong: np.ndarray
    right_at: np.ndarray
    wrong_at: np.ndarray
    size_px_at: np.ndarray
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
        values["iou_threshold"], values["max_dets"] = float(values["iou_threshold"]), int(values["max_dets"])
        return cls(**values)


def of_size(records: MatchRecords, low_px: float, high_px: float) -> MatchRecords:
    """Return the records as if only boxes of low <= size < high were to be found.

    A detection that found a box of another size is neither right nor wrong; nor is one that found nothing and is of
    another size itself.

    Source:
        COCO's area ranges (Lin et al. 2014, `cocoeval.py`), with oriented boxes.
    """
    inside = (records.size_px >= low_px) & (records.size_px < high_px)
    inside_at = (records.size_px_at >= low_px) & (records.size_px_at < high_px)
    kept = (records.truth_size_px >= low_px) & (records.truth_size_px < high_px)
    num_truths = np.zeros_like(records.num_truths)
    np.add.at(num_truths, (records.truth_image[kept], records.truth_label[kept]), 1)
    return replace(
        records,
        right=records.right & inside,
        wrong=records.wrong & inside,
        right_at=records.right_at & inside_at,
        wrong_at=records.wrong_at & inside_at,
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


class Precisions(NamedTuple):
    """What the two ways of matching give, for s weightings of the images.

    Attributes:
        map50: (s,) float64, mean area AP over the classes with truth.
        at: (10, s) float64, mean 101-point AP at each of COCO's thresholds; their mean is `map`, at 0.75 `map75`.
    """

    map50: np.ndarray
    at: np.ndarray

    @property
    def map(self) -> np.ndarray:
        """Return mAP50-95, (s,)."""
        mean: np.ndarray = self.at.mean(axis=0)
        return mean

    @property
    def map75(self) -> np.ndarray:
        """Return mAP75, (s,)."""
        at: np.ndarray = self.at[AT_75]
        return at


def bootstrap(records: MatchRecords, *, samples: int, seed: int) -> Precisions:
    """Return the means over the classes with truth, for images drawn with replacement.

    Args:
        records: outcome on n images.
        samples: resamples, each of n images.
        seed: decides the draws; equal seeds and image counts give the same draws for any records.
    """
    parts = [mean_precisions(records, weights.astype(np.float32)) for weights in _draws(records, samples, seed)]
    return Precisions(
        np.concatenate([part.map50 for part in parts]), np.concatenate([part.at for part in parts], axis=1)
    )


def bootstrap_map50(records: MatchRecords, *, samples: int, seed: int) -> np.ndarray:
    """Return `map50` of `bootstrap` alone, (samples,) float64."""
    draws = _draws(records, samples, seed)
    return np.concatenate([_mean_area(records, weights.astype(np.float32)) for weights in draws])


def mean_precisions(records: MatchRecords, weights: np.ndarray) -> Precisions:
    """Return the means over the classes with truth for each column of image weights, (images, s)."""
    by_class = [class_precision_at(records, label, weights) for label in range(len(records.classes))]
    return Precisions(_mean_area(records, weights), _mean_of_classes(records, by_class, weights))


def class_precision_at(records: MatchRecords, label: int, weights: np.ndarray) -> np.ndarray:
    """Return the 101-point AP of one class at each of COCO's thresholds, (10, s)."""
    order = _order(records, label)
    right, wrong = records.right_at[:, order], records.wrong_at[:, order]
    ranking = Ranking(records.image[order], right, wrong, records.num_truths[:, label])
    return recall_point_precision(ranking, weights)


def as_they_are(records: MatchRecords) -> np.ndarray:
    """Return the weights that count each image once, (images, 1)."""
    return np.ones((len(records.num_truths), 1))


def interval(values: np.ndarray, coverage: float = 0.95) -> tuple[float, float]:
    """Return the central interval that holds `coverage` of the values."""
    tail = (1 - coverage) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def area_map50(records: MatchRecords) -> float:
    """Return the mean area AP on the images as they are, 0..1; 0 without any truth."""
    return float(_mean_area(records, as_they_are(records))[0])


def _order(records: MatchRecords, label: int) -> np.ndarray:
    of_class = np.flatnonzero(records.label == label)
    return of_class[np.argsort(-records.score[of_class], kind="stable")]


def _draws(records: MatchRecords, samples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield how often each image is drawn, (images, chunk); the chunks do not change the draws."""
    images = len(records.num_truths)
    most = np.bincount(records.label[records.right | records.right_at.any(axis=0)], minlength=1).max()
    chunk = max(1, CHUNK_VALUES // max(int(most), 1))
    generator = np.random.default_rng(seed)
    for start in range(0, samples, chunk):
        drawn = generator.multinomial(images, np.full(images, 1 / images), size=min(chunk, samples - start))
        yield np.ascontiguousarray(drawn.T)


def _mean_area(records: MatchRecords, weights: np.ndarray) -> np.ndarray:
    """Return the mean area AP for each column of image weights, (s,)."""
    by_class = []
    for label in range(len(records.classes)):
        order = _order(records, label)
        right, wrong = records.right[order][None], records.wrong[order][None]
        ranking = Ranking(records.image[order], right, wrong, records.num_truths[:, label])
        by_class.append(area_precision(ranking, weights))
    means: np.ndarray = _mean_of_classes(records, by_class, weights)[0]
    return means


def _mean_of_classes(records: MatchRecords, by_class: Sequence[np.ndarray], weights: np.ndarray) -> np.ndarray:
    """Return the mean over the classes that have truth in a weighting, (t, s), 0 where none has."""
    counted = records.num_truths.T @ weights > 0
    stacked = np.array(by_class, np.float64)
    means: np.ndarray = (stacked * counted[:, None]).sum(axis=0) / np.maximum(counted.sum(axis=0), 1)
    return means
