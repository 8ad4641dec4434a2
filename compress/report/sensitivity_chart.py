"""Charts of what the parts of a network can bear: a line a part, in the order of the network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from compress.report.charts import BLUE, DPI, GREEN, GREY, ORANGE
from compress.report.sensitivity import Sensitivity, SensitivityRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = {"channels": ORANGE, "weights": BLUE, "activations": GREEN}
_TITLES = {"channels": "channels removed", "weights": "weights rounded", "activations": "inputs rounded"}
_CHARTS = {"sensitivity_channels.png": ("channels",), "sensitivity_layers.png": ("weights", "activations")}
_INCH_A_PART = 0.17
_LEAST_ERROR = 1e-5  # drawn at the edge; the axis is logarithmic
_SHADES = (1.0, 0.6, 0.4, 0.25)  # of the strongest step and those that change less


def draw_sensitivity(found: Sensitivity, folder: Path, *, prefix: str = "") -> list[str]:
    """Draw output errors and, where steps were scored, losses: one chart for groups, one for layers.

    Args:
        found: what was measured.
        folder: takes the PNGs.
        prefix: of their names.

    Returns:
        Names of the files; none for what was not tried.
    """
    written = []
    for name, kinds in _CHARTS.items():
        rows = [row for row in found.rows if row.what in kinds]
        if rows:
            _draw(found, rows, folder / f"{prefix}{name}")
            written.append(f"{prefix}{name}")
    return written


def _draw(found: Sensitivity, rows: Sequence[SensitivityRow], path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    parts = list(dict.fromkeys(row.part for row in rows))
    scored = any(row.loss is not None for row in rows)
    height = max(3.2, 1.6 + _INCH_A_PART * len(parts))
    figure = Figure(figsize=(12.5 if scored else 8.5, height), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2 if scored else 1, sharey=True, squeeze=False)[0]
    _draw_errors(panels[0], rows, parts)
    if scored:
        _draw_losses(panels[1], rows, parts, found)
    freed, unit = most_freed(rows)
    labels = [f"{part}  {100 * freed[part]:4.1f}" for part in parts]
    panels[0].set_yticks(range(len(parts)), labels, fontsize=7)
    panels[0].set_ylim(len(parts) - 0.5, -0.5)
    panels[0].set_ylabel(f"part, and {unit} that its strongest step frees", fontsize=9)
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#e2e8f0")
        axes.set_axisbelow(True)
        axes.tick_params(axis="x", labelsize=8)
        axes.xaxis.label.set_size(9)
    figure.suptitle(f"What the parts of {found.of} can bear, each changed alone", fontsize=11)
    figure.savefig(path, dpi=DPI, metadata={"Software": None})


def most_freed(rows: Sequence[SensitivityRow]) -> tuple[dict[str, float], str]:
    """Return part -> the largest share that a step frees, and of what: of groups MACs, of layers coded weights."""
    removes = any(row.what == "channels" for row in rows)
    freed: dict[str, float] = {}
    for row in rows:
        share = row.macs_freed if removes else row.bytes_freed
        freed[row.part] = max(share, freed.get(row.part, 0.0))
    return freed, "% of the MACs" if removes else "% of the coded weights"


def _draw_errors(axes: Axes, rows: Sequence[SensitivityRow], parts: Sequence[str]) -> None:
    place = {part: y for y, part in enumerate(parts)}
    for what in dict.fromkeys(row.what for row in rows):
        own = [row for row in rows if row.what == what]
        amounts = sorted({row.amount for row in own}, reverse=what == "channels")
        for amount, shade in zip(amounts, (*_SHADES, *[_SHADES[-1]] * len(amounts)), strict=False):
            shown = [row for row in own if row.amount == amount and row.error is not None]
            axes.scatter(
                [max(row.error or 0.0, _LEAST_ERROR) for row in shown],
                [place[row.part] + (0.18 if what == "activations" else 0.0) for row in shown],
                s=16,
                color=_COLOURS[what],
                alpha=shade,
                linewidths=0,
                label=f"{_TITLES[what]}, {own[0].model_copy(update={'amount': amount}).amount_text}",
            )
    axes.set_xscale("log")
    axes.set_xlabel("relative error of the raw outputs")
    axes.legend(fontsize=7, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)


def _draw_losses(axes: Axes, rows: Sequence[SensitivityRow], parts: Sequence[str], found: Sensitivity) -> None:
    place = {part: y for y, part in enumerate(parts)}
    axes.axvline(0, color=GREY, linewidth=1)
    for row in rows:
        if row.loss is None:
            continue
        low, high = row.loss_interval or (row.loss, row.loss)
        y = place[row.part] + (0.18 if row.what == "activations" else 0.0)
        axes.plot([low, high], [y, y], color=_COLOURS[row.what], linewidth=1, alpha=0.6)
        axes.plot(row.loss, y, ".", color=_COLOURS[row.what], markersize=6)
    reference = "" if found.reference is None else f", {100 * found.reference:.1f} before"
    axes.set_xlabel(
        f"points of {found.metric} lost by the strongest step, 95 % interval\n"
        f"({found.score_images} images of {found.split}{reference})"
    )
