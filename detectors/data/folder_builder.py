"""Fill a folder from many sources in parallel. The folder appears whole; a killed run goes on where it stopped.

While it grows, the folder is called NAME.partial. Each source leaves a record there, by rename and after its files,
so a source without a record is simply done again. At the end what no record names is removed, the records become the
manifest, and the folder gets its name.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from compress.errors import DataError
from compress.json_text import parse_json
from compress.progress import say, track
from compress.whole_file import write_whole
from detectors.data.dota_release import Source
from detectors.data.problems import raise_all

MANIFEST = "manifest.json"
FORMAT_VERSION = 1
_RECORDS = ".records"
_LOCK = ".lock"
_LOCK_WAIT_S = 3.0  # workers of a killed run need a moment to notice
_HEADER = "header.json"

# What a source gives: (source, folder to write into) -> facts; its key "files" lists path below the folder -> bytes.
Work = Callable[[Source, Path], dict[str, Any]]


@dataclass(frozen=True)
class Limits:
    """What a build may use.

    Attributes:
        processes: that work at once.
        memory_bytes: decoded images held at once by all of them together; a larger one is worked on alone.
    """

    processes: int = 1
    memory_bytes: int = 4 << 30

    def __post_init__(self) -> None:
        if self.processes < 1 or self.memory_bytes < 1:
            raise DataError(
                f"limits: {self.processes} processes and {self.memory_bytes / 1e9:g} GB, expected at least 1 and some."
            )


ONE_PROCESS = Limits()


def build_folder(
    folder: Path,
    sources: Sequence[Source],
    work: Work,
    header: dict[str, Any],
    *,
    limits: Limits = ONE_PROCESS,
    cost: Callable[[Source], int] = lambda source: 0,
) -> tuple[dict[str, Any], bool]:
    """Do the work for every source and return the manifest.

    Args:
        folder: to be made.
        sources: names are unique.
        work: what to do for each; must be picklable.
        header: settings, JSON-able; a folder made with others is refused.
        limits: processes and memory.
        cost: bytes of memory that a source needs.

    Returns:
        The manifest (`header` under 'header', facts of the sources under 'sources'), and whether anything was done:
        a folder that is complete and fits is left as it is.

    Raises:
        DataError: the folder belongs to other settings or sources, another run is writing it, or lists the sources
            that failed (the others are kept for the next start).
    """
    header = json.loads(json.dumps(header | {"format_version": FORMAT_VERSION}))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _lock(folder):
        if folder.exists():
            return _finished(folder, sources, header), False
        partial = folder.with_name(folder.name + ".partial")
        _start(partial, folder, header)
        records = _records(partial, sources)
        waiting = [source for source in sources if source.name not in records]
        if records:
            say(f"{folder.name}: {len(records)} of {len(sources)} are done already")
        problems = []
        outcomes = _outcomes(waiting, work, partial, limits, cost)
        for source, outcome in track(outcomes, folder.name, len(waiting)):
            if isinstance(outcome, DataError):
                problems.append(str(outcome))
            else:
                records[source.name] = _keep(partial, source, outcome)
        raise_all(str(folder), problems)
        manifest = {"header": header, "sources": [records[source.name] for source in sources]}
        _sweep(partial, manifest)
        write_json(partial / MANIFEST, manifest)
        partial.rename(folder)
        shutil.rmtree(folder / _RECORDS, ignore_errors=True)
    return manifest, True


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a built folder.

    Raises:
        DataError: missing, damaged or of a newer version.
    """
    path = folder / MANIFEST
    try:
        manifest: dict[str, Any] = parse_json(path.read_text())
        version = manifest["header"]["format_version"]
        names = [source["name"] for source in manifest["sources"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: {error!r}, expected the manifest that the preparation wrote. Prepare again."
        ) from None
    if version != FORMAT_VERSION or len(set(names)) != len(names):
        raise DataError(f"{path}: format_version {version}, this Krimp reads {FORMAT_VERSION}. Prepare again.")
    return manifest


def write_file(path: Path, content: bytes) -> int:
    """Write a file whole or not at all; return its size in bytes.

    Raises:
        OSError: it cannot be written (disk full, no permission); `filename` says which.
    """
    write_whole(path, content, synced=False)
    return len(content)


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole or not at all."""
    write_file(path, (json.dumps(value, indent=1) + "\n").encode())


def link_or_copy(source: Path, target: Path) -> int:
    """Put a file at `target`, without using space where the file system allows; return its size in bytes."""
    scratch = target.with_name(f".{target.name}.{os.getpid()}")
    scratch.unlink(missing_ok=True)
    try:
        os.link(source.resolve(), scratch)
    except OSError:
        shutil.copy2(source, scratch)
    scratch.replace(target)
    scratch.unlink(missing_ok=True)  # renaming a link onto the same file does nothing and leaves both
    return target.stat().st_size


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Keep other runs out of the parent folder; the lock goes with the process, however it ends."""
    with open(folder.parent / _LOCK, "a") as file:
        deadline = time.monotonic() + _LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise DataError(
                        f"{folder.parent}: another run is writing there. Wait for it, or choose another folder."
                    ) from None
                time.sleep(0.1)
        yield


def _fingerprint(source: Source) -> list[int]:
    """Return size and time of change of the source's files; that is what tells a changed source."""
    stats = [path.stat() for path in (source.image, source.labels) if path is not None]
    return [value for stat in stats for value in (stat.st_size, stat.st_mtime_ns)]


def _finished(folder: Path, sources: Sequence[Source], header: dict[str, Any]) -> dict[str, Any]:
    """Return the manifest of a complete folder, or refuse it."""
    advice = "Move it away, or choose another folder."
    if not (folder / MANIFEST).is_file():
        raise DataError(f"{folder}: exists and has no {MANIFEST}, so it was not made here. {advice}")
    manifest = read_manifest(folder)
    _refuse_other_header(folder, manifest["header"], header)
    before = {record["name"]: record["fingerprint"] for record in manifest["sources"]}
    now = {source.name: _fingerprint(source) for source in sources}
    changed = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    if changed:
        raise DataError(f"{folder}: {len(changed)} sources changed since it was made, e.g. {changed[0]}. {advice}")
    shutil.rmtree(folder / _RECORDS, ignore_errors=True)
    return manifest


def _start(partial: Path, folder: Path, header: dict[str, Any]) -> None:
    path = partial / _RECORDS / _HEADER
    if partial.exists() and path.is_file():
        _refuse_other_header(partial, parse_json(path.read_text()), header)
        return
    if partial.exists() and any(partial.iterdir()):
        raise DataError(f"{partial}: holds files that no run for {folder.name} left. Move it away.")
    (partial / _RECORDS).mkdir(parents=True, exist_ok=True)
    write_json(path, header)


def _refuse_other_header(folder: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key):
            raise DataError(
                f"{folder}: made with {key} = {before.get(key)}, now it is {now.get(key)}. "
                "Move it away, or choose another folder."
            )


def _records(partial: Path, sources: Sequence[Source]) -> dict[str, dict[str, Any]]:
    """Return what earlier runs have done and what still holds."""
    kept = {}
    for source in sources:
        path = partial / _RECORDS / f"{source.name}.json"
        try:
            record = parse_json(path.read_text())
            files = record["files"].items()
            holds = record["fingerprint"] == _fingerprint(source)
            holds = holds and all((partial / name).stat().st_size == size for name, size in files)
        except (OSError, ValueError, KeyError):
            holds = False
        if holds:
            kept[source.name] = record
    return kept


def _keep(partial: Path, source: Source, facts: dict[str, Any]) -> dict[str, Any]:
    record = {"name": source.name, "fingerprint": _fingerprint(source)} | facts
    write_json(partial / _RECORDS / f"{source.name}.json", record)
    return record


def _sweep(partial: Path, manifest: dict[str, Any]) -> None:
    """Remove what no record names: leftovers of a killed run, or of a source that is gone."""
    wanted = {name for record in manifest["sources"] for name in record["files"]}
    for path in [path for path in partial.rglob("*") if path.is_file()]:
        name = path.relative_to(partial).as_posix()
        if name not in wanted and not name.startswith(f"{_RECORDS}/"):
            path.unlink()


def _outcomes(
    sources: Iterable[Source], work: Work, partial: Path, limits: Limits, cost: Callable[[Source], int]
) -> Iterator[tuple[Source, dict[str, Any] | DataError]]:
    """Yield each source with its facts or its error, as they come."""
    sources = list(sources)
    if limits.processes == 1 or len(sources) == 1:
        for source in sources:
            yield source, _one(work, source, partial)
        return
    parent = os.getpid()
    # Not forked: OpenCV waits for ever for the threads of the parent, which a forked worker does not have.
    pool = ProcessPoolExecutor(limits.processes, get_context("spawn"), initializer=_leave_with, initargs=(parent,))
    running: dict[Future[dict[str, Any] | DataError], tuple[Source, int]] = {}
    try:
        for source in sources:
            need = cost(source)
            while running and (
                len(running) >= 2 * limits.processes
                or need + sum(used for _, used in running.values()) > limits.memory_bytes
            ):
                yield from _collect(running)
            running[pool.submit(_one, work, source, partial)] = source, need
        while running:
            yield from _collect(running)
    except BrokenProcessPool:
        raise DataError(
            f"{partial}: a process was killed, most likely for lack of memory. Start again with fewer processes "
            "or less memory; what is done stays."
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _collect(
    running: dict[Future[dict[str, Any] | DataError], tuple[Source, int]],
) -> Iterator[tuple[Source, dict[str, Any] | DataError]]:
    for future in wait(running, return_when=FIRST_COMPLETED).done:
        source, _ = running.pop(future)
        yield source, future.result()


def _one(work: Work, source: Source, partial: Path) -> dict[str, Any] | DataError:
    try:
        return work(source, partial)
    except DataError as error:
        return error


def _leave_with(parent: int) -> None:
    """Let a worker end when its parent is gone: after kill -9 nobody else would tell it. Ctrl-C is the parent's."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=watch, daemon=True).start()
