"""What a judge asks of boxes, without knowing what one is; `compress.plugins.find_judging` finds who answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from compress.dataset import Scores
from compress.detector import Deploy
from compress.pictures.decoding import Reading


class Choice(Protocol):
    """A head that is taken."""

    @property
    def meta(self) -> Mapping[str, Any]:
        """Return a `krimp.deploy` with which the network runs."""

    @property
    def how(self) -> str:
        """Return how the head was found, a sentence or two."""

    @property
    def deploy(self) -> Deploy | None:
        """Return the deployed part where the metadata cannot name it: it is code of one's own."""


class Labels(Protocol):
    """Labels of pictures.

    Attributes:
        path: that was named.
        format: of the files.
        names: of the classes that they declare.
        are_ordered: whether a network trained on them has these classes in this order.
    """

    @property
    def path(self) -> Path: ...  # noqa: D102
    @property
    def format(self) -> str: ...  # noqa: D102
    @property
    def names(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def are_ordered(self) -> bool: ...  # noqa: D102


class Target(Protocol):
    """What networks are held against.

    Attributes:
        num_objects: to be found.
        told: what is not plain about it, whole sentences.
    """

    @property
    def num_objects(self) -> int: ...  # noqa: D102
    @property
    def told(self) -> str: ...  # noqa: D102

    def score(self, found: Sequence[Any]) -> Scores:
        """Return the scores of detections, one object a picture."""


class Judging(Protocol):
    """Who answers; `detectors.heads.judging` says what the arguments are."""

    HEADS: Sequence[str]

    def choose(  # noqa: D102
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
    ) -> Choice: ...

    def with_options(  # noqa: D102
        self, meta: Mapping[str, Any], options: Mapping[str, Any]
    ) -> Mapping[str, Any]: ...

    def labels(  # noqa: D102
        self, path: Path, pictures: Sequence[Path], format_name: str | None, reading: Reading
    ) -> Labels: ...

    def target(  # noqa: D102
        self, labels: Any, deploy: Any, merged: Mapping[str, str]
    ) -> Target: ...

    def agreement(self, found: Sequence[Any], classes: Sequence[str], score: float) -> Target: ...  # noqa: D102
