"""A comparison as text: Markdown whose tables are aligned, so that a terminal shows them well, too."""

from __future__ import annotations

from collections.abc import Sequence

from compress.compare.comparison import Against, Comparison
from compress.compare.differences import Difference
from compress.compare.sides import Side
from compress.errors import printable
from compress.number_text import DASH, fixed_text, interval_text, size_text

SHOWN_LAYERS = 20


def render(found: Comparison) -> str:
    """Return the comparison as Markdown."""
    blocks = ["## Side by side", table(_head(found), [_side_row(found, side) for side in found.sides])]
    reference = found.sides[0]
    for one in found.against:
        blocks.append(f"## {_text(one.name)} against {_text(reference.name)}")
        blocks.append("\n".join(f"- {line}" for line in sentences(one)))
        blocks += _pictures(one) + _layers(one)
    if found.notes:
        blocks += ["## Notes", "\n".join(f"- {_text(note)}" for note in found.notes)]
    return "\n\n".join(blocks) + "\n"


def sentences(one: Against) -> list[str]:
    """Return what one side gains and loses, a line each."""
    lines = [_difference(change) for change in one.differences]
    if one.num_bytes is not None:
        lines.append(f"file: {one.num_bytes:+,} bytes ({fixed_text(one.bytes_ratio, 2)} times smaller)")
    if (timing := one.timing) is not None:
        low, high = timing.interval
        lines.append(
            f"time: {timing.reference_ms:.2f} -> {timing.other_ms:.2f} ms, {100 * (timing.ratio - 1):+.1f} % "
            f"({100 * (low - 1):+.1f} to {100 * (high - 1):+.1f}), side by side in {timing.processes} processes"
        )
    return lines


def _difference(change: Difference) -> str:
    if change.points is None:
        return f"{change.metric}: {change.note}"
    if change.interval is None:
        return f"{change.metric}: {change.points:+.2f} points; no interval: {change.note}"
    low, high = change.interval
    sure = "" if change.is_sure else ", which may be nothing"
    basis = "paired" if change.basis == "paired" else f"not paired: {change.note}"
    return f"{change.metric}: {change.points:+.2f} points ({low:+.2f} to {high:+.2f}, {basis}){sure}"


def _head(found: Comparison) -> list[str]:
    scores = [f"{metric} (95 % interval)" for metric in found.metrics]
    return ["model", *scores, "images", "file", "latency of its run"]


def _side_row(found: Comparison, side: Side) -> list[str]:
    scored = side.scored
    values = []
    for metric in found.metrics:
        value = None if scored is None else scored.values.get(metric)
        ends = None if scored is None else scored.intervals.get(metric)
        values.append(fixed_text(value, 3) + ("" if value is None or ends is None else f" ({interval_text(ends)})"))
    images = DASH if scored is None else f"{scored.images.num_images} of {scored.images.split}"
    return [side.title, *values, images, size_text(side.num_bytes), fixed_text(side.latency_ms, 2, " ms")]


def _pictures(one: Against) -> list[str]:
    if not one.pictures:
        return []
    rows = [
        [change.name, str(change.objects), f"{change.found[0]} -> {change.found[1]}",
         f"{change.wrong[0]} -> {change.wrong[1]}"]
        for change in one.pictures
    ]  # fmt: skip
    told = f"Pictures that differ most, losses first (detections that score {one.score_threshold:g} or more):"
    return [told, table(["picture", "objects", "found", "wrong"], rows)]


def _layers(one: Against) -> list[str]:
    if not one.layers:
        return []
    rows = [[change.name, change.told, f"{change.num_bytes:+,}"] for change in one.layers[:SHOWN_LAYERS]]
    more = len(one.layers) - len(rows)
    told = f"{len(one.layers)} layers differ{f', the first {len(rows)} by bytes' if more else ''}:"
    return [told, table(["layer", "what changed", "bytes"], rows)]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return an aligned Markdown table; cells may hold anything."""
    lines = [[_cell(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[column]) for row in lines) for column in range(len(head))]
    texts = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in lines
    ]
    return "\n".join([texts[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *texts[1:]])


def _cell(text: str) -> str:
    return _text(text).replace("|", "\\|")


def _text(text: str) -> str:
    """Return text from files of others, so that it stays text in Markdown."""
    return printable(text).replace("<", "&lt;")
