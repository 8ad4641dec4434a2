"""The charts of cost: size and time against accuracy, and both stage by stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from compress.number_text import size_text
from compress.report.document import Document, Row
from compress.report.html.figure import Figure, figure, rows_height
from compress.report.html.theme import AFTER, BEFORE, SERIES, SURFACE


def pareto(document: Document, beside: Sequence[Document] = ()) -> list[Figure]:
    """Return bytes and milliseconds against accuracy, one chart each, with the models of other runs."""
    metric = metric_of(document)
    found = []
    for name, field_name, title, format_ in (
        ("pareto-bytes", "bytes", "bytes of the file (smaller is better)", "~s"),
        ("pareto-ms", "ms", "milliseconds an image, p50 (less is better)", "~g"),
    ):
        points = [point for run in (document, *beside) for point in _points(run, metric, field_name)]
        if not points:
            continue
        runs = list(dict.fromkeys(point["run"] for point in points))
        base = alt.Chart(alt.Data(values=points))
        x = alt.X(
            f"{field_name}:Q",
            title=title,
            scale=alt.Scale(type="log", nice=False, padding=34),
            axis=alt.Axis(format=format_, tickCount=5),
        )
        colour = alt.Color(
            "run:N", scale=alt.Scale(domain=runs, range=list(SERIES)), legend=alt.Legend() if len(runs) > 1 else None
        )
        y = alt.Y("value:Q", title=f"{metric} (higher is better)", scale=alt.Scale(zero=False, padding=16))
        told = (("label", "model"), ("cost", field_name), ("score", metric), ("run", "run"))
        tooltip = [alt.Tooltip(f"{one}:N", title=text) for one, text in told]
        bars = base.mark_rule(strokeWidth=2, opacity=0.55).encode(x=x, y="low:Q", y2="high:Q", color=colour)
        dots = base.mark_point(filled=True, size=110, opacity=1).encode(x=x, y=y, color=colour, tooltip=tooltip)
        named = {"x": x, "y": y, "text": "shown:N"}
        plates = base.mark_text(dy=-13, fontSize=11, limit=140, stroke=SURFACE, strokeWidth=5).encode(**named)
        texts = base.mark_text(dy=-13, fontSize=11, limit=140).encode(**named)
        best = max(points, key=lambda point: point["value"])
        least = min(points, key=lambda point: point[field_name])
        found.append(
            figure(
                name,
                alt.layer(bars, dots, plates, texts),
                title=f"{'Size' if field_name == 'bytes' else 'Time'} against accuracy",
                alt=f"{len(points)} models. Highest {metric}: {best['label']}, {best['score']}. "
                f"Least {field_name}: {least['label']}, {least['cost']}, {metric} {least['score']}.",
                height=300,
                note="Vertical lines: 95 % interval. The bytes axis is logarithmic."
                if field_name == "bytes"
                else "Vertical lines: 95 % interval. A float file without a score of its own has that of its model.",
            )
        )
    return found


def metric_of(document: Document) -> str:
    """Return the metric that models are told by."""
    return next(iter(document.metrics()), "map50")


def _points(document: Document, metric: str, cost: str) -> list[dict[str, Any]]:
    points = []
    by_label = {row.label: row for row in document.rows}
    for row in document.rows:
        scored = _scored(row, by_label, metric)
        value = None if scored is None else getattr(scored, metric)
        amount = _bytes_of(row) if cost == "bytes" else row.latency_ms_p50
        if scored is None or value is None or not amount or (cost == "bytes" and scored is not row):
            continue
        low, high = getattr(scored, f"{metric}_interval") or (value, value)
        text = size_text(amount) if cost == "bytes" else f"{amount:.1f} ms"
        points.append(
            {"run": document.name, "label": row.label, "shown": row.label, cost: amount, "cost": text,
             "value": value, "low": low, "high": high, "score": f"{value:.3f} ({low:.3f} to {high:.3f})"}
        )  # fmt: skip
    return _one_name_a_place(points, document.final_label)


def _one_name_a_place(points: list[dict[str, Any]], final: str | None) -> list[dict[str, Any]]:
    """Return the points with one name where several lie on each other: that of what ships, else the first."""
    places: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for point in points:
        places.setdefault((point["cost"], point["score"]), []).append(point)
    for together in places.values():
        named = next((point for point in together if point["label"] == final), together[0])
        for point in together:
            point["shown"] = point["label"] if point is named else ""
    return points


def _scored(row: Row, by_label: Mapping[str, Row], metric: str) -> Row | None:
    """Return the row that tells a model's score: its own, or that of the float model that was only exported."""
    if getattr(row, metric) is not None:
        return row
    parent = by_label.get(row.after or "")
    if row.kind == "onnx" and parent is not None and parent.kind == "model" and getattr(parent, metric) is not None:
        return parent
    return None


