"""The other processes of `accelerate launch`: they train along and touch nothing.

Rank 0 runs `pipeline.run`: it alone holds the lock, seals artifacts and runs every stage that does
not train. Any other rank follows it here: it waits for each artifact to be sealed, and runs the
stages with `TRAINS` in a throw-away folder, where the training loop joins rank 0's collectives.
Both sides decide from the same keys, so they agree on what is cached.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from compress import artifact as artifacts
from compress.artifact import hash_json
from compress.engine.child import run_in_child
from compress.engine.decisions import Decision
from compress.engine.pipeline import Run, scratch_folder
from compress.errors import StageError
from compress.recipe.model import Recipe

_POLL_S = 1.0


def rank() -> int:
    """Return the rank of this process under `accelerate launch`, 0 without it."""
    return int(os.environ.get("RANK") or os.environ.get("LOCAL_RANK") or 0)


def follow(recipe: Recipe, out: Path, *, start: str | None = None, until: str | None = None) -> None:
    """Do this rank's share of a run: train where rank 0 trains, wait for it elsewhere.

    If rank 0 fails, the launcher ends this process.

    Raises:
        StageError: `start` is given; ranks cannot agree on running what is already sealed.
    """
    if recipe.goal is not None:
        raise StageError(
            "a goal is reached by attempts, and ranks cannot agree on them. Run `krimp recipes expand RECIPE -o FILE` "
            "and launch what it writes."
        )
    if start is not None:
        raise StageError("--from cannot be used under `accelerate launch`. Delete the stage's folder instead.")
    job = Run(recipe, out, until=until)
    done: dict[str, Decision] = {}
    for planned in job.plan:
        decision = job.decide(planned, done)
        if decision.state == "run" and planned.stage.TRAINS:
            folder = Path(tempfile.mkdtemp(prefix=f"krimp-rank{rank()}-"))
            context = job.context(planned, done, folder, scratch_folder(job.root, decision))
            run_in_child(
                lambda stage=planned.stage, context=context: stage.run(context),  # type: ignore[misc]
                label=planned.label,
                seed=context.seed,
                result=folder / "result.json",
            )
            shutil.rmtree(folder)
        artifact = _wait_for(job.root, planned.label, hash_json(decision.parts))
        done[planned.label] = replace(decision, artifact=artifact)


def _wait_for(root: Path, label: str, key: str) -> artifacts.Artifact:
    while True:
        folder = artifacts.find_folder(root, label)
        if folder is not None and (folder / artifacts.MANIFEST).exists():
            artifact = artifacts.open_artifact(folder)
            if artifact.key == key:
                return artifact
        time.sleep(_POLL_S)
