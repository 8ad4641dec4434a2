"""What a judge is, and what it says of a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

import onnx

Kind = Literal["labels", "agreement", "outputs"]


@dataclass(frozen=True)
class Verdict:
    """What a network lost against the float one.

    Attributes:
        loss: points of mAP50-95, or percent: 100 times the mean relative error of the outputs.
        low, high: 95 % interval of the loss, paired over pictures, points; None where the loss is of outputs.
        metrics: 'map', 'map75' and 'map50' of the network, 0..1; empty where the loss is of outputs.
        relative_errors: output -> ||found - float|| / ||float|| over all pictures.
        cosines: output -> cosine between both over all pictures, -1..1.
        problem: why no detection could be made of the outputs, None where they could.
    """

    loss: float
    low: float | None
    high: float | None
    metrics: Mapping[str, float]
    relative_errors: Mapping[str, float]
    cosines: Mapping[str, float]
    problem: str | None = field(default=None)

    def __str__(self) -> str:
        if self.low is None:
            return f"{self.loss:.3g} % of the outputs"
        return f"{self.loss:.2f} points ({self.low:.2f} to {self.high:.2f})"


class Judge(Protocol):
    """Says what a network lost against the float one, on pictures that nothing else is chosen by.

    Attributes:
        kind: what it judges by.
        told: for a report, what is measured, on how many pictures and objects, and what it cannot prove.
        metadata: properties with which `krimp detect` runs the network as it was judged; empty where it cannot.
    """

    @property
    def kind(self) -> Kind: ...  # noqa: D102
    @property
    def told(self) -> str: ...  # noqa: D102
    @property
    def metadata(self) -> Mapping[str, str]: ...  # noqa: D102

    def __call__(self, model: onnx.ModelProto) -> Verdict:
        """Return what a network lost.

        Args:
            model: with the inputs and outputs of the float one.
        """


def metadata_of(judge: Judge) -> dict[str, str]:
    """Return the properties to be written into a small model; code of one's own is never among them."""
    return dict(judge.metadata)
