"""The tables of the page: text, what it is sorted by, and a bar where a share says more."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from compress.breakdown import Breakdown
from compress.number_text import (
    DASH,
    count_text,
    duration_text,
    fixed_text,
    interval_text,
    share_text,
    size_text,
)
from compress.report.document import Document, Row
from compress.report.forecast import check_rows
from compress.report.html.accuracy_charts import ERROR_TEXTS
from compress.report.layers import LayerRow
from compress.report.looks import looks_rows
from compress.report.sensitivity_table import sensitivity_tables

_NUMBER = re.compile(rf"{DASH}$|[-+]?\d[\d.,]*($|[ x%])")


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        text: as shown.
        key: what a column is sorted by; None sorts last.
        share: 0..1, drawn as a bar behind the text; None: no bar.
        strong: stands out.
    """

    text: str
    key: float | str | None = None
    share: float | None = None
    strong: bool = False


@dataclass(frozen=True)
class Table:
    """A table; its first column names the rows.

    Attributes:
        name: unique on the page.
        caption: what it holds, for the reader and for screen readers.
        head: names of the columns.
        rows: cells.
        sortable: columns can be sorted.
        tall: long, so that it scrolls in a box of its own.
    """

    name: str
    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    sortable: bool = False
    tall: bool = False

    @property
    def numeric(self) -> list[bool]:
        """Return which columns hold numbers, which stand to the right."""
        columns = zip(*self.rows, strict=True) if self.rows else ([] for _ in self.head)
        return [place > 0 and all(_NUMBER.match(cell.text) for cell in cells) for place, cells in enumerate(columns)]


