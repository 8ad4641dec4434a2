"""The float network on the pictures that others are judged by: its inputs and outputs, made once and kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx

from compress.progress import track
from compress.shrink.judge.distances import Distances
from compress.shrink.judge.kept import Kept
from compress.shrink.network import Network
from compress.shrink.observe import Feed, session_of
from compress.shrink.pictures import Inputs

SAMPLE = 8  # pictures that a head is guessed by


@dataclass
class Reference:
    """What the float network is given and gives.

    Attributes:
        network: float.
        judging: what networks are judged by.
        sizes: (height, width) of each picture before it was placed, px; (0, 0) of arrays that are no picture.
    """

    network: Network
    judging: Inputs
    sizes: list[tuple[int, int]] = field(default_factory=list)
    _placed: Kept = field(default_factory=Kept)
    _outputs: Kept = field(default_factory=Kept)

    @classmethod
    def make(cls, network: Network, judging: Inputs) -> Reference:
        """Run the float network on all that others are judged by.

        Raises:
            DataError: a file cannot be read, or does not fit the inputs.
        """
        made = cls(network, judging)
        session = session_of(network.model)
        for number, file in enumerate(track(judging.files, "judge: the float network", len(judging.files))):
            if judging.preprocessing is None:
                made.sizes.append((0, 0))
            else:
                placed, size = judging.placed(file)
                made.sizes.append(size)
                made._placed.add([placed])
            made._outputs.add(session.run(made.names, made.feed(number)))
        return made

    @property
    def names(self) -> list[str]:
        """Return the names of the outputs."""
        return self.network.outputs

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self._outputs)

    def feed(self, number: int) -> Feed:
        """Return what the network is fed of a picture."""
        preprocessing = self.judging.preprocessing
        if preprocessing is None:
            return self.judging.one(self.judging.files[number])
        (name,) = self.network.inputs
        (placed,) = self._placed[number]
        return {name: preprocessing.values(placed, self.sizes[number])}

    def outputs(self, number: int) -> list[np.ndarray]:
        """Return what the float network gives of a picture."""
        return self._outputs[number]

    def sample(self) -> list[np.ndarray]:
        """Return the outputs for some pictures as one batch; for one where their shapes depend on the picture."""
        at = sorted(set(np.linspace(0, len(self) - 1, min(SAMPLE, len(self))).round().astype(int).tolist()))
        some = [self.outputs(number) for number in at]
        columns = [list(column) for column in zip(*some, strict=True)]
        if any(one.ndim == 0 or one.shape != column[0].shape for column in columns for one in column):
            return some[0]
        return [np.concatenate(column) for column in columns]

    def runs(self, model: onnx.ModelProto, distances: Distances) -> Iterator[list[np.ndarray]]:
        """Yield what another network gives of each picture, and add how far it is from the float one."""
        session = session_of(model)
        for number in range(len(self)):
            outputs = session.run(self.names, self.feed(number))
            distances.add(outputs, self.outputs(number))
            yield outputs
