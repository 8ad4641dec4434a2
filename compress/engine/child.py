"""Run a piece of work in a forked child, to measure its memory and to survive its death."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import queue
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from compress import errors, progress
from compress.artifact import to_json
from compress.machine import thread_count
from compress.number_text import size_text
from compress.seeds import seed_everything

_PR_SET_PDEATHSIG = 1
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_NEVER_TRIM = 2**31 - 1  # bytes; the largest value that mallopt takes
INTERRUPTED = 130
_FAILED = 1
_DISK_FULL = errno.ENOSPC


@dataclass(frozen=True)
class Outcome:
    """What a child gave back: facts and warnings, wall seconds, peak resident memory, and its threads."""

    facts: dict[str, Any]
    warnings: list[str]
    seconds: float
    peak_memory_bytes: int
    threads: int


def run_in_child(
    work: Callable[[], dict[str, Any]],
    *,
    label: str,
    seed: int,
    result: Path,
    close: Sequence[int] = (),
    folders: Sequence[Path] = (),
) -> Outcome:
    """Fork, run `work` in the child and wait for it.

    Args:
        work: returns JSON-able facts.
        label: name of the stage, for messages.
        seed: for random, numpy and torch.
        result: file through which the child answers; its folder exists.
        close: file descriptors that the child must not keep (the lock).
        folders: what the work reads and writes; a failure when one of them is gone is told as that.

    Returns:
        The outcome; peak memory counts the libraries that the parent had imported.

    Raises:
        CompressError: as raised in the child, with its text and exit code.
        StageError: the child failed unexpectedly, or was killed.
        KeyboardInterrupt: the user stopped it.
    """
    result.unlink(missing_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    start = time.monotonic()
    parent = os.getpid()

    def live() -> NoReturn:
        _live(work, label=label, seed=seed, result=result, close=close, folders=folders, parent=parent)

    with _forked(live) as child:
        status, usage = _wait(child)
    seconds = time.monotonic() - start
    scale = 1 if sys.platform == "darwin" else 1024
    peak = usage.ru_maxrss * scale
    if os.WIFSIGNALED(status):
        raise errors.StageError(_killed_text(label, os.WTERMSIG(status), peak))
    if os.WEXITSTATUS(status) == INTERRUPTED:
        raise KeyboardInterrupt
    if os.WEXITSTATUS(status) == _DISK_FULL:
        raise errors.StageError(_disk_text(label, result.parent))
    if gone := _gone((*folders, result.parent)):
        raise errors.StageError(gone_text(label, gone))
    if not result.exists():
        raise errors.StageError(f"stage {label}: its process ended with code {os.WEXITSTATUS(status)} and no result.")
    answer = json.loads(result.read_text())
    result.unlink()
    if "error" in answer:
        raise _rebuild(answer["error"], label)
    return Outcome(answer["facts"], answer["warnings"], seconds, peak, answer["threads"])


@contextlib.contextmanager
def _forked(live: Callable[[], NoReturn]) -> Iterator[int]:
    """Fork; yield the child's number in the parent, and be it in the child.

    A program that calls the pipeline may have used torch before. GNU OpenMP keeps the threads of a parallel loop for
    the thread that ran it; in a child of that thread the next loop waits for ever for those, which the child does not
    have. So the fork is then that of a new thread, which ran none. It lives as long as the block: the kernel takes its
    end for the end of the parent (`die_with`).
    """
    if "torch" not in sys.modules:
        child = os.fork()
        if child == 0:
            live()
        yield child
        return
    answers: queue.SimpleQueue[int | OSError] = queue.SimpleQueue()
    is_over = threading.Event()

    def fork() -> None:
        try:
            child = os.fork()
        except OSError as error:
            answers.put(error)
            return
        if child == 0:
            live()
        answers.put(child)
        is_over.wait()

    thread = threading.Thread(target=fork, name="krimp-fork", daemon=True)
    thread.start()
    answer = answers.get()
    if isinstance(answer, OSError):
        raise answer
    try:
        yield answer
    finally:
        is_over.set()
        thread.join()


@contextlib.contextmanager
def disk_errors_named(label: str, folder: Path) -> Iterator[None]:
    """Turn 'no space left' of any library into a StageError that says what to do."""
    try:
        yield
    except errors.CompressError:
        raise
    except Exception as error:
        if not is_disk_full(error):
            raise
        raise errors.StageError(_disk_text(label, folder)) from error


def _disk_text(label: str, folder: Path) -> str:
    free = size_text(shutil.disk_usage(folder).free)
    return (
        f"stage {label}: the disk of {folder} is full or a quota is used up ({free} free on the disk). "
        "Free some space and run the same command again; finished stages are kept."
    )


def _gone(folders: Sequence[Path]) -> Path | None:
    """Return the first folder that is not there."""
    return next((folder for folder in folders if not folder.is_dir()), None)


def gone_text(label: str, folder: Path) -> str:
    """Return what is told of a folder that somebody removed while a stage used it."""
    return f"stage {label}: {folder} was removed while it ran. Run the same command again."


def is_disk_full(error: BaseException | None) -> bool:
    """Return whether an exception, or one that caused it, says that the disk or the quota is full."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return True
        if any(text in str(error) for text in ("No space left on device", "os error 28", "os error 27")):
            return True
        error = error.__cause__ or error.__context__
    return False


