"""What a head is: a way from raw outputs to candidates, and what is asked of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from compress.errors import DetectorError
from detectors.geometry.metadata import Bounded


@dataclass(frozen=True)
class Request:
    """What is wanted of one batch.

    Attributes:
        num_classes: of the model.
        input_size: (height, width) of the network's input, px.
        threshold: scores are strictly above it.
        count: best candidates of a picture that are kept, before suppression.
    """

    num_classes: int
    input_size: tuple[int, int]
    threshold: float
    count: int


@dataclass(frozen=True)
class Candidates:
    """Boxes of one picture before suppression, in any order.

    Attributes:
        boxes: (n, 4) x1, y1, x2, y2, or (n, 5) cx, cy, w, h, angle_rad; px of the network's input.
        scores: (n,), 0..1.
        labels: (n,) integers.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


class HeadDecode(Protocol):
    """From raw outputs of a batch to candidates. Code of one's own has this signature, too."""

    def __call__(self, raw: Sequence[np.ndarray], settings: Any, request: Request) -> list[Candidates]:
        """Return the candidates of each picture.

        Args:
            raw: outputs of the network, in order, the batch first.
            settings: what the head's model of settings made of the metadata.
            request: what is wanted.

        Raises:
            DetectorError: number, shape or values of the outputs do not fit the head.
        """


class NoSettings(Bounded):
    """Of a head that has none."""


@dataclass(frozen=True)
class Head:
    """A built-in head.

    Attributes:
        decode: from raw outputs to candidates.
        settings: fields of the metadata's `settings`.
        outputs: what the network gives, in words.
        exported_by: who exports so.
        rotated: boxes have an angle.
        suppressed: overlapping boxes of a class are taken out; False where the network did that itself.
        num_outputs: how many outputs it reads, least and most.
    """

    decode: HeadDecode
    settings: type[Bounded]
    outputs: str
    exported_by: str
    rotated: bool = False
    suppressed: bool = True
    num_outputs: tuple[int, int] = (1, 1)


def only(raw: Sequence[np.ndarray], expected: str) -> np.ndarray:
    """Return the single output of rank 3 as float32.

    Raises:
        DetectorError: there are others, or its rank is another one.
    """
    if len(raw) != 1 or raw[0].ndim != 3:
        raise odd_outputs(raw, expected)
    return np.asarray(raw[0], np.float32)


def odd_outputs(raw: Sequence[np.ndarray], expected: str) -> DetectorError:
    """Return the error for outputs that do not fit a head."""
    shapes = ", ".join(str(array.shape) for array in raw) or "none"
    return DetectorError(f"raw outputs: {shapes}; this head reads {expected}. Choose another head, or its settings.")
