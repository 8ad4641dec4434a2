"""The layers of the final network, for the report: counts, bits, zeros, bytes, and how far each output moved."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from compress import codec
from compress.artifact import Artifact
from compress.detector import Detector
from compress.kind import Kind
from compress.metrics.complexity import first_tensor, measure_complexity, prunable_weights
from compress.metrics.output_error import ChannelErrors
from compress.model_folder import load_model
from compress.names_file import names_beside
from compress.quantization.calibration import first_images
from compress.quantization.checks import quantized_layers
from compress.quantization.graph import fold_batch_norms, trace
from compress.report.document import Document
from compress.report.layers import LayerFacts, LayerRow, bytes_by_layer, layer_rows

IMAGES = 4  # that errors are measured on
_FLOAT_BITS = 32


def layer_table(
    document: Document, artifacts: Sequence[Artifact], detector: Detector, final: Artifact
) -> list[LayerRow]:
    """Return the layers of the network that ships; none where no torch model is behind it.

    Args:
        document: the report so far: benchmarks, forecast, and what was left out.
        artifacts: of the whole run.
        detector: the plug-in.
        final: what ships.
    """
    behind = [artifact for artifact in artifacts if artifact.label in final.lineage]
    models = [artifact for artifact in behind if artifact.kind in (Kind.MODEL, Kind.QUANTIZED)]
    if not models:
        return []
    facts = _facts(models[-1], models[:-1], detector, seed=document.seed)
    forecast = document.forecast.models[-1].layers if document.forecast and document.forecast.models else []
    exports = {artifact.label for artifact in behind if artifact.kind is Kind.ONNX}
    return layer_rows(
        facts,
        packed_bytes=_packed_bytes(final, list(facts.macs)),
        seconds=_seconds(document, final),
        forecast=forecast,
        reasons={
            entry.layer.split("/")[0]: entry.reason
            for entry in document.left_out
            if entry.what == "not fused" and entry.stage in exports
        },
    )


def _facts(last: Artifact, before: Sequence[Artifact], detector: Detector, *, seed: int) -> LayerFacts:
    model, _ = load_model(last.path, detector)
    costs = measure_complexity(model, detector.example_input(1)).layers
    quantized = quantized_layers(model)
    floats = [artifact for artifact in before if artifact.kind is Kind.MODEL]
    errors: dict[str, float] = {}
    if quantized and floats:
        reference, _ = load_model(floats[-1].path, detector)
        images = list(first_images(detector, "train", IMAGES, seed=seed))
        errors = output_errors(model, fold_batch_norms(trace(reference)), images, list(costs))
    codes = {name: layer.integer_weight()[0] for name, layer in quantized.items()}
    weights = prunable_weights(model)
    return LayerFacts(
        macs={name: cost.macs for name, cost in costs.items()},
        params={name: cost.params for name, cost in costs.items()},
        bit_widths={name: quantized[name].weight_bit_width if name in quantized else _FLOAT_BITS for name in costs},
        integer={name: name in quantized and bool(quantized[name].integer) for name in costs},
        zeros={name: _zeros(held) for name in costs if (held := codes.get(name, weights.get(name))) is not None},
        errors=errors,
    )


def _zeros(weights: Tensor) -> float:
    return 1 - int(torch.count_nonzero(weights)) / weights.numel()


def output_errors(
    model: nn.Module, reference: nn.Module, images: Sequence[Tensor], layers: Sequence[str]
) -> dict[str, float]:
    """Return layer -> `ChannelErrors.error` of its outputs in two networks, all calls and images together.

    Args:
        model: the network.
        reference: another one with the same layers, called in the same order.
        images: (1, 3, H, W) float32 each.
        layers: names of modules; those that one of the two lacks, or calls otherwise, are left out.
    """
    errors = {name: ChannelErrors() for name in layers}
    for image in images:
        found, expected = (_outputs(one, image, layers) for one in (model, reference))
        for name in list(errors):
            pairs = list(zip(found.get(name, []), expected.get(name, []), strict=False))
            if len(found.get(name, [])) != len(expected.get(name, [])) or any(a.shape != b.shape for a, b in pairs):
                del errors[name]
                continue
            for one, other in pairs:
                errors[name].add(one.numpy(), other.numpy())
    return {name: error.error for name, error in errors.items()}


def _outputs(model: nn.Module, image: Tensor, layers: Sequence[str]) -> dict[str, list[Tensor]]:
    outputs: dict[str, list[Tensor]] = {}

    def keep(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        outputs.setdefault(name, []).append(first_tensor(output).detach())

    modules = dict(model.named_modules())
    hooks = [modules[name].register_forward_hook(partial(keep, name)) for name in layers if name in modules]
    try:
        with torch.no_grad():
            model.eval()(image)
    finally:
        for hook in hooks:
            hook.remove()
    return outputs


def _packed_bytes(final: Artifact, layers: Sequence[str]) -> dict[str, int]:
    if final.kind is not Kind.PACKED:
        return {}
    path = final.file("model.krimp")
    return bytes_by_layer(codec.inspect_file(path), names_beside(path), layers, path.stat().st_size)


def _seconds(document: Document, final: Artifact) -> dict[str, float]:
    """Return what a benchmark found of the layers of the network that ships."""
    for facts in document.benchmarks.values():
        for label in (final.label, *reversed(final.lineage)):
            if label in facts.get("layers", {}):
                return {name: ms / 1e3 for name, ms in facts["layers"][label].items()}
    return {}
