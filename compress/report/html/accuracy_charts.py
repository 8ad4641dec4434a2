"""The charts of accuracy: classes, sizes, precision over recall, scores, kinds of errors; before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from compress.breakdown import Breakdown
from compress.report.document import Row
from compress.report.html.figure import Figure, figure, rows_height
from compress.report.html.theme import AFTER, BAD, BEFORE, GOOD, MUTED, SERIES

ERROR_TEXTS = {
    "cls": "wrong class",
    "loc": "badly placed",
    "both": "wrong class and place",
    "dupe": "found twice",
    "bkg": "nothing there",
    "missed": "missed",
}
MOST_CLASS_CURVES = 24


def by_class(before: Row, after: Row) -> Figure | None:
    """Return the accuracy of each class, before and after."""
    for metric, field_name in (("map", "map_per_class"), ("map50", "ap_per_class")):
        values = _paired(getattr(before, field_name), getattr(after, field_name), before.label, after.label)
        if values:
            return _dumbbells("by-class", values, (before.label, after.label), title="By class", axis=metric)
    return None


def by_size(before: Row, after: Row) -> Figure | None:
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
        height=rows_height(len(told)),
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
    values: list[dict[str, Any]] = [
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
        values: list[dict[str, Any]] = [
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
    return figure("errors", chart, title="Kinds of errors", alt=f"Points of map50. {told}.", height=rows_height(6, 44))