def _bytes_of(row: Row) -> int | None:
    return row.packed_bytes or row.onnx_bytes or row.parameters_bytes


def stages(document: Document) -> list[Figure]:
    """Return bytes and accuracy of each model, in the order of the run."""
    metric, shown = metric_of(document), document.rows
    sized = [row for row in shown if _bytes_of(row)]
    found = []
    if sized:
        values: list[dict[str, Any]] = [
            {"label": row.label, "text": size_text(_bytes_of(row)),
             "role": "final" if row.label == document.final_label else "other"}
            for row in sized
        ]  # fmt: skip
        base = alt.Chart(alt.Data(values=values))
        y = alt.Y("label:N", sort=None, title=None)
        most = max(_bytes_of(row) or 0 for row in sized)
        unit, factor = ("MB", 1e6) if most >= 1e6 else ("kB", 1e3)
        x = alt.X(
            "size:Q",
            title=unit,
            axis=alt.Axis(tickCount=4),
            scale=alt.Scale(domain=[0, 1.28 * most / factor], nice=False),
        )
        for value, row in zip(values, sized, strict=True):
            value["size"] = (_bytes_of(row) or 0) / factor
        colour = alt.Color("role:N", scale=alt.Scale(domain=["other", "final"], range=[BEFORE, AFTER]), legend=None)
        bars = base.mark_bar(cornerRadiusEnd=3).encode(
            x=x,
            y=y,
            color=colour,
            tooltip=[alt.Tooltip("label:N", title="model"), alt.Tooltip("text:N", title="bytes")],
        )
        texts = base.mark_text(align="left", dx=4).encode(x=x, y=y, text="text:N")
        found.append(
            figure(
                "stages-bytes",
                alt.layer(bars, texts),
                title="Bytes, stage by stage",
                alt="; ".join(f"{one['label']} {one['text']}" for one in values),
                height=rows_height(len(values)),
                note="Packed where a stage's result was packed, else the ONNX file, else the float parameters.",
            )
        )
    scored = [row for row in shown if getattr(row, metric) is not None]
    if scored:
        found.append(_accuracy_of_stages(document, scored, metric))
    return found


def _accuracy_of_stages(document: Document, scored: Sequence[Row], metric: str) -> Figure:
    values = []
    for row in scored:
        value = getattr(row, metric)
        low, high = getattr(row, f"{metric}_interval") or (value, value)
        values.append({"label": row.label, "value": value, "low": low, "high": high, "text": f"{value:.3f}",
                       "role": "final" if row.label == document.final_label else "other"})  # fmt: skip
    return _intervals(
        "stages-accuracy",
        values,
        title="Accuracy, stage by stage",
        axis=metric,
        alt_text=f"{metric}: " + "; ".join(f"{one['label']} {one['text']}" for one in values),
        note="Lines: 95 % interval over images.",
    )


def _intervals(name: str, values: list[dict[str, Any]], *, title: str, axis: str, alt_text: str, note: str) -> Figure:
    base = alt.Chart(alt.Data(values=values))
    y = alt.Y("label:N", sort=None, title=None)
    colour = alt.Color("role:N", scale=alt.Scale(domain=["other", "final"], range=[BEFORE, AFTER]), legend=None)
    bars = base.mark_rule(strokeWidth=3, opacity=0.5).encode(
        x=alt.X("low:Q", title=axis, scale=alt.Scale(zero=False, padding=24)), x2="high:Q", y=y, color=colour
    )
    numbers = (("value", axis), ("low", "low"), ("high", "high"))
    tooltip = [alt.Tooltip("label:N", title="model")]
    tooltip += [alt.Tooltip(f"{name}:Q", title=text, format=".4f") for name, text in numbers]
    dots = base.mark_point(filled=True, size=90, opacity=1).encode(x="value:Q", y=y, color=colour, tooltip=tooltip)
    texts = base.mark_text(dy=-12).encode(x="value:Q", y=y, text="text:N")
    return figure(
        name, alt.layer(bars, dots, texts), title=title, alt=alt_text, height=rows_height(len(values), 40), note=note
    )
