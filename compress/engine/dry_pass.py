"""The dry pass: what would break after days of training is asked before anything runs.

A child process takes a network with fresh weights through pruning, quantizers and export (`actions/dry_pass.py`); this
process needs no torch. What passed is kept beside the artifacts under a key of all that it depends on; a refusal is
asked again each time.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import compress
from compress.artifact import file_digest, hash_json, to_json
from compress.detector import Detector
from compress.engine.child import run_in_child
from compress.engine.decisions import Decision
from compress.errors import CompressError, StageError
from compress.machine import version_of
from compress.number_text import duration_text
from compress.plugins import make_detector
from compress.recipe.model import Recipe
from compress.recipe.plan import PlannedStage
from compress.stages.export_onnx import ExportOnnx
from compress.stages.prune_structured import PruneStructured
from compress.stages.qat import Qat
from compress.whole_file import write_whole

ACTION = "compress.actions.dry_pass"
FILE = ".dry_pass.json"  # in the folder of the artifacts
LIMIT_S = 300  # a pass that takes longer is given up, and the run goes on without
_ASKED = (PruneStructured, Qat, ExportOnnx)
NEEDED = ("torch", "torch_pruning", "brevitas", "onnx", "onnxscript", "onnxruntime")
_LIBRARIES = ("torch", "torchvision", "torch-pruning", "brevitas", "onnx", "onnx-ir", "onnxscript", "onnxruntime")
_CODE = ("actions", "pruning", "quantization", "export", "layer_names.py", "layer_widths.py", "model_folder.py")
_START = "backbone_weights"  # field of a plug-in's CONFIG, if it has one
_PATH_FIELDS = frozenset({"checkpoint", "root", _START})
_NO_MATTER = frozenset({"training", "distill"})  # blocks of a stage that do not change what it does to a network


@dataclass(frozen=True)
class DryPass:
    """How the dry pass went; one that was refused is a StageError instead.

    Attributes:
        state: 'passed' now, 'cached' where it passed before, or 'not run'.
        reason: why it was not run; else ''.
        seconds: it took, 0 if it was not run now.
        kept: lines that say which layers keep their channels in pruning though nobody said so, why, and the cure.
    """

    state: Literal["passed", "cached", "not run"]
    reason: str = ""
    seconds: float = 0.0
    kept: tuple[str, ...] = ()

    def __str__(self) -> str:
        texts = {"passed": f"passed in {duration_text(self.seconds)}", "cached": "passed before"}
        text = f"dry pass: {texts.get(self.state) or f'not run: {self.reason}'}"
        return "\n".join([f"{text}; pruning leaves these layers their channels:", *self.kept] if self.kept else [text])

    def to_json(self) -> dict[str, Any]:
        """Return plain data: `state`, `reason`, `seconds` and `kept`."""
        kept = [line.strip() for line in self.kept]
        return {"state": self.state, "reason": self.reason, "seconds": self.seconds, "kept": kept}


def dry_pass(recipe: Recipe, detector: Detector, decisions: Sequence[Decision], root: Path) -> DryPass | None:
    """Take a fresh network through the stages that are to run, or find that it passed before.

    Args:
        recipe: gives the places for messages.
        detector: the plug-in.
        decisions: of the whole plan.
        root: folder of the recipe's artifacts; made if the pass is to be kept.

    Returns:
        How it went; None if no stage that is to run changes or exports a network.

    Raises:
        StageError: a stage cannot work on this network, with its place in the recipe.
    """
    to_run = [one.planned for one in decisions if one.state == "run"]
    if not any(isinstance(planned.stage, _ASKED) for planned in to_run):
        return None
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        return DryPass("not run", f"{', '.join(missing)} not installed here")
    plan = [one.planned for one in decisions]
    key = hash_json(parts_of(recipe, detector, plan))
    if (kept := _read(root, key)) is not None:
        return DryPass("cached", kept=kept)
    start = time.monotonic()
    try:
        fresh = with_fresh_weights(recipe, detector)
        found = in_quiet_child(
            ACTION,
            lambda run, folder: run(plan, fresh, folder),
            label="dry pass",
            seed=recipe.seed,
            limit_s=LIMIT_S,
        )
    except StageError as error:  # it was killed, for memory or time: that says nothing about the network
        return DryPass("not run", str(error))
    if (refused := found["refused"]) is None:
        kept = tuple(found["kept"])
        _keep(root, key, kept)
        return DryPass("passed", seconds=time.monotonic() - start, kept=kept)
    if refused["label"] not in [planned.label for planned in to_run]:
        return DryPass("not run", f"{refused['label']}, which is cached, would not work again: {refused['text']}")
    raise StageError(_refusal(recipe, plan, refused))


def with_fresh_weights(recipe: Recipe, detector: Detector) -> Detector:
    """Return the plug-in without the weights that its backbone would start from: they may have to be downloaded."""
    if _START not in type(detector).CONFIG.model_fields or recipe.detector.get(_START) is None:
        return detector
    try:
        return make_detector({**recipe.detector, _START: None}, recipe.data)
    except (ValueError, CompressError):  # a plug-in that cannot do without
        return detector


def in_quiet_child(
    action: str,
    work: Callable[[Callable[..., dict[str, Any]], Path], dict[str, Any]],
    *,
    label: str,
    seed: int,
    limit_s: int,
) -> dict[str, Any]:
    """Call `work` with the function `run` of a module and an empty folder, in a child that says nothing.

    Returns:
        Its facts.

    Raises:
        StageError: it failed, or was killed, for memory or for the time that it took.
    """
    with tempfile.TemporaryDirectory(prefix="krimp-rehearsal-") as scratch:
        folder = Path(scratch)

        def begin() -> dict[str, Any]:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(limit_s)
            with _muted():
                return work(importlib.import_module(action).run, folder)

        return run_in_child(begin, label=label, seed=seed, result=folder / "result.json").facts


@contextlib.contextmanager
def _muted() -> Iterator[None]:
    """Send nowhere what libraries print in the child."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(nowhere, descriptor)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for descriptor, original in zip((1, 2), kept, strict=True):
            os.dup2(original, descriptor)


