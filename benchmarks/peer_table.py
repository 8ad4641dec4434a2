"""Rows of `benchmarks/peers.py`: what is measured of a method, the table, and which points no other one beats."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Row = Mapping[str, Any]
_SIZES = {"disk_bytes": "disk", "krimp_bytes": "krimp", "xz_bytes": "xz -9"}
_HEAD = (
    f"{'method':36}" + "".join(f"{title:>11}" for title in _SIZES.values()) + f"{'map':>8}{'map50':>8}"
    f"{'loss of map (95 %)':>26}{'times as fast (95 %)':>24}{'minutes':>9}"
)


def least_bytes(row: Row) -> int:
    """Return the bytes that count: the smallest of a method's own form, packed by Krimp and packed by xz."""
    return min(int(row[name]) for name in _SIZES)


def beats(one: Row, other: Row, *, with_time: bool) -> bool:
    """Return whether a row is as good as another in bytes and map (and speed), and better in one of them."""
    pairs = [(-least_bytes(one), -least_bytes(other)), (one["map"], other["map"])]
    if with_time:
        pairs.append((one["speedup"], other["speedup"]))
    return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)


def front(rows: Mapping[str, Row], *, with_time: bool = False) -> list[str]:
    """Return the names of rows that no other row beats, smallest first; rows that failed do not count."""
    made = {name: row for name, row in rows.items() if "failed" not in row}
    kept = [
        name for name, row in made.items() if not any(beats(one, row, with_time=with_time) for one in made.values())
    ]
    return sorted(kept, key=lambda name: least_bytes(made[name]))


def table(rows: Mapping[str, Row]) -> str:
    """Return a line a method; one that failed says why."""
    return "\n".join([_HEAD, *(_line(name, row) for name, row in rows.items())])


def verdicts(rows: Mapping[str, Row], ours: str, reference: str) -> list[str]:
    """Return what the table means for us, in sentences: the fronts, and whoever beats one of our rows.

    Args:
        rows: name -> row.
        ours: what the names of our rows begin with.
        reference: name of the float row, which nobody competes with.
    """
    lines = []
    others = [name for name, row in rows.items() if "failed" not in row and not name.startswith(ours)]
    for with_time, axes in ((False, "bytes and map"), (True, "bytes, map and time")):
        lines.append(f"front of {axes}: {', '.join(front(rows, with_time=with_time))}")
        for name in (one for one, row in rows.items() if one.startswith(ours) and "failed" not in row):
            winners = [one for one in others if one != reference and beats(rows[one], rows[name], with_time=with_time)]
            if winners:
                lines.append(f"  {name} is beaten in {axes} by {', '.join(winners)}")
    return lines


def reason_of(text: str, code: int, *, minutes: float) -> str:
    """Return in words why a child process left nothing.

    Args:
        text: its standard error.
        code: its exit code, negative for a signal.
        minutes: that it was given; it ran into them if the code is that of `timeout`, 124.
    """
    if code == 124:
        return f"not done in {minutes:g} minutes"
    if code < 0:
        return f"killed by signal {-code}; is there enough memory?"
    said = [line.strip() for line in text.splitlines() if line.strip()]
    return said[-1][:300] if said else f"exit code {code} without a word"


def _line(name: str, row: Row) -> str:
    if "failed" in row:
        return f"{name:36}failed: {row['failed']}"
    sizes = "".join(f"{row[key]:>11,}" for key in _SIZES)
    scores = f"{row['map']:8.4f}{row['map50']:8.4f}{_loss(row):>26}"
    return f"{name:36}{sizes}{scores}{_speed(row):>24}{row['cpu_minutes']:9.1f}  {row['note']}".rstrip()


def _loss(row: Row) -> str:
    if not row.get("map_loss_interval"):
        return "-"
    low, high = row["map_loss_interval"]
    return f"{100 * row['map_loss']:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})"


def _speed(row: Row) -> str:
    if "speedup_low" not in row:
        return "-"
    return f"{row['speedup']:.2f} ({row['speedup_low']:.2f} to {row['speedup_high']:.2f})"
