"""Write the generated tables into README.md: results from benchmarks/records/.

python scripts/update_readme.py [--check]
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from compress.number_text import count_text, fixed_text, share_text, size_text  # noqa: E402
from compress.whole_file import write_whole  # noqa: E402

README = ROOT / "README.md"
RECORDS = ROOT / "benchmarks" / "records"
# Whoever runs these sees their numbers; a drawn scene proves nothing about a real one.
SYNTHETIC = frozenset({"demo", "demo_stages"})


def results_table(record: dict[str, Any]) -> str:
    """Return a record as a Markdown table: one line per model that was timed, or scored and not made smaller."""
    scored: dict[str, Any] = next((row for row in record["rows"] if row["map50"] is not None), {})
    timed: dict[str, Any] = next(iter(record.get("latency", [])), {})
    coco = any(row.get("map") is not None for row in record["rows"])  # records from before it was measured have none
    metrics = ["map", "map75", "map50"] if coco else ["map50"]
    head = " | ".join(f"{metric} (95 % interval)" if metric != "map75" else metric for metric in metrics)
    lines = [
        f"**{record['name']}** ({record['date'][:10]}, split `{record['split']}`, "
        + (f"map: IoU 0.50 to 0.95, {scored.get('max_dets')} detections, " if coco else "")
        + f"map50 by {scored.get('ap_method')} at IoU {scored.get('iou_threshold')}, "
        f"latency network only, {timed.get('threads') or 'all'} thread(s), "
        f"{record['environment'].get('cpu', 'unknown CPU')})",
        "",
        f"| model | {head} | params | MACs | zeros | bytes | compression_ratio | latency p50 |",
        "|" + "---|" * (7 + len(metrics)),
    ]
    whole = scored.get("params")
    for row in record["rows"]:
        if row["latency_ms_p50"] is None and (row["map50"] is None or row["params"] != whole):
            continue  # what the stages in between scored is in the record
        speedup = f", {row['speedup_p50']:.2f}x" if row["speedup_p50"] else ""
        latency = f"{row['latency_ms_p50']:.1f} ms{speedup}" if row["latency_ms_p50"] else "—"
        is_start = row["label"] == record["float"]
        size, ratio = (row["parameters_bytes"], 1.0) if is_start else (row["packed_bytes"], row["compression_ratio"])
        cells = (
            f"`{row['label']}`",
            *(with_interval(row, metric, interval=metric != "map75") for metric in metrics),
            count_text(row["params"]),
            count_text(row["macs"]),
            share_text(row["sparsity"]),
            size_text(size),
            fixed_text(ratio, 1),
            latency,
        )
        lines.append("| " + " | ".join(cells) + " |")
    if sentence := loss_sentence(record):
        lines += ["", sentence]
    if record["note"]:
        lines += ["", record["note"]]
    return "\n".join(lines)


def with_interval(row: dict[str, Any], metric: str, *, interval: bool = True) -> str:
    """Return a score of a row, with its interval where there is one and it is wanted."""
    low_high = row.get(f"{metric}_interval") if interval else None
    return fixed_text(row.get(metric), 3) + (f" ({low_high[0]:.3f} to {low_high[1]:.3f})" if low_high else "")


def loss_sentence(record: dict[str, Any]) -> str:
    """Return what the last packed model loses against the best float model, or nothing if it was not measured."""
    packed = [row for row in record["rows"] if row.get("kind") == "packed" and row.get("map50_loss") is not None]
    if not packed:
        return ""
    last, best = packed[-1], record.get("baselines") or {"map50": record["baseline"]}
    losses = [loss_text(last, metric) for metric in ("map", "map50") if last.get(f"{metric}_loss") is not None]
    against = " and ".join(dict.fromkeys(f"`{label}`" for label in best.values() if label))
    return f"`{last['label']}` {' and '.join(losses)} against the best float model, {against}."


def loss_text(row: dict[str, Any], metric: str) -> str:
    """Return what a row loses or gains by a metric, with its interval where there is one."""
    loss, low_high = row[f"{metric}_loss"], row.get(f"{metric}_loss_interval")
    if loss < 0:
        word, loss, low_high = "gains", -loss, low_high and [-low_high[1], -low_high[0]]
    else:
        word = "loses"
    interval = f" ({low_high[0]:.3f} to {low_high[1]:.3f}, paired bootstrap over images)" if low_high else ""
    return f"{word} {loss:.3f} {metric}{interval}"


def accuracy_table(record: dict[str, Any], split: str) -> str:
    """Return what `benchmarks/accuracy.py` recorded of a split: one line per model, and what the last one loses."""
    rows = record["splits"][split]
    first = rows[0]["scores"]
    lines = [
        f"**{record['name']}, the same model files by map** ({record['date'][:10]}, split `{split}`, "
        f"{first['num_images']} images, {first['num_objects']:,} objects; map: mAP50-95 as COCO defines it, rotated "
        f"overlap, {first['max_dets']} detections of a class in an image)",
        "",
        "| model | map (95 % interval) | map75 (95 % interval) | map50 (95 % interval) |",
        "|---|---|---|---|",
    ]
    for row in rows:
        cells = [with_interval(row["scores"], metric) for metric in ("map", "map75", "map50")]
        lines.append(f"| `{row['model']}` | " + " | ".join(cells) + " |")
    if len(rows) > 1:
        losses = [loss_text(rows[-1], metric) for metric in ("map", "map75", "map50")]
        lines += ["", f"`{rows[-1]['model']}` {', '.join(losses)} against `{rows[0]['model']}`."]
    return "\n".join(lines)


def all_results() -> str:
    """Return the tables of the newest record of each name, by name; below a run what its files were scored to since."""
    newest: dict[str, dict[str, Any]] = {}
    accuracy: dict[str, dict[str, Any]] = {}
    for path in sorted(RECORDS.glob("*.json")):
        record = json.loads(path.read_text())
        if "benchmark" not in record and "rows" in record:
            newest[record["name"]] = record
        elif record.get("benchmark") == "accuracy":
            accuracy[record["name"]] = record
    tables = []
    for name in sorted(newest.keys() - SYNTHETIC):
        tables.append(results_table(newest[name]))
        split = newest[name]["split"]
        if split in accuracy.get(name, {}).get("splits", {}) and accuracy[name]["date"] > newest[name]["date"]:
            tables.append(accuracy_table(accuracy[name], split))
    return "\n\n".join(tables)


def with_block(text: str, name: str, content: str) -> str:
    """Return the text with what stands between the markers of a block replaced."""
    pattern = re.compile(rf"(<!-- {name}:begin -->\n).*?(<!-- {name}:end -->)", flags=re.DOTALL)
    return pattern.sub(lambda match: match[1] + (content + "\n" if content else "") + match[2], text)


def updated(text: str) -> str:
    """Return the README with its generated block up to date."""
    return with_block(text, "results", all_results())


def main() -> int:
    """Update or check the README; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the README is out of date")
    options = parser.parse_args()
    text = README.read_text()
    if options.check:
        return int(updated(text) != text)
    write_whole(README, updated(text))
    return 0


if __name__ == "__main__":
    sys.exit(main())
