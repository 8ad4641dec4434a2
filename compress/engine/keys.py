"""Content keys: what the result of a stage depends on, and what changed since last time. Torch-free."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from compress.artifact import file_digest, to_json
from compress.detector import Detector
from compress.errors import DataError
from compress.kind import Kind
from compress.machine import machine_key, version_of
from compress.recipe.model import Recipe
from compress.recipe.version import flat_training
from compress.stage import Stage
from compress.stages.sensitivity import Sensitivity
from compress.training.settings import TrainingFields

# Fields that hold paths: their content enters the key (checkpoint digest, data digest), not the text.
_PATH_FIELDS = frozenset({"checkpoint", "root"})
_WEIGHT_SUFFIXES = (".pth", ".pt", ".safetensors", ".npz", ".onnx", ".krimp")
_NAMES = frozenset({"stage", "name", "from"})
_UNKNOWN = "?"


class KeyMaker:
    """Makes the key parts of stages; digests of data and checkpoint are computed once."""

    def __init__(self, recipe: Recipe, detector: Detector) -> None:
        self._recipe = recipe
        self._detector = detector
        self._data: dict[str, str] = {}
        self._common: dict[str, Any] | None = None
        config = getattr(detector.data, "CONFIG", None)
        self._scoring_fields: frozenset[str] = getattr(config, "SCORING_FIELDS", frozenset()) & recipe.data.keys()
        later: frozenset[str] = getattr(config, "KEYED_IF_SET", frozenset())
        self._unset = frozenset(name for name in later if recipe.data.get(name) is None)

    def parts(self, stage: Stage, inputs: Mapping[str, str | None]) -> dict[str, Any]:
        """Return all that the result depends on; the key is `hash_json` of it.

        Args:
            stage: the stage.
            inputs: input name -> digest of the artifact, None if it is not known yet.
        """
        parts = {
            "stage": stage.stage,
            "code_version": stage.CODE_VERSION,
            "fields": _fields(stage),
            "inputs": {name: digest or _UNKNOWN for name, digest in inputs.items()},
            "data": {split: self._data_digest(split) for split in stage.splits()},
            "libraries": {name: version_of(name) for name in stage.LIBRARIES},
            **self._shared(),
        }
        if _scores(stage) and self._scoring_fields:
            parts["scoring"] = {name: self._recipe.data[name] for name in sorted(self._scoring_fields)}
        if stage.MACHINE_BOUND:
            parts["machine"] = machine_key()
        key: dict[str, Any] = json.loads(to_json(parts))
        return key

    def _shared(self) -> dict[str, Any]:
        if self._common is None:
            detector, recipe = self._detector, self._recipe
            checkpoint = detector.checkpoint_path()
            config = {key: value for key, value in recipe.detector.items() if key not in _PATH_FIELDS}
            not_of_all = _PATH_FIELDS | self._scoring_fields | self._unset
            self._common = {
                "seed": recipe.seed,
                "detector": _with_content(config),
                "data_config": {key: value for key, value in recipe.data.items() if key not in not_of_all},
                "plugin": {"name": detector.NAME, "version": detector.VERSION},
                "checkpoint": None if checkpoint is None else _content(checkpoint),
            }
        return self._common

    def _data_digest(self, split: str) -> str:
        if split not in self._data:
            try:
                self._data[split] = self._detector.data.digest(split)
            except DataError:
                self._detector.data.check(split)  # it lists everything that is wrong
                raise
        return self._data[split]


def _scores(stage: Stage) -> bool:
    """Return whether what the data set calls good decides the result: scores, and weights kept by COCO's metrics."""
    training = getattr(stage, "training", None)
    chosen_by = training.chosen_by() if isinstance(training, TrainingFields) else None
    if isinstance(stage, Sensitivity):
        return stage.score
    return stage.MAKES is Kind.SCORES or chosen_by not in (None, "map50")


def _fields(stage: Stage) -> dict[str, Any]:
    """Return the fields that change the result, as version 1 of recipes wrote them: old keys stay right."""
    fields = stage.key_fields()
    for path in stage.COSMETIC:
        block, dot, name = path.rpartition(".")
        (fields[block] if dot else fields).pop(name)
    training = getattr(stage, "training", None)
    if isinstance(training, TrainingFields) and training.chosen_by() in (None, "map50"):
        del fields["training"]["metric"]  # nothing is chosen by it, or what always was
    return {name: value for name, value in flat_training(fields).items() if name not in _NAMES}


def explain_change(old: Mapping[str, Any], new: Mapping[str, Any], labels: Mapping[str, str]) -> list[str]:
    """Return what differs between two sets of key parts, in words.

    Args:
        old: parts of the sealed artifact, from `KeyMaker.parts`.
        new: parts of now. Inputs whose digest is not known yet are passed over.
        labels: input name -> label of the stage that made it.
    """
    reasons: list[str] = []
    before, after = dict(_flat(old)), dict(_flat(new))
    for path in dict.fromkeys([*after, *before]):
        if before.get(path) != after.get(path) and after.get(path) != _UNKNOWN:
            reasons.append(_reason(path, before.get(path), after.get(path), labels))
    return list(dict.fromkeys(reasons))


def _reason(path: tuple[str, ...], old: Any, new: Any, labels: Mapping[str, str]) -> str:
    part, rest = path[0], ".".join(path[1:])
    texts = {
        "inputs": f"input {labels.get(rest, rest)} changed",
        "data": f"data digest of split {rest}",
        "checkpoint": "content of detector.checkpoint",
        "libraries": f"version of {rest} {old} -> {new}",
        "fields": f"{rest} {_short(old)} -> {_short(new)}",
        "data_config": f"data.{rest} {_short(old)} -> {_short(new)}",
        "scoring": f"data.{rest} {_short(old)} -> {_short(new)}",
        "code_version": f"code of stage, version {old} -> {new}",
        "stage": f"stage type {old} -> {new}",
    }
    return texts.get(part) or f"{'.'.join(path)} {_short(old)} -> {_short(new)}"


def _flat(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, Mapping) and value:
        for key, below in value.items():
            yield from _flat(below, (*path, str(key)))
    else:
        yield path, value


def _short(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _with_content(value: Any) -> Any:
    """Replace the names of existing weight files by the digest of their content."""
    if isinstance(value, Mapping):
        return {key: _with_content(below) for key, below in value.items()}
    if isinstance(value, str) and value.endswith(_WEIGHT_SUFFIXES) and Path(value).is_file():
        return _content(Path(value))
    return value


def _content(path: Path) -> str:
    return f"sha256:{file_digest(path)}"
