"""`krimp gate`: a new model against an old one and the limits of what it may cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from compress.artifact import file_digest
from compress.compare.differences import Difference, difference
from compress.compare.limits import GateLimits
from compress.compare.sides import Side
from compress.compare.timing import Timing
from compress.compare.verdicts import Check, Verdict, check_bytes, check_drop, check_latency, overall

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Gate:
    """What `krimp gate` found.

    Attributes:
        new, old: what was compared.
        checks: one a limit.
    """

    new: Side
    old: Side
    checks: tuple[Check, ...]

    @property
    def verdict(self) -> Verdict:
        """Return the verdict of all checks."""
        return overall(self.checks)

    def exit_code(self, *, undecided_passes: bool) -> int:
        """Return 0 (accept), 1 (regression) or 2 (not decidable)."""
        codes = {Verdict.ACCEPT: 0, Verdict.REGRESSION: 1, Verdict.UNDECIDED: 0 if undecided_passes else 2}
        return codes[self.verdict]

    def to_json(self) -> dict[str, Any]:
        """Return plain data: format_version, new, old, verdict, checks.

        A check has name, limit, found, verdict, why and needed.
        """
        return {
            "format_version": FORMAT_VERSION,
            "new": self.new.title,
            "old": self.old.title,
            "verdict": self.verdict.value,
            "checks": [asdict(check) | {"verdict": check.verdict.value} for check in self.checks],
        }


def run_gate(new: Side, old: Side, limits: GateLimits, time_files: Callable[[Path, Path], Timing]) -> Gate:
    """Judge a new model.

    Args:
        new: scored where it can be.
        old: likewise; losses and shares count from it.
        limits: not empty.
        time_files: times the files of old and new side by side; called only if latency is limited.
    """
    checks = []
    if limits.max_drop is not None:
        checks.append(check_drop(limits, _change(old, new, limits.metric), is_same=_is_same(old, new)))
    if limits.max_bytes is not None:
        checks.append(check_bytes(limits.max_bytes, new, old))
    if limits.max_latency is not None:
        timing, why = None, ""
        if new.model is not None and old.model is not None:
            timing = time_files(old.model, new.model)
        else:
            why = _untimed(next(side for side in (new, old) if side.model is None))
        checks.append(check_latency(limits.max_latency, timing, why))
    return Gate(new, old, tuple(checks))


def _untimed(side: Side) -> str:
    return (
        f"{side.title}: has no file to be timed. Times of two reports were taken at two times and cannot be compared: "
        "give both files, or their runs."
    )


def _change(old: Side, new: Side, metric: str) -> Difference:
    if old.scored is None or new.scored is None:
        unscored = " and ".join(side.title for side in (new, old) if side.scored is None)
        return Difference(metric, None, note=f"{unscored}: no scores are kept; --data scores the files")
    return difference(old.scored, new.scored, metric)


def _is_same(old: Side, new: Side) -> bool:
    if old.model is None or new.model is None:
        return False
    return file_digest(old.model) == file_digest(new.model)
