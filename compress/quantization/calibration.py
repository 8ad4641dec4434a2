"""Sets the ranges of all activation quantizers from a few real images.

A range covers what every single image needs: the largest of the images' own percentiles. Brevitas'
`calibration_mode` averages them instead, which cuts off whatever only some images show. On HIT-UAV that
was the cars.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from brevitas.graph.calibrate import quantization_status_manager
from torch import Tensor, nn

from compress.errors import StageError
from compress.quantization.layers import ActivationQuantizer

if TYPE_CHECKING:
    from compress.detector import Detector


Observer = Callable[[nn.Module, tuple[Any, ...]], None]


class _Observer:
    """Remembers the range that one tensor needed."""

    def __init__(self, quantizer: ActivationQuantizer) -> None:
        self.percentile = quantizer.percentile
        self.low, self.high = math.inf, -math.inf

    def __call__(self, _module: nn.Module, inputs: tuple[Any, ...]) -> None:
        for image in inputs[0].detach():
            low, high = value_range(image, self.percentile)
            self.low, self.high = min(self.low, low), max(self.high, high)


def value_range(values: Tensor, percentile: float) -> tuple[float, float]:
    """Return the interval that holds a share of the values.

    Args:
        values: any shape, floating.
        percentile: share in percent; what is left out is split between both ends.

    Returns:
        Least and greatest value of the interval.
    """
    left_out = int(values.numel() * (100 - percentile) / 200)
    if left_out == 0:
        low, high = torch.aminmax(values)
        return float(low), float(high)
    flat = values.flatten()
    low = flat.topk(left_out + 1, largest=False).values[-1]
    high = flat.topk(left_out + 1).values[-1]
    return float(low), float(high)


def calibrate(model: nn.Module, images: Iterable[Tensor]) -> int:
    """Run images through a model and fix its activation ranges, in place.

    The network computes in float meanwhile, so no layer sees another one's rounding.

    Args:
        model: from `quantize`; left in evaluation mode.
        images: batches, (N, 3, H, W), normalized.

    Returns:
        Number of images used.

    Raises:
        StageError: there was no image, or a quantizer was never reached.
    """
    quantizers = activation_quantizers(model)
    observers = {name: _Observer(quantizer) for name, quantizer in quantizers.items()}
    count = observe(model, images, observers)
    for name, observer in observers.items():
        quantizers[name].set_range(observer.low, observer.high)
    return count


def activation_quantizers(model: nn.Module) -> dict[str, ActivationQuantizer]:
    """Return module name -> quantizer."""
    return {name: module for name, module in model.named_modules() if isinstance(module, ActivationQuantizer)}


@contextmanager
def running_in_float(model: nn.Module) -> Iterator[None]:
    """Switch all rounding off meanwhile."""
    off = {"disable_act_quant": True, "disable_weight_quant": True, "disable_bias_quant": True}
    with quantization_status_manager(model, is_training=False, **off):
        yield


def observe(model: nn.Module, images: Iterable[Tensor], observers: Mapping[str, Observer]) -> int:
    """Run images through a model that computes in float, and show observers what their modules receive.

    Args:
        model: from `quantize`; left in evaluation mode.
        images: batches, (N, 3, H, W), normalized.
        observers: module name -> called with the module and its inputs, before each call.

    Returns:
        Number of images used.

    Raises:
        StageError: there was no image, or a module was never reached.
    """
    model.eval()
    missed = set(observers)

    def shown(name: str, observer: Observer) -> Observer:
        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            missed.discard(name)
            observer(module, inputs)

        return hook

    hooks = [model.get_submodule(name).register_forward_pre_hook(shown(name, one)) for name, one in observers.items()]
    count = 0
    try:
        with torch.no_grad(), running_in_float(model):
            for batch in images:
                model(batch)
                count += len(batch)
    finally:
        for hook in hooks:
            hook.remove()
    if count == 0:
        raise StageError("calibration saw no image, so no activation has a range. Give at least one batch.")
    if missed:
        raise StageError(f"calibration did not reach {sorted(missed)}. They are in a branch that never runs.")
    model.eval()
    return count


def first_images(detector: Detector, split: str, number: int, *, seed: int) -> Iterator[Tensor]:
    """Yield images of a split one by one, as deployed (no augmentation), in the loader's order."""
    loader = detector.data.loader(split, detector.input_format(), batch_size=1, augment=False, seed=seed)
    for batch in islice(loader, number):
        yield batch.images
