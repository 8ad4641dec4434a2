"""The picture of a record of benchmarks/codec.py.

python -m benchmarks.codec_plot benchmarks/records/<date>_codec.json     draws the .png beside it again
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

COLOURS = {
    "Krimp": "#d1495b", "Krimp, NumPy alone": "#e8a0a9", "NNCodec optimized": "#2e6f95", "NNCodec": "#8ab6d6",
    "constriction ANS": "#6a994e", "zstd -19": "#6c584c", "zstd -3": "#a98467", "zstd -1": "#d4b99a",
    "xz -9": "#3d405b", "ZipNN": "#8e5ea2", "dahuffman": "#999999",
}  # fmt: skip


def draw(record: dict[str, Any], path: Path) -> None:
    """Draw sizes, speeds, distance from the entropy and loading times.

    Args:
        record: what benchmarks/codec.py wrote.
        path: .png to write.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(15, 10.5), constrained_layout=True)
    for axis, part, draw_part in (
        (axes[0, 0], "real_sizes", _draw_sizes),
        (axes[0, 1], "speeds", _draw_speeds),
        (axes[1, 0], "synthetic_sizes", _draw_grid),
        (axes[1, 1], "loading", _draw_loading),
    ):
        if record[part]:
            draw_part(axis, record)
        else:
            axis.set_title(f"{part}: not measured in this run")
    environment = record["environment"]
    figure.suptitle(
        f"The codec, {record['date'][:10]}, {environment['cpu']}, one core, commit"
        f" {str(environment.get('commit'))[:8]}, load {environment['load_average_1min']}",
        fontsize=12,
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw_sizes(axis: Any, record: dict[str, Any]) -> None:
    rows = record["real_sizes"]
    for name, colour in COLOURS.items():
        over = [100 * (row["bytes"][name] / row["entropy_bytes"] - 1) if name in row["bytes"] else None for row in rows]
        if any(value is not None for value in over) and name != "zstd -1":
            axis.plot(
                range(len(rows)), [np.nan if value is None else value for value in over], "o-", ms=4, lw=1,
                color=colour, label=name, zorder=5 if name == "Krimp" else 2,
            )  # fmt: skip
    axis.set_xticks(
        range(len(rows)),
        [f"{row['weights'][:9]} int{row['bit_width']} {row['zeros']:.0%}" for row in rows],
        rotation=90, fontsize=7,
    )  # fmt: skip
    axis.set_yscale("symlog", linthresh=1)
    axis.set_ylim(-4, 150)
    ticks = [-3, -1, 0, 1, 2, 5, 10, 20, 50, 100]
    axis.set_yticks(ticks, [f"{tick:+d} %" for tick in ticks])
    axis.axhline(0, color="black", lw=0.8)
    axis.grid(axis="y", alpha=0.3)
    axis.set_title("Bytes above the order-0 entropy, networks (lower is better)")
    axis.legend(fontsize=8, ncols=2)


def _draw_speeds(axis: Any, record: dict[str, Any]) -> None:
    rows = record["speeds"]
    names = [name for name in COLOURS if any(name in row["coders"] for row in rows)]
    width = 0.8 / len(names)
    for number, name in enumerate(names):
        values = [row["coders"][name]["decode"]["msym_per_s"] if name in row["coders"] else np.nan for row in rows]
        places = np.arange(len(rows)) + (number - (len(names) - 1) / 2) * width
        axis.bar(places, values, width, color=COLOURS[name], label=name)
    axis.set_yscale("log")
    axis.set_xticks(range(len(rows)), [f"int{row['bit_width']}\n{row['zeros']:.0%} zeros" for row in rows])
    for level in (40, 250, 500):
        axis.axhline(level, color="black", lw=0.6, ls=":")
    axis.grid(axis="y", alpha=0.3)
    axis.set_title("Decode, M weights a second, one core (dotted: targets)")
    axis.set_ylim(1, 2e4)
    axis.legend(fontsize=8, ncols=4, loc="upper left")


def _draw_grid(axis: Any, record: dict[str, Any]) -> None:
    rows = record["synthetic_sizes"]
    counts = sorted({row["count"] for row in rows})
    bits = sorted({row["bit_width"] for row in rows})
    columns = [(count, zeros) for count in counts for zeros in sorted({row["zeros"] for row in rows})]
    over = np.full((len(bits), len(columns)), np.nan)
    for row in rows:
        place = bits.index(row["bit_width"]), columns.index((row["count"], row["zeros"]))
        over[place] = 100 * (row["bytes"]["Krimp"] / row["entropy_bytes"] - 1)
    image = axis.imshow(over, cmap="RdYlGn_r", vmin=0, vmax=2, aspect="auto")
    for (row_number, column), value in np.ndenumerate(over):
        axis.text(column, row_number, f"{value:.2f}", ha="center", va="center", fontsize=7)
    axis.set_yticks(range(len(bits)), [f"{bit} bits" for bit in bits])
    axis.set_xticks(range(len(columns)), [f"{zeros:.0%}\n{count // 1024}k" for count, zeros in columns], fontsize=7)
    axis.set_title("Krimp above the entropy, %, synthetic; columns: zeros, weights")
    axis.figure.colorbar(image, ax=axis, shrink=0.8)


def _draw_loading(axis: Any, record: dict[str, Any]) -> None:
    rows = record["loading"]
    parts = (("plain", "plain ONNX", "#8ab6d6"), ("krimp_with_hash", ".krimp", "#d1495b"))
    labels, at = [], 0
    for row in rows:
        for key, label, colour in parts:
            seconds, size = row[key]["cpu_s_p50"], row["onnx_bytes"]
            if key == "krimp_with_hash":
                check, size = row["hash"]["cpu_s_p50"], row["packed_bytes"]
                seconds -= check
                axis.barh(at, check, left=seconds, color=colour, alpha=0.35, hatch="//")
                label = f"{label} ({seconds / row['plain']['cpu_s_p50']:.2f}x; hatched: hash check)"
            axis.barh(at, seconds, color=colour)
            labels.append(f"{row['name']}\n{label}, {size / 1e6:.1f} MB")
            at += 1
    axis.set_yticks(range(at), labels, fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel("seconds, one core, median")
    axis.grid(axis="x", alpha=0.3)
    axis.set_title(f"File to a ready ONNX Runtime session, {rows[0]['weights'] / 1e6:.0f} M weights")


if __name__ == "__main__":
    file = Path(sys.argv[1])
    draw(json.loads(file.read_text(encoding="utf-8")), file.with_suffix(".png"))
