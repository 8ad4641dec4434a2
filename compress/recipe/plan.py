"""Decide what each stage reads, and refuse illegal orders. Pure: nothing here touches a file.

A recipe's list of stages is the order. A stage takes the latest artifact of a kind that it needs,
or the one that `from:` names. `float` always names the model before the first change: the first
`train` stage, or an implicit first stage that loads the plug-in's checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from compress import stages as stage_table_module
from compress.errors import suggest
from compress.kind import Kind
from compress.stage import Stage

FLOAT = "float"
MODEL_KINDS = frozenset({Kind.MODEL, Kind.QUANTIZED})
SCORED_KINDS = frozenset({Kind.MODEL, Kind.QUANTIZED, Kind.ONNX, Kind.PACKED})
STARTS = ("train", "load_float")


@dataclass(frozen=True)
class Entry:
    """A stage with its index in the recipe; None if the planner put it in."""

    stage: Stage
    origin: int | None

    @property
    def label(self) -> str:
        """Return the stage's label."""
        return self.stage.label


@dataclass(frozen=True)
class PlannedStage:
    """A stage whose inputs are resolved.

    Attributes:
        number: position in the expanded list, from 0; part of the folder name.
        stage: the stage.
        origin: index in the recipe, None if the planner put it in.
        inputs: input name -> label of the stage whose artifact it is.
        lineage: labels of the stages the artifact came through, its own last.
    """

    number: int
    stage: Stage
    origin: int | None
    inputs: Mapping[str, str]
    lineage: tuple[str, ...]

    @property
    def label(self) -> str:
        """Return the stage's label."""
        return self.stage.label

    @property
    def folder_name(self) -> str:
        """Return the name of the artifact's folder, e.g. '03_prune_structured'."""
        return f"{self.number:02d}_{self.label}"


@dataclass(frozen=True)
class OrderProblem:
    """An illegal order: index of the stage in the recipe, the name at fault if any, and the text."""

    origin: int
    name: str | None
    text: str


def make_plan(stages: Sequence[Stage]) -> tuple[list[PlannedStage], list[OrderProblem]]:
    """Return the expanded plan and every illegal order.

    Args:
        stages: as in the recipe.

    Returns:
        (plan, problems); the plan may only be run when there are no problems. It holds what the
        planner added: the implicit `float` stage and the evaluations that a report with
        `every_stage` asks for.
    """
    entries = with_float([Entry(stage, index) for index, stage in enumerate(stages)])
    plan, problems = _resolve(entries)
    if not problems:
        plan, problems = _resolve(with_scores(plan))
    return plan, problems


def with_float(entries: list[Entry]) -> list[Entry]:
    """Put the implicit first stage `float` before the others unless the recipe trains its own model."""
    if any(entry.stage.stage in STARTS for entry in entries):
        return entries
    return [Entry(stage_table_module.STAGES["load_float"](stage="load_float", name=FLOAT), None), *entries]


def with_scores(plan: Sequence[PlannedStage]) -> list[Entry]:
    """Add an `evaluate` after every model, ONNX or packed stage that a full report lacks a score of.

    Applies when the plan has a `report` stage with `every_stage: true`; what stands behind that
    stage is left alone. The split is the report's.
    """
    entries = [Entry(planned.stage, planned.origin) for planned in plan]
    reports = [p for p in plan if p.stage.MAKES is Kind.REPORT and getattr(p.stage, "every_stage", False)]
    if not reports:
        return entries
    split = getattr(reports[0].stage, "split", None)
    scored = {
        p.inputs.get("source") for p in plan if p.stage.stage == "evaluate" and getattr(p.stage, "split", None) == split
    }
    taken = {entry.label for entry in entries}
    expanded: list[Entry] = []
    for planned, entry in zip(plan, entries, strict=True):
        expanded.append(entry)
        if planned.number > reports[0].number or planned.stage.MAKES not in SCORED_KINDS or entry.label in scored:
            continue
        name = _free_name(f"{entry.label}_score", taken)
        taken.add(name)
        fields = {"stage": "evaluate", "name": name, "from": entry.label, "split": split}
        expanded.append(Entry(stage_table_module.STAGES["evaluate"].model_validate(fields), None))
    return expanded


def stage_table(table: Mapping[str, type[Stage]] | None = None) -> str:
    """Return a markdown table of what each stage needs, makes and may not follow."""
    rows = ["| stage | needs | makes | may not follow |", "|---|---|---|---|"]
    for name, stage in (table or stage_table_module.STAGES).items():
        needs = " or ".join(stage.NEEDS) or "-"
        rows.append(f"| `{name}` | {needs} | {stage.MAKES} | {', '.join(f'`{n}`' for n in stage.NOT_AFTER) or '-'} |")
    return "\n".join(rows)


def _free_name(name: str, taken: set[str]) -> str:
    number = 2
    candidate = name
    while candidate in taken:
        candidate, number = f"{name}_{number}", number + 1
    return candidate


