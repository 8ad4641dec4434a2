"""Time the label assignment of DCFL, and measure its memory for thousands of boxes in one image.

    python benchmarks/assigner.py [--boxes 1000] [--image-size 1024] [--runs 20] [--out benchmarks/records/...json]

Times are of one thread: a scene of random boxes, moved priors and random predictions, assigned by default and by the
published rules in turns in one run. Memory is the peak of a process of its own that assigns 10,000 boxes, beside one
that does everything but that.
"""

from __future__ import annotations

import argparse
import math
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # run as a file: make the repository importable, not the folder of this script
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch
from torch import Tensor

from benchmarks.record_file import head, refuse_existing, write_record
from compress.errors import CompressError
from compress.progress import console
from detectors.dcfl.assigner import assign, coarse_candidates
from detectors.dcfl.prior import grid_priors, level_shapes, move_priors
from detectors.dcfl.rules import Rules, published_rules

STRIDES = (8, 16, 32, 64, 128)
NUM_CLASSES = 18
PERCENTILES = (10, 50, 90, 99)
MEMORY_BOXES = 10_000


def make_scene(num_boxes: int, image_size: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return boxes of 6-100 px, grid, moved priors, deltas and logits of one square image."""
    generator = torch.Generator().manual_seed(seed)
    grid = grid_priors(level_shapes((image_size, image_size), STRIDES), STRIDES)
    moved = move_priors(grid, torch.randn(len(grid), 2, generator=generator) * grid[:, 2:3] / 8)
    unit = torch.rand(num_boxes, 5, generator=generator)
    size = 6 * (100 / 6) ** unit[:, 2:3]
    boxes = torch.cat(
        (unit[:, :2] * image_size, size, size * (0.2 + 0.8 * unit[:, 3:4]), (unit[:, 4:] - 0.25) * math.pi), dim=1
    )
    deltas = 0.3 * torch.randn(len(grid), 5, generator=generator)
    logits = torch.randn(len(grid), NUM_CLASSES, generator=generator) - 4
    return boxes, grid, moved, deltas, logits


def timed(calls: dict[str, Callable[[], Any]], *, warmup: int, runs: int) -> dict[str, list[tuple[float, float]]]:
    """Return (wall seconds, CPU seconds) of every call, run in turns."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for run in range(warmup + runs):
        for name, call in calls.items():
            wall, cpu = time.perf_counter(), time.process_time()
            call()
            if run >= warmup:
                seconds[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return seconds


def summary(seconds: list[tuple[float, float]], pairs: int) -> dict[str, float]:
    """Return percentiles in ms and in ns a box-prior pair, by the clock and of the processor.

    On a busy machine only the latter say something: the clock also counts the time of other processes.
    """
    result = {}
    for kind, values in zip(("wall", "cpu"), zip(*seconds, strict=True), strict=True):
        for p, value in zip(PERCENTILES, np.percentile(values, PERCENTILES), strict=True):
            result[f"{kind}_ms_p{p}"] = round(1e3 * value, 3)
            result[f"{kind}_ns_per_pair_p{p}"] = round(1e9 * value / pairs, 3)
    return result


def peak_bytes(num_boxes: int, image_size: int, *, published: bool) -> int:
    """Return the peak memory of a fresh process that builds a scene and assigns so many boxes (0: none)."""
    arguments = [
        "--memory-of",
        str(num_boxes),
        "--image-size",
        str(image_size),
        *(["--published"] if published else []),
    ]
    done = subprocess.run(
        [sys.executable, str(Path(__file__).resolve()), *arguments], check=True, capture_output=True, text=True
    )
    return int(done.stdout.split()[-1])


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure as the command line says and return the record."""
    torch.set_num_threads(1)
    scene = make_scene(options.boxes, options.image_size)
    pairs = len(scene[0]) * len(scene[1])
    calls: dict[str, Callable[[], Any]] = {
        "default": lambda: assign(*scene, Rules()),
        "published": lambda: assign(*scene, published_rules()),
        "coarse stage alone": lambda: coarse_candidates(scene[0], scene[2], Rules().topk),
    }
    seconds = timed(calls, warmup=options.warmup, runs=options.runs)
    idle = peak_bytes(0, options.image_size, published=False)
    memory = {
        name: peak_bytes(MEMORY_BOXES, options.image_size, published=name == "published")
        for name in ("default", "published")
    }
    return head("assigner") | {
        "threads": 1,
        "warmup": options.warmup,
        "runs": options.runs,
        "num_boxes": len(scene[0]),
        "num_priors": len(scene[1]),
        "image_size": options.image_size,
        "time": {name: summary(values, pairs) for name, values in seconds.items()},
        "memory": {"num_boxes": MEMORY_BOXES, "peak_bytes": memory, "peak_bytes_without_assignment": idle},
        "load_average": [round(value, 2) for value in os.getloadavg()],
    }


def table(record: dict[str, Any]) -> str:
    """Return the record as text."""
    lines = [f"{record['num_boxes']} boxes, {record['num_priors']} priors, one thread, {record['runs']} runs"]
    for name, row in record["time"].items():
        wall, cpu = (f"{row[f'{kind}_ns_per_pair_p50']:6.2f}" for kind in ("wall", "cpu"))
        lines.append(
            f"  {name:20} p50 {row['wall_ms_p50']:8.1f} ms, ns a pair: {wall} by the clock, {cpu} of the processor"
        )
    memory = record["memory"]
    for name, peak in memory["peak_bytes"].items():
        extra = (peak - memory["peak_bytes_without_assignment"]) / 1e6
        lines.append(
            f"  {memory['num_boxes']} boxes, {name}: peak {peak / 1e6:.0f} MB, {extra:.0f} MB of it for the assignment"
        )
    return "\n".join(lines)


@console()
def main() -> int:
    """Run the command line; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--boxes", type=int, default=1000, help="boxes of the timed scene (default: 1000)")
    parser.add_argument("--image-size", type=int, default=1024, help="side of the image, px (default: 1024)")
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--out", type=Path, help="record to write; an existing file is not replaced")
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--published", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of is not None:
        torch.set_num_threads(1)
        scene = make_scene(options.memory_of, options.image_size)
        assign(*scene, published_rules() if options.published else Rules())
        print(1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        return 0
    try:
        refuse_existing(options.out)
        record = measure(options)
        print(table(record))
        write_record(options.out, record)
    except CompressError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
