"""A chart as the page holds it: a specification that the script draws, and the same as SVG without one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from compress.report.html.theme import theme

if TYPE_CHECKING:
    import altair

LEAST_PX, ROW_PX = 120, 30  # heights of a chart, and of a row in it
STATIC_WIDTH = 560  # px, of the SVG
_SCHEMA = "$schema"


@dataclass(frozen=True)
class Choice:
    """A control of a chart: a parameter and the values that one chooses from."""

    parameter: str
    label: str
    options: Sequence[tuple[str, str]]  # value, text


@dataclass(frozen=True)
class Figure:
    """One chart.

    Attributes:
        name: unique on the page, letters, digits and dashes.
        title: above it.
        alt: what it shows, in words, for who does not see it.
        spec: Vega-Lite, its width that of what it stands in.
        svg: the same, drawn.
        choice: its control, if it has one.
        note: below it.
        wide: takes a whole row of the page.
    """

    name: str
    title: str
    alt: str
    spec: dict[str, Any] = field(repr=False)
    svg: str = field(repr=False)
    choice: Choice | None = None
    note: str = ""
    wide: bool = False


def figure(
    name: str,
    chart: altair.TopLevelMixin,
    *,
    title: str,
    alt: str,
    height: int,
    choice: Choice | None = None,
    note: str = "",
    wide: bool = False,
) -> Figure:
    """Draw a chart, `height` px high, as wide as its place."""
    spec = chart.to_dict()
    spec.pop(_SCHEMA, None)
    spec["config"] = theme()
    spec["height"] = height
    spec["autosize"] = {"type": "fit-x", "contains": "padding"}
    spec["padding"] = {"left": 4, "right": 14, "top": 4, "bottom": 4}
    return Figure(
        name,
        title,
        alt,
        {**spec, "width": "container"},
        _svg(name, {**spec, "width": STATIC_WIDTH}),
        choice,
        note,
        wide,
    )


def rows_height(rows: int, row_px: int = ROW_PX) -> int:
    """Return the height of a chart of some rows, px."""
    return max(LEAST_PX, rows * row_px)


def _svg(name: str, spec: dict[str, Any]) -> str:
    """Return a specification as SVG whose ids are of this chart alone."""
    import vl_convert

    svg = str(vl_convert.vegalite_to_svg(spec, vl_version="6.4"))
    svg = re.sub(r'\b(id=")([^"]+)"', rf'\1{name}-\2"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", svg)
    svg = re.sub(
        r'<svg ([^>]*?)width="(\d+)(?:\.\d+)?" height="(\d+)(?:\.\d+)?"', r'<svg \1width="\2" height="\3"', svg, count=1
    )
    return svg.replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1)
