"""What steps do to the outputs of a network and to its detections, a block of steps at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compress.dataset import Picture, Pictures
from compress.detector import AdaptsTruth, Detector, Forward
from compress.devices import device_of
from compress.metrics.output_error import OutputErrors
from compress.plugins import deploy_of
from compress.predictor import Predictor
from compress.sensitivity.changes import Change, applied
from compress.sensitivity.replay import Replay

FARTHEST_APART = 16  # pictures of a split that are read for one that is used


def errors_of(
    replay: Replay, changes: Sequence[Change], images: Iterable[Tensor], *, outputs: int
) -> list[OutputErrors]:
    """Return how far the outputs move with each change, over all images together.

    Args:
        replay: of the model; not being watched.
        changes: each alone.
        images: batches, (N, 3, H, W), normalized, on any device.
        outputs: so many of the raw outputs count.
    """
    found = [OutputErrors(outputs) for _ in changes]
    with replay.watching():
        for batch in images:
            images_there = _there(batch, replay)
            expected = _arrays(replay.record(images_there)[:outputs])
            for change, errors in zip(changes, found, strict=True):
                changed = expected
                if change.modules:
                    with applied(change, replay.model):
                        changed = _arrays(replay.run(images_there, change.modules)[:outputs])
                errors.add(changed, expected)
    return found


class Scorer:
    """Finds objects with the model as it is and with changes, on the same pictures.

    Attributes:
        truths: of the pictures that were looked at last, in order.
    """

    def __init__(self, replay: Replay, detector: Detector) -> None:
        self._replay = replay
        self._detector = detector
        self._outputs = len(detector.output_names())
        self.truths: list[Any] = []

    def detections(self, changes: Sequence[Change | None], pictures: Iterable[Picture]) -> list[list[Any]]:
        """Return one list of detections a change, one entry a picture.

        Args:
            changes: each alone; None is the model as it is.
            pictures: each is read once.
        """
        found: list[list[Any]] = [[] for _ in changes]
        self.truths = []
        deploy, detector = deploy_of(self._detector), self._detector
        known = Predictor(self._forward(self._replay.record), deploy)
        with self._replay.watching():
            for picture in pictures:
                # One window: what it is recorded on serves all changes. Of several the last one alone is kept.
                unchanged = known.detect(picture.image)
                for change, detections in zip(changes, found, strict=True):
                    if change is None or not change.modules:
                        detections.append(unchanged)
                        continue
                    with applied(change, self._replay.model):
                        detections.append(self._changed(change, deploy).detect(picture.image))
                truth = picture.truth
                self.truths.append(detector.adapt_truth(truth) if isinstance(detector, AdaptsTruth) else truth)
        return found

    def _changed(self, change: Change, deploy: Any) -> Predictor:
        return Predictor(self._forward(lambda images: self._replay.run(images, change.modules)), deploy)

    def _forward(self, run: Callable[[Tensor], list[Tensor]]) -> Forward:
        def forward(images: np.ndarray) -> list[np.ndarray]:
            batch = torch.from_numpy(np.ascontiguousarray(images, np.float32))
            return _arrays(run(_there(batch, self._replay))[: self._outputs])

        return forward


def spread_out(pictures: Pictures, count: int | None) -> Iterator[Picture]:
    """Yield so many pictures of a split, the same ones each time: neighbours are often frames of one flight.

    Args:
        pictures: of the split.
        count: how many; None takes all.
    """
    step, stop = spread(len(pictures), count)
    return islice(pictures, 0, stop, step)


def spread(available: int, count: int | None) -> tuple[int, int]:
    """Return step and stop of a slice that takes `count` of what is available, or all of it.

    >>> spread(148, 48), spread(148, None), spread(10, 48)
    ((3, 144), (1, 148), (1, 10))
    """
    if count is None or count >= available:
        return 1, available
    step = min(available // count, FARTHEST_APART)
    return step, count * step


def _there(batch: Tensor, replay: Replay) -> Tensor:
    return batch.to(device=device_of(replay.model), memory_format=torch.channels_last)


def _arrays(outputs: Iterable[Tensor]) -> list[np.ndarray]:
    return [output.float().cpu().contiguous().numpy() for output in outputs]
