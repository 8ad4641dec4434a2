"""What a sweep came to: the points that no other one beats in every objective, as data, markdown and text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from compress.artifact import to_json
from compress.errors import printable
from compress.machine import describe_machine
from compress.number_text import DASH, duration_text, interval_text, size_text
from compress.sweep.measured import Measured, Score, losses
from compress.sweep.model import Sweep

FORMAT_VERSION = 1
_METRIC = "map"  # what is compared where no objective is a score


@dataclass(frozen=True)
class Point:
    """A trial with what it came to.

    Attributes:
        number: of the trial; None is the recipe as it stands.
        name: of its folder and recipe.
        values: field of the recipe -> value.
        state: 'done', 'stopped' or 'failed'.
        text: why, unless done.
        measured: what its file is, if done.
        seconds: of its worker, waiting included.
        cpu_seconds: of its worker and its children.
    """

    number: int | None
    name: str
    values: dict[str, Any]
    state: str
    text: str
    measured: Measured | None
    seconds: float
    cpu_seconds: float = 0.0


@dataclass(frozen=True)
class Front:
    """A finished sweep, or what is there of one.

    Attributes:
        sweep: what was searched.
        points: all trials, in order.
        best: those that no other one beats, by the first objective.
        baseline: the recipe as it stands, None if it was not run.
        seconds: of all runs of the sweep.
    """

    sweep: Sweep
    points: tuple[Point, ...]
    best: tuple[Point, ...]
    baseline: Point | None
    seconds: float

    @property
    def metrics(self) -> tuple[str, ...]:
        """Return the scores that are told: those among the objectives, else map."""
        return self.sweep.metrics or (_METRIC,)

    def to_json(self) -> dict[str, Any]:
        """Return plain data: `format_version`, `sweep`, `seconds`, `trials`, `front`, `baseline`, `environment`.

        A trial has `number`, `name`, `state` ('done', 'stopped', 'failed'), `text`, `values`, `seconds` and
        `cpu_seconds`; one that is done also `bytes`, `ms`, `reference_ms`, `scores` and `intervals` (on 'val'), and
        `against_float` and `against_baseline`: metric -> `points` that are lost and their paired `interval`, negative
        where it is better. `front` holds numbers of trials.
        """
        return {
            "format_version": FORMAT_VERSION,
            "sweep": self.sweep.model_dump(mode="json"),
            "seconds": self.seconds,
            "trials": [self._plain(point) for point in self.points],
            "front": [point.number for point in self.best],
            "baseline": None if self.baseline is None else self._plain(self.baseline),
            "environment": describe_machine(),
        }

    def _plain(self, point: Point) -> dict[str, Any]:
        known = ("number", "name", "state", "text", "values", "seconds", "cpu_seconds")
        plain: dict[str, Any] = {name: getattr(point, name) for name in known}
        found = point.measured
        if found is None:
            return plain
        before = self.baseline.measured if self.baseline is not None else None
        return plain | {
            "bytes": found.packed_bytes,
            "ms": found.latency_ms,
            "reference_ms": found.reference_ms,
            "scores": found.score.values,
            "intervals": found.score.intervals,
            "against_float": _lost(found.reference, found.score),
            "against_baseline": None if before is None else _lost(before.score, found.score),
        }

    def rows(self) -> list[list[str]]:
        """Return the table of the front: a head, a row a point, and one for the recipe as it stands."""
        paths = list(self.sweep.space)
        has_time = "ms" in self.sweep.objectives
        scores = [column for metric in self.metrics for column in (f"{metric} (95 %)", "lost against the recipe")]
        head = ["point", "bytes", *(["ms (float)"] if has_time else []), *scores, *_short_names(paths)]
        return [head, *(self._row(point, paths, has_time) for point in self._shown())]

    def _shown(self) -> list[Point]:
        baseline = [self.baseline] if self.baseline is not None and self.baseline.measured is not None else []
        return [*self.best, *baseline]

    def _row(self, point: Point, paths: Sequence[str], has_time: bool) -> list[str]:
        found = point.measured
        assert found is not None
        cells = ["recipe" if point.number is None else str(point.number), size_text(found.packed_bytes)]
        if has_time:
            cells.append(f"{found.latency_ms:.1f} ({found.reference_ms:.1f})")
        for metric in self.metrics:
            cells += [_score_text(found.score, metric), self._lost_text(point, metric)]
        return cells + [_value_text(point.values[path]) if path in point.values else DASH for path in paths]

    def _lost_text(self, point: Point, metric: str) -> str:
        before = self.baseline.measured if self.baseline is not None else None
        if point.number is None or before is None or point.measured is None:
            return DASH
        found = losses({metric: 0.0}, before.score, point.measured.score)
        if not found:
            return DASH
        ends = found[0].interval
        return f"{found[0].points:.2f}" + ("" if ends is None else f" ({ends[0]:.2f} to {ends[1]:.2f})")

    def text(self) -> str:
        """Return the table for a terminal, and what became of the other trials."""
        rows = self.rows()
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([*lines, "", self.summary()])

    def summary(self) -> str:
        """Return one sentence about all trials."""
        states = [point.state for point in self.points]
        others = [f"{states.count(state)} {word}" for state, word in _WORDS.items() if states.count(state)]
        return (
            f"{len(self.points)} trials in {duration_text(self.seconds)}: {', '.join(others)}; {len(self.best)} that "
            f"no other one beats in {', '.join(self.sweep.objectives)}."
        )

    def markdown(self) -> str:
        """Return the front and all trials as GitHub markdown."""
        told = [f"# {self.sweep.name}", self.summary(), _markdown_table(self.rows()), self._note()]
        rows = [["trial", "state", *self.sweep.objectives, "time", *_short_names(list(self.sweep.space))]]
        for point in self.points:
            measured = [_objective_text(point, name) for name in self.sweep.objectives]
            values = [_value_text(value) for value in point.values.values()]
            rows.append([str(point.number), point.state, *measured, duration_text(point.seconds), *values])
        told += ["## All trials", _markdown_table(rows)]
        told += [f"- {point.number}, {point.state}: {_cell(point.text)}" for point in self.points if point.text]
        return "\n\n".join(told) + "\n"

    def _note(self) -> str:
        return (
            "Scores are of `val`, with 95 % bootstrap intervals over its images. Lost against the recipe: points of "
            "the recipe as it stands minus those of the point, with the paired interval; negative where the point is "
            "better. The best of many trials on the same images looks better than it is: run the recipe of a point to "
            "its report before you believe it. `points/` has a recipe for each."
        )


_WORDS = {"done": "finished", "stopped": "given up early", "failed": "failed"}


def make_front(
    sweep: Sweep, points: Sequence[Point], best: Sequence[int], baseline: Point | None, *, seconds: float
) -> Front:
    """Return the front of finished trials.

    Args:
        sweep: what was searched.
        points: all trials.
        best: numbers of those that no other one beats. Of several that agree in every objective the first is taken.
        baseline: the recipe as it stands, if it was run.
        seconds: of all runs of the sweep.
    """
    kept: dict[tuple[float, ...], Point] = {}
    for point in points:
        if point.number in best and point.measured is not None:
            kept.setdefault(tuple(point.measured.value(name) for name in sweep.objectives), point)
    ordered = [point for _, point in sorted(kept.items(), key=lambda entry: entry[0])]
    return Front(sweep, tuple(points), tuple(ordered), baseline, seconds)


def point_text(point: Point, objectives: Sequence[str]) -> str:
    """Return one line about a trial that ended."""
    name = "the recipe as it stands" if point.number is None else f"trial {point.number}"
    values = ", ".join(
        f"{short} {_value_text(value)}"
        for short, value in zip(_short_names(list(point.values)), point.values.values(), strict=True)
    )
    if point.measured is None:
        came = point.text or point.state
    else:
        came = ", ".join(f"{name} {_objective_text(point, name)}" for name in objectives)
    return printable(f"{name}{f' ({values})' if values else ''}: {came}; {duration_text(point.seconds)}")


def _lost(before: Score, after: Score) -> dict[str, Any]:
    found = losses(dict.fromkeys(before.values, 0.0), before, after)
    return {loss.metric: {"points": loss.points, "interval": loss.interval} for loss in found}


def _objective_text(point: Point, objective: str) -> str:
    if point.measured is None:
        return DASH
    value = point.measured.value(objective)
    return size_text(value) if objective == "bytes" else f"{value:.1f} ms" if objective == "ms" else f"{value:.3f}"


def _score_text(score: Score, metric: str) -> str:
    value, interval = score.values.get(metric), score.intervals.get(metric)
    if value is None:
        return DASH
    return f"{value:.3f}" + ("" if interval is None else f" ({interval_text(interval)})")


def _value_text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else value if isinstance(value, str) else to_json(value)


def _short_names(paths: Sequence[str]) -> list[str]:
    """Return the last parts of paths, as many as make them differ."""
    split = [path.split(".") for path in paths]
    for length in range(1, max(map(len, split), default=0) + 1):
        names = [".".join(parts[-length:]) for parts in split]
        if len(set(names)) == len(names):
            return names
    return list(paths)


def _cell(text: str) -> str:
    return printable(text).replace("|", "\\|")


def _markdown_table(rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(map(_cell, row))} |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])
