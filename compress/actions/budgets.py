"""What pruning to several budgets would leave of a network, and which of its channels can go at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from compress.actions.deployed import DeployedMeter
from compress.actions.prune_structured import pruning_rules, pruning_settings
from compress.detector import Detector
from compress.metrics.complexity import measure_complexity
from compress.pruning.budget import Budget, CostFunction, Limit
from compress.pruning.cost_model import CostModel
from compress.pruning.importance import magnitude_scores
from compress.pruning.probing import try_widths
from compress.pruning.side_widths import SideWidths
from compress.pruning.structured import tried_coupling
from compress.pruning.width_plan import plan_widths
from compress.pruning.widths import narrowest_widths
from compress.stages.prune_structured import PruneStructured

SHARES = (0.8, 0.65, 0.5, 0.35)  # of the MACs


def budgets(
    stage: PruneStructured, model: nn.Module, detector: Detector, folder: Path, *, threads: int
) -> dict[str, Any]:
    """Return what a stage could make of a network: its groups, and a row for each budget that it can reach.

    Nothing is cut but in one probe: rows are planned with magnitudes for importance, as any other needs data, and
    costed by what two measured networks tell of each layer.

    Args:
        stage: the first pruning of a plan.
        model: that it is given.
        detector: the plug-in.
        folder: takes files that are not kept.
        threads: of ONNX Runtime.

    Returns:
        `groups`: of each pruning group root, layers, width, narrowest and macs_a_channel; `budgets`: macs (share),
        params, packed_bytes (int8, untrained) and latency_ms (int8), the network as it is first.
    """
    example = detector.example_input(1)
    coupling = tried_coupling(model, example, pruning_rules(stage, model, detector))
    settings = pruning_settings(stage, seed=0)
    sides, complexity = SideWidths(coupling.groups), measure_complexity(model, example)
    floors = narrowest_widths(
        coupling.groups, sides.full, round_to=settings.round_to, max_pruning_ratio=settings.max_pruning_ratio
    )
    meter = DeployedMeter(detector, folder, ["packed_bytes", "latency_ms"], threads=threads)
    try_widths(meter, model, coupling, sides.full, floors, settings, probes=1)
    macs = CostModel(model, complexity, sides, "macs")
    functions: dict[str, CostFunction] = {
        "macs": macs,
        "params": CostModel(model, complexity, sides, "params"),
        **meter.cost_functions(model, sides),
    }
    with torch.no_grad():
        scores = magnitude_scores(model, coupling.groups)
    plans = [sides.full]
    for share in SHARES:
        limit = Budget([Limit("macs", macs, share * complexity.macs)], sides.full)
        if limit.used(floors) <= 1:
            widths = plan_widths(coupling.groups, scores, limit, floors=floors, settings=settings)
            plans += [widths] if widths not in plans else []
    rows = [{name: function.cost(widths) for name, function in functions.items()} for widths in plans]
    return {
        "groups": [
            {
                "root": group.root,
                "layers": len(group.producers),
                "width": group.width,
                "narrowest": floors[group.root],
                "macs_a_channel": (macs.cost(sides.full) - macs.cost(sides.full | {group.root: floors[group.root]}))
                // max(group.width - floors[group.root], 1),
            }
            for group in coupling.groups
        ],
        "budgets": [
            {
                "macs": row["macs"] / complexity.macs,
                "params": round(row["params"]),
                "packed_bytes": round(row["packed_bytes"]),
                "latency_ms": row["latency_ms"],
            }
            for row in rows
        ],
    }
