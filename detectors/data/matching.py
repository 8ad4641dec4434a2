"""Hold the detections of a split against its truth, in the two ways that average precision is made of. NumPy only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from compress.errors import DataError
from detectors.data.greedy_matching import NEITHER, WRONG, Pairs, match_greedily, rank_in_group
from detectors.data.records import MatchRecords
from detectors.data.samples import Truth
from detectors.geometry.detections import Detections
from detectors.geometry.iou import overlapping_pairs, pairwise_iou

MAX_DETS = 100  # COCO's
_UPRIGHT = 1e-6  # sine of twice the angle: quarter turns, as far as float32 can say
_BLOCK = 20_000  # detections whose pairs are looked for at a time


@dataclass(frozen=True)
class _Boxes:
    """Boxes of many images: (n, 5) float32, index of image and class of each, (n,); of ignored ones the class is -1."""

    boxes: np.ndarray
    image: np.ndarray
    label: np.ndarray

    @classmethod
    def join(cls, boxes: Sequence[np.ndarray], labels: Sequence[np.ndarray] | None = None) -> _Boxes:
        """Return the boxes of all images together; `labels` of None: they belong to no class."""
        counts = [len(of_image) for of_image in boxes]
        joined = np.concatenate([np.zeros((0, 5)), *(np.reshape(of_image, (-1, 5)) for of_image in boxes)])
        image = np.repeat(np.arange(len(boxes)), counts)
        label = np.full(len(image), -1) if labels is None else np.concatenate([np.zeros(0, np.int64), *labels])
        return cls(joined.astype(np.float32), image, label.astype(np.int64))

    def take(self, index: np.ndarray) -> _Boxes:
        """Return some of the boxes."""
        return _Boxes(self.boxes[index], self.image[index], self.label[index])

    def sizes_px(self) -> np.ndarray:
        """Return the square root of each area, (n,) float32."""
        sizes: np.ndarray = np.sqrt(self.boxes[:, 2] * self.boxes[:, 3])
        return sizes


def match_records(
    detections: Sequence[Detections],
    truths: Sequence[Truth],
    classes: Sequence[str],
    *,
    iou_threshold: float = 0.5,
    max_dets: int = MAX_DETS,
) -> MatchRecords:
    """Match detections to truth, image by image and class by class, in both ways; each overlap is computed once.

    For map50 each detection is held against the box it overlaps most (truth of its class, or any ignored box), and a
    second detection on a true box is wrong; COCO's way is `match_greedily`. Detections are first brought into a
    canonical order, so permuting them changes nothing.

    Args and errors: as in `scoring.score_detections`.

    Source:
        MMRotate 1.x, `tpfp_default`; ignored boxes as in PASCAL VOC 2010 (difficult). COCO API, `cocoeval.py`.
    """
    if len(detections) != len(truths):
        raise DataError(
            f"scoring: {len(detections)} images with detections, {len(truths)} with truth. Give one per image."
        )
    for image, (item, truth) in enumerate(zip(detections, truths, strict=True)):
        _check_labels(item.labels, truth.labels, len(classes), image)
    found, score = _canonical(detections)
    wanted = _Boxes.join([truth.boxes for truth in truths], [truth.labels for truth in truths])
    wanted = wanted.take(np.lexsort((wanted.label, wanted.image)))
    ignored = _Boxes.join([truth.ignored_boxes for truth in truths])
    pairs = _pairs(found, wanted, ignored, len(classes))
    right, wrong, best = _best_match(pairs, len(found.image), len(wanted.image), iou_threshold)
    truth_found = np.zeros(len(wanted.image), bool)
    truth_found[best[right]] = True
    at = _coco_match(pairs, found.image * len(classes) + found.label, len(wanted.image), max_dets)
    sizes, own = np.append(wanted.sizes_px(), np.float32(0)), found.sizes_px()
    num_truths = np.zeros((len(truths), len(classes)), np.int64)
    np.add.at(num_truths, (wanted.image, wanted.label), 1)
    return MatchRecords(
        classes=tuple(classes),
        iou_threshold=iou_threshold,
        max_dets=max_dets,
        image=found.image.astype(np.int32),
        label=found.label.astype(np.int32),
        score=score,
        size_px=np.where(right, sizes[np.where(right, best, -1)], own),
        right=right,
        wrong=wrong,
        right_at=at >= 0,
        wrong_at=at == WRONG,
        size_px_at=np.where(at >= 0, sizes[np.maximum(at, -1)], own),
        num_truths=num_truths,
        truth_image=wanted.image.astype(np.int32),
        truth_label=wanted.label.astype(np.int32),
        truth_size_px=wanted.sizes_px(),
        truth_found=truth_found,
    )


def _check_labels(found: np.ndarray, wanted: np.ndarray, num_classes: int, image: int) -> None:
    labels = np.concatenate([found, wanted])
    if len(labels) and (labels.min() < 0 or labels.max() >= num_classes):
        odd = labels[(labels < 0) | (labels >= num_classes)][0]
        raise DataError(f"scoring: image {image} has the label {odd}, expected 0 to {num_classes - 1}.")


def _canonical(detections: Sequence[Detections]) -> tuple[_Boxes, np.ndarray]:
    """Return boxes and scores by image and class, best first; ties ordered by the box itself."""
    found = _Boxes.join([item.boxes for item in detections], [item.labels for item in detections])
    score = np.concatenate([np.zeros(0, np.float32), *(item.scores for item in detections)])
    x, y, w, h, angle = found.boxes.T
    order = np.lexsort((angle, h, w, y, x, -score, found.label, found.image))
    return found.take(order), score[order]


def _pairs(found: _Boxes, wanted: _Boxes, ignored: _Boxes, num_classes: int) -> Pairs:
    """Return each detection with the true boxes of its class and the ignored boxes that it overlaps.

    `box` counts the true ones, and the ignored ones after them.
    """
    parts = [Pairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
    for start, end in _blocks(found.image):
        block = found.take(np.arange(start, end))
        images = block.image[[0, -1]]
        for others, shift, classes in ((wanted, 0, num_classes), (ignored, len(wanted.image), 0)):
            low = np.searchsorted(others.image, images[0], side="left")
            high = np.searchsorted(others.image, images[1], side="right")
            near = others.take(np.arange(low, high))
            own, other = (
                (boxes.image - images[0]) * max(classes, 1) + (boxes.label if classes else 0) for boxes in (block, near)
            )
            detection, box = overlapping_pairs(block.boxes, near.boxes, own, other)
            overlap = box_overlaps(block.boxes[detection], near.boxes[box])
            some = overlap > 0
            parts.append(Pairs(detection[some] + start, box[some] + low + shift, overlap[some]))
    return Pairs(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _blocks(image: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of whole images with at least `_BLOCK` detections together, the last one with fewer."""
    start = 0
    while start < len(image):
        last = image[min(start + _BLOCK, len(image)) - 1]
        end = int(np.searchsorted(image, last, side="right"))
        yield start, end
        start = end


