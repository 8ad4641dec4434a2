"""Numbers as people read them. What was not measured is a dash, never a zero."""

from __future__ import annotations

DASH = "—"


def size_text(value: float | None) -> str:
    """Return bytes in decimal units: '512 B', '41.5 kB', '1.23 MB'."""
    if value is None:
        return DASH
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= factor:
            return f"{_three_digits(value / factor)} {unit}"
    return f"{value:.0f} B"


def count_text(value: float | None) -> str:
    """Return a count with SI letters from 10,000 on: '9999', '36.3 M', '1.40 G'."""
    if value is None:
        return DASH
    for unit, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= max(factor, 1e4):
            return f"{_three_digits(value / factor)} {unit}"
    return f"{value:.0f}"


def share_text(value: float | None, digits: int = 1) -> str:
    """Return a share 0..1 in percent: '61.5 %'."""
    return DASH if value is None else f"{100 * value:.{digits}f} %"


def fixed_text(value: float | None, digits: int = 3, unit: str = "") -> str:
    """Return a number with fixed digits and a unit glued to it, e.g. '3.4x'."""
    return DASH if value is None else f"{value:.{digits}f}{unit}"


def interval_text(interval: tuple[float, float] | None) -> str:
    """Return the two ends of an interval: '0.012 to 0.034'."""
    return DASH if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}"


def duration_text(seconds: float | None) -> str:
    """Return a duration: '0.4 s', '12 s', '3 min 20 s', '2 h 05 min'."""
    if seconds is None:
        return DASH
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def _three_digits(value: float) -> str:
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else f"{value:.0f}"
