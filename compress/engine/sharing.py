"""Where the stages of a run are made: in the run's own folder, or in a folder that several runs share.

Runs that share, such as the trials of a sweep, have a folder each as always, but what stands in it are links. A stage
itself lies in `SHARED/<label>-<key>/`, which is locked, recovered and sealed like the folder of a run: who needs the
stage first makes it, who comes meanwhile waits and takes it, and who finds its maker dead goes on in its scratch
folder.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from compress import artifact as artifacts
from compress.artifact import Artifact, hash_json
from compress.engine.decisions import Decision
from compress.folder_lock import lock_folder

KEY_DIGITS = 16
Execute = Callable[[Path, tuple[int, ...]], Artifact]


class Workshop(Protocol):
    """Where stages are made, and when work may go on."""

    def at_work(self, *, alone: bool = False) -> contextlib.AbstractContextManager[tuple[int, ...]]:
        """Wait until work may go on; yield file descriptors that a child must close."""
        ...

    def make(self, decision: Decision, root: Path, execute: Execute, lock: int) -> Artifact:
        """Bring one stage up to date in the folder of its run."""
        ...


class OwnFolder:
    """A run for itself: its stages lie in its own folder."""

    def at_work(self, *, alone: bool = False) -> contextlib.AbstractContextManager[tuple[int, ...]]:
        """Never wait: who runs one recipe knows what else the machine does."""
        return contextlib.nullcontext(())

    def make(self, decision: Decision, root: Path, execute: Execute, lock: int) -> Artifact:
        """Make the stage in the run's folder."""
        return execute(root, (lock,))


@dataclass(frozen=True)
class SharedFolder:
    """A run among others: each stage is made once, and what is timed is timed while nobody else works.

    Attributes:
        folder: of the shared stages, on a file system that all runs see and whose locks (`flock`) hold between them.
        sources: folders of runs for themselves; what they have made is copied and not made again.
    """

    folder: Path
    sources: tuple[Path, ...] = ()

    @contextlib.contextmanager
    def at_work(self, *, alone: bool = False) -> Iterator[tuple[int, ...]]:
        """Work beside the other runs of this machine, or alone; who wants to be alone is let in first.

        Args:
            alone: wait until nobody works on this machine, and keep the others waiting.
        """
        import fcntl

        place = artifacts.make_folder(self.folder / ".room")
        name = re.sub(r"[^A-Za-z0-9.-]", "_", socket.gethostname())
        gate, room = (_opened(place / f"{name}.{part}") for part in ("gate", "room"))
        try:
            fcntl.flock(gate, fcntl.LOCK_EX)  # who waits here for the others to leave lets nobody in behind them
            fcntl.flock(room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
            fcntl.flock(gate, fcntl.LOCK_UN)
            yield gate, room
        finally:
            os.close(room)
            os.close(gate)

    def make(self, decision: Decision, root: Path, execute: Execute, lock: int) -> Artifact:
        """Make the stage in its shared folder unless it is there, and put a link to it into the run's folder.

        The lock of the stage is taken before the room is entered: who waits for another's stage holds up nobody.
        """
        planned, place = decision.planned, self.place(decision)
        with lock_folder(place, wait=True) as own:
            artifacts.recover(place)
            with self.at_work():
                artifact = _sealed(place, decision) or self._copied(place, decision)
            if artifact is None:
                with self.at_work(alone=planned.stage.is_timed()) as held:
                    artifact = execute(place, (own, lock, *held))
        return artifacts.link(artifact, root=root, name=planned.folder_name)

    def place(self, decision: Decision) -> Path:
        """Return the folder of a stage: its manifest names label and lineage, so stages share it that agree in both."""
        planned = decision.planned
        parts = {"key": hash_json(decision.parts), "lineage": planned.lineage}
        return self.folder / f"{planned.label}-{hash_json(parts)[:KEY_DIGITS]}"

    def _copied(self, place: Path, decision: Decision) -> Artifact | None:
        """Return a copy of the stage that a run for itself has made, None if none has."""
        found = next(filter(None, (_sealed(source, decision) for source in self.sources)), None)
        if found is None:
            return None
        return artifacts.copy_into(found, root=place, name=decision.planned.folder_name)


def _opened(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)


def _sealed(root: Path, decision: Decision) -> Artifact | None:
    """Return the artifact of a stage among those of a folder, if it is whole and made by the same way."""
    planned = decision.planned
    folder = artifacts.find_folder(root, planned.label)
    if folder is None or artifacts.damage(folder) is not None:
        return None
    artifact = artifacts.open_artifact(folder)
    is_same = artifact.key == hash_json(decision.parts) and artifact.lineage == planned.lineage
    return artifact if is_same else None
