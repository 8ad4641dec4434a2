"""The charts of accuracy and cost: size and time against accuracy, stage by stage, classes, sizes, curves, errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from compress.breakdown import Breakdown
from compress.number_text import fixed_text, size_text
from compress.report.document import Document, Row, history_metric
from compress.report.html.figure import Choice, Figure, figure
from compress.report.html.theme import AFTER, BAD, BEFORE, GOOD, INK, MUTED, SERIES
from compress.report.layers import LayerRow

ERROR_TEXTS = {
    "cls": "wrong class",
    "loc": "badly placed",
    "both": "wrong class and place",
    "dupe": "found twice",
    "bkg": "nothing there",
    "missed": "missed",
}
MOST_CLASS_CURVES = 24
_ROW_PX, _LEAST_PX = 24, 120


def pareto(document: Document, beside: Sequence[Document] = ()) -> list[Figure]:
    """Return bytes and milliseconds against accuracy, one chart each, with the models of other runs."""
    metric = metric_of(document)
    found = []
    for name, field_name, title, format_ in (
        ("pareto-bytes", "bytes", "bytes of the file (smaller is better)", ".2s"),
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
        texts = base.mark_text(dy=-13, fontSize=11, limit=140).encode(x=x, y=y, text="shown:N")
        best = max(points, key=lambda point: point["value"])
        least = min(points, key=lambda point: point[field_name])
        found.append(
            figure(
                name,
                alt.layer(bars, dots, texts),
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
        values = [
            {"label": row.label, "bytes": _bytes_of(row), "text": size_text(_bytes_of(row)),
             "role": "final" if row.label == document.final_label else "other"}
            for row in sized
        ]  # fmt: skip
        base = alt.Chart(alt.Data(values=values))
        y = alt.Y("label:N", sort=None, title=None)
        most = max(_bytes_of(row) or 0 for row in sized)
        x = alt.X(
            "bytes:Q",
            title="bytes",
            axis=alt.Axis(format="~s", tickCount=4),
            scale=alt.Scale(domain=[0, 1.28 * most], nice=False),
        )
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
                height=_height(len(values)),
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
        name, alt.layer(bars, dots, texts), title=title, alt=alt_text, height=_height(len(values), 40), note=note
    )


def _height(rows: int, row_px: int = _ROW_PX + 6) -> int:
    return max(_LEAST_PX, rows * row_px)


def by_class(document: Document, before: Row, after: Row) -> Figure | None:
    """Return the accuracy of each class, before and after."""
    for metric, field_name in (("map", "map_per_class"), ("map50", "ap_per_class")):
        values = _paired(getattr(before, field_name), getattr(after, field_name), before.label, after.label)
        if values:
            return _dumbbells("by-class", values, (before.label, after.label), title="By class", axis=metric)
    return None


def by_size(document: Document, before: Row, after: Row) -> Figure | None:
    """Return the accuracy of each size of objects, before and after."""
    values = []
    for prefix in ("map_", "map50_"):
        first, second = (
            {
                name.removeprefix(prefix).replace("_", " "): value
                for name, value in row.extra_scores.items()
                if name.startswith(prefix) and name.endswith("px")
            }
            for row in (before, after)
        )
        values = _paired(first, second, before.label, after.label)
        if values:
            return _dumbbells(
                "by-size", values, (before.label, after.label), title="By size of the object", axis=prefix.rstrip("_"),
                note="Size: square root of the area, pixels.",
            )  # fmt: skip
    return None


def _paired(
    first: Mapping[str, float | None], second: Mapping[str, float | None], before: str, after: str
) -> list[dict[str, Any]]:
    return [
        {"name": name, "model": label, "value": value}
        for name in dict.fromkeys([*first, *second])
        for label, of in {before: first, after: second}.items()
        if (value := of.get(name)) is not None
    ]


def _dumbbells(
    name: str, values: list[dict[str, Any]], labels: tuple[str, str], *, title: str, axis: str, note: str = ""
) -> Figure:
    base = alt.Chart(alt.Data(values=values))
    y = alt.Y("name:N", sort=None, title=None)
    colour = alt.Color("model:N", scale=alt.Scale(domain=list(labels), range=[BEFORE, AFTER]))
    rules = base.mark_line(color=MUTED, strokeWidth=2, opacity=0.5).encode(x="value:Q", y=y, detail="name:N")
    dots = base.mark_point(filled=True, size=110, opacity=1).encode(
        x=alt.X("value:Q", title=axis, scale=alt.Scale(zero=False, padding=20)),
        y=y,
        color=colour,
        tooltip=[
            alt.Tooltip("name:N", title="of"),
            alt.Tooltip("model:N"),
            alt.Tooltip("value:Q", title=axis, format=".3f"),
        ],
    )
    told: dict[str, list[str]] = {}
    for one in values:
        told.setdefault(one["name"], []).append(f"{one['model']} {one['value']:.3f}")
    return figure(
        name,
        alt.layer(rules, dots),
        title=title,
        alt=f"{axis}. " + "; ".join(f"{of}: {', '.join(text)}" for of, text in told.items()),
        height=_height(len(told)),
        note=note,
    )


def precision_recall(made_of: Mapping[str, Breakdown]) -> list[Figure]:
    """Return precision over recall: the mean of the classes, and each class of a data set of few."""
    labels = list(made_of)
    names = list(dict.fromkeys(curve.name for one in made_of.values() for curve in one.curves))
    if not names:
        return []
    curves = {
        (label, curve.name): curve.precision
        for label, one in made_of.items()
        for curve in one.curves
        if curve.precision
    }
    means: dict[str, list[float]] = {}
    for label in labels:
        own = [values for (of, _), values in curves.items() if of == label]
        if own:
            means[label] = [sum(column) / len(own) for column in zip(*own, strict=True)]
    iou = next(iter(made_of.values())).iou_threshold
    found = [_curve_chart("pr-mean", means, "Precision over recall, mean of classes", 260, wide=False, iou=iou)]
    if 1 < len(names) <= MOST_CLASS_CURVES:
        found += [
            _curve_chart(
                f"pr-{number}",
                {label: curves[label, name] for label in labels if (label, name) in curves},
                name,
                150,
                wide=False,
                iou=iou,
            )
            for number, name in enumerate(names)
        ]
    return found


def _curve_chart(
    name: str, curves: Mapping[str, Sequence[float]], title: str, height: int, *, wide: bool, iou: float
) -> Figure:
    values = [
        {"model": label, "recall": place / (len(points) - 1), "precision": round(value, 4)}
        for label, points in curves.items()
        for place, value in enumerate(points)
        if place % 2 == 0
    ]
    chart = (
        alt.Chart(alt.Data(values=values))
        .mark_line(interpolate="step-before")
        .encode(
            x=alt.X("recall:Q", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(tickCount=5)),
            y=alt.Y("precision:Q", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(tickCount=5)),
            color=_of_models(list(curves)),
            tooltip=[
                alt.Tooltip("model:N"),
                alt.Tooltip("recall:Q", format=".2f"),
                alt.Tooltip("precision:Q", format=".3f"),
            ],
        )
    )
    areas = ", ".join(f"{label} {sum(points) / len(points):.3f}" for label, points in curves.items())
    return figure(
        name, chart, title=title, alt=f"Area under the curve at overlap {iou:g}: {areas}.", height=height, wide=wide
    )


def _of_models(labels: Sequence[str]) -> alt.Color:
    colours = [BEFORE, AFTER] if len(labels) == 2 else [AFTER] if len(labels) == 1 else list(SERIES)
    if len(labels) > 2:
        colours = [BEFORE, *list(SERIES)[: len(labels) - 2], AFTER]
    return alt.Color("model:N", scale=alt.Scale(domain=list(labels), range=colours))


def score_histograms(made_of: Mapping[str, Breakdown]) -> list[Figure]:
    """Return how many right and wrong detections score how much, one chart a model."""
    most = max((max([0, *one.right_by_score, *one.wrong_by_score]) for one in made_of.values()), default=0)
    found = []
    for number, (label, one) in enumerate(made_of.items()):
        parts = len(one.right_by_score)
        values = [
            {"score": at / parts, "to": (at + 1) / parts, "count": count, "is": name}
            for name, counts in (("right", one.right_by_score), ("wrong", one.wrong_by_score))
            for at, count in enumerate(counts)
        ]
        if not sum(value["count"] for value in values):
            continue
        chart = (
            alt.Chart(alt.Data(values=values))
            .mark_line(interpolate="step-after", point=False)
            .encode(
                x=alt.X("score:Q", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(tickCount=5)),
                y=alt.Y(
                    "count:Q",
                    title="detections",
                    scale=alt.Scale(type="symlog", domain=[0, most]),
                    axis=alt.Axis(values=_decades(most)),
                ),
                color=alt.Color("is:N", scale=alt.Scale(domain=["right", "wrong"], range=[GOOD, BAD])),
                strokeDash=alt.StrokeDash(
                    "is:N", scale=alt.Scale(domain=["right", "wrong"], range=[[1, 0], [5, 3]]), legend=None
                ),
                tooltip=["is:N", alt.Tooltip("score:Q", format=".2f"), alt.Tooltip("count:Q", title="detections")],
            )
        )
        right, wrong = sum(one.right_by_score), sum(one.wrong_by_score)
        found.append(
            figure(
                f"scores-{number}",
                chart,
                title=f"Scores of {label}",
                alt=f"{right} right and {wrong} wrong detections of {label} by score, in {parts} parts of 0 to 1.",
                height=200,
                note="The axis of counts is logarithmic, so that few sure ones are seen beside many unsure ones.",
            )
        )
    return found


def _decades(most: int) -> list[int]:
    return [0, *(10**power for power in range(len(str(max(most, 1)))))]


def error_kinds(made_of: Mapping[str, Breakdown]) -> Figure | None:
    """Return what each of TIDE's kinds of errors costs, for each model."""
    labels = [label for label, one in made_of.items() if one.errors]
    if not labels:
        return None
    values = [
        {"kind": ERROR_TEXTS.get(error.name, error.name), "model": label, "points": error.points, "count": error.count}
        for label in labels
        for error in made_of[label].errors
    ]
    chart = (
        alt.Chart(alt.Data(values=values))
        .mark_bar(cornerRadiusEnd=3)
        .encode(
            x=alt.X("points:Q", title="points of map50 that are lost by it"),
            y=alt.Y("kind:N", sort=None, title=None),
            yOffset=alt.YOffset("model:N", sort=list(labels)),
            color=_of_models(labels),
            tooltip=[
                alt.Tooltip("kind:N"),
                alt.Tooltip("model:N"),
                alt.Tooltip("points:Q", format=".2f"),
                alt.Tooltip("count:Q"),
            ],
        )
    )
    told = "; ".join(
        f"{label}: " + ", ".join(f"{ERROR_TEXTS.get(e.name, e.name)} {e.points:.1f}" for e in made_of[label].errors)
        for label in labels
    )
    return figure("errors", chart, title="Kinds of errors", alt=f"Points of map50. {told}.", height=_height(6, 44))


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
        height=max(_LEAST_PX, 16 * len(layers)),
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