def box_overlaps(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the overlap of box i of the one list with box i of the other, (n,) float64.

    Of two boxes turned by quarters the sides are compared as they are. A quarter turn is no float32 number, and an
    overlap of exactly 0.5 must not become 0.49999998.
    """
    first, second = first.astype(np.float64), second.astype(np.float64)
    upright = (np.abs(np.sin(2 * first[:, 4])) < _UPRIGHT) & (np.abs(np.sin(2 * second[:, 4])) < _UPRIGHT)
    values = np.empty(len(first))
    values[upright] = _upright_iou(first[upright], second[upright])
    values[~upright] = pairwise_iou(first[~upright], second[~upright])
    return values


def _upright_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    low, high, area = [], [], []
    for boxes in (first, second):
        lying = np.abs(np.cos(boxes[:, 4:5])) > 0.5
        size = np.abs(np.where(lying, boxes[:, 2:4], boxes[:, 3:1:-1]))
        low.append(boxes[:, :2] - size / 2)
        high.append(boxes[:, :2] + size / 2)
        area.append(size.prod(axis=1))
    shared = np.clip(np.minimum(*high) - np.maximum(*low), 0, None).prod(axis=1)
    union = area[0] + area[1] - shared
    overlap: np.ndarray = np.divide(shared, union, out=np.zeros_like(union), where=union > 0)
    return overlap


def _best_match(
    pairs: Pairs, num_detections: int, num_wanted: int, iou_threshold: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return of each detection: right, wrong, and the index of the box that it overlaps most (the first of equals)."""
    right, wrong = np.zeros(num_detections, bool), np.ones(num_detections, bool)
    best, overlap = np.zeros(num_detections, np.int64), np.zeros(num_detections)
    order = np.lexsort((pairs.box, -pairs.overlap, pairs.detection))
    rows, first = np.unique(pairs.detection[order], return_index=True)
    best[rows], overlap[rows] = pairs.box[order][first], pairs.overlap[order][first]
    hits = rows[overlap[rows] >= iou_threshold]
    wrong[hits[best[hits] >= num_wanted]] = False
    true_hits = hits[best[hits] < num_wanted]
    _, first = np.unique(best[true_hits], return_index=True)  # detections come best first
    right[true_hits[first]], wrong[true_hits[first]] = True, False
    return right, wrong, best


def _coco_match(pairs: Pairs, group: np.ndarray, num_boxes: int, max_dets: int) -> np.ndarray:
    """Return what `match_greedily` finds for the best `max_dets` of each group; the others are `NEITHER`."""
    beyond = rank_in_group(group) >= max_dets
    kept = ~beyond[pairs.detection]
    box = np.where(pairs.box < num_boxes, pairs.box, -1)
    found = match_greedily(Pairs(pairs.detection[kept], box[kept], pairs.overlap[kept]), group, num_boxes)
    found[:, beyond] = NEITHER
    return found
