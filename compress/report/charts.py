"""Charts of a report: bytes and accuracy stage by stage, and one figure a training. PNG, no display needed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.number_text import count_text, size_text
from compress.report.document import Row, history_metric, measured_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREY, GREEN = "#2b6cb0", "#dd6b20", "#a0aec0", "#2f855a"
PLATE = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.85}
DPI = 130


def draw_results(rows: Sequence[Row], path: Path, *, final_label: str | None) -> bool:
    """Draw map (map50 where that is all there is) above and bytes below, one column a model, the final one in orange.

    Args:
        rows: in the order of the run; those with neither score nor bytes are left out.
        path: PNG to write.
        final_label: the model that ships.

    Returns:
        False, and no file, if nothing can be drawn.
    """
    metric = next(iter(measured_metrics(rows)), "map50")
    shown = [row for row in rows if getattr(row, metric) is not None or row.packed_bytes is not None]
    if not shown:
        return False
    figure, (above, below) = _figure(2, width=max(6.5, 1.25 * len(shown) + 1.5), height=6.4)
    positions = list(range(len(shown)))
    colours = [ORANGE if row.label == final_label else BLUE for row in shown]
    _draw_metric(above, shown, colours, metric)
    sizes = [row.packed_bytes or 0 for row in shown]
    below.bar(positions, sizes, color=colours, width=0.62)
    for x, row in zip(positions, shown, strict=True):
        text = "not\nmeasured" if row.packed_bytes is None else size_text(row.packed_bytes)
        if row.compression_ratio is not None:
            text += f"\n{row.compression_ratio:.1f}x"
        below.annotate(text, (x, row.packed_bytes or 0), (0, 3), textcoords="offset points", ha="center", fontsize=9)
    below.set_ylim(0, max([*sizes, 1]) * 1.28)
    unit, factor = ("MB", 1e6) if max(sizes) >= 1e6 else ("kB", 1e3)
    below.yaxis.set_major_formatter(lambda value, _: f"{value / factor:g}")
    below.set_ylabel(f"{unit}, exported and packed")
    below.set_xticks(positions, [row.label for row in shown], rotation=30, ha="right")
    shipped = f" (orange: {final_label}, what ships)" if final_label else ""
    above.set_title("Accuracy and size, stage by stage" + shipped + _scores_note(shown, metric), fontsize=11)
    _save(figure, path)
    return True


def draw_training(label: str, history: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw the losses of a training over its epochs, and what its weights were kept by on the validation split.

    Args:
        label: of the stage.
        history: rows with epoch, losses, lr and, where it was scored, the metric.
        path: PNG to write.
    """
    from matplotlib.ticker import MaxNLocator

    epochs = [row["epoch"] for row in history]
    if len(set(epochs)) < len(epochs):  # several short trainings in a row, as between pruning steps
        epochs = list(range(1, len(history) + 1))
    metric = history_metric(history)
    scored = [(x, row[metric]) for x, row in zip(epochs, history, strict=True) if row.get(metric) is not None]
    figure, axes = _figure(2 if scored else 1, width=6.5, height=5.2 if scored else 3.2)
    names = sorted({name for row in history for name in row["losses"]})
    totals = [sum(v for v in row["losses"].values() if v is not None) for row in history]
    if len(names) > 1:
        axes[0].plot(epochs, totals, color="black", linewidth=2, marker="o", markersize=3, label="sum")
    for name in names:
        values = [row["losses"].get(name) for row in history]
        axes[0].plot(epochs, values, marker=".", label=name.removeprefix("loss_"))
    axes[0].set_ylabel("loss (mean of epoch)")
    axes[0].set_ylim(bottom=0)
    axes[0].legend(fontsize=8, frameon=False)
    axes[0].set_title(f"Losses of stage {label}")
    if scored:
        axes[1].plot(*zip(*scored, strict=True), color=GREEN, marker="o")
        best = max(scored, key=lambda point: point[1])
        axes[1].annotate(
            f"best {best[1]:.3f}", best, (-8, -14), textcoords="offset points", ha="right", fontsize=9, bbox=PLATE
        )
        axes[1].set_ylabel(f"{metric} (val)")
    axes[-1].set_xlabel("epoch")
    axes[-1].set_xlim(min(epochs) - 0.5, max(epochs) + 0.5)
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    _save(figure, path)


def _draw_metric(axes: Axes, rows: Sequence[Row], colours: Sequence[str], metric: str) -> None:
    columns = zip(range(len(rows)), rows, colours, strict=True)
    scored = [(x, row, value, colour) for x, row, colour in columns if (value := getattr(row, metric)) is not None]
    axes.set_ylabel(metric)
    axes.set_xlim(-0.6, len(rows) - 0.4)
    if not scored:
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center")
        return
    for x, row, value, _ in scored:  # a line from the model that it was made from: a branch starts where it left
        parent = _scored_parent(row, rows, metric)
        if parent is not None:
            start = rows.index(parent)
            style = {"linestyle": "-"} if x - start == 1 else {"linestyle": ":", "linewidth": 1.2}
            axes.plot([start, x], [getattr(parent, metric), value], color=GREY, zorder=1, **style)
    lows, highs = [], []
    for x, row, value, colour in scored:
        low, high = getattr(row, f"{metric}_interval") or (value, value)
        lows.append(low)
        highs.append(high)
        bar = [[max(value - low, 0)], [max(high - value, 0)]]
        axes.errorbar(x, value, bar, color=colour, marker="o", markersize=7, capsize=4)
        axes.annotate(f"{value:.3f}", (x, value), (9, 5), textcoords="offset points", fontsize=10, bbox=PLATE)
    margin = max((max(highs) - min(lows)) * 0.25, 0.01)
    axes.set_ylim(max(min(lows) - margin, -0.002), min(max(highs) + margin, 1.02))


def _scored_parent(row: Row, rows: Sequence[Row], metric: str = "map50") -> Row | None:
    """Return the nearest model with a score that a row was made from."""
    by_label = {other.label: other for other in rows}
    parent = by_label.get(row.after) if row.after else None
    while parent is not None and getattr(parent, metric) is None:
        parent = by_label.get(parent.after) if parent.after else None
    return parent


def _scores_note(rows: Sequence[Row], metric: str) -> str:
    """Return a second line for the title that says how the metric was measured, empty if it was not."""
    scored = [row for row in rows if getattr(row, metric) is not None and row.ap_method]
    if not scored:
        return ""
    first = scored[0]
    if metric == "map50":
        note = f"\nAP by {first.ap_method}" + (f", IoU {first.iou_threshold:g}" if first.iou_threshold else "")
    else:
        note = f"\nmap: IoU 0.50 to 0.95, {first.max_dets} detections of a class in an image"
    note += f", {count_text(first.num_images)} images" if first.num_images else ""
    return note + ("; bars: 95 % interval" if any(getattr(row, f"{metric}_interval") for row in scored) else "")


def _figure(num_panels: int, *, width: float, height: float) -> tuple[Figure, list[Axes]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(num_panels, 1, sharex=True, squeeze=False)[:, 0]
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e2e8f0")
        axes.set_axisbelow(True)
    return figure, list(panels)


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=DPI, metadata={"Software": None})
