"""Rounding a quantized model to a size of the packed file: what `round_weights` and `qat` with a rate do alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sized
from itertools import islice
from typing import Any

from torch import Tensor, nn

from compress import codec
from compress.devices import on_device
from compress.errors import StageError
from compress.export import export_onnx
from compress.model_copy import copy_of
from compress.number_text import size_text
from compress.progress import say, track
from compress.quantization.rate_rounding import layer_choosers, set_rounded
from compress.quantization.size_target import SizeTarget
from compress.quantization.statistics import Distance, gather_statistics
from compress.rate_rounding.layer import Rounded
from compress.rate_rounding.search import Priced, round_network, round_to_bytes
from compress.rate_rounding.statistics import LayerStatistics
from compress.stage import StageContext
from compress.training.distillation import output_distance

TRIED = "tried.onnx"
FARTHEST_APART = 16  # images of a data set that are read for one that is used


def weigh_errors(model: nn.Module, context: StageContext, *, images: int, label: str) -> dict[str, LayerStatistics]:
    """Return layer name -> what its weights are multiplied by where outputs matter, on images of 'train'."""
    with on_device(model, context.device) as device:
        return gather_statistics(
            model,
            _images(context, images, device, label),
            num_outputs=len(context.detector.output_names()),
            seed=context.seed,
        )


class SizeRounding:
    """A quantized model whose weights are rounded for a size; the model stays as it is until `settle`.

    Attributes:
        file: the exported network that was measured last.
    """

    def __init__(
        self, model: nn.Module, statistics: Mapping[str, LayerStatistics], context: StageContext, *, label: str
    ) -> None:
        self._model, self._statistics, self._context, self._label = model, statistics, context, label
        self._choosers = layer_choosers(model, statistics)
        self.file = context.scratch / TRIED

    def to(self, target: SizeTarget, *, baseline: str) -> Priced:
        """Return the network at a size; see `round_to_bytes`.

        Raises:
            StageError: the size cannot be reached.
        """
        if target.price is not None:
            return self.at(target.price)
        wanted = target_bytes(target, self._context, baseline=baseline, label=self._label)
        return round_to_bytes(self._choosers, self._measure, wanted, tell=self._tell)

    def at(self, price: float, start: Priced | None = None) -> Priced:
        """Return the network at a price; see `round_network`."""
        layers = round_network(self._choosers, price, None if start is None else start.layers)
        found = Priced(layers, price, self._measure(layers))
        self._tell(found)
        return found

    def settle(self, found: Priced) -> None:
        """Give the model these weights, steps and biases."""
        set_rounded(self._model, found.layers, self._statistics)

    def _measure(self, layers: Mapping[str, Rounded]) -> int:
        return packed_bytes(set_rounded(copy_of(self._model), layers, self._statistics), self._context)

    def _tell(self, tried: Priced) -> None:
        size = size_text(tried.num_bytes)
        say(f"{self._label}: {size} at {tried.price:.3g} a bit, expected loss {tried.loss:.4g}")


def packed_bytes(model: nn.Module, context: StageContext) -> int:
    """Export and pack a quantized model; return the size."""
    source = context.scratch / TRIED
    target = source.with_suffix(".krimp")
    for path in (source, target):
        path.unlink(missing_ok=True)
    export_onnx(model, source, detector=context.detector)
    return codec.pack_file(source, target).packed_bytes


def target_bytes(target: SizeTarget, context: StageContext, *, baseline: str, label: str) -> int:
    """Return the bytes that a size means; it is not a price.

    Raises:
        StageError: the baseline does not tell its size.
    """

    def original() -> int:
        told = context.inputs[baseline].facts.get("parameters_bytes")
        if told is None:
            raise StageError(f"stage {label}: {baseline} does not tell parameters_bytes. Name a float model.")
        return int(told)

    wanted = target.bytes_of(original)
    assert wanted is not None
    return wanted


def _images(context: StageContext, images: int, device: Any, label: str) -> Iterator[tuple[Tensor, Distance]]:
    """Yield images of 'train' one by one, as deployed, and how far outputs from them are from the model's own."""
    detector = context.detector
    loader = detector.data.loader("train", detector.input_format(), batch_size=1, augment=False, seed=context.seed)
    # Neighbours in a data set are often frames of one flight.
    apart = max(1, min(len(loader) // images, FARTHEST_APART)) if isinstance(loader, Sized) else 1
    chosen = islice(loader, 0, images * apart, apart)
    for batch in track(chosen, f"{label}: weigh errors", total=images):
        there = batch.to(device)

        def distance(student: tuple[Tensor, ...], teacher: tuple[Tensor, ...], batch: Any = there) -> Tensor:
            return output_distance(detector, student, teacher, batch)

        yield there.images, distance
