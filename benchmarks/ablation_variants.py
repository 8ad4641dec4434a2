"""Recipes with one pass left out, for `benchmarks/ablation.py`; and what exports of one network can leave out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from torch import nn

from compress.errors import StageError
from compress.quantization.checks import quantized_layers
from compress.quantization.layers import BIAS_UNIT
from compress.recipe.model import Recipe
from compress.recipe.plan import make_plan
from compress.stages.export_onnx import ExportOnnx
from compress.stages.finetune import Finetune
from compress.stages.pack import Pack
from compress.stages.prune_structured import PruneStructured
from compress.stages.prune_unstructured import PruneUnstructured
from compress.stages.qat import Qat

WHOLE = "as_it_is"

Changes = Mapping[str, Any]
"""Label of a stage -> fields that differ, None to leave the stage out."""


def variants(recipe: Recipe) -> dict[str, Changes]:
    """Return variant -> what differs from the recipe, `as_it_is` first; passes that the recipe has not are left out."""
    way = on_the_way(recipe)
    stages = [one for one in recipe.stages if one.label in way]
    quantized = [one for one in stages if isinstance(one, Qat)]
    distilled = [one for one in stages if isinstance(one, _LEARNERS) and one.distill is not None]
    rated = [one for one in quantized if one.rate is not None]
    found: dict[str, Changes] = {
        "no_pruning": {one.label: None for one in stages if isinstance(one, PruneStructured)},
        "no_masks": {one.label: None for one in stages if isinstance(one, PruneUnstructured)},
        "no_finetune": {one.label: None for one in stages if isinstance(one, Finetune)},
        "no_distillation": {one.label: {"distill": None} for one in distilled},
        "no_rate": {one.label: {"rate": None} for one in rated},
        "nearest_rounding": _chosen([one for one in quantized if one.rate is None], rounding="nearest"),
        "percentile_ranges": _chosen(quantized, ranges="percentile"),
        "no_equalization": _chosen(quantized, equalize=False),
        "full_names": {one.label: {"names": "full"} for one in stages if isinstance(one, ExportOnnx)},
        "no_rewrite": {one.label: {"rewrite": False} for one in stages if isinstance(one, ExportOnnx)},
    }
    return {WHOLE: {}} | {name: changes for name, changes in found.items() if changes}


def _chosen(stages: Sequence[Qat], **fields: Any) -> Changes:
    """Return changes of what calibration chooses."""
    return {one.label: {"post_training": fields} for one in stages}


_LEARNERS = (Finetune, PruneUnstructured, Qat)


def on_the_way(recipe: Recipe) -> set[str]:
    """Return the labels of stages that the packed file comes from, itself among them, and of what they refer to."""
    plan, _ = make_plan(recipe.stages)
    inputs = {one.label: one.inputs.values() for one in plan}
    reached, todo = set[str](), [packed_label(recipe)]
    while todo:
        label = todo.pop()
        if label not in reached:
            reached.add(label)
            todo += inputs[label]
    return reached


def packed_label(recipe: Recipe) -> str:
    """Return the label of the stage that packs.

    Raises:
        StageError: there is none.
    """
    labels = [one.label for one in recipe.stages if isinstance(one, Pack)]
    if not labels:
        raise StageError(f"{recipe.name}: no stage `pack`, so there is no file to compare. Add one.")
    return labels[-1]


def epochs_of(words: Sequence[str]) -> dict[str, int]:
    """Return label -> epochs of words like '3' or 'qat=3'; the label '' stands for every training.

    Raises:
        StageError: a word is of another form.
    """
    found: dict[str, int] = {}
    for word in words:
        label, _, number = word.rpartition("=")
        if not number.isdecimal():
            raise StageError(f"--epochs {word}: expected a number, or LABEL=NUMBER as in qat=0.")
        found[label] = int(number)
    return found


def shortened(recipe: Recipe, changes: Changes, epochs: Mapping[str, int]) -> dict[str, Any]:
    """Return changes with trainings that are left cut to so many epochs; see `epochs_of`."""
    short = dict(changes)
    for one in recipe.stages:
        fields, wanted = short.get(one.label, {}), epochs.get(one.label, epochs.get(""))
        if isinstance(one, _LEARNERS) and fields is not None and wanted is not None:
            short[one.label] = {**fields, "training": {"epochs": wanted}}
    return short


def variant_name(recipe: str, variant: str, epochs: Mapping[str, int]) -> str:
    """Return the name of a variant's recipe, and so of its folder."""
    return "-".join([recipe, variant, *(f"{label or 'all'}_{number}" for label, number in sorted(epochs.items()))])


def document_of(recipe: Recipe, path: Path, name: str, changes: Changes) -> dict[str, Any]:
    """Return a variant as a recipe: its base, a name of its own, and what differs.

    Stages that the packed file does not come from are left out: a report would have every model scored on its split.
    """
    way = on_the_way(recipe)
    aside: dict[str, Any] = {one.label: None for one in recipe.stages if one.label not in way}
    return {"format_version": 2, "base": str(path.resolve()), "name": name, "stages": {**aside, **changes}}


def _without(name: str) -> Callable[[nn.Module], AbstractContextManager[object]]:
    return lambda _model: patch(f"compress.export.onnx_file.{name}", return_value=[])


@contextmanager
def _fine_biases(model: nn.Module) -> Iterator[None]:
    """Store biases as finely as they were learnt."""
    for layer in quantized_layers(model).values():
        setattr(layer, BIAS_UNIT, None)
    yield


EXPORTS: Mapping[str, Callable[[nn.Module], AbstractContextManager[object]]] = {
    "no_channel_order": _without("order_channels"),
    "no_dead_channels_removed": _without("remove_dead_channels"),
    "fine_biases": _fine_biases,
}
"""Passes that no recipe leaves out: name -> what is in force while the quantized network is exported again."""
