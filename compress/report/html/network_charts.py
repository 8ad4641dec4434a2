"""The charts of the network and its trainings: a bar a layer, losses over epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from compress.number_text import fixed_text
from compress.report.document import history_metric
from compress.report.html.figure import LEAST_PX, Choice, Figure, figure
from compress.report.html.theme import AFTER, INK, MUTED, SERIES
from compress.report.layers import LayerRow

LAYER_FIELDS = (
    ("packed_bytes", "bytes in the file"),
    ("latency_ms", "milliseconds"),
    ("macs", "MACs"),
    ("params", "parameters"),
    ("error", "error of its output"),
    ("zeros", "share of zeros"),
    ("bit_width", "bits of a weight"),
)


def layer_bars(layers: Sequence[LayerRow]) -> Figure | None:
    """Return a bar a layer, of what one chooses."""
    fields = [(name, text) for name, text in LAYER_FIELDS if any(getattr(row, name) for row in layers)]
    if not fields:
        return None
    values = [
        {"layer": row.name, "of": name, "value": value, "form": form}
        for name, _ in fields
        for row in layers
        if (value := getattr(row, name)) is not None
        for form in (["integers"] if row.integer else ["float"] if row.integer is not None else ["no layer"])
    ]
    chosen = alt.param(name="shown", value=fields[0][0])
    chart = (
        alt.Chart(alt.Data(values=values))
        .transform_filter("datum.of == shown")
        .mark_bar(cornerRadiusEnd=2)
        .encode(
            x=alt.X("value:Q", title=None, axis=alt.Axis(format="~s", orient="top", tickCount=5)),
            y=alt.Y("layer:N", sort=None, title=None, axis=alt.Axis(labelFontSize=10, labelLimit=190)),
            color=alt.Color(
                "form:N", scale=alt.Scale(domain=["integers", "float", "no layer"], range=[AFTER, SERIES[1], MUTED])
            ),
            tooltip=[
                alt.Tooltip("layer:N"),
                alt.Tooltip("value:Q", format=",.4~r"),
                alt.Tooltip("form:N", title="computed in"),
            ],
        )
        .add_params(chosen)
    )
    largest = max(layers, key=lambda row: getattr(row, fields[0][0]) or 0)
    return figure(
        "layers",
        chart,
        title="The network, layer by layer",
        alt=f"{len(layers)} layers; most {fields[0][1]}: {largest.name}. The table below has all numbers.",
        height=max(LEAST_PX, 16 * len(layers)),
        choice=Choice("shown", "A bar shows", fields),
        wide=True,
    )


def trainings(histories: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Figure]:
    """Return the losses of each training over its epochs, and what its weights were kept by."""
    found = []
    for number, (label, history) in enumerate(histories.items()):
        epochs = [row["epoch"] for row in history]
        if len(set(epochs)) < len(epochs):  # several short trainings in a row
            epochs = list(range(1, len(history) + 1))
        values = [
            {"epoch": epoch, "loss": value, "of": name.removeprefix("loss_")}
            for epoch, row in zip(epochs, history, strict=True)
            for name, value in row["losses"].items()
            if value is not None
        ]
        if not values:
            continue
        names = list(dict.fromkeys(value["of"] for value in values))
        chart: Any = (
            alt.Chart(alt.Data(values=values))
            .mark_line(point=alt.OverlayMarkDef(size=22, filled=True))
            .encode(
                x=alt.X("epoch:Q", axis=alt.Axis(tickMinStep=1, format="d", tickCount=8, grid=False)),
                y=alt.Y("loss:Q", title="loss, mean of the epoch"),
                color=alt.Color("of:N", scale=alt.Scale(domain=names, range=list(SERIES))),
                tooltip=["of:N", "epoch:Q", alt.Tooltip("loss:Q", format=".4f")],
            )
        )
        metric = history_metric(history)
        seen = [(epoch, row[metric]) for epoch, row in zip(epochs, history, strict=True) if row.get(metric) is not None]
        if seen:
            line = (
                alt.Chart(alt.Data(values=[{"epoch": epoch, "score": value} for epoch, value in seen]))
                .mark_line(color=INK, strokeDash=[4, 3], point=alt.OverlayMarkDef(color=INK, size=26))
                .encode(
                    x="epoch:Q",
                    y=alt.Y("score:Q", title=f"{metric} on val (dashed)", scale=alt.Scale(zero=False)),
                    tooltip=["epoch:Q", alt.Tooltip("score:Q", title=metric, format=".4f")],
                )
            )
            chart = alt.layer(chart, line).resolve_scale(y="independent")
        last = ", ".join(f"{name} {fixed_text(value, 4)}" for name, value in history[-1]["losses"].items())
        best = f" Best {metric} on val {max(value for _, value in seen):.4f}." if seen else ""
        found.append(
            figure(
                f"training-{number}",
                chart,
                title=f"Training of {label}",
                alt=f"{len(history)} epochs; losses at the end: {last}.{best}",
                height=220,
            )
        )
    return found