def _refusal(recipe: Recipe, plan: Sequence[PlannedStage], refused: Mapping[str, Any]) -> str:
    planned = next(one for one in plan if one.label == refused["label"])
    where = f"{recipe.place_of(planned.origin)}: stage {planned.label}"
    text = str(refused["text"]).removeprefix(f"stage {planned.label}: ")
    if refused["was_meant"]:
        return f"{where}: {text}"
    return (
        f"{where} fails on this network with fresh weights: {text.removesuffix('.')}. It would fail after the training "
        f"as well. Change the network, or leave the stage out; --no-dry-pass runs what stands before it."
    )


def parts_of(recipe: Recipe, detector: Detector, plan: Sequence[PlannedStage]) -> dict[str, Any]:
    """Return all that what stages do to a network depends on, but for its weights."""
    stages = []
    for planned in plan:
        fields = planned.stage.model_dump(mode="json", by_alias=True)
        kept = {name: value for name, value in fields.items() if name not in _NO_MATTER}
        stages.append([planned.label, planned.stage.CODE_VERSION, kept, dict(planned.inputs)])
    parts = {
        "stages": stages,
        "detector": {name: value for name, value in recipe.detector.items() if name not in _PATH_FIELDS},
        "data": {name: value for name, value in recipe.data.items() if name not in _PATH_FIELDS},
        "plugin": [detector.NAME, detector.VERSION, _source_digest(type(detector))],
        "code": [file_digest(file) for name in _CODE for file in _sources(Path(compress.__file__).parent / name)],
        "libraries": {name: version_of(name) for name in _LIBRARIES},
    }
    plain: dict[str, Any] = json.loads(to_json(parts))
    return plain


def _source_digest(plugin: type) -> list[str]:
    """Return the digests of a plug-in's own files: who writes one changes them more often than its version."""
    try:
        file = Path(inspect.getfile(plugin))
    except (TypeError, OSError):
        return []
    is_package = (file.parent / "__init__.py").is_file()
    return [file_digest(source) for source in (_sources(file.parent) if is_package else [file])]


def _sources(path: Path) -> list[Path]:
    return sorted(path.rglob("*.py")) if path.is_dir() else [path]


def _read(root: Path, key: str) -> tuple[str, ...] | None:
    """Return the lines of a pass that was kept under a key, None if there is none."""
    with contextlib.suppress(OSError, ValueError, AttributeError, TypeError):
        found = json.loads((root / FILE).read_text())
        return tuple(map(str, found.get("kept", ()))) if found.get("passed") == key else None
    return None


def _keep(root: Path, key: str, kept: Sequence[str]) -> None:
    with contextlib.suppress(OSError):  # a folder that cannot be written is no fault of the network
        root.mkdir(parents=True, exist_ok=True)
        write_whole(root / FILE, to_json({"passed": key, "kept": list(kept)}))
