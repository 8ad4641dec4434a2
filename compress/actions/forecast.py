"""What a plan would leave, measured before any training: the stages are rehearsed on the weights that it starts from.

Nothing is trained and no data is read, but the network has the deployed size, its own weights where the plug-in names a
checkpoint, the masks that magnitudes give, quantizers with ranges of noise, and is exported, packed and timed. Latency
hardly depends on weights; bytes depend on how they are spread, which training changes by some percent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compress import codec
from compress.actions.budgets import budgets
from compress.actions.deployed import bytes_by_layer, fastest_ms
from compress.actions.dry_pass import Rehearsal
from compress.actions.model_facts import model_facts
from compress.actions.prune_structured import meter_of
from compress.actions.prune_unstructured import mask_keeper
from compress.actions.quiet import quiet
from compress.detector import Detector
from compress.errors import CompressError
from compress.export import export_onnx
from compress.kind import Kind
from compress.layer_names import layer_of
from compress.metrics.complexity import Complexity, measure_complexity
from compress.model_folder import load_model
from compress.onnx_graph.fusion import unfused_convolutions
from compress.pruning.budget import Meter
from compress.quantization.size_target import SizeTarget
from compress.recipe.plan import MODEL_KINDS, PlannedStage
from compress.runtime.profile import seconds_by_layer
from compress.stages.export_onnx import ExportOnnx
from compress.stages.prune_structured import PruneStructured
from compress.stages.prune_unstructured import PruneUnstructured
from compress.stages.qat import Qat
from compress.stages.round_weights import RoundWeights


def run(plan: Sequence[PlannedStage], detector: Detector, folder: Path, *, threads: int) -> dict[str, Any]:
    """Rehearse the stages of a plan and measure what they leave.

    Args:
        plan: all stages, in order.
        detector: the plug-in.
        folder: empty; what is written is not kept.
        threads: of ONNX Runtime.

    Returns:
        `weights`: 'checkpoint' or 'fresh'; `models`: a row a file that would be exported, with label, params, macs,
        packed_bytes, latency_ms, `asked_bytes` (packed_bytes is what the recipe asks for) and `layers`; `unfused`:
        layers of the last one that run in float, each with the reason; where anything is pruned, `groups` and `budgets`
        of `compress.actions.budgets`. Or `refused`: why there is none.
    """
    torch.set_num_threads(1)
    stages = [one for one in plan if one.stage.MAKES in MODEL_KINDS or one.stage.MAKES is Kind.ONNX]
    with quiet():
        rehearsal = _Weighed(detector, folder)
        refused = rehearsal.run(stages)
        if refused is not None:
            return {"refused": f"{refused['label']}: {refused['text']}"}
        exports = {one.label: one.stage for one in stages if isinstance(one.stage, ExportOnnx)}
        planned = {one.label: one for one in stages}
        sources = {label: folder / planned[label].inputs["source"] for label in exports}
        costs = {label: _costs(detector, source) for label, source in sources.items()}
        files = {label: folder / label / "model.onnx" for label in exports}
        times = fastest_ms(files, detector.example_input(1).numpy(), threads=threads)
        asked = {label: _asked_bytes(planned[label], plan, detector, folder) for label in exports}
        models: list[dict[str, Any]] = [
            {
                "label": label,
                "params": costs[label].params,
                "macs": costs[label].macs,
                "packed_bytes": asked[label] or codec.pack_file(path, path.with_suffix(".krimp")).packed_bytes,
                "asked_bytes": asked[label] is not None,
                "latency_ms": times[label],
                "layers": [],
            }
            for label, path in files.items()
        ]
        unfused: list[dict[str, str]] = []
        if exports:
            last = list(exports)[-1]
            layers, unfused = _by_layer(exports[last], sources[last], detector, folder, costs[last], threads)
            models[-1]["layers"] = [one | {"packed_bytes": None} for one in layers] if asked[last] else layers
        pruning = next((one for one in stages if isinstance(one.stage, PruneStructured)), None)
        could: dict[str, Any] = {}
        if pruning is not None and isinstance(pruning.stage, PruneStructured):
            model, _ = load_model(folder / pruning.inputs["source"], detector)
            could = budgets(pruning.stage, model, detector, folder / "budgets", threads=threads)
    return {"refused": None, "weights": rehearsal.weights, "models": models, "unfused": unfused, **could}


class _Weighed(Rehearsal):
    """A rehearsal with the weights of the checkpoint and the zeros that their magnitudes give."""

    weights = "fresh"

    def first_model(self) -> nn.Module:
        """Return the network with its checkpoint, if the plug-in names one that is there."""
        model = super().first_model()
        try:
            checkpoint = self._detector.checkpoint_path()
            if checkpoint is not None:
                self._detector.load(model, checkpoint)
                self.weights = "checkpoint"
        except CompressError:  # what is missing is told when it is needed
            return super().first_model()
        return model.eval()

    def prune_limits(self, stage: PruneStructured, model: nn.Module) -> tuple[Mapping[str, float], Meter | None]:
        """Return what the stage wants, measured as the stage measures it."""
        return meter_of(stage, model, self._detector, self._folder / f"{stage.label}-measured")

    def make_sparse(self, stage: PruneUnstructured, model: nn.Module) -> None:
        """Set the smallest weights to zero."""
        keeper = mask_keeper(stage, model)
        if keeper.initial < stage.sparsity:
            keeper.finish()


def _costs(detector: Detector, source: Path) -> Complexity:
    model, _ = load_model(source, detector)
    return measure_complexity(model, detector.example_input(1))


def _asked_bytes(export: PlannedStage, plan: Sequence[PlannedStage], detector: Detector, folder: Path) -> int | None:
    """Return the size that the recipe asks for at a file, None if it does not."""
    by_label = {one.label: one for one in plan}
    at = by_label.get(export.inputs.get("source", ""))
    while at is not None:
        target: SizeTarget | None = None
        baseline = "float"
        if isinstance(at.stage, Qat) and at.stage.rate is not None:
            target, baseline = at.stage.rate, at.stage.rate.baseline
        elif isinstance(at.stage, RoundWeights):
            target, baseline = at.stage.target, at.stage.baseline
        if target is not None:
            source = folder / at.inputs.get(baseline, baseline)
            return target.bytes_of(partial(_parameters_bytes, source, detector))
        at = by_label.get(at.inputs.get("source", ""))
    return None


def _parameters_bytes(source: Path, detector: Detector) -> int:
    model, _ = load_model(source, detector)
    return int(model_facts(model, detector)["parameters_bytes"])


def _by_layer(
    stage: ExportOnnx, source: Path, detector: Detector, folder: Path, costs: Complexity, threads: int
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Return a row a layer, and the layers that run in float with their reasons; from a file with full names."""
    model, build = load_model(source, detector)
    path = folder / "layers.onnx"
    export_onnx(model, path, detector=detector, **{**stage.form(), "names": "full"})
    names = list(costs.layers)
    sizes = bytes_by_layer(path, names)
    images = detector.example_input(1).numpy()
    seconds = seconds_by_layer(path, images, threads=threads, layer_of=lambda name: layer_of(name, names))
    rows = [
        {
            "name": name,
            "params": costs.layers[name].params if name in costs.layers else 0,
            "macs": costs.layers[name].macs if name in costs.layers else 0,
            "packed_bytes": round(sizes.get(name, 0.0)),
            "latency_ms": round(1e3 * seconds.get(name, 0.0), 4),
        }
        for name in dict.fromkeys([*names, *seconds, *sizes])
    ]
    reasons = detector.not_quantizable(model)
    unfused = unfused_convolutions(path, reasons) if build.quantization is not None else []
    floating = {one.layer: one.reason for one in unfused}  # a layer of several calls once
    return rows, [{"layer": layer, "reason": reason} for layer, reason in floating.items()]
