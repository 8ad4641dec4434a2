"""What a trial runs: the stages that its file comes from, and the looks that measure it. 'test' is never read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from compress.kind import Kind
from compress.recipe.model import Recipe
from compress.recipe.plan import FLOAT, STARTS, PlannedStage, make_plan
from compress.recipe.yaml_reader import parse_yaml
from compress.recipe.yaml_writer import yaml_text
from compress.sweep.model import Sweep

FLOAT_LOOK = "sweep_float_val"
EARLY_LOOK = "sweep_early_val"
LOOK = "sweep_val"
TIMING = "sweep_ms"
FLOAT_FILE = "sweep_float_onnx"


@dataclass(frozen=True)
class Looks:
    """The labels under which a trial's folder holds what was measured.

    Attributes:
        model: of the packed file.
        reference: of the float file that is timed beside it, None if nothing is timed.
    """

    model: str
    reference: str | None


def trial_recipe(recipe: Recipe, sweep: Sweep) -> tuple[str, Looks]:
    """Return what a trial runs as YAML, and where its measurements lie.

    Stages that do not lead to the file are left out: reports, scores on other splits, other files. The order stays.

    Args:
        recipe: with the values of the trial.
        sweep: says which file, which objectives and when a trial is given up.
    """
    assert sweep.model is not None
    plan, _ = make_plan(recipe.stages)
    data = parse_yaml(recipe.written, "recipe").data
    first = next(planned for planned in plan if planned.stage.stage in STARTS)
    reference = _float_file(plan, first.label) if "ms" in sweep.objectives else None
    wanted = [first.label, sweep.model, reference, sweep.stop.after if sweep.stop else None]
    needed = _needed(plan, [label for label in wanted if label is not None])
    stages: list[dict[str, Any]] = []
    for planned in plan:
        if planned.origin is not None and planned.label in needed:
            stages.append(data["stages"][planned.origin])
        if planned is first:
            stages.append(_score(FLOAT_LOOK, FLOAT))
        if sweep.stop is not None and planned.label == sweep.stop.after:
            stages.append(_score(EARLY_LOOK, planned.label))
    stages.append(_score(LOOK, sweep.model))
    if "ms" in sweep.objectives:
        if reference is None:
            reference = FLOAT_FILE
            stages.append({"stage": "export_onnx", "name": FLOAT_FILE, "from": FLOAT})
        timed = {"models": [reference, sweep.model], "threads": 1, "end_to_end": False}
        stages.append({"stage": "benchmark", "name": TIMING, **timed})
    return yaml_text({**data, "stages": stages}), Looks(sweep.model, reference)


def _score(name: str, source: str) -> dict[str, Any]:
    return {"stage": "evaluate", "name": name, "from": source, "split": "val", "sizes": False, "threads": 1}


def _float_file(plan: Sequence[PlannedStage], first: str) -> str | None:
    """Return the label of the recipe's own file of the float model, None if it makes none."""
    files = (planned for planned in plan if planned.stage.MAKES is Kind.ONNX)
    return next((planned.label for planned in files if planned.inputs.get("source") == first), None)


def _needed(plan: Sequence[PlannedStage], wanted: Sequence[str]) -> set[str]:
    """Return the labels of some stages and of all that they come from."""
    by_label = {planned.label: planned for planned in plan}
    found: set[str] = set()
    left = list(wanted)
    while left:
        label = left.pop()
        if label not in found:
            found.add(label)
            left += by_label[label].inputs.values()
    return found
