"""Whether a limit is kept, judged by an interval: kept, broken, or not decidable with so little."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from compress.compare.differences import LEAST_IMAGES, Difference
from compress.compare.limits import Ceiling, GateLimits, bytes_text
from compress.compare.sides import Side
from compress.compare.timing import Timing
from compress.metrics.paired import needed_count


class Verdict(StrEnum):
    """What a check comes to."""

    ACCEPT = "accept"
    REGRESSION = "regression"
    UNDECIDED = "not decidable"


@dataclass(frozen=True)
class Check:
    """One limit.

    Attributes:
        name: what is limited: 'map', 'bytes', 'latency'.
        limit: in words.
        found: in words.
        verdict: of it.
        why: a sentence or two.
        needed: images or processes that would decide; None where it is decided, or no number would.
    """

    name: str
    limit: str
    found: str
    verdict: Verdict
    why: str
    needed: int | None = None


def judge(interval: tuple[float, float], limit: float) -> Verdict:
    """Return the verdict on a value that may be as large as a limit, by its interval (low, high)."""
    if interval[1] <= limit:
        return Verdict.ACCEPT
    return Verdict.REGRESSION if interval[0] > limit else Verdict.UNDECIDED


def overall(checks: Sequence[Check]) -> Verdict:
    """Return the verdict of all: a regression if one is, else not decidable if one is, else accept."""
    found = {check.verdict for check in checks}
    return next((one for one in (Verdict.REGRESSION, Verdict.UNDECIDED) if one in found), Verdict.ACCEPT)


def check_drop(limits: GateLimits, change: Difference, *, is_same: bool) -> Check:
    """Judge what is lost of a metric.

    Args:
        limits: with `max_drop`.
        change: of the metric, from old to new.
        is_same: both are the same file, to the byte.
    """
    assert limits.max_drop is not None
    limit = f"at most {limits.max_drop:g} points lost"
    if is_same:
        return Check(limits.metric, limit, "nothing lost", Verdict.ACCEPT, "Both are the same file, to the byte.")
    if change.points is None or change.interval is None:
        found = "not measured" if change.points is None else f"{0.0 - change.points:.2f} points lost"
        is_few = change.num_images is not None and change.num_images < LEAST_IMAGES
        needed = LEAST_IMAGES if is_few else None
        return Check(limits.metric, limit, found, Verdict.UNDECIDED, f"No interval: {change.note}.", needed)
    lost = (0.0 - change.interval[1], 0.0 - change.interval[0])
    found = f"{0.0 - change.points:.2f} points lost ({lost[0]:.2f} to {lost[1]:.2f})"
    verdict = judge(lost, limits.max_drop)
    on = f"{change.num_images} images, {'paired' if change.basis == 'paired' else 'from the interval of each alone'}"
    if verdict is not Verdict.UNDECIDED:
        end = f"{lost[1]:.2f} is within" if verdict is Verdict.ACCEPT else f"{lost[0]:.2f} is beyond"
        which = "upper" if verdict is Verdict.ACCEPT else "lower"
        return Check(limits.metric, limit, found, verdict, f"The {which} end {end} the limit ({on}).")
    needed = needed_count(lost, limits.max_drop, change.num_images or 1)
    if change.basis == "outer":
        advice = "Give --data, or runs with their score folders: the paired interval is narrower."
        return Check(limits.metric, limit, found, verdict, f"The limit is inside the interval ({on}). {advice}")
    many = f"about {_rounded(needed)} images like these would decide" if needed else "no number of images would decide"
    return Check(limits.metric, limit, found, verdict, f"The limit is inside the interval ({on}); {many}.", needed)


def check_bytes(ceiling: Ceiling, new: Side, old: Side) -> Check:
    """Judge the size of the file; a size has no interval."""
    limit = f"at most {ceiling.text}"
    if new.num_bytes is None or (old.num_bytes is None and not ceiling.is_absolute):
        side = new if new.num_bytes is None else old
        return Check("bytes", limit, "not known", Verdict.UNDECIDED, f"{side.title}: has no file and says no size.")
    most = ceiling.of(float(old.num_bytes or 0))
    share = "" if not old.num_bytes else f" ({100 * (new.num_bytes / old.num_bytes - 1):+.1f} %)"
    before = "" if old.num_bytes is None else f"{old.num_bytes:,} -> "
    verdict = Verdict.ACCEPT if new.num_bytes <= most else Verdict.REGRESSION
    why = f"The limit is {bytes_text(most)}."
    return Check("bytes", limit, f"{before}{new.num_bytes:,}{share}", verdict, why)


def check_latency(ceiling: Ceiling, timing: Timing | None, why_not: str = "") -> Check:
    """Judge the milliseconds of two files that were timed side by side.

    Args:
        ceiling: the limit.
        timing: None where they were not.
        why_not: then the reason.
    """
    limit = f"at most {ceiling.text}"
    if timing is None:
        return Check("latency", limit, "not timed side by side", Verdict.UNDECIDED, why_not)
    ratio = ceiling.of(timing.reference_ms) / timing.reference_ms
    low, high = timing.interval
    times = f"{timing.reference_ms:.2f} -> {timing.other_ms:.2f} ms"
    found = f"{times} ({100 * (low - 1):+.1f} to {100 * (high - 1):+.1f} %)"
    how = f"{timing.processes} processes of {timing.rounds} rounds, {timing.threads or 'all'} thread(s)"
    verdict = judge((low, high), ratio)
    if verdict is Verdict.UNDECIDED:
        needed = timing.needed_processes(ratio)
        many = (
            f"about {_rounded(needed)} processes would decide (--processes)"
            if needed
            else "no number of processes would"
        )
        return Check("latency", limit, found, verdict, f"The limit is inside the interval ({how}); {many}.", needed)
    where = "within" if verdict is Verdict.ACCEPT else "beyond"
    return Check("latency", limit, found, verdict, f"The whole interval is {where} the limit ({how}).")


def _rounded(count: int) -> str:
    """Return a count that is an estimate: up to two digits that count."""
    unit = 10 ** max(len(str(count)) - 2, 0)
    return f"{-(-count // unit) * unit:,}"
