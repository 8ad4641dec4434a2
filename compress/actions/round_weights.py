"""Action of stage round_weights: integers for a size, found on the real packed file."""

from __future__ import annotations

from typing import Any

from compress.actions.score_guard import ScoreGuard, smallest_that_holds
from compress.actions.size_rounding import SizeRounding, weigh_errors
from compress.artifact import Artifact
from compress.model_folder import load_model, masks_of, save_model
from compress.quantization.checks import check_zeros, quantization_facts
from compress.rate_rounding.layer import Rounded
from compress.stage import StageContext
from compress.stages.round_weights import RoundWeights


def run(stage: RoundWeights, context: StageContext) -> dict[str, Any]:
    """Weigh errors on images, round until the packed file has the size, check and save.

    Raises:
        StageError: the size cannot be reached, or a zero weight did not stay zero.
    """
    model, build = load_model(context.source.path, context.detector)
    masks = masks_of(model, build)
    statistics = weigh_errors(model, context, images=stage.images, label=stage.label)
    sizing = SizeRounding(model, statistics, context, label=stage.label)
    found = sizing.to(stage.target, baseline=stage.baseline)
    guarded: dict[str, Any] = {}
    if stage.max_drop is not None:
        before = context.inputs[stage.baseline]
        guard = ScoreGuard.of(stage.max_drop, before, context.detector, device=context.device, label=stage.label)
        found = smallest_that_holds(guard, found, sizing.at, sizing.file)
        guarded = {"guard": guard.facts()}
    sizing.settle(found)
    check_zeros(model, masks, label=stage.label)
    save_model(context.folder, model, build)
    return {
        **_kept_facts(context.source),
        **quantization_facts(model),
        "price": found.price,
        "expected_packed_bytes": found.num_bytes,
        "expected_loss": found.loss,
        "calibration_images": stage.images,
        **guarded,
        "layers": {name: _layer_facts(one) for name, one in found.layers.items()},
    }


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
