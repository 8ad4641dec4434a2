"""What a judge of small networks asks of boxes: which head, which truth, which score. Imports no torch.

`compress.plugins.find_judging` loads it, since the engine knows no box.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from compress.dataset import Scores
from compress.errors import DataError
from compress.pictures.decoding import Reading
from detectors.data.picture_labels import PictureLabels, label_table, open_labels
from detectors.data.samples import Truth
from detectors.data.scoring import MAX_DETS, score_detections
from detectors.geometry.deployed import BoxDeploy
from detectors.geometry.detections import Detections
from detectors.heads.choice import NAMES, Choice, Outputs, choose_head, own_head
from detectors.heads.exporter import exporter_facts
from detectors.heads.metadata import InputForm, with_options


@dataclass(frozen=True)
class Target:
    """What networks are held against.

    Attributes:
        truths: one a picture.
        classes: names by label.
        told: what is not plain about it, whole sentences.
        max_dets: so many detections of a class in a picture count.
    """

    truths: Sequence[Truth]
    classes: Sequence[str]
    told: str = ""
    max_dets: int = MAX_DETS

    @property
    def num_objects(self) -> int:
        """Return how many objects are to be found."""
        return sum(len(truth.labels) for truth in self.truths)

    def score(self, found: Sequence[Detections]) -> Scores:
        """Return the scores of detections, one object a picture."""
        return score_detections(found, self.truths, self.classes, max_dets=self.max_dets)


class BoxJudging:
    """Boxes as a judge sees them."""

    HEADS = NAMES

    def choose(
        self,
        output_names: Sequence[str],
        sample: Sequence[np.ndarray],
        *,
        named: str | None,
        own: Any,
        input_size: tuple[int, int],
        form: Mapping[str, Any],
        classes: Sequence[str],
        declared: Sequence[str],
        ordered: bool,
        properties: Mapping[str, str],
        options: Mapping[str, Any],
    ) -> Choice:
        """Return the head of a network; see `Outputs`.

        Args:
            output_names: of the graph, in order.
            sample: the outputs for some real pictures, the batch first.
            named: a built-in head, or the name of code of one's own; None: it is guessed.
            own: that code, or None.
            input_size: (height, width) of the network's input, px.
            form: of pictures; fields of `InputForm`.
            classes: names by label that somebody says.
            declared: those of the labels that the network is judged by; empty without.
            ordered: they are in the order of the network's scores.
            properties: of the ONNX file.
            options: thresholds and settings of the head that somebody says.

        Raises:
            DetectorError: no head can be taken.
        """
        outputs = Outputs(
            output_names, sample, input_size, InputForm(**form), tuple(classes), tuple(declared), ordered,
            exporter_facts(properties), options,
        )  # fmt: skip
        return choose_head(outputs, named) if own is None else own_head(outputs, str(named), own)

    def with_options(self, meta: Mapping[str, Any], options: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a `krimp.deploy` with thresholds and settings that somebody says; see `metadata.with_options`."""
        return with_options(meta, options)

    def labels(self, path: Path, pictures: Sequence[Path], format_name: str | None, reading: Reading) -> PictureLabels:
        """Open the labels of pictures; see `open_labels`."""
        return open_labels(path, pictures, format_name=format_name, reading=reading)

    def target(self, labels: PictureLabels, deploy: BoxDeploy, merged: Mapping[str, str]) -> Target:
        """Return what labels say is to be found.

        Args:
            labels: of the pictures.
            deploy: of the network; one of upright boxes is held against the rectangles around turned ones.
            merged: name in the labels -> class that it counts as.

        Raises:
            DataError: the labels are wrong, or hold nothing to be found.
        """
        classes = deploy.classes
        table, ignored = label_table(labels.names, classes, merged)
        truths = labels.truths(table, classes, upright=deploy.axis_aligned)
        told = ""
        if ignored:
            told = f"{', '.join(ignored)} of the labels is no class of the network: ignored, neither right nor wrong."
        target = Target(truths, classes, told)
        if not target.num_objects:
            raise DataError(
                f"{labels.path}: no object of {', '.join(classes)} in the {len(truths)} pictures, expected some. "
                f"Give other pictures{f', or name the classes of the labels: {told}' if told else '.'}"
            )
        return target

    def agreement(self, found: Sequence[Detections], classes: Sequence[str], score: float) -> Target:
        """Return a target of detections: those that score more."""
        kept = [one.take(one.scores > score) for one in found]
        truths = [Truth(one.boxes, one.labels, np.zeros((0, 5), np.float32)) for one in kept]
        most = max((int(np.bincount(one.labels).max()) for one in kept if len(one)), default=0)
        return Target(truths, classes, max_dets=max(MAX_DETS, most))


JUDGING = BoxJudging()