def _resolve(entries: Sequence[Entry]) -> tuple[list[PlannedStage], list[OrderProblem]]:
    plan: list[PlannedStage] = []
    problems: list[OrderProblem] = []
    labels = [entry.label for entry in entries]
    for number, entry in enumerate(entries):
        origin = -1 if entry.origin is None else entry.origin
        problem = _label_problem(entry, plan)
        if problem:
            problems.append(OrderProblem(origin, entry.stage.name, problem))
        planned, found = _resolve_one(PlannedStage(number, entry.stage, entry.origin, {}, ()), plan, labels[number:])
        problems += [replace(problem, origin=origin) for problem in found]
        plan.append(planned)
    return plan, problems


def _label_problem(entry: Entry, earlier: Sequence[PlannedStage]) -> str | None:
    label = entry.label
    if label == "source" or (label == FLOAT and entry.stage.stage not in STARTS):
        return f"the name {label!r} is reserved. Give this stage another one."
    for planned in earlier:
        if planned.label == label:
            where = "" if planned.origin is None else f" (first by stages[{planned.origin}])"
            return f"the name {label!r} is used twice{where}. Give this stage its own `name:`."
    return None


def _resolve_one(
    planned: PlannedStage, earlier: Sequence[PlannedStage], later: Sequence[str]
) -> tuple[PlannedStage, list[OrderProblem]]:
    stage = planned.stage
    problems: list[OrderProblem] = []
    inputs: dict[str, str] = {}
    lineage: tuple[str, ...] = ()
    if stage.from_ is not None or stage.NEEDS:
        source, text = _source(stage, earlier, later)
        if text:
            problems.append(OrderProblem(0, stage.from_, text))
        if source is not None:
            inputs["source"] = source.label
            lineage = source.lineage
    for name in _references(stage):
        target = _find(name, earlier)
        if target is None:
            problems.append(OrderProblem(0, name, _not_found(name, earlier, later)))
        else:
            inputs[name] = target.label
    if stage.MAKES is Kind.REPORT:
        inputs.update({other.label: other.label for other in earlier})
    return replace(planned, inputs=inputs, lineage=(*lineage, stage.label)), problems


def _references(stage: Stage) -> tuple[str, ...]:
    """Return a stage's references; none for the stand-in of a stage whose fields are wrong."""
    try:
        return stage.references()
    except AttributeError:
        if stage.__pydantic_fields_set__ == set(type(stage).model_fields):
            raise
        return ()


def _find(name: str, earlier: Sequence[PlannedStage]) -> PlannedStage | None:
    for planned in earlier:
        if planned.label == name:
            return planned
    if name == FLOAT:
        return next((planned for planned in earlier if planned.stage.stage in STARTS), None)
    return None


def _not_found(name: str, earlier: Sequence[PlannedStage], later: Sequence[str]) -> str:
    if later and name == later[0]:
        return f"{name!r} names this stage itself. Name an earlier one."
    if name in later:
        return f"stage {name!r} comes later in the list. Name an earlier one, or move it."
    return f"no earlier stage is named {name!r}.{suggest(name, [p.label for p in earlier])}"


def _source(
    stage: Stage, earlier: Sequence[PlannedStage], later: Sequence[str]
) -> tuple[PlannedStage | None, str | None]:
    """Return the stage whose artifact is the source, and what is wrong with it if anything is."""
    needs = " or ".join(stage.NEEDS) or "nothing"
    if stage.from_ is not None:
        source = _find(stage.from_, earlier)
        if source is None:
            return None, _not_found(stage.from_, earlier, later)
        if source.stage.MAKES not in stage.NEEDS:
            return source, f"{stage.stage} needs {needs}, but {stage.from_!r} makes {source.stage.MAKES}."
        return source, _order_fault(stage, source, earlier)
    source = _latest(earlier, frozenset(stage.NEEDS))
    if source is None:
        makers = [name for name, other in stage_table_module.STAGES.items() if other.MAKES in stage.NEEDS]
        return (
            None,
            f"{stage.stage} needs {needs}, and no earlier stage makes one. Put {' or '.join(makers)} before it.",
        )
    # A model that was changed since must not be passed over in silence: that would be a branch nobody asked for.
    model = _latest(earlier, MODEL_KINDS)
    if source.stage.MAKES in MODEL_KINDS and model is not None and model is not source:
        text = (
            f"{stage.stage} needs {needs}, but the latest model, {model.label!r}, is {model.stage.MAKES}. "
            f"Put {stage.stage} before {model.label!r}, or name its input with `from:`."
        )
        return source, text
    return source, _order_fault(stage, source, earlier)


def _latest(earlier: Sequence[PlannedStage], kinds: frozenset[Kind]) -> PlannedStage | None:
    return next((planned for planned in reversed(earlier) if planned.stage.MAKES in kinds), None)


def _order_fault(stage: Stage, source: PlannedStage, earlier: Sequence[PlannedStage]) -> str | None:
    types = {planned.label: planned.stage.stage for planned in earlier}
    for label in source.lineage:
        if types.get(label) in stage.NOT_AFTER:
            return (
                f"{stage.stage} may not follow {types[label]}, and its input {source.label!r} went through "
                f"{label!r}. Put {stage.stage} before {label!r}, or name another input with `from:`."
            )
    return None
