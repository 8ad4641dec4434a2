"""What a run prints: the plan before it, the table after it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from compress.number_text import count_text, duration_text, size_text

if TYPE_CHECKING:
    from compress.engine.outcome import RunResult

_PLAIN_WIDTH = 160


def print_results(run: RunResult) -> None:
    """Print the table of stages and where the report lies."""
    from rich.console import Console
    from rich.table import Table

    console = Console() if sys.stdout.isatty() else Console(width=_PLAIN_WIDTH, no_color=True)
    table = Table("stage", "time", "peak memory", "facts")
    for result in run.results:
        artifact = result.artifact
        time_text = "cached" if result.was_cached else duration_text(artifact.seconds)
        memory = size_text(artifact.peak_memory_bytes) if artifact.peak_memory_bytes else ""
        table.add_row(artifact.label, time_text, memory, key_facts(artifact.facts))
    console.print(table)
    if run.report is not None:
        print(f"report: {run.report}")
        if (page := run.report.with_name("report.html")).is_file():
            print(f"in a browser: {page}")


def key_facts(facts: Mapping[str, Any]) -> str:
    """Return the few numbers of a stage that people look for first."""
    scores = facts.get("scores")
    shown = {"packed_bytes": size_text} if scores else _SHOWN  # a score says little new of the model itself
    texts = [f"{name} {show(facts[name])}" for name, show in shown.items() if facts.get(name) is not None]
    if isinstance(scores, Mapping) and scores.get("map50") is not None:
        split, coco = facts.get("split", "?"), scores.get("map")
        texts.insert(0, f"map50 {scores['map50']:.4f} ({scores.get('ap_method', '?')}, {split})")
        if coco is not None:
            texts.insert(0, f"map {coco:.4f}")
    models = facts.get("models")
    if isinstance(models, Mapping):
        texts += [f"{label} {row['latency_ms_p50']:.1f} ms" for label, row in models.items() if "latency_ms_p50" in row]
    return ", ".join(texts)


_SHOWN: dict[str, Callable[[Any], str]] = {
    "best_map": lambda value: f"{value:.4f}",
    "best_map50": lambda value: f"{value:.4f}",
    "epochs_run": str,
    "params": count_text,
    "macs": count_text,
    "sparsity": lambda value: f"{value:.1%}",
    "onnx_bytes": size_text,
    "packed_bytes": size_text,
}
