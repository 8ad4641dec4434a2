"""Sets the ranges of all activation quantisers from a few batches of real images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

import torch
from brevitas.graph.calibrate import calibration_mode
from torch import Tensor, nn

from compress.errors import StageError
from compress.quantization.layers import ActivationQuantiser

if TYPE_CHECKING:
    from compress.detector import Detector


def calibrate(model: nn.Module, images: Iterable[Tensor]) -> int:
    """Run images through a model and fix its activation ranges, in place.

    The network computes in float meanwhile, so no layer sees another one's rounding. A range is
    the mean of each batch's percentiles.

    Args:
        model: from `quantise`; left in evaluation mode.
        images: batches, (N, 3, H, W), normalised.

    Returns:
        Number of images used.

    Raises:
        StageError: there was no image, or a quantiser was never reached.
    """
    model.eval()
    count = 0
    with torch.no_grad(), calibration_mode(model):
        for batch in images:
            model(batch)
            count += len(batch)
    model.eval()
    if count == 0:
        raise StageError("calibration saw no image, so no activation has a range. Give at least one batch.")
    missed = [
        name
        for name, module in model.named_modules()
        if isinstance(module, ActivationQuantiser) and not module.is_calibrated
    ]
    if missed:
        raise StageError(f"calibration did not reach the quantisers {missed}. They are in a branch that never runs.")
    return count


def first_images(detector: Detector, split: str, number: int, *, seed: int) -> Iterator[Tensor]:
    """Yield images of a split one by one, as deployed (no augmentation), in the loader's order."""
    loader = detector.loader(split, batch_size=1, augment=False, seed=seed)
    for batch in islice(loader, number):
        yield batch.images
