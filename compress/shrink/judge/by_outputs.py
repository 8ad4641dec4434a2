"""The judge of any network: relative error of its outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx

from compress.shrink.judge.distances import Distances
from compress.shrink.judge.reference import Reference
from compress.shrink.judge.verdict import Kind, Verdict


@dataclass(frozen=True, repr=False)
class OutputJudge:
    """Judges by raw outputs.

    Attributes:
        reference: the float network on the pictures.
        why: that there is no better judge, a sentence; empty where nobody needs to be told.
        metadata: as of `Judge`.
    """

    reference: Reference
    why: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    kind: Kind = "outputs"

    @property
    def told(self) -> str:
        """Return what is measured and what it cannot prove."""
        outputs = "1 output" if len(self.reference.names) == 1 else f"{len(self.reference.names)} outputs"
        what = "inputs" if self.reference.judging.preprocessing is None else "pictures"
        return (
            f"Relative error of {outputs} against {self.reference.network.called} on {len(self.reference)} "
            f"{what}. It cannot prove "
            f"what an error costs where the outputs are used.{f' {self.why}' if self.why else ''}"
        )

    def __call__(self, model: onnx.ModelProto) -> Verdict:
        """Return 100 times the mean relative error of the outputs as the loss."""
        distances = Distances(self.reference.names)
        for _ in self.reference.runs(model, distances):
            pass
        errors = distances.relative_errors
        return Verdict(100 * float(np.mean(list(errors.values()))), None, None, {}, errors, distances.cosines)
