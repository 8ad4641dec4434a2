"""Whether the splits to be read hold objects: what cannot be learned or measured is told before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from compress.dataset import CountsObjects, Dataset
from compress.kind import Kind
from compress.recipe.plan import PlannedStage
from compress.stages.report import Report
from compress.stages.sensitivity import Sensitivity
from compress.training.settings import TrainingFields

CANNOT = "map, map75, map50 and recall cannot be measured"
_LISTED = 10


def tell_objects(
    data: Dataset, planned: Sequence[PlannedStage], place_of: Callable[[int | None], str]
) -> tuple[list[str], list[str]]:
    """Return what a missing object makes impossible, and what it leaves out, in words.

    Args:
        data: asked only if it keeps the hook `CountsObjects`.
        planned: the stages that are to be run.
        place_of: place in the recipe of a stage by its index there.

    Returns:
        Refusals (nothing to learn, weights that nothing can choose, limits that cannot be measured) and notices
        (scores that stay unknown, classes that have no object), each text once.
    """
    if not isinstance(data, CountsObjects):
        return [], []
    refusals: list[str] = []
    notices: list[str] = []
    for one in planned:
        place = f"{place_of(one.origin)}: stage {one.label}"
        for split, trained in _read_with_truth(one):
            counts = data.object_counts(split, trained=trained)
            absent = [name for name, count in counts.items() if not count]
            if len(absent) < len(counts):
                notices += [_absent_classes(split, absent, trained)] if absent else []
                continue
            none = f"data split {split!r} has no object of {_names(absent)}"
            refusal = _refusal(one, split, trained)
            if refusal is not None:
                refusals.append(f"{place}: {none}, {refusal}")
            else:
                notices.append(f"{none}: {CANNOT} on it.")
    return list(dict.fromkeys(refusals)), list(dict.fromkeys(notices))


def _read_with_truth(one: PlannedStage) -> list[tuple[str, bool]]:
    """Return the splits whose objects a stage needs, and whether it trains on them."""
    stage = one.stage
    training = getattr(stage, "training", None)
    if isinstance(training, TrainingFields):
        return [(split, split == "train") for split in training.trained_splits()]
    if isinstance(stage, Sensitivity):
        return [(split, False) for split in stage.scored_splits()]
    split = getattr(stage, "split", None)
    scores = stage.MAKES is Kind.SCORES or isinstance(stage, Report)
    return [(split, False)] if scores and isinstance(split, str) else []


def _refusal(one: PlannedStage, split: str, trained: bool) -> str | None:
    """Return why a stage cannot do with a split that holds no object, None if it can."""
    check = "Check data.root, the labels, data.ignore and the names of the classes"
    if trained:
        return f"so there is nothing to learn. {check}."
    if isinstance(getattr(one.stage, "training", None), TrainingFields):
        return f"so no score can choose the kept weights. {check}, or set training.evaluate_every to 0."
    limits = one.stage.require.of_accuracy() if isinstance(one.stage, Report) and one.stage.require else []
    if limits:
        return f"so {', '.join(limits)} under `require:` cannot be measured. {check}, or report another split."
    return None


def _absent_classes(split: str, absent: Sequence[str], trained: bool) -> str:
    what = "it cannot be learned there" if trained else "no mean counts it"
    return f"data split {split!r} has no object of {_names(absent)}: {what}."


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ("class " if len(names) == 1 else "the classes ") + ", ".join(names[:_LISTED]) + more
