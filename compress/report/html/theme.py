"""How charts look: every colour is a CSS variable, so that the page's light and dark colours hold in them too."""

from __future__ import annotations

from typing import Any

INK, MUTED, GRID, SURFACE = "var(--ink)", "var(--muted)", "var(--line)", "var(--card)"
BEFORE, AFTER, GOOD, BAD = "var(--before)", "var(--after)", "var(--good)", "var(--bad)"
SERIES = tuple(f"var(--s{number})" for number in range(1, 9))
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"


def theme() -> dict[str, Any]:
    """Return the `config` of every chart."""
    text = {"labelColor": MUTED, "titleColor": INK, "labelFont": FONT, "titleFont": FONT}
    return {
        "background": "transparent",
        "aria": False,  # the figure around a chart has the description, and its numbers stand in a table
        "font": FONT,
        "view": {"stroke": None},
        "axis": {
            **text,
            "labelFontSize": 11,
            "titleFontSize": 12,
            "titleFontWeight": 500,
            "titlePadding": 8,
            "gridColor": GRID,
            "domainColor": GRID,
            "tickColor": GRID,
            "labelLimit": 180,
        },
        "legend": {
            **text,
            "labelFontSize": 12,
            "orient": "top",
            "title": None,
            "symbolStrokeWidth": 2,
            "labelLimit": 220,
            "columns": 3,
        },
        "header": {**text, "labelFontSize": 12},
        "text": {"color": INK, "font": FONT, "fontSize": 11},
        "rule": {"color": MUTED},
        "line": {"strokeWidth": 2},
        "range": {"category": list(SERIES)},
    }
