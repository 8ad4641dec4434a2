"""The facts that every stage that makes a torch model writes into its manifest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from compress.detector import Detector
from compress.metrics.complexity import measure_complexity, sparsity_of
from compress.metrics.size import parameters_bytes
from compress.training.loop import FitResult

if TYPE_CHECKING:
    from torch import nn


def network_facts(source: Mapping[str, Any]) -> dict[str, Any]:
    """Return params, macs and sparsity out of the facts of the artifact a file was made from."""
    return {name: source[name] for name in ("params", "macs", "sparsity") if name in source}


def model_facts(model: nn.Module, detector: Detector) -> dict[str, Any]:
    """Return params, macs, sparsity and parameters_bytes of a model.

    `macs` are of one image at the deployed size; `parameters_bytes` is the size of a float32
    safetensors file of the parameters that the graph uses.
    """
    cost = measure_complexity(model, detector.example_input(1))
    return {
        "params": cost.params,
        "macs": cost.macs,
        "sparsity": sparsity_of(model),
        "parameters_bytes": parameters_bytes(model),
    }


def training_facts(result: FitResult) -> dict[str, Any]:
    """Return epochs_run, the scores of the kept weights and what they were kept by, history and seconds_per_image."""
    return {
        "epochs_run": result.epochs_run,
        "metric": result.metric,
        "best_map": result.best_map,
        "best_map75": result.best_map75,
        "best_map50": result.best_map50,
        "history": result.history,
        "seconds_per_image": result.seconds_per_image,
    }
