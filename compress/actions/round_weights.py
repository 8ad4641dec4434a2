"""Action of stage round_weights: integers for a size, found on the real packed file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sized
from functools import partial
from itertools import islice
from typing import Any

from torch import Tensor, nn

from compress import codec
from compress.artifact import Artifact
from compress.detector import Detector
from compress.devices import on_device
from compress.errors import StageError
from compress.export import export_onnx
from compress.model_copy import copy_of
from compress.model_folder import load_model, masks_of, save_model
from compress.number_text import size_text
from compress.progress import say, track
from compress.quantization.checks import check_zeros, quantization_facts
from compress.quantization.rate_rounding import layer_choosers, set_rounded
from compress.quantization.statistics import Distance, gather_statistics
from compress.rate_rounding.layer import Rounded
from compress.rate_rounding.search import Priced, round_network, round_to_bytes
from compress.rate_rounding.statistics import LayerStatistics
from compress.stage import StageContext
from compress.stages.round_weights import RoundWeights
from compress.training.distillation import output_distance

FARTHEST_APART = 16  # images of a data set that are read for one that is used


def run(stage: RoundWeights, context: StageContext) -> dict[str, Any]:
    """Weigh errors on images, round until the packed file has the size, check and save.

    Raises:
        StageError: the size cannot be reached, or a zero weight did not stay zero.
    """
    detector = context.detector
    model, build = load_model(context.source.path, detector)
    masks = masks_of(model, build)
    with on_device(model, context.device) as device:
        images = _images(stage, context, device)
        outputs = len(detector.output_names())
        statistics = gather_statistics(model, images, num_outputs=outputs, seed=context.seed)
    choosers = layer_choosers(model, statistics)
    packing = _Packing(model, statistics, detector, context)
    if stage.target.price is not None:
        layers = round_network(choosers, stage.target.price)
        found = Priced(layers, stage.target.price, packing(layers))
        _tell(stage.label, found)
    else:
        found = round_to_bytes(choosers, packing, _target_bytes(stage, context), tell=partial(_tell, stage.label))
    set_rounded(model, found.layers, statistics)
    check_zeros(model, masks, label=stage.label)
    save_model(context.folder, model, build)
    return {
        **_kept_facts(context.source),
        **quantization_facts(model),
        "price": found.price,
        "expected_packed_bytes": found.num_bytes,
        "expected_loss": found.loss,
        "calibration_images": stage.images,
        "layers": {name: _layer_facts(one) for name, one in found.layers.items()},
    }


class _Packing:
    """Gives the bytes of the packed file that a rounded network makes."""

    def __init__(
        self, model: nn.Module, statistics: Mapping[str, LayerStatistics], detector: Detector, context: StageContext
    ) -> None:
        self.model, self.statistics, self.detector = model, statistics, detector
        self.folder = context.scratch

    def __call__(self, layers: Mapping[str, Rounded]) -> int:
        """Export, pack and weigh."""
        rounded = set_rounded(copy_of(self.model), layers, self.statistics)
        source, target = self.folder / "tried.onnx", self.folder / "tried.krimp"
        for path in (source, target):
            path.unlink(missing_ok=True)
        export_onnx(rounded, source, detector=self.detector)
        return codec.pack_file(source, target).packed_bytes


def _images(stage: RoundWeights, context: StageContext, device: Any) -> Iterator[tuple[Tensor, Distance]]:
    """Yield images of 'train' one by one, as deployed, and how far outputs from them are from the model's own."""
    detector = context.detector
    loader = detector.data.loader("train", detector.input_format(), batch_size=1, augment=False, seed=context.seed)
    # Neighbours in a data set are often frames of one flight.
    apart = max(1, min(len(loader) // stage.images, FARTHEST_APART)) if isinstance(loader, Sized) else 1
    chosen = islice(loader, 0, stage.images * apart, apart)
    for batch in track(chosen, f"{stage.label}: weigh errors", total=stage.images):
        there = batch.to(device)

        def distance(student: tuple[Tensor, ...], teacher: tuple[Tensor, ...], batch: Any = there) -> Tensor:
            return output_distance(detector, student, teacher, batch)

        yield there.images, distance


def _target_bytes(stage: RoundWeights, context: StageContext) -> int:
    target = stage.target
    if target.packed_bytes is not None:
        return int(target.packed_bytes)
    assert target.ratio is not None
    original = context.inputs[stage.baseline].facts.get("parameters_bytes")
    if original is None:
        raise StageError(f"stage {stage.label}: {stage.baseline} does not tell parameters_bytes. Name a float model.")
    return int(original / target.ratio)


def _tell(label: str, tried: Priced) -> None:
    say(f"{label}: {size_text(tried.num_bytes)} at {tried.price:.3g} a bit, expected loss {tried.loss:.4g}")


def _kept_facts(source: Artifact) -> dict[str, Any]:
    names = ("params", "macs", "parameters_bytes", "float_island_layers")
    return {name: source.facts[name] for name in names if name in source.facts}


def _layer_facts(one: Rounded) -> dict[str, Any]:
    """Return weights, zeros, bits and rows of zeros of a layer, and what it loses."""
    return {
        "weights": int(one.codes.size),
        "zeros": int((one.codes == 0).sum()),
        "rows": len(one.codes),
        "rows_of_zeros": int((~one.codes.any(axis=1)).sum()),
        "bits": one.bits,
        "loss": one.loss,
    }
