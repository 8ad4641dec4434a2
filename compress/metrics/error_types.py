"""Why detections are wrong, by TIDE's six kinds, and what each kind costs. NumPy only; knows overlaps, not boxes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from compress.breakdown import ERROR_NAMES, ErrorType

RIGHT, IGNORED = "right", "ignored"
RECALL_POINTS = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class Overlaps:
    """Detections of one image held against its truth.

    Attributes:
        iou: (n, m) float64, overlap of each detection with each object, whatever their classes.
        scores: (n,) float, 0..1.
        labels: (n,) int64, class of each detection.
        truth_labels: (m,) int64.
        ignored: (n,) bool, lies on something that does not count; unless it is right it is left out.
    """

    iou: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    truth_labels: np.ndarray
    ignored: np.ndarray


@dataclass(frozen=True)
class ImageErrors:
    """What became of the detections and objects of one image.

    Attributes:
        kind: (n,) of `RIGHT`, `IGNORED` or a name of `ERROR_NAMES`.
        match: (n,) int64, the object that a detection is right on, else -1.
        partner: (n,) int64, the object that a 'cls' or 'loc' error would be right on if no other were better, else -1.
        missed: (m,) bool, objects that no detection finds or would find if it were put right.
        scores, labels, truth_labels: of `Overlaps`.
    """

    kind: np.ndarray
    match: np.ndarray
    partner: np.ndarray
    missed: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    truth_labels: np.ndarray

    @property
    def right(self) -> np.ndarray:
        """Return which detections are right, (n,) bool."""
        right: np.ndarray = self.kind == RIGHT
        return right

    @property
    def wrong(self) -> np.ndarray:
        """Return which detections are wrong, (n,) bool."""
        wrong: np.ndarray = ~self.right & (self.kind != IGNORED)
        return wrong


def image_errors(overlaps: Overlaps, *, iou_threshold: float = 0.5, background_iou: float = 0.1) -> ImageErrors:
    """Match the detections of an image, best score first, and say of each wrong one why it is.

    Args:
        overlaps: detections against truth.
        iou_threshold: overlap (>=) that makes a match.
        background_iou: overlap (<=) of a detection on nothing.

    Source:
        Bolya et al. 2020, TIDE: A General Toolbox for Identifying Object Detection Errors, arXiv 2008.08115, section
        2.2; where several kinds fit, the first in the order of its implementation: loc, cls, dupe, bkg, both.
    """
    iou, same = overlaps.iou, overlaps.labels[:, None] == overlaps.truth_labels[None, :]
    match = _match(np.where(same, iou, 0.0), overlaps.scores, iou_threshold)
    found = np.zeros(len(overlaps.truth_labels), bool)
    found[match[match >= 0]] = True
    kind = np.full(len(match), "both", dtype="<U8")
    own, own_at = _best(np.where(same, iou, 0.0))
    other, other_at = _best(np.where(same, 0.0, iou))
    taken, _ = _best(np.where(same & found[None, :], iou, 0.0))
    nearest, _ = _best(iou)
    badly_placed = (own >= background_iou) & (own <= iou_threshold)
    wrong_class = other >= iou_threshold
    for name, fits in (  # later ones win
        ("bkg", nearest <= background_iou),
        ("dupe", taken >= iou_threshold),
        ("cls", wrong_class),
        ("loc", badly_placed),
        (IGNORED, overlaps.ignored),
        (RIGHT, match >= 0),
    ):
        kind[fits] = name
    target = np.select([kind == "loc", kind == "cls"], [own_at, other_at], -1)
    usable = (target >= 0) & ~np.append(found, False)[target]
    missed = ~found
    missed[target[usable]] = False
    partner = np.full(len(match), -1)
    for index in np.flatnonzero(usable)[np.argsort(-overlaps.scores[usable], kind="stable")]:
        if target[index] not in partner:  # the best one puts the object right, further ones go
            partner[index] = target[index]
    return ImageErrors(kind, match, partner, missed, overlaps.scores, overlaps.labels, overlaps.truth_labels)


def error_types(images: Sequence[ImageErrors], num_classes: int) -> list[ErrorType]:
    """Return how many errors of each kind there are, and the points of map50 that each kind costs.

    A kind costs what the mean average precision would gain if an oracle put right all errors of that kind alone: badly
    placed and wrong class become right (one on each object, further ones go), double, on nothing and both go, objects
    that were missed are not asked for.

    Source:
        Bolya et al. 2020, section 2.3 (dAP), average precision at 101 recall points as COCO's.
    """
    counts = {name: sum(int((image.kind == name).sum()) for image in images) for name in ERROR_NAMES}
    counts["missed"] = sum(int(image.missed.sum()) for image in images)
    before = mean_precision(images, num_classes)
    return [
        ErrorType(
            name=name,
            count=counts[name],
            points=round(
                100 * max(0.0, mean_precision([_fixed(one, name) for one in images], num_classes) - before), 4
            ),
        )
        for name in ERROR_NAMES
    ]


def mean_precision(images: Sequence[ImageErrors], num_classes: int) -> float:
    """Return the mean of `class_precision` over recall and the classes that have truth, 0..1; 0 without any."""
    curves = [class_precision(images, label) for label in range(num_classes) if _num_truths(images, label)]
    return float(np.mean(curves)) if curves else 0.0


def class_precision(images: Sequence[ImageErrors], label: int) -> np.ndarray:
    """Return the precision of a class that is reached at each of 101 recall points or beyond, (101,) float64.

    Source:
        Lin et al. 2014, COCO's `cocoeval.py`.
    """
    parts = [(image.scores[mine], image.right[mine]) for image in images if (mine := _counted(image, label)).any()]
    reached = np.zeros(len(RECALL_POINTS))
    truths = _num_truths(images, label)
    if not parts or not truths:
        return reached
    scores, right = (np.concatenate(column) for column in zip(*parts, strict=True))
    right = right[np.argsort(-scores, kind="stable")]
    hits = np.cumsum(right)
    precision = np.maximum.accumulate((hits / np.arange(1, len(hits) + 1))[::-1])[::-1]
    at = np.searchsorted(hits / truths, RECALL_POINTS - 1e-12, side="left")
    reached[at < len(precision)] = precision[at[at < len(precision)]]
    return reached


def scores_by_part(images: Iterable[ImageErrors], parts: int) -> tuple[list[int], list[int]]:
    """Return how many right and how many wrong detections score within each equal part of 0..1."""
    found = list(images)
    edges = np.linspace(0, 1, parts + 1)
    counts = []
    for name in ("right", "wrong"):
        scores = np.concatenate([np.zeros(0), *(image.scores[getattr(image, name)] for image in found)])
        counts.append([int(count) for count in np.histogram(np.clip(scores, 0, 1), edges)[0]])
    return counts[0], counts[1]


def _counted(image: ImageErrors, label: int) -> np.ndarray:
    counted: np.ndarray = (image.labels == label) & (image.kind != IGNORED)
    return counted


def _num_truths(images: Sequence[ImageErrors], label: int) -> int:
    return sum(int((image.truth_labels == label).sum()) for image in images)


def _fixed(image: ImageErrors, name: str) -> ImageErrors:
    """Return an image with all errors of one kind put right."""
    if name == "missed":
        return replace(image, truth_labels=image.truth_labels[~image.missed])
    errors = image.kind == name
    cured = errors & (image.partner >= 0)
    labels, kind = image.labels.copy(), image.kind.copy()
    labels[cured] = image.truth_labels[image.partner[cured]]
    kind[errors], kind[cured] = IGNORED, RIGHT
    return replace(image, labels=labels, kind=kind)


def _match(iou: np.ndarray, scores: np.ndarray, threshold: float) -> np.ndarray:
    """Return the object that each detection is right on, best score first and each object once, (n,) int64, else -1."""
    match = np.full(len(iou), -1)
    left = iou.copy()
    if left.size == 0:
        return match
    for index in np.argsort(-scores, kind="stable"):
        best = int(left[index].argmax())
        if left[index, best] >= threshold:
            match[index] = best
            left[:, best] = 0.0
    return match


def _best(iou: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the largest overlap of each detection and with which object, both (n,); 0 and -1 without objects."""
    if iou.shape[1] == 0:
        return np.zeros(len(iou)), np.full(len(iou), -1)
    at = iou.argmax(axis=1)
    return iou[np.arange(len(iou)), at], at
