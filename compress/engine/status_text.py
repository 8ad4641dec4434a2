"""The status of a run in words, as seen from this machine."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from pathlib import Path

from compress.artifact import MANIFEST, open_artifact
from compress.engine.status import RunStatus, StageStatus, read_status
from compress.errors import CompressError, DataError, printable, suggest
from compress.folder_lock import LOCK
from compress.number_text import duration_text

QUIET_S = 120.0  # without a sign, on a machine that cannot be asked


def status_of(folder: Path) -> RunStatus:
    """Return the status of a run; of one that left none, what its folders say.

    A run that says it is running, on this machine, and does not hold its lock, was killed: 'interrupted'.

    Args:
        folder: `out/NAME`, or `out` with one run in it.

    Raises:
        DataError: no run lies there, or several.
    """
    root = _root_of(folder)
    status = read_status(root)
    if status is None:
        return _from_folders(root)
    if status.state == "running" and status.host == socket.gethostname() and not _is_locked(root):
        return RunStatus(**(vars(status) | {"state": "interrupted", "error": "its process is gone"}))
    return status


def status_text(status: RunStatus, now: float | None = None) -> str:
    """Return the status for people: a line for the run, one a stage, and what is left."""
    now = time.time() if now is None else now
    width = max((len(stage.folder) for stage in status.stages), default=0)
    where = f" on {status.host}, process {status.process}" if status.host else ""
    lines = [f"{status.recipe}: {status.state}{where}{_age(status, now)}"]
    lines += [
        f"  {stage.folder:<{width}}  {stage.state:<8}{_stage(stage, status, now)}".rstrip() for stage in status.stages
    ]
    if status.error:
        lines.append(f"error: {status.error}")
    if left := status.left_text():
        lines.append(left)
    return "\n".join(printable(line) for line in lines)


def _age(status: RunStatus, now: float) -> str:
    if not status.updated:
        return ""
    if status.state != "running":
        return f", {duration_text(max(0.0, now - status.updated))} ago"
    quiet = max(0.0, now - status.updated)
    hint = "; it may have been killed, or its machine has another clock" if quiet > QUIET_S else ""
    return f" for {duration_text(max(0.0, now - status.started))}, last sign {duration_text(quiet)} ago{hint}"


def _stage(stage: StageStatus, status: RunStatus, now: float) -> str:
    if stage.state == "waiting":
        return "" if stage.expected_seconds is None else f"about {duration_text(stage.expected_seconds)}"
    if stage.state != "running":
        return "" if stage.seconds is None else duration_text(stage.seconds)
    parts = [duration_text((stage.seconds or 0.0) + max(0.0, now - status.updated))]
    if status.doing is not None:
        of = f"/{status.total} ({status.done / status.total:.0%})" if status.total else ""
        parts.append(f"{status.doing}: {status.done}{of}")
    if status.stage_seconds_left is not None:
        parts.append(f"about {duration_text(status.stage_seconds_left)} left")
    return ", ".join(parts)


def _root_of(folder: Path) -> Path:
    if _is_run(folder):
        return folder
    runs = sorted(place for place in folder.iterdir() if _is_run(place)) if folder.is_dir() else []
    if len(runs) == 1:
        return runs[0]
    names = [place.name for place in runs]
    told = f"holds the runs {', '.join(names)}. Name one." if runs else f"is no folder of a run.{suggest('', names)}"
    raise DataError(f"{folder}: {told}{'' if runs else ' Expected out/NAME-OF-THE-RECIPE.'}")


def _is_run(folder: Path) -> bool:
    return folder.is_dir() and (read_status(folder) is not None or any(folder.glob(f"[0-9]*_*/{MANIFEST}")))


def _from_folders(root: Path) -> RunStatus:
    stages = []
    for place in sorted(path.parent for path in root.glob(f"[0-9]*_*/{MANIFEST}")):
        with contextlib.suppress(CompressError):
            artifact = open_artifact(place)
            stages.append(StageStatus(artifact.label, place.name, "done", artifact.seconds or None))
    state = "running" if _is_locked(root) else "not running"
    return RunStatus(root.resolve().name, state, "", 0, 0.0, 0.0, tuple(stages))


def _is_locked(root: Path) -> bool:
    """Return whether a process of this machine holds the lock of a folder."""
    import fcntl

    try:
        descriptor = os.open(root / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
