"""The program that runs one trial: `python -m compress.sweep.worker TASK.json PARENT`, on this machine or on another.

It dies with the process that started it. Its answer is a file, written whole at the end; where there is none, the trial
was lost, and whoever runs it again goes on from the stages that are sealed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from compress.artifact import to_json
from compress.engine.child import die_with
from compress.engine.running import run_recipe
from compress.engine.sharing import SharedFolder
from compress.errors import CompressError
from compress.progress import console, say
from compress.sweep.measured import hopeless_text
from compress.sweep.trial_recipe import EARLY_LOOK
from compress.whole_file import write_whole

State = Literal["done", "stopped", "failed"]


@dataclass(frozen=True)
class Task:
    """One trial, or the part of one, as it is handed to a worker.

    Attributes:
        name: of the trial, and of its folder below `out`.
        recipe: YAML file that it runs.
        out: folder of the trials.
        shared: folder of the stages.
        source: folder of a run of the recipe itself, whose stages are taken; need not exist.
        answer: file to write.
        until: label of the last stage to run; None: all.
        limits: metric -> points beyond which the trial is given up at the look in passing; {} for never.
        allow_code: let the recipe import any module.
        here: folder that relative paths of the recipe start from.
    """

    name: str
    recipe: str
    out: str
    shared: str
    source: str
    answer: str
    until: str | None
    limits: dict[str, float]
    allow_code: bool
    here: str

    @property
    def root(self) -> Path:
        """Return the folder of the trial."""
        return Path(self.out) / self.name


@dataclass(frozen=True)
class Answer:
    """How a task ended.

    Attributes:
        state: 'done', 'stopped' (given up early) or 'failed'.
        text: why, unless done.
        seconds: it took here, waiting included.
        cpu_seconds: of the worker and its children.
        until: as the task says.
    """

    state: State
    text: str
    seconds: float
    cpu_seconds: float
    until: str | None


def run_task(task: Task) -> Answer:
    """Run the stages of a task; never raises for what the recipe or the network is to blame for."""
    began = time.monotonic()

    def run(until: str | None) -> None:
        shared = SharedFolder(Path(task.shared), (Path(task.source),))
        how: dict[str, Any] = {"until": until, "wait": True, "rehearse": False, "foresee": False, "workshop": shared}
        run_recipe(task.recipe, (), Path(task.out), allow_code=task.allow_code, **how)

    def answer(state: State, text: str = "") -> Answer:
        return Answer(state, text, time.monotonic() - began, sum(os.times()[:4]), task.until)

    try:
        if task.limits:
            run(EARLY_LOOK)
            text = hopeless_text(task.root, task.limits)
            if text is not None:
                say(text)
                return answer("stopped", text)
        run(task.until)
    except CompressError as error:
        return answer("failed", str(error))
    return answer("done")


def read_answer(path: Path, until: str | None) -> Answer | None:
    """Return the answer to a task, None if it has not ended."""
    try:
        found = Answer(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    is_whole = found.until == until or found.until is None or found.state != "done"
    return found if is_whole else None


def main(arguments: list[str]) -> int:
    """Run the task of a file as the child of a process: its path and that number are the arguments."""
    file, parent = arguments
    die_with(int(parent))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the sweep, which ends its workers
    task = Task(**json.loads(Path(file).read_text(encoding="utf-8")))
    os.chdir(task.here)
    with console():
        try:
            answer = run_task(task)
        except Exception as error:  # noqa: BLE001 the sweep must learn of any failure
            traceback.print_exc()
            answer = Answer("failed", f"{type(error).__name__}: {error}", 0.0, 0.0, task.until)
    write_whole(task.answer, to_json(asdict(answer)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
