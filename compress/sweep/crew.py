"""Who runs the trials: worker processes of this machine. `compress.sweep.ray_crew` runs them on many machines."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from compress.progress import warn

_POLL_S = 0.1
# One thread in each worker: numeric libraries would otherwise start a thread a core in each of them.
_ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


@dataclass(frozen=True)
class Order:
    """A task to be run.

    Attributes:
        name: of the trial.
        task: file of the task.
        is_timing: must run on the machine that times.
    """

    name: str
    task: Path
    is_timing: bool = False


class Crew(Protocol):
    """Runs orders, so many at once."""

    times_apart: bool  # what is timed is an order of its own, for another machine

    @property
    def size(self) -> int:
        """Return how many orders can run at once, now."""
        ...

    def start(self, order: Order) -> None:
        """Begin to work on an order."""
        ...

    def wait(self) -> list[Order]:
        """Wait until some orders have ended, however, or a second has passed, and return them; see their answers."""
        ...

    def close(self) -> None:
        """End all that is running."""
        ...


class LocalCrew:
    """Worker processes on this machine, one thread each."""

    times_apart = False

    def __init__(self, size: int) -> None:
        self._size = size
        self._running: dict[subprocess.Popen[bytes], Order] = {}

    @property
    def size(self) -> int:
        """Return the number of workers."""
        return self._size

    def start(self, order: Order) -> None:
        """Start a worker; what it says goes to a file beside its task."""
        process = start_worker(order.task)
        self._running[process] = order

    def wait(self) -> list[Order]:
        """Wait for workers to end; a second at most."""
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            ended = [process for process in self._running if process.poll() is not None]
            if ended:
                return [self._running.pop(process) for process in ended]
            time.sleep(_POLL_S)
        return []

    def close(self) -> None:
        """Kill the workers; their sealed stages and checkpoints stay."""
        for process in self._running:
            process.kill()
            process.wait()
        self._running.clear()


def start_worker(task: Path) -> subprocess.Popen[bytes]:
    """Start a worker as a child of this process, which it does not outlive."""
    folders = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders), **dict.fromkeys(_ONE_THREAD, "1")}
    command = [sys.executable, "-m", "compress.sweep.worker", str(task), str(os.getpid())]
    with task.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL)


def log_tail(task: Path, lines: int = 3) -> str:
    """Return the last lines that a worker said."""
    try:
        return " / ".join(task.with_suffix(".log").read_text(errors="replace").split("\n")[-lines - 1 :]).strip(" /")
    except OSError:
        warn(f"{task.with_suffix('.log')}: cannot be read")
        return ""
