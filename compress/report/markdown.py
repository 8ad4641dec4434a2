"""report.md: the document in the order in which one asks. Pure text in, text out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from compress.markdown_text import cell as _cell
from compress.markdown_text import link
from compress.number_text import DASH, count_text, duration_text, fixed_text, interval_text, share_text, size_text
from compress.report.document import Document, Row, history_metric
from compress.report.forecast import check_rows
from compress.report.looks import looks_rows, looks_sentence
from compress.report.sensitivity_table import sensitivity_note, sensitivity_tables


def render(document: Document) -> str:
    """Return the whole report as GitHub markdown; charts and pictures are linked beside it."""
    parts = [
        f"# {document.name}",
        summary_sentence(document),
        _requirements(document),
        _images([name for name in document.charts if name.startswith("results")]),
        "## Models\n\n" + _scores_note(document) + "\n\n" + _table(*models_table(document)),
        _per_class(document),
        _latency(document),
        _forecast(document),
        _looks(document),
        _sensitivities(document),
        _pictures(document),
        _trainings(document),
        _exports(document),
        _left_out(document),
        _section("Warnings", "\n".join(f"- {_cell(text)}" for text in document.warnings)),
        _resources(document),
        _environment(document),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def summary_sentence(document: Document) -> str:
    """Return what came out, in one sentence."""
    start, final = document.row(document.float_label), document.row(document.final_label)
    if start is None or final is None:
        return "The run has no model to compare."
    scores = [
        f"{metric} {fixed_text(getattr(start, metric))} -> {fixed_text(getattr(final, metric))}"
        for metric in document.metrics() or ["map50"]
    ]
    return (
        f"`{start.label}` -> `{final.label}`: "
        f"{size_text(start.parameters_bytes)} -> {size_text(final.packed_bytes)} "
        f"(compression_ratio {fixed_text(final.compression_ratio, 1)}), "
        f"{', '.join(scores)} on `{document.split}`{_loss_text(document, final)}, "
        f"latency p50 {_speed(document, final)}."
    )


def _loss_text(document: Document, final: Row) -> str:
    losses = []
    for metric in document.metrics():
        loss, interval = getattr(final, f"{metric}_loss"), getattr(final, f"{metric}_loss_interval")
        if loss is not None:
            within = "" if interval is None else f" [{interval_text(interval)}]"
            losses.append(f"of {metric} against `{_baseline(document, metric)}` {fixed_text(loss)}{within}")
    return f" (loss {', '.join(losses)})" if losses else ""


def _baseline(document: Document, metric: str) -> str | None:
    return document.baseline_labels.get(metric) or document.baseline_label


def models_table(document: Document) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of the result table: the first metric with interval and loss, the others alone."""
    first, *others = document.metrics() or ["map50"]
    threshold = next(
        (r.precision_score_threshold for r in document.rows if r.precision_score_threshold is not None), None
    )
    head = [
        "model", first, "95 % interval", "loss", "95 % interval of the loss", *others, "recall",
        "precision" if threshold is None else f"precision @ score {threshold:g}",
        "detections", "params", "MACs", "sparsity", "bytes, packed", "compression_ratio", "latency p50",
        "time", "peak memory",
    ]  # fmt: skip
    rows = [
        [
            _name(row, document.final_label),
            fixed_text(getattr(row, first), 4),
            interval_text(getattr(row, f"{first}_interval")),
            fixed_text(getattr(row, f"{first}_loss")),
            interval_text(getattr(row, f"{first}_loss_interval")),
            *(fixed_text(getattr(row, metric), 4) for metric in others),
            fixed_text(row.recall),
            fixed_text(row.precision),
            DASH if row.num_detections is None else str(row.num_detections),
            count_text(row.params),
            count_text(row.macs),
            share_text(row.sparsity),
            size_text(row.packed_bytes),
            fixed_text(row.compression_ratio, 2),
            fixed_text(row.latency_ms_p50, 1, " ms"),
            duration_text(row.seconds),
            size_text(row.peak_memory_bytes),
        ]
        for row in document.rows
    ]
    return head, rows


