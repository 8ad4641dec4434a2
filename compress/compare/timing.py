"""Two model files timed side by side, in several processes: a process has a layout of memory that it keeps."""

from __future__ import annotations

import math
import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from compress.errors import StageError
from compress.metrics.paired import needed_count, t_quantile
from compress.progress import track
from compress.runtime.latency import measure_interleaved, random_inputs
from compress.runtime.session import open_session

PROCESSES = 7
ROUNDS = 30
WARMUP = 5
_UNKNOWN_SIZE = (640, 640)


@dataclass(frozen=True)
class Timing:
    """How long two files take.

    Attributes:
        reference_ms, other_ms: medians of the processes' medians, of one image.
        ratio: other / reference, geometric mean of the processes; > 1 is slower.
        interval: 95 % interval of the ratio, over processes.
        processes, rounds, threads: how it was measured.
    """

    reference_ms: float
    other_ms: float
    ratio: float
    interval: tuple[float, float]
    processes: int
    rounds: int
    threads: int

    def needed_processes(self, limit: float) -> int | None:
        """Return how many processes would decide whether the ratio is below a limit, None if no number would."""
        low, high = (math.log(end) for end in self.interval)
        return needed_count((low, high), math.log(limit), self.processes)


def time_side_by_side(
    reference: Path, other: Path, *, threads: int = 1, processes: int = PROCESSES, rounds: int = ROUNDS
) -> Timing:
    """Time two model files in turns.

    One thread is timed by the processor's own count, which leaves out what other programs took meanwhile.

    Args:
        reference: ONNX or `.krimp` file.
        other: likewise.
        threads: of ONNX Runtime; 0 means one per core.
        processes: one after the other, at least 2; each opens both files anew.
        rounds: of each process.

    Raises:
        StageError: a file cannot be run.
        CodecError: a file is damaged.
    """
    if processes < 2:
        raise StageError(f"timing: {processes} process, expected at least 2. One says nothing of how others differ.")
    context = multiprocessing.get_context("spawn")
    pairs = []
    for _ in track(range(processes), "time side by side", processes):
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            pairs.append(pool.submit(median_ms, str(reference), str(other), threads, rounds).result())
    return summarize_pairs(pairs, rounds=rounds, threads=threads)


def median_ms(reference: str, other: str, threads: int, rounds: int) -> tuple[float, float]:
    """Return the median milliseconds of two files in this process."""
    sessions = [open_session(Path(path), threads=threads) for path in (reference, other)]
    feeds = [random_inputs(session, image_size=_UNKNOWN_SIZE if _is_open(session) else None) for session in sessions]
    calls = {
        str(number): (lambda one=session, feed=feed: one.run(None, feed))
        for number, (session, feed) in enumerate(zip(sessions, feeds, strict=True))
    }
    clock_ns = time.process_time_ns if threads == 1 else time.perf_counter_ns
    times = measure_interleaved(calls, warmup=WARMUP, runs=rounds, clock_ns=clock_ns)
    return float(np.median(times["0"])), float(np.median(times["1"]))


def summarize_pairs(pairs: Sequence[tuple[float, float]], *, rounds: int, threads: int) -> Timing:
    """Return the ratio of times and its interval over processes (Student's t of the logarithms).

    Args:
        pairs: milliseconds of the reference and of the other, one pair a process, at least 2.
        rounds: of each process.
        threads: of ONNX Runtime.
    """
    both = np.asarray(pairs, np.float64)
    logs = np.log(both[:, 1] / both[:, 0])
    middle, count = float(logs.mean()), len(logs)
    half = t_quantile(0.975, count - 1) * float(logs.std(ddof=1)) / math.sqrt(count)
    return Timing(
        float(np.median(both[:, 0])),
        float(np.median(both[:, 1])),
        math.exp(middle),
        (math.exp(middle - half), math.exp(middle + half)),
        count,
        rounds,
        threads,
    )


def _is_open(session: object) -> bool:
    shapes = [entry.shape for entry in session.get_inputs()]  # type: ignore[attr-defined]
    return any(len(shape) == 4 and not all(isinstance(size, int) for size in shape[2:]) for shape in shapes)
