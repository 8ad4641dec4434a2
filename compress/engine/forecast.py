"""The forecast: parameters, MACs, bytes and milliseconds that a plan would leave, before anything is trained.

A child process rehearses the stages on the weights that the plan starts from (`actions/forecast.py`); this process
needs no torch. The forecast is kept beside the artifacts under a key of all that it depends on, this machine included,
and the report of the run compares it with what was measured.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

import compress
from compress.artifact import file_digest, hash_json, to_json
from compress.detector import Detector
from compress.engine.decisions import Decision
from compress.engine.dry_pass import NEEDED, in_quiet_child, parts_of, with_fresh_weights
from compress.errors import CompressError
from compress.kind import Kind
from compress.machine import cpu_name
from compress.progress import say
from compress.recipe.model import Recipe
from compress.recipe.plan import PlannedStage
from compress.report.forecast import Forecast
from compress.stages.benchmark import Benchmark
from compress.stages.export_onnx import ExportOnnx
from compress.whole_file import write_whole

ACTION = "compress.actions.forecast"
FILE = ".forecast.json"  # in the folder of the artifacts
LIMIT_S = 600  # a rehearsal that takes longer is given up
_CODE = ("actions/forecast.py", "actions/budgets.py", "actions/deployed.py", "pruning", "runtime/profile.py", "codec")


def forecast(recipe: Recipe, detector: Detector, decisions: Sequence[Decision], root: Path) -> Forecast | str | None:
    """Rehearse a plan on the weights that it starts from, or read what was found before.

    Args:
        recipe: gives what the forecast depends on.
        detector: the plug-in.
        decisions: of the whole plan.
        root: folder of the recipe's artifacts; made if the forecast is to be kept.

    Returns:
        The forecast; why there is none, in words; or None if no stage that is to run makes a file to forecast.
    """
    to_run = [one.planned for one in decisions if one.state == "run"]
    if not any(one.stage.MAKES in (Kind.ONNX, Kind.QUANTIZED) for one in to_run):
        return None
    plan = [one.planned for one in decisions]
    if not any(isinstance(one.stage, ExportOnnx) for one in plan):
        return None
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        return f"{', '.join(missing)} not installed here"
    threads = next((one.stage.threads for one in plan if isinstance(one.stage, Benchmark)), 1)
    key = hash_json(_parts(recipe, detector, plan, threads))
    if (known := read_forecast(root, key)) is not None:
        return known
    say("forecast: the stages are rehearsed on the weights that the recipe starts from; once")
    start = with_fresh_weights(recipe, detector)  # a checkpoint is loaded over what a backbone would begin with
    try:
        found = in_quiet_child(
            ACTION,
            lambda run, folder: run(plan, start, folder, threads=threads),
            label="forecast",
            seed=recipe.seed,
            limit_s=LIMIT_S,
        )
    except CompressError as error:
        return str(error)
    if (refused := found.pop("refused")) is not None:
        return str(refused)
    made = Forecast(threads=threads, cpu=cpu_name(), **found)
    with contextlib.suppress(OSError):  # a folder that cannot be written is no fault of the network
        root.mkdir(parents=True, exist_ok=True)
        write_whole(root / FILE, to_json({"key": key, "forecast": made.model_dump(mode="json")}))
    return made


def read_forecast(root: Path, key: str | None = None) -> Forecast | None:
    """Return the forecast that lies beside artifacts, None if there is none, or none under this key."""
    with contextlib.suppress(OSError, ValueError, AttributeError, TypeError, ValidationError):
        found = json.loads((root / FILE).read_text(encoding="utf-8"))
        if key is None or found["key"] == key:
            return Forecast.model_validate(found["forecast"])
    return None


def _parts(recipe: Recipe, detector: Detector, plan: Sequence[PlannedStage], threads: int) -> dict[str, Any]:
    checkpoint = None
    with contextlib.suppress(CompressError, OSError):
        checkpoint = detector.checkpoint_path()
    here = Path(compress.__file__).parent
    sources = [here / name for name in _CODE]
    files = sorted(file for path in sources for file in ([path] if path.is_file() else path.rglob("*.py")))
    return parts_of(recipe, detector, plan) | {
        "checkpoint": file_digest(checkpoint) if checkpoint and Path(checkpoint).is_file() else str(checkpoint),
        "forecast": [file_digest(file) for file in files],
        "machine": [cpu_name(), threads],
    }
