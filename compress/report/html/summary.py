"""The first screen: what came out, which limits hold, how to make it again."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

from compress.number_text import DASH, fixed_text, share_text, size_text
from compress.report.document import Document, Requirement, Row
from compress.report.html.charts import metric_of

_FIRST = ("format_version", "name", "seed", "device", "detector", "data")  # of a recipe, before its stages
METRIC_TEXTS = {"map": "mAP50-95", "map75": "mAP75", "map50": "mAP50"}


@dataclass(frozen=True)
class Tile:
    """One number that came out.

    Attributes:
        name: what it is.
        value: as shown, large.
        before: what it was.
        change: what became of it, in words.
        shares: of before and after, of the larger of both, for two bars; None: no bars.
    """

    name: str
    value: str
    before: str
    change: str
    shares: tuple[float, float] | None = None


@dataclass(frozen=True)
class Limit:
    """One limit of the recipe."""

    ok: bool
    text: str
    value: str
    how: str


def tiles(document: Document) -> list[Tile]:
    """Return bytes, accuracy and time of what ships beside those of the float model, as far as they are known."""
    start, final = document.row(document.float_label), document.row(document.final_label)
    if start is None or final is None:
        return []
    found = [_accuracy_tile(document, start, final)]
    if final.packed_bytes is not None:
        ratio = final.compression_ratio
        found.insert(
            0,
            Tile(
                "Size of the file",
                size_text(final.packed_bytes),
                f"{size_text(start.parameters_bytes)} of float parameters",
                DASH if ratio is None else f"{ratio:.1f} times smaller",
                _shares(start.parameters_bytes, final.packed_bytes),
            ),
        )
    if final.latency_ms_p50 is not None:
        found.append(_latency_tile(document, final))
    return found


def _accuracy_tile(document: Document, start: Row, final: Row) -> Tile:
    metric = metric_of(document)
    value, before = getattr(final, metric), getattr(start, metric)
    interval, loss = getattr(final, f"{metric}_interval"), getattr(final, f"{metric}_loss")
    within = getattr(final, f"{metric}_loss_interval")
    text = DASH if value is None else f"{100 * value:.1f}"
    if value is not None and interval is not None:
        text += f" ({100 * interval[0]:.1f} to {100 * interval[1]:.1f})"
    change = "not compared"
    if loss is not None:
        word = "lost" if loss >= 0 else "gained"
        change = f"{abs(100 * loss):.1f} points {word}"
        if within is not None:
            ends = (
                sorted((100 * within[0], 100 * within[1]))
                if loss >= 0
                else sorted((-100 * within[1], -100 * within[0]))
            )
            change += f" ({ends[0]:.1f} to {ends[1]:.1f})"
    was = DASH if before is None else f"{100 * before:.1f} before"
    return Tile(f"{METRIC_TEXTS[metric]} on {document.split}", text, was, change, _shares(before, value))


def _latency_tile(document: Document, final: Row) -> Tile:
    facts = next((f for f in document.benchmarks.values() if final.label in f.get("models", {})), {})
    reference = facts.get("reference")
    was = facts.get("models", {}).get(reference, {}).get("latency_ms_p50")
    ratio = facts.get("ratios", {}).get(final.label, {})
    change = DASH
    if final.speedup_p50 is not None:
        low, high = ratio.get("speedup_low"), ratio.get("speedup_high")
        within = "" if low is None or high is None else f" ({low:.2f} to {high:.2f})"
        change = f"{final.speedup_p50:.2f} times as fast{within}"
    before = f"{fixed_text(was, 1)} ms of {reference}" if was is not None else DASH
    return Tile(
        "Network on one image", f"{final.latency_ms_p50:.1f} ms", before, change, _shares(was, final.latency_ms_p50)
    )


def _shares(before: float | None, after: float | None) -> tuple[float, float] | None:
    if not before or not after or min(before, after) < 0:
        return None
    largest = max(before, after)
    return before / largest, after / largest


def limits(document: Document) -> list[Limit]:
    """Return the limits of the recipe in words."""
    return [_limit(entry) for entry in document.requirements]


def _limit(entry: Requirement) -> Limit:
    what, number = _words(entry.name)
    value = "not measured" if entry.value is None else number(entry.value)
    if entry.interval is not None and entry.value is not None:
        value = value.removesuffix(" points")
        value += f" ({number(entry.interval[0]).removesuffix(' points')} to {number(entry.interval[1])})"
    most = "at most" if entry.name.startswith("max_") else "at least"
    return Limit(entry.ok, f"{what} {most} {number(entry.limit)}", value, entry.how)


def _words(name: str) -> tuple[str, Callable[[float], str]]:
    """Return what a limit is about, and how its numbers are written."""
    about = name.removeprefix("max_").removeprefix("min_")
    known: dict[str, tuple[str, Callable[[float], str]]] = {
        "compression_ratio": ("Times smaller:", lambda value: f"{value:.1f}"),
        "packed_bytes": ("Bytes:", size_text),
        "latency_ms": ("Time:", lambda value: f"{value:.1f} ms"),
        "speedup": ("Times as fast:", lambda value: f"{value:.2f}"),
        "sparsity": ("Zeros:", share_text),
        "macs_removed": ("MACs removed:", share_text),
    }
    if about in known:
        return known[about]
    metric = about.removeprefix("float_").removesuffix("_loss")
    text = METRIC_TEXTS.get(metric, metric)
    points: Callable[[float], str] = lambda value: f"{100 * value:.1f} points"  # noqa: E731
    if about.endswith("_loss"):
        return f"{text} lost:", points
    return f"{text} of the {'float' if about.startswith('float_') else 'final'} model:", points


def recipe_text(document: Document) -> str:
    """Return the recipe that was run as YAML, all stages written out: it runs as it is."""
    from ruamel.yaml import YAML

    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = None
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.width = 110
    stream = io.StringIO()
    order = [*_FIRST, *(name for name in document.recipe if name not in _FIRST)]
    yaml.dump({name: document.recipe[name] for name in order if name in document.recipe and name != "goal"}, stream)
    return stream.getvalue()
