"""Action of stage round_weights: integers for a size, found on the real packed file."""

from __future__ import annotations

from typing import Any

from compress.actions.score_guard import SPLIT, ScoreGuard
from compress.actions.size_rounding import SizeRounding, weigh_errors
from compress.artifact import Artifact
from compress.errors import StageError
from compress.guard import DropLimits, back_off
from compress.model_folder import load_model, masks_of, save_model
from compress.quantization.checks import check_zeros, quantization_facts
from compress.rate_rounding.layer import Rounded
from compress.rate_rounding.search import Priced
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
        found, guarded = _guarded(stage, stage.max_drop, context, sizing, found)
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


def _guarded(
    stage: RoundWeights, limits: DropLimits, context: StageContext, sizing: SizeRounding, first: Priced
) -> tuple[Priced, dict[str, Any]]:
    """Return the smallest network that loses no more than it may, and what was seen on the way.

    Raises:
        StageError: none does.
    """
    before = context.inputs[stage.baseline]
    guard = ScoreGuard.of(limits, before, context.detector, device=context.device, label=stage.label)
    found = back_off(first, first.price, sizing.at, lambda tried: guard.holds(sizing.file, tried.num_bytes))
    if found is None:
        least = min(guard.looks, key=lambda look: max(one["middle"] for one in look["losses"].values()))
        lost = ", ".join(f"{one['middle']:.2f} points of {metric}" for metric, one in least["losses"].items())
        raise StageError(
            f"stage {stage.label}: no size keeps max_drop against {stage.baseline}: {least['packed_bytes']:,} bytes "
            f"lost {lost} on {SPLIT}, the least of {len(guard.looks)}. Allow more, or train at the size (`qat.rate`)."
        )
    return found, {"guard": guard.facts()}


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
