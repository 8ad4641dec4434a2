"""The limits of `krimp gate`, as they are typed."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from compress.errors import RecipeError
from compress.number_text import size_text

_UNITS = {"": 1, "b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}
_NUMBER = r"(\d+(?:\.\d+)?(?:e[+-]?\d+)?)"


@dataclass(frozen=True)
class Ceiling:
    """The most that a quantity may be: a share more than it was (`+2%`, `-30%`), so much more (`+10kB`), or so much.

    Attributes:
        text: as typed.
        share: factor of the old value, None if the limit is none.
        more: above the old value, None likewise.
        most: whatever the old value, None likewise.
    """

    text: str
    share: float | None = None
    more: float | None = None
    most: float | None = None

    @property
    def is_absolute(self) -> bool:
        """Return whether the old value is not asked."""
        return self.most is not None

    def of(self, old: float) -> float:
        """Return the most that is allowed where the old value is known."""
        if self.share is not None:
            return self.share * old
        return old + self.more if self.more is not None else float(self.most or 0.0)


@dataclass(frozen=True)
class GateLimits:
    """What a new model may cost.

    Attributes:
        max_drop: points of `metric` that may be lost; None: accuracy is not judged.
        metric: 'map', 'map75' or 'map50'.
        max_bytes: of the file; None: not judged.
        max_latency: ms of an image; None: not judged.
    """

    max_drop: float | None = None
    metric: str = "map"
    max_bytes: Ceiling | None = None
    max_latency: Ceiling | None = None

    @property
    def is_empty(self) -> bool:
        """Return whether nothing would be judged."""
        return self.max_drop is None and self.max_bytes is None and self.max_latency is None


def parse_bytes(text: str) -> Ceiling:
    """Return a limit of bytes: '+2%', '-30%', '+10kB', '330kB', '250000'.

    Raises:
        RecipeError: it is none.
    """
    return _parse("--max-bytes", text, r"([kmg]i?b|b)?", lambda number, unit: number * _UNITS[unit.lower()], "330kB")


def parse_latency(text: str) -> Ceiling:
    """Return a limit of milliseconds: '+5%', '-20%', '+2ms', '25ms', '25'.

    Raises:
        RecipeError: it is none.
    """
    return _parse("--max-latency", text, r"(ms|s)?", lambda number, unit: number * (1e3 if unit == "s" else 1), "25ms")


def _parse(option: str, text: str, units: str, value: Callable[[float, str], float], example: str) -> Ceiling:
    found = re.fullmatch(rf"([+-]?)\s*{_NUMBER}\s*(?:(%)|{units})", text.strip(), flags=re.IGNORECASE)
    if found is None or (found[1] == "-" and not found[3]):
        raise RecipeError(
            f"{option} {text!r}: is no limit. Write +2%, -30% or +{example} (of what it was), or {example}."
        )
    number, sign = float(found[2]), found[1]
    if found[3]:
        if not sign:
            raise RecipeError(f"{option} {text!r}: a share needs a sign. Write +{text.strip()} or -{text.strip()}.")
        if sign == "-" and number >= 100:
            raise RecipeError(f"{option} {text!r}: nothing is smaller than nothing. Write less than -100%.")
        return Ceiling(text.strip(), share=1 + (number if sign == "+" else -number) / 100)
    most = value(number, found[4] or "")
    return Ceiling(text.strip(), more=most) if sign else Ceiling(text.strip(), most=most)


def bytes_text(value: float | None) -> str:
    """Return bytes for people, exact below 10 kB."""
    return f"{value:,.0f} bytes" if value is not None and value < 1e4 else size_text(value)
