"""A first recipe for a data folder and a detector: the whole path, with settings that work on small networks."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from compress.dataset import DataFolder, DescribesFolder
from compress.errors import DataError
from compress.plugins import DATASETS, available_plugins, find_dataset
from compress.recipe.version import CURRENT


def describe_folder(root: Path, format_name: str | None = None) -> tuple[str, DataFolder]:
    """Return the format of what lies in a folder, and what it says of itself.

    Args:
        root: the folder.
        format_name: name of a data format; None asks all that are there.

    Raises:
        DataError: no format, or more than one, knows the folder.
        DetectorError: there is no such format.
    """
    names = available_plugins(DATASETS) if format_name is None else [format_name]
    found = {}
    for name in names:
        kind = find_dataset(name)
        known = kind.describe(root) if issubclass(kind, DescribesFolder) else None
        if known is not None:
            found[name] = known
    if len(found) == 1:
        return next(iter(found.items()))
    if found:
        raise DataError(f"{root}: may be of the formats {', '.join(found)}. Say which with --format.")
    raise DataError(
        f"{root}: no data set of the format {' or '.join(names)} is here. Check the path, or see `krimp data`."
    )


def first_recipe(name: str, detector: Mapping[str, Any], format_name: str, folder: DataFolder, *, trains: bool) -> str:
    """Return the text of a recipe.

    Args:
        name: of the recipe.
        detector: the `detector:` part but for the classes.
        format_name: of the data.
        folder: what the data is.
        trains: start with a stage `train`; else `detector` names a checkpoint.
    """
    recipe = CommentedMap(
        format_version=CURRENT,
        name=name,
        detector=_flow({**detector, "classes": list(folder.classes)}),
        data=_flow({"format": format_name, **folder.data}),
        defaults=_flow({"training": {"batch_size": 8, "optimizer": "adamw", "warmup_steps": 50}}),
        stages=CommentedSeq(map(_flow, _stages(trains, folder.splits))),
    )
    recipe.yaml_set_start_comment(
        f"First recipe for {format_name} data, made by `krimp new`; splits found: {', '.join(folder.splits)}.\n"
        f"Run:  krimp run {name}.yaml\n"
        "Epochs and ratios are a start: `krimp stages STAGE` says what else can be set, `krimp plan` what would run."
    )
    yaml, out = YAML(), io.StringIO()
    yaml.width = 160
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.dump(recipe, out)
    return out.getvalue()


def _stages(trains: bool, splits: Sequence[str]) -> list[dict[str, Any]]:
    train = {"stage": "train", "training": {"epochs": 30, "lr": 0.001, "schedule": "cosine"}}
    scored = next((split for split in ("test", "val") if split in splits), "train")
    parity = "val" if "val" in splits else scored
    export = {"stage": "export_onnx", **({} if parity == "val" else {"parity_split": parity})}
    return [
        *([train] if trains else []),
        {**export, "name": "float_onnx"},
        {"stage": "prune_structured", "target": {"macs": 0.7}, "steps": 2},
        {
            "stage": "finetune",
            "training": {"epochs": 6, "lr": 0.0005, "schedule": "cosine"},
            "distill": _teacher(),
        },
        {
            "stage": "prune_unstructured",
            "sparsity": 0.5,
            "training": {"epochs": 4, "lr": 0.0005, "schedule": "cosine"},
            "distill": _teacher(),
        },
        {
            "stage": "qat",
            "weight_bit_width": 6,
            "training": {"epochs": 3, "lr": 0.0003},
            "distill": _teacher(),
        },
        export,
        {"stage": "pack"},
        {"stage": "benchmark", "models": ["float_onnx", "pack"], "split": scored},
        {"stage": "report", "split": scored},
    ]


def _teacher() -> dict[str, str]:
    return {"teacher": "float"}  # one a stage: YAML would write a shared one as an alias


def _flow(fields: Mapping[str, Any]) -> CommentedMap:
    """Return a mapping that is written on one line."""
    made = CommentedMap(fields)
    made.fa.set_flow_style()
    return made
