"""How far a run is: a small file in its folder that the run keeps up to date and anybody can read.

The file is replaced as a whole, by the run and by the child that works for it, never by both at once. Nothing depends
on it: it is no part of any key, and a disk that refuses it ends no run.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from compress.artifact import find_folder, open_artifact, to_json
from compress.engine.decisions import Decision
from compress.errors import CompressError
from compress.number_text import duration_text
from compress.training.settings import TrainingFields
from compress.whole_file import write_whole

FILE = ".status.json"
FORMAT_VERSION = 1
BEAT_S = 2.0  # the file is written at most so often
_LEAST_SHARE = 0.02  # of a stage, before its speed says anything


@dataclass(frozen=True)
class StageStatus:
    """One stage of a run.

    Attributes:
        label: its name.
        folder: of its artifact.
        state: 'cached', 'done', 'running', 'waiting' or 'failed'.
        seconds: that it took, or takes so far.
        expected_seconds: that it should take, None where nothing is known.
    """

    label: str
    folder: str
    state: str
    seconds: float | None = None
    expected_seconds: float | None = None


@dataclass(frozen=True)
class RunStatus:
    """A run at a moment; all times are seconds since 1970.

    Attributes:
        recipe: its name.
        state: 'running', 'done', 'failed' or 'interrupted'.
        host, process: that run it.
        started, updated: when it began, and when it last gave a sign.
        stages: in order.
        doing: what the running stage is at; None between stages.
        done, total: items of that; total None where it is not known.
        share: of the running stage that is done, 0..1, where it says so.
        stage_seconds_left: of the running stage, None where nothing is known.
        error: that ended it.
    """

    recipe: str
    state: str
    host: str
    process: int
    started: float
    updated: float
    stages: tuple[StageStatus, ...]
    doing: str | None = None
    done: int = 0
    total: int | None = None
    share: float | None = None
    stage_seconds_left: float | None = None
    error: str | None = None

    def left(self) -> tuple[float, list[str]]:
        """Return the seconds that are left of the run as far as they are known, and the stages of unknown length."""
        seconds, unknown = 0.0, list[str]()
        for stage in self.stages:
            known = None
            if stage.state == "running":
                known = self.stage_seconds_left
                if known is None and stage.expected_seconds is not None:
                    known = max(0.0, stage.expected_seconds - (stage.seconds or 0.0))
            elif stage.state == "waiting":
                known = stage.expected_seconds
            else:
                continue
            seconds, unknown = seconds + (known or 0.0), [*unknown, *([stage.label] if known is None else [])]
        return seconds, unknown

    def left_text(self) -> str:
        """Return what is left of the run for people; empty where nothing at all is known."""
        seconds, unknown = self.left()
        waits = sum(stage.state in ("running", "waiting") for stage in self.stages)
        if self.state != "running" or len(unknown) == waits:
            return ""
        more = f" and {len(unknown)} stages of unknown length" if unknown else ""
        return f"run: about {duration_text(max(1.0, round(seconds)))} left{more}"


@dataclass
class StatusBoard:
    """Keeps the status file of a run.

    Attributes:
        root: folder of the run's artifacts.
        status: what stands in the file.
        decisions: of the whole plan.
        clock: seconds since 1970.
    """

    root: Path
    status: RunStatus
    decisions: Sequence[Decision]
    clock: Callable[[], float] = time.time
    _written: float = field(default=0.0)
    _stage_began: float = field(default=0.0)
    _first: tuple[float, float] | None = field(default=None)  # time and share at which a stage was first heard of

    @classmethod
    def open(
        cls, root: Path, recipe: str, decisions: Sequence[Decision], clock: Callable[[], float] = time.time
    ) -> StatusBoard:
        """Begin the status of a run."""
        expected = expected_seconds(root, decisions)
        now = clock()
        stages = tuple(
            StageStatus(
                one.planned.label,
                one.planned.folder_name,
                "cached" if one.state == "cached" else "waiting",
                one.artifact.seconds if one.artifact is not None else None,
                expected.get(one.planned.label),
            )
            for one in decisions
        )
        status = RunStatus(recipe, "running", socket.gethostname(), os.getpid(), now, now, stages)
        board = cls(root, status, decisions, clock)
        board._write()
        return board

    def begin(self, label: str) -> None:
        """Say that a stage runs."""
        self._stage_began, self._first = self.clock(), None
        self._set(label, "running", 0.0)

    def end(self, label: str, seconds: float, *, cached: bool) -> None:
        """Say that a stage is there; what it took says something of those to come."""
        if not cached:
            expected = expected_seconds(self.root, self.decisions)
            stages = tuple(
                replace(one, expected_seconds=expected.get(one.label, one.expected_seconds))
                for one in self.status.stages
            )
            self.status = replace(self.status, stages=stages)
        self._set(label, "cached" if cached else "done", seconds)

    def close(self, state: str, error: str | None = None) -> None:
        """Say how the run ended."""
        if state != "done":
            running = next((one.label for one in self.status.stages if one.state == "running"), None)
            if running is not None:
                self._set(running, "failed" if state == "failed" else "waiting", None)
        self.status = replace(self.status, state=state, error=error, **_NOTHING)
        self._write()

    def hear(self, label: str, done: int, total: int | None, whole: bool = False) -> str:
        """Take note of progress inside the running stage; return what is left of the run, for people.

        Args:
            label: of the loop.
            done: items of it.
            total: of them in all, if that is known.
            whole: the loop is the whole stage.
        """
        now = self.clock()
        if now - self._written < BEAT_S:
            return self.status.left_text()
        share, left = self.status.share, self.status.stage_seconds_left
        if whole and total:
            share = done / total
            self._first = self._first or (now, share)
            began, at_first = self._first
            left = (now - began) / (share - at_first) * (1 - share) if share - at_first >= _LEAST_SHARE else None
        stages = tuple(
            replace(one, seconds=round(now - self._stage_began, 1)) if one.state == "running" else one
            for one in self.status.stages
        )
        self.status = replace(
            self.status, stages=stages, doing=label, done=done, total=total, share=share, stage_seconds_left=left
        )
        self._write()
        return self.status.left_text()

    def _set(self, label: str, state: str, seconds: float | None) -> None:
        stages = tuple(
            replace(one, state=state, seconds=seconds) if one.label == label else one for one in self.status.stages
        )
        self.status = replace(self.status, stages=stages, **_NOTHING)
        self._write()

    def _write(self) -> None:
        self._written = self.clock()
        self.status = replace(self.status, updated=self._written)
        with contextlib.suppress(OSError):
            write_whole(
                self.root / FILE, to_json({"format_version": FORMAT_VERSION} | asdict(self.status)), synced=False
            )


_NOTHING: Mapping[str, Any] = {"doing": None, "done": 0, "total": None, "share": None, "stage_seconds_left": None}


def expected_seconds(root: Path, decisions: Sequence[Decision]) -> dict[str, float]:
    """Return how long stages should take: as they did here before, else as others of their type did.

    Of a training the epochs of others count, not how many those were.

    Args:
        root: folder of the artifacts.
        decisions: of the whole plan; stages about which nothing is known are left out.
    """
    own: dict[str, float] = {}
    of_type: dict[str, float] = {}
    epochs: list[float] = []
    for decision in decisions:
        folder = find_folder(root, decision.planned.label)
        with contextlib.suppress(CompressError):
            if folder is not None and (artifact := open_artifact(folder)).seconds:
                own[decision.planned.label] = of_type[artifact.stage] = artifact.seconds
                epochs += [float(row["seconds"]) for row in artifact.facts.get("history") or () if row.get("seconds")]
    found: dict[str, float] = {}
    for decision in decisions:
        label, stage = decision.planned.label, decision.planned.stage
        training = getattr(stage, "training", None)
        planned = training.epochs if isinstance(training, TrainingFields) else 0
        if label in own:
            found[label] = own[label]
        elif planned and epochs:
            found[label] = planned * sum(epochs) / len(epochs)
        elif not planned and stage.stage in of_type:
            found[label] = of_type[stage.stage]
    return found


def read_status(root: Path) -> RunStatus | None:
    """Return the status of a run, None where its folder has none that can be read."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        found = json.loads((root / FILE).read_text(encoding="utf-8"))
        if found.pop("format_version") == FORMAT_VERSION:
            return RunStatus(**(found | {"stages": tuple(StageStatus(**stage) for stage in found["stages"])}))
    return None
