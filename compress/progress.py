"""Progress and messages: records of the logger `krimp`, which a command shows as a bar or as plain lines.

A program that uses Krimp as a library routes the logger as it likes; the command line installs `console()`.
Warnings are kept as well as logged, because a setting that was skipped must reach the report.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TypeVar

from compress.errors import printable, printable_lines

if TYPE_CHECKING:
    from rich.progress import Progress

T = TypeVar("T")

LINE_INTERVAL_S = 10.0  # plain mode: at most one line per so many seconds, and the last
_QUIET_S = 1.0  # plain mode: a loop that is over sooner prints nothing

LOGGER = logging.getLogger("krimp")


class Listener(Protocol):
    """Hears how far a loop is, and may answer with a remark that is shown beside it."""

    def __call__(self, label: str, done: int, total: int | None, whole: bool = False) -> str:
        """Take note; arguments as of `tell`."""


_listeners: list[Listener] = []
_warnings: list[str] = []
_bars: list[Progress] = []  # the one live display, shared by nested loops


class Console(logging.Handler):
    """Prints messages to stdout and warnings to stderr; with a bar on screen, all above it."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        is_warning = record.levelno >= logging.WARNING
        text = printable_lines(f"warning: {record.getMessage()}" if is_warning else record.getMessage())
        if _bars:
            _bars[-1].console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, file=sys.stderr if is_warning else sys.stdout, flush=True)


@contextmanager
def console() -> Iterator[None]:
    """Show messages, warnings and progress to the person at the command line while the block runs."""
    if _is_shown():
        yield
        return
    handler, level, propagates = Console(), LOGGER.level, LOGGER.propagate
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False
    try:
        yield
    finally:
        LOGGER.removeHandler(handler)
        LOGGER.setLevel(level)
        LOGGER.propagate = propagates


def _is_shown() -> bool:
    return any(isinstance(handler, Console) for handler in LOGGER.handlers)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Let somebody hear how far the loops of the block are, in this process and in those that it forks."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def tell(label: str, done: int, total: int | None, *, whole: bool = False) -> str:
    """Tell how far a loop is; return the remark of whoever listens, empty without one.

    Args:
        label: what is being done.
        done: items so far.
        total: of them in all, if that is known.
        whole: the loop is all that its stage does.
    """
    return _listeners[-1](label, done, total, whole) if _listeners else ""


def say(text: str) -> None:
    """Log a message."""
    LOGGER.info(printable_lines(text))


def warn(text: str) -> None:
    """Log a warning and keep it for the report; each text once."""
    if text not in _warnings:
        _warnings.append(text)
        LOGGER.warning(printable_lines(text))


@contextmanager
def silenced() -> Iterator[None]:
    """Log and keep nothing while the block runs."""
    level, kept = LOGGER.level, list(_warnings)
    LOGGER.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        LOGGER.setLevel(level)
        _warnings[:] = kept


def collected_warnings() -> list[str]:
    """Return the warnings so far, oldest first: those of earlier stages, then this one's."""
    return list(_warnings)


def restore_warnings(texts: Iterable[str]) -> None:
    """Add warnings of earlier stages without logging them again."""
    _warnings.extend(text for text in texts if text not in _warnings)


def clear_warnings() -> None:
    """Forget all warnings; called when a run starts."""
    _warnings.clear()


def track(iterable: Iterable[T], label: str, total: int | None = None) -> Iterator[T]:
    """Yield from an iterable and say how far it is: with a bar on a person's terminal, else in messages.

    Args:
        iterable: anything; its length is used when it has one.
        label: what is being done, e.g. 'evaluate packed'.
        total: number of items, if the iterable does not know it.

    Returns:
        Iterator over the same items.
    """
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    label = printable(label)
    has_bar = _is_shown() and sys.stdout.isatty()
    return (_bar if has_bar else _lines)(iterable, label, total)


def _bar(iterable: Iterable[T], label: str, total: int | None) -> Iterator[T]:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    outermost = not _bars
    if outermost:
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
        _bars.append(Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), transient=True))
        _bars[-1].start()
    progress = _bars[-1]
    task = progress.add_task(label, total=total)
    start = time.monotonic()
    done = 0
    try:
        for item in iterable:
            yield item
            done += 1
            remark = tell(label, done, total)
            progress.update(task, completed=done, description=f"{label}  {remark}" if remark else label)
    finally:
        progress.remove_task(task)
        if outermost:
            progress.stop()
            _bars.clear()
            if time.monotonic() - start >= _QUIET_S:
                say(_line(label, done, total, time.monotonic() - start))


def _lines(iterable: Iterable[T], label: str, total: int | None) -> Iterator[T]:
    start = last = time.monotonic()
    done = printed = 0
    try:
        for item in iterable:
            yield item
            done += 1
            remark = tell(label, done, total)
            now = time.monotonic()
            if now - last >= LINE_INTERVAL_S:
                say(_line(label, done, total, now - start) + (f"; {remark}" if remark else ""))
                last, printed = now, done
    finally:
        seconds = time.monotonic() - start
        if done != printed and (printed or seconds >= _QUIET_S):
            say(_line(label, done, total, seconds))


def _line(label: str, done: int, total: int | None, seconds: float) -> str:
    if not total:
        return f"{label}: {done}  {_clock(seconds)}"
    left = f", {_clock(seconds / done * (total - done))} left" if 0 < done < total else ""
    return f"{label}: {done}/{total} ({done / total:.0%})  {_clock(seconds)}{left}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
