"""What is compared: a run, a report or a model file, with what is known of its model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from compress.breakdown import ImageOutcome

Interval = tuple[float, float]


@dataclass(frozen=True)
class Images:
    """What decides which images, and what on them, a score is of; None is not known.

    Attributes:
        split: name.
        digest: of its content.
        limit: the first so many images; None for all.
        num_images, num_objects: that were scored.
        classes: names.
        max_dets: detections of a class in an image that count.
    """

    split: str
    digest: str | None = None
    limit: int | None = None
    num_images: int | None = None
    num_objects: int | None = None
    classes: tuple[str, ...] | None = None
    max_dets: int | None = None

    def mismatch(self, other: Images) -> str | None:
        """Return in what two scores cannot be of the same images, None if nothing that is known differs."""
        for name, what in _TOLD.items():
            one, two = getattr(self, name), getattr(other, name)
            if name == "classes":
                one, two = (None if names is None else frozenset(names) for names in (one, two))
            if one != two and (name == "limit" or None not in (one, two)):
                shown = "" if name == "digest" else f": {_shown(one)} and {_shown(two)}"
                return f"{what} differ{shown}"
        return None


_TOLD = {
    "split": "the splits",
    "digest": "the contents of the split",
    "limit": "the limits of images",
    "num_images": "the numbers of images",
    "num_objects": "the numbers of objects",
    "classes": "the classes",
    "max_dets": "data.max_dets",
}


def _shown(value: Any) -> str:
    return ", ".join(sorted(value)) if isinstance(value, frozenset) else str(value)


@dataclass(frozen=True)
class Scored:
    """Accuracy of a model on images.

    Attributes:
        images: of what.
        values: metric -> 0..1; None where it was not measured.
        intervals: metric -> 95 % interval over images, where there is one.
        resampled: metric -> (samples,) on resampled images, where it was kept; entry i of two models is of one draw.
        outcomes: what was found in each image; empty where it was not kept.
        score_threshold: of the detections that `outcomes` count.
    """

    images: Images
    values: Mapping[str, float | None]
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    resampled: Mapping[str, np.ndarray] = field(default_factory=dict)
    outcomes: tuple[ImageOutcome, ...] = ()
    score_threshold: float | None = None


@dataclass(frozen=True)
class Side:
    """One of the things that are compared.

    Attributes:
        name: as it was typed.
        kind: what that is.
        label: of the model in its run; None of a file.
        model: its ONNX or `.krimp` file, if there is one.
        num_bytes: of that file, or as a report says.
        latency_ms: p50, as its own run measured it.
        latency_how: machine and threads of that; times of others cannot be compared with it.
        scored: None where it was not scored.
        recipe: of the run.
    """

    name: str
    kind: Literal["run", "report", "file"]
    label: str | None = None
    model: Path | None = None
    num_bytes: int | None = None
    latency_ms: float | None = None
    latency_how: str | None = None
    scored: Scored | None = None
    recipe: Mapping[str, Any] | None = None

    @property
    def title(self) -> str:
        """Return its name with the label of its model."""
        return self.name if self.label is None else f"{self.name} ({self.label})"
