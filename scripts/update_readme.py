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


def results_table(record: dict[str, Any]) -> str:
    """Return a record as a Markdown table: one line per model that was scored or timed."""
    scored: dict[str, Any] = next((row for row in record["rows"] if row["map50"] is not None), {})
    timed: dict[str, Any] = next(iter(record.get("latency", [])), {})
    lines = [
        f"**{record['name']}** ({record['date'][:10]}, split `{record['split']}`, "
        f"map50 by {scored.get('ap_method')} at IoU {scored.get('iou_threshold')}, "
        f"latency network only, {timed.get('threads') or 'all'} thread(s), "
        f"{record['environment'].get('cpu', 'unknown CPU')})",
        "",
        "| model | map50 (95 % interval) | params | MACs | zeros | bytes | compression_ratio | latency p50 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in record["rows"]:
        if row["map50"] is None and row["latency_ms_p50"] is None:
            continue
        low_high = row["map50_interval"]
        interval = f" ({low_high[0]:.3f} to {low_high[1]:.3f})" if low_high else ""
        speedup = f", {row['speedup_p50']:.2f}x" if row["speedup_p50"] else ""
        latency = f"{row['latency_ms_p50']:.1f} ms{speedup}" if row["latency_ms_p50"] else "—"
        is_start = row["label"] == record["float"]
        size, ratio = (row["parameters_bytes"], 1.0) if is_start else (row["packed_bytes"], row["compression_ratio"])
        cells = (
            f"`{row['label']}`",
            fixed_text(row["map50"], 3) + interval,
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


def loss_sentence(record: dict[str, Any]) -> str:
    """Return what the last packed model loses against the best float model, or nothing if it was not measured."""
    packed = [row for row in record["rows"] if row.get("kind") == "packed" and row.get("map50_loss") is not None]
    if not packed:
        return ""
    loss, low_high = packed[-1]["map50_loss"], packed[-1].get("map50_loss_interval")
    if loss < 0:
        word, loss, low_high = "gains", -loss, low_high and [-low_high[1], -low_high[0]]
    else:
        word = "loses"
    interval = f" ({low_high[0]:.3f} to {low_high[1]:.3f}, paired bootstrap over images)" if low_high else ""
    model = f"`{packed[-1]['label']}` {word} {loss:.3f} map50{interval}"
    return f"{model} against the best float model, `{record['baseline']}`."


def all_results() -> str:
    """Return the tables of the newest record of each name, by name."""
    newest: dict[str, dict[str, Any]] = {}
    for path in sorted(RECORDS.glob("*.json")):
        record = json.loads(path.read_text())
        if "rows" in record:
            newest[record["name"]] = record
    return "\n\n".join(results_table(newest[name]) for name in sorted(newest))


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