def plain(name: str, caption: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Return a table of text."""
    return Table(name, caption, head, [[Cell(text, text) for text in row] for row in rows])


def models_table(document: Document) -> Table:
    """Return every model of the run: accuracy with intervals, counts, bytes, time."""
    first, *others = document.metrics() or ["map50"]
    head = ["model", f"{first} (95 %)", "lost (95 %)", *others, "params", "MACs", "zeros"]
    head += ["bytes (ratio)", "p50 (speed)"]
    return Table("models", f"Models of the run, in order; accuracy on the split {document.split}", head, [
        [
            Cell(row.label, row.label, strong=row.label == document.final_label),
            _within(getattr(row, first), getattr(row, f"{first}_interval")),
            _within(getattr(row, f"{first}_loss"), getattr(row, f"{first}_loss_interval")),
            *(_number(getattr(row, metric), 3) for metric in others),
            Cell(count_text(row.params), row.params),
            Cell(count_text(row.macs), row.macs),
            Cell(share_text(row.sparsity), row.sparsity),
            Cell(size_text(row.packed_bytes) + _times(row.compression_ratio, 1), row.packed_bytes),
            Cell(fixed_text(row.latency_ms_p50, 2, " ms") + _times(row.speedup_p50, 2), row.latency_ms_p50),
        ]
        for row in document.rows
    ], sortable=True)  # fmt: skip


def _within(value: float | None, interval: tuple[float, float] | None) -> Cell:
    return Cell(fixed_text(value) + ("" if interval is None else f" ({interval_text(interval)})"), value)


def _times(ratio: float | None, digits: int) -> str:
    return "" if ratio is None else f" ({ratio:.{digits}f}x)"


def _number(value: float | None, digits: int, unit: str = "") -> Cell:
    return Cell(fixed_text(value, digits, unit), value)


def classes_table(before: Row, after: Row) -> Table | None:
    """Return the accuracy of each class by each metric, before and after."""
    fields = [("map", "map_per_class"), ("map75", "map75_per_class"), ("map50", "ap_per_class")]
    known = [(metric, name) for metric, name in fields if getattr(before, name) or getattr(after, name)]
    names = list(dict.fromkeys(k for _, name in known for row in (before, after) for k in getattr(row, name)))
    if not names:
        return None
    head = ["class", *(f"{metric}, {row.label}" for metric, _ in known for row in (before, after))]
    rows = [
        [Cell(k, k), *(_number(getattr(row, name).get(k), 3) for _, name in known for row in (before, after))]
        for k in names
    ]
    return Table("classes", "Average precision of each class", head, rows, sortable=True)


def errors_table(made_of: dict[str, Breakdown]) -> Table | None:
    """Return how many errors of each kind there are and what they cost."""
    labels = [label for label, one in made_of.items() if one.errors]
    if not labels:
        return None
    kinds = {label: {error.name: error for error in made_of[label].errors} for label in labels}
    head = ["kind", *(f"{text}, {label}" for text in ("points lost", "count") for label in labels)]
    rows = [
        [
            Cell(text, text),
            *(_number(kinds[label][kind].points, 2) for label in labels),
            *(Cell(f"{kinds[label][kind].count:,}", kinds[label][kind].count) for label in labels),
        ]
        for kind, text in ERROR_TEXTS.items()
        if all(kind in kinds[label] for label in labels)
    ]
    return Table("error-kinds", "Kinds of errors: points of map50 that each costs, and how many there are", head, rows)


def images_table(before: str, after: str, made_of: dict[str, Breakdown]) -> Table | None:
    """Return every image, those on which most was lost first."""
    if before not in made_of or after not in made_of:
        return None
    first = {one.name: one for one in made_of[before].images}
    pairs = [(first[one.name], one) for one in made_of[after].images if one.name in first]
    if not pairs:
        return None
    pairs.sort(key=lambda pair: (-(pair[0].f1 - pair[1].f1), pair[1].f1, pair[1].name))
    head = ["image", "objects", f"F1, {before}", f"F1, {after}", "F1 lost"]
    head += [f"{what}, {label}" for what in ("missed", "wrong") for label in (before, after)]
    if before == after:
        return None
    rows = [
        [
            Cell(b.name, b.name),
            Cell(str(b.objects), b.objects),
            _number(b.f1, 2),
            _number(a.f1, 2),
            Cell(f"{b.f1 - a.f1:+.2f}", b.f1 - a.f1, strong=b.f1 - a.f1 > 0),
            *(Cell(str(value), value) for value in (b.missed, a.missed, b.wrong, a.wrong)),
        ]
        for b, a in pairs
    ]
    return Table("images", "Every image, the worst first", head, rows, sortable=True, tall=True)


def layers_table(layers: Sequence[LayerRow]) -> Table | None:
    """Return every layer with bars that tell its share of the largest."""
    if not layers:
        return None
    columns = [
        ("MACs", "macs", count_text),
        ("ms", "latency_ms", lambda value: fixed_text(value, 3)),
        ("bits", "bit_width", lambda value: DASH if value is None else str(value)),
        ("zeros", "zeros", share_text),
        ("bytes in the file", "packed_bytes", size_text),
        ("error", "error", share_text),
        ("params", "params", count_text),
        ("ms, forecast", "forecast_ms", lambda value: fixed_text(value, 3)),
        ("bytes, forecast", "forecast_bytes", size_text),
    ]
    shown = [column for column in columns if any(getattr(row, column[1]) is not None for row in layers)]
    most = {name: max((getattr(row, name) or 0) for row in layers) or 1 for _, name, _ in shown}
    rows = [
        [
            Cell(row.name, row.name),
            *(
                Cell(text(value), value, None if value is None else min(1.0, value / most[name]))
                for _, name, text in shown
                for value in (getattr(row, name),)
            ),
            Cell(
                "integers"
                if row.integer
                else DASH
                if row.integer is None
                else f"float: {row.float_reason or 'as asked for'}",
                "" if row.integer is None else "integers" if row.integer else "float",
            ),
        ]
        for row in layers
    ]
    head = ["layer", *(title for title, _, _ in shown), "computed in"]
    return Table("layer-table", "Layers of the final network", head, rows, sortable=True, tall=len(layers) > 24)


def forecast_table(document: Document) -> Table | None:
    """Return what the plan should leave beside what it left."""
    head, *rows = check_rows(document.forecast_checks)
    return plain("forecast", "Forecast and outcome", head, rows) if rows else None


def latency_tables(document: Document) -> list[Table]:
    """Return the percentiles of every benchmark."""
    tables: list[Table] = []
    for label, facts in document.benchmarks.items():
        for title, measured in (("network only", facts), ("picture to boxes", facts.get("end_to_end") or {})):
            ratios = measured.get("ratios", {})
            rows = []
            for name, times in measured.get("models", {}).items():
                ratio = ratios.get(name, {})
                low, high = ratio.get("speedup_low"), ratio.get("speedup_high")
                within = "" if low is None or high is None else f" ({low:.2f} to {high:.2f})"
                speed = DASH if ratio.get("speedup_p50") is None else f"{ratio['speedup_p50']:.2f}x{within}"
                rows.append(
                    [name, *(fixed_text(times.get(f"latency_ms_{q}"), 2) for q in ("p50", "p90", "p99")), speed]
                )
            if rows:
                stated = ", ".join(f"{key} {facts[key]}" for key in ("threads", "warmup", "runs") if key in facts)
                tables.append(
                    plain(
                        f"latency-{len(tables)}",
                        f"Latency, {title}, of {label}: {facts.get('cpu', DASH)}; {stated}; models in turns",
                        [
                            "model",
                            "p50 ms",
                            "p90 ms",
                            "p99 ms",
                            f"times as fast as {measured.get('reference', DASH)} (95 %)",
                        ],
                        rows,
                    )
                )
    return tables


def run_table(document: Document) -> Table:
    """Return the stages with time, memory and hashes."""
    rows = [
        [
            Cell(one.label, one.label),
            Cell(one.stage, one.stage),
            Cell(duration_text(one.seconds), one.seconds),
            Cell(size_text(one.peak_memory_bytes), one.peak_memory_bytes),
            Cell(one.key[:12], one.key),
            Cell(one.digest[:12], one.digest),
        ]
        for one in document.stages
    ]
    head = ["stage", "kind", "time", "peak memory", "key", "digest"]
    return Table("stages-run", "Stages: time, memory and hashes", head, rows, sortable=True)


def looks_table(document: Document) -> Table | None:
    """Return what was seen of 'val' outside training."""
    head, *rows = looks_rows(document.looks)
    return plain("looks", "Looks at val, points lost against the float model", head, rows) if rows else None


def sensitivity_html_tables(document: Document) -> list[Table]:
    """Return what the parts of the network can bear."""
    return [
        plain(f"sensitivity-{number}", f"{label}: {title}", head, rows)
        for number, (label, title, head, rows) in enumerate(
            (label, *table) for label, found in document.sensitivities.items() for table in sensitivity_tables(found)
        )
    ]
