"""What structured pruning reads of the split 'train': batches as they are, and their losses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

from compress.devices import device_of
from compress.progress import track

if TYPE_CHECKING:
    from torch import Tensor, nn

    from compress.dataset import Batch
    from compress.detector import Detector


def train_batches(detector: Detector, *, count: int, batch_size: int, seed: int, label: str) -> Iterator[Batch]:
    """Yield batches of the split 'train', not augmented; nothing is opened before the first is asked for.

    Args:
        detector: reads them.
        count: how many, at most.
        batch_size: images a batch.
        seed: decides their order.
        label: of the progress line.
    """
    loader = detector.data.loader("train", detector.input_format(), batch_size=batch_size, augment=False, seed=seed)
    yield from track(islice(loader, count), label, count)


def batch_losses(model: nn.Module, detector: Detector, batches: Iterable[Batch]) -> Iterator[Callable[[], Tensor]]:
    """Yield for each batch a function that returns its loss, a scalar, computed on the model's device."""
    for batch in batches:

        def loss(batch: Batch = batch) -> Tensor:
            there = batch.to(device_of(model))
            losses = detector.loss(model, tuple(model(there.images)), there)
            return sum(losses.values())  # type: ignore[return-value]

        yield loss
