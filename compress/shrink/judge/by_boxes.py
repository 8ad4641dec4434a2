"""The judge of detectors: mAP50-95 against labels, or against what the float network itself finds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from compress.dataset import METRICS, Scores
from compress.detector import Deploy
from compress.errors import DetectorError
from compress.metrics.paired import loss_interval
from compress.shrink.judge.boxes import Target
from compress.shrink.judge.distances import Distances
from compress.shrink.judge.reference import Reference
from compress.shrink.judge.verdict import Kind, Verdict


@dataclass(frozen=True, repr=False)
class BoxJudge:
    """Judges by detections.

    Attributes:
        kind: 'labels' or 'agreement'.
        told: as of `Judge`.
        metadata: as of `Judge`.
        reference: the float network on the pictures.
        deploy: from its outputs to detections.
        target: what they are held against.
        own: scores of the float network.
        score: that detections are above; None takes the network's own.
    """

    kind: Kind
    told: str
    metadata: Mapping[str, str]
    reference: Reference
    deploy: Deploy
    target: Target
    own: Scores
    score: float | None = None

    def __call__(self, model: onnx.ModelProto) -> Verdict:
        """Return the points of mAP50-95 that a network lost, with the interval of the paired resamples.

        A network of whose outputs no detections can be made (no scores within 0..1) has lost all.
        """
        distances = Distances(self.reference.names)
        found: list[Any] = []
        problem: str | None = None
        for number, outputs in enumerate(self.reference.runs(model, distances)):
            if problem is None:
                try:
                    found.append(detections(self.deploy, outputs, self.reference.sizes[number], self.score))
                except DetectorError as error:
                    problem = str(error)
        errors, cosines = distances.relative_errors, distances.cosines
        if problem is not None:
            zero = dict.fromkeys(METRICS, 0.0)
            all_points = 100 * _metrics(self.own)["map"]
            return Verdict(all_points, all_points, all_points, zero, errors, cosines, problem)
        scores = self.target.score(found)
        metrics = _metrics(scores)
        loss = 100 * (_metrics(self.own)["map"] - metrics["map"])
        interval = loss_interval(self.own.map_resampled, scores.map_resampled) or (loss / 100, loss / 100)
        return Verdict(loss, 100 * interval[0], 100 * interval[1], metrics, errors, cosines)


def detections(
    deploy: Deploy, outputs: Sequence[np.ndarray], picture_size: tuple[int, int], score: float | None = None
) -> Any:
    """Return the detections of a picture, in its pixels.

    Args:
        deploy: of the network.
        outputs: for one picture.
        picture_size: (height, width) of it, px.
        score: that detections are above; None takes the network's own.

    Raises:
        DetectorError: the outputs do not fit.
    """
    (found,) = deploy.postprocess(outputs, image_size=picture_size, score_threshold=score)
    return found


def _metrics(scores: Scores) -> dict[str, float]:
    return {name: float(getattr(scores, name) or 0.0) for name in METRICS}