def plain_table(document: Document) -> str:
    """Return the result table for a terminal, aligned, with the requirements below it."""
    head, rows = models_table(document)
    left_out = {"95 % interval", "95 % interval of the loss", "recall", "detections", "time", "peak memory"}
    keep = [i for i, name in enumerate(head) if name not in left_out and not name.startswith("precision")]
    cells = [[line[i].strip("*") for i in keep] for line in [head, *rows]]
    widths = [max(len(line[i]) for line in cells) for i in range(len(keep))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    lines.insert(1, "  ".join("-" * width for width in widths))
    for entry in document.requirements:
        verdict = "ok    " if entry.ok else "MISSED"
        value = fixed_text(entry.value) + (f" [{interval_text(entry.interval)}]" if entry.interval else "")
        lines.append(f"{verdict} {entry.name}: {value} (limit {entry.limit:g}; {entry.how})")
    return "\n".join(lines)


def _name(row: Row, final_label: str | None) -> str:
    """Return the label, bold for the model that ships, with the stage where the label does not say it."""
    label = f"**{row.label}**" if row.label == final_label else row.label
    return label if row.label == row.stage else f"{label} ({row.stage})"


def _speed(document: Document, row: Row) -> str:
    text = fixed_text(row.latency_ms_p50, 1, " ms")
    if row.speedup_p50 is None:
        return text
    facts = next((f for f in document.benchmarks.values() if row.label in f.get("models", {})), {})
    return f"{text} ({row.speedup_p50:.2f}x as fast as `{facts.get('reference', 'the reference')}`)"


def _scores_note(document: Document) -> str:
    row = next((row for row in document.rows if row.num_images is not None), None)
    lines = [
        "`bytes, packed` is the size if exported and packed at that point; time and peak memory are those of the stage "
        f"itself; `{DASH}` means: not measured."
    ]
    if row is not None:
        objects = "" if row.num_objects is None else f", {row.num_objects:,} objects"
        lines[:0] = [
            f"Split `{document.split}`, {row.num_images} images{objects}.",
            *_without_truth(document, row),
            *_metrics_note(document, row),
            "recall at any score; detections: above the deployed score threshold"
            f"{_number(document.deployed_score_threshold)}.",
        ]
    start = document.row(document.float_label)
    if start is not None and start.parameters_bytes is not None:
        lines.append(
            f"compression_ratio = {start.parameters_bytes:,} bytes (float32 safetensors of the parameters that the "
            f"graph of `{start.label}` uses) / packed bytes."
        )
    best = [f"{m} of `{label}`" for m in document.metrics() if (label := _baseline(document, m)) is not None]
    if best:
        lines.append(
            f"loss: {', '.join(best)}, the best float model, minus that of the row; its interval is "
            "a paired bootstrap over images (both models on the same draws)."
        )
    facts = next(iter(document.benchmarks.values()), None)
    if facts is not None:
        lines.append(f"latency p50: network only, {facts.get('threads') or 'all'} thread(s), see Latency.")
    return " ".join(lines)


def _without_truth(document: Document, row: Row) -> list[str]:
    """Say which classes, or that all of them, have nothing to be found."""
    names = ", ".join(f"`{name}`" for name in document.classes_without_truth)
    if not names:
        return []
    if len(document.classes_without_truth) == len(row.ap_per_class):
        return [f"**No object of any class ({names}): map, map75, map50 and recall cannot be measured.**"]
    return [f"No object of the classes {names}: no mean counts them."]


def _metrics_note(document: Document, row: Row) -> list[str]:
    """Say what each metric is."""
    notes = []
    if row.map is not None:
        notes.append(
            "map: COCO's mean average precision (mAP50-95), over the classes, ten IoU thresholds from 0.50 to 0.95 and "
            f"101 recall points, of at most {row.max_dets} detections of a class in an image; map75: the same at 0.75."
        )
    if row.map50 is not None:
        notes.append(
            f"map50: mean over classes of the average precision by the method `{row.ap_method}` at IoU >= "
            f"{row.iou_threshold:g}."
        )
    return notes


def _number(value: float | None) -> str:
    return "" if value is None else f" {value:g}"


def _requirements(document: Document) -> str:
    if not document.requirements:
        return ""
    rows = [
        [
            "yes" if r.ok else "**NO**",
            f"`{r.name}`",
            fixed_text(r.value),
            interval_text(r.interval),
            f"{r.limit:g}",
            r.how,
        ]
        for r in document.requirements
    ]
    head = ["met", "requirement", "value", "95 % interval", "limit", "what was compared"]
    return _section("Requirements", _table(head, rows))


def _per_class(document: Document) -> str:
    scored = [row for row in document.rows if row.ap_per_class]
    if not scored:
        return ""
    extra = list(dict.fromkeys(name for row in scored for name in row.extra_scores))
    tables = []
    for metric, field in (("map", "map_per_class"), ("map75", "map75_per_class"), ("map50", "ap_per_class")):
        classes = list(dict.fromkeys(name for row in scored for name in getattr(row, field)))
        rows = [[row.label, *(fixed_text(getattr(row, field).get(name)) for name in classes)] for row in scored]
        if classes:
            tables.append(f"{metric}:\n\n" + _table(["model", *classes], rows))
    parts = [_section("Average precision by class", "\n\n".join(tables)), _losses(document)]
    if extra:
        rows = [[row.label, *(fixed_text(row.extra_scores.get(name)) for name in extra)] for row in scored]
        parts.append(_section("Further scores", _table(["model", *extra], rows)))
    return "\n\n".join(part for part in parts if part)


def _losses(document: Document) -> str:
    """Return what each model loses by each metric, where there are several."""
    metrics = document.metrics()
    if len(metrics) < 2:
        return ""
    head = ["model", *(text for metric in metrics for text in (metric, "95 % interval", "loss", "95 % of the loss"))]
    rows = [
        [
            row.label,
            *(
                text
                for metric in metrics
                for text in (
                    fixed_text(getattr(row, metric), 4),
                    interval_text(getattr(row, f"{metric}_interval")),
                    fixed_text(getattr(row, f"{metric}_loss"), 4),
                    interval_text(getattr(row, f"{metric}_loss_interval")),
                )
            ),
        ]
        for row in document.rows
        if any(getattr(row, metric) is not None for metric in metrics)
    ]
    return _section("Losses by metric", _table(head, rows))


def _latency(document: Document) -> str:
    parts = []
    for label, facts in document.benchmarks.items():
        for title, measured in (("network only", facts), ("picture to boxes", facts.get("end_to_end"))):
            if not measured or not measured.get("models"):
                continue
            rows = [
                [
                    name,
                    *(fixed_text(times.get(f"latency_ms_{q}"), 2) for q in ("p50", "p90", "p99", "mean")),
                    _ratio_text(measured.get("ratios", {}).get(name)),
                ]
                for name, times in measured["models"].items()
            ]
            head = [
                "model",
                "p50 ms",
                "p90 ms",
                "p99 ms",
                "mean ms",
                f"times as fast as {measured.get('reference', 'the first')} (95 %)",
            ]
            parts.append(f"{label}, {title}:\n\n" + _table(head, rows))
        size = "x".join(str(n) for n in facts.get("image_size", [])) or DASH
        stated = ", ".join(f"{name} {facts.get(name, DASH)}" for name in ("threads", "batch_size", "warmup", "runs"))
        parts.append(f"{facts.get('cpu', DASH)}; {stated}, image (H x W) {size}, models in turns.")
    return _section("Latency", "\n\n".join(parts))


def _ratio_text(ratio: dict[str, Any] | None) -> str:
    if not ratio or ratio.get("speedup_p50") is None:
        return DASH
    low, high = ratio.get("speedup_low"), ratio.get("speedup_high")
    interval = "" if low is None or high is None else f" ({low:.2f} to {high:.2f})"
    return f"{ratio['speedup_p50']:.2f}x{interval}"


def _pictures(document: Document) -> str:
    entries = [
        f"{_cell(picture.image)} ({', '.join(f'{label}: {n}' for label, n in picture.num_detections.items())})\n\n"
        f"![{_cell(picture.image)}]({link(picture.file)})"
        for picture in document.pictures
    ]
    threshold = next((p.score_threshold for p in document.pictures if p.score_threshold is not None), None)
    limit = document.deployed_score_threshold if threshold is None else threshold
    note = f"Boxes that score more than {limit:g}; in brackets how many.\n\n" if entries and limit is not None else ""
    return _section("Before and after", note + "\n\n".join(entries))


def _trainings(document: Document) -> str:
    lines = []
    for label, history in document.histories.items():
        metric = history_metric(history)
        scored = [row[metric] for row in history if row.get(metric) is not None]
        best = f", best val {metric} {max(scored):.4f}" if scored else ""
        seconds = sum(row.get("seconds") or 0 for row in history)
        epochs = "1 epoch" if len(history) == 1 else f"{len(history)} epochs"
        lines.append(f"`{label}`: {epochs} in {duration_text(seconds)}{best}.")
        lines.append(_images([f"training_{label}.png"] if f"training_{label}.png" in document.charts else []))
    return _section("Training", "\n\n".join(line for line in lines if line))


def _left_out(document: Document) -> str:
    """Name layers by stage and reason; many layers with one reason share a line."""
    key = lambda e: (e.stage, e.what, e.reason)  # noqa: E731
    lines = []
    for (stage, what, reason), group in groupby(sorted(document.left_out, key=key), key=key):
        # A layer that runs on several levels is several nodes: name, name_1, name_2, ...
        layers = Counter(re.sub(r"(/[A-Za-z]+)_\d+$", r"\1", entry.layer) for entry in group)
        names = ", ".join(f"`{name}`" if count == 1 else f"{count} x `{name}`" for name, count in layers.items())
        lines.append(f"- `{stage}`, {what}: {reason} ({layers.total()}: {names})")
    return _section("What was left alone, and why", "\n".join(lines))


def _exports(document: Document) -> str:
    """Say for each export how far ONNX Runtime is from the torch model."""
    rows = [
        [
            s.label,
            size_text(s.facts.get("onnx_bytes")),
            str(s.facts.get("opset", DASH)),
            share_text(parity.get("worst"), 3),
            share_text(parity.get("limit")),
            f"{parity.get('images', DASH)} of `{parity.get('split', DASH)}`",
        ]
        for s in document.stages
        if isinstance(parity := s.facts.get("parity"), dict)
    ]
    if not rows:
        return ""
    note = "Largest relative L2 error of a raw output: ONNX Runtime, all optimizations on, against its torch model."
    head = ["export", "ONNX bytes", "opset", "worst error", "limit", "images"]
    return _section("Export", f"{note}\n\n{_table(head, rows)}")


def _resources(document: Document) -> str:
    rows = [
        [s.label, s.stage, duration_text(s.seconds), size_text(s.peak_memory_bytes), s.key[:12], s.digest[:12]]
        for s in document.stages
    ]
    peaks = [s.peak_memory_bytes for s in document.stages if s.peak_memory_bytes is not None]
    seconds = sum(s.seconds or 0 for s in document.stages)
    rows.append(["**all**", "", duration_text(seconds), size_text(max(peaks, default=None)), "", ""])
    head = ["label", "stage", "time", "peak memory", "key", "digest"]
    return _section("Time and memory", "Measured when the stage ran, each in its own process.\n\n" + _table(head, rows))


def _environment(document: Document) -> str:
    machine = dict(document.environment)
    versions = machine.pop("versions", {})
    lines = [f"- {name}: {_plain(name, value)}" for name, value in machine.items() if value is not None]
    lines.append("- versions: " + ", ".join(f"{name} {version}" for name, version in versions.items()))
    lines.append(f"- seed: {document.seed}; recipe digest: `{document.recipe_digest}`; written {document.created}")
    return _section("Environment", "\n".join(lines))


def _plain(name: str, value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(str(entry) for entry in value)
    return size_text(value) if name.endswith("_bytes") else str(value)


def _forecast(document: Document) -> str:
    """Return what the plan should leave beside what it left."""
    head, *rows = check_rows(document.forecast_checks)
    return _section("Forecast and measurement", _table(head, rows) if rows else "")


def _looks(document: Document) -> str:
    """Return how often 'val' was looked at, and what was seen."""
    head, *rows = looks_rows(document.looks)
    return _section("Looks at val", looks_sentence(document.looks) + (f"\n\n{_table(head, rows)}" if rows else ""))


def _sensitivities(document: Document) -> str:
    """Return what the parts of the networks can bear, with the charts."""
    parts = []
    for label, found in document.sensitivities.items():
        tables = [f"{title}:\n\n{_table(head, rows)}" for title, head, rows in sensitivity_tables(found)]
        charts = _images([name for name in document.charts if name.startswith(f"{label}_sensitivity_")])
        parts += [f"`{label}`: {_cell(sensitivity_note(found))}", charts, *tables]
    return _section("Sensitivity", "\n\n".join(part for part in parts if part))


def _section(title: str, body: str) -> str:
    return f"## {title}\n\n{body}" if body else ""


def _images(names: Sequence[str]) -> str:
    return "\n\n".join(f"![{name}]({name})" for name in names)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)