def _live(
    work: Callable[[], dict[str, Any]],
    *,
    label: str,
    seed: int,
    result: Path,
    close: Sequence[int],
    folders: Sequence[Path],
    parent: int,
) -> NoReturn:
    """Be the child: never returns, never runs the parent's clean-up."""
    code = _FAILED
    try:
        die_with(parent)
        _keep_freed_memory()
        for descriptor in close:
            os.close(descriptor)
        seed_everything(seed)
        try:
            with disk_errors_named(label, result.parent):
                facts = work()
                answer = {"facts": facts, "warnings": progress.collected_warnings(), "threads": thread_count()}
            text = to_json(answer)
        except errors.CompressError as error:
            text = to_json({"error": {"type": type(error).__name__, "text": str(error), "code": error.exit_code}})
            if "--debug" in sys.argv:
                traceback.print_exc()
        except Exception as error:  # noqa: BLE001 the parent must learn of any failure
            if _gone((*folders, result.parent)) is not None:
                os._exit(_FAILED)  # the parent sees it, too, and says so
            traceback.print_exc()
            reason = f"{type(error).__name__}: {error}".strip().removesuffix(".")
            text = f"stage {label}: {reason}. This is a fault of Krimp or of the plug-in; the traceback is above."
            text = to_json({"error": {"type": "StageError", "text": text, "code": errors.StageError.exit_code}})
        result.write_text(text)
        code = 0
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BaseException as error:  # noqa: BLE001 nothing may unwind into the parent's frames
        if is_disk_full(error):
            code = _DISK_FULL  # the parent says so in words
        elif _gone((*folders, result.parent)) is None:
            traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def die_with(parent: int) -> None:
    """Ask the kernel to kill this process when its parent dies (Linux)."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(_FAILED)


def _keep_freed_memory() -> None:
    """Let glibc keep freed blocks for the next tensor (Linux).

    By default each block above 32 MiB goes back to the kernel, and its pages are faulted in and zeroed anew
    at every step: a third of the time of a training step on a CPU went there.
    """
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError, AttributeError):  # another C library has no mallopt
            mallopt = ctypes.CDLL(None).mallopt
            mallopt(_M_MMAP_MAX, 0)
            mallopt(_M_TRIM_THRESHOLD, _NEVER_TRIM)


def _wait(child: int) -> tuple[int, Any]:
    try:
        _, status, usage = os.wait4(child, 0)
    except BaseException:
        with contextlib.suppress(ChildProcessError):  # it had ended, and was waited for, when Ctrl-C was heard of
            _end(child)
        raise
    return status, usage


def _end(child: int) -> None:
    """Wait for a child that Ctrl-C has reached as well; after some seconds make sure."""
    for _ in range(50):
        if os.waitpid(child, os.WNOHANG)[0]:
            return
        time.sleep(0.1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def _killed_text(label: str, number: int, peak_bytes: int) -> str:
    name = signal.Signals(number).name
    text = f"stage {label}: its process was killed by {name} at a peak of {size_text(peak_bytes)}."
    hint = " The system may have run out of memory: use smaller batches." if number == signal.SIGKILL else ""
    return f"{text}{hint} Run the same command again to resume."


def _rebuild(error: dict[str, Any], label: str) -> errors.CompressError:
    kind = getattr(errors, error["type"], None)
    if not (isinstance(kind, type) and issubclass(kind, errors.CompressError)):
        kind = errors.StageError
    text = error["text"] if error["text"].startswith(f"stage {label}") else f"stage {label}: {error['text']}"
    rebuilt = kind(text)
    if rebuilt.exit_code != error["code"]:
        rebuilt.exit_code = error["code"]
    return rebuilt
