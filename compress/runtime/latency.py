"""Measure latency: several models in turns in one run, so that a busy machine slows all of them alike."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from compress.errors import StageError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(uint16)": np.uint16,
    "tensor(int16)": np.int16,
    "tensor(uint32)": np.uint32,
    "tensor(int32)": np.int32,
    "tensor(uint64)": np.uint64,
    "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
}
_RESAMPLES = 2000


def measure_interleaved(
    calls: Mapping[str, Callable[[], object]],
    *,
    warmup: int,
    runs: int,
    tick: Callable[[int], object] | None = None,
    clock_ns: Callable[[], int] = time.perf_counter_ns,
) -> dict[str, np.ndarray]:
    """Time several functions round robin; who goes first changes from round to round.

    Args:
        calls: label -> function without arguments.
        warmup: rounds that are not counted.
        runs: counted rounds, at least 1.
        tick: called with the number of finished rounds, warm-up included.
        clock_ns: what is counted; `time.process_time_ns` leaves out what other processes took meanwhile.

    Returns:
        label -> (runs,) float64, milliseconds; entry i of all labels comes from the same round.
    """
    labels = list(calls)
    times_ms = {label: np.empty(runs) for label in labels}
    collecting = gc.isenabled()
    gc.disable()
    try:
        for turn in range(-warmup, runs):
            start = turn % len(labels)
            for label in labels[start:] + labels[:start]:
                begin = clock_ns()
                calls[label]()
                elapsed = clock_ns() - begin
                if turn >= 0:
                    times_ms[label][turn] = elapsed / 1e6
            if tick is not None:
                tick(turn + warmup + 1)
    finally:
        if collecting:
            gc.enable()
    return times_ms


def summarize(times_ms: np.ndarray) -> dict[str, float]:
    """Return percentiles and mean of (n,) milliseconds under the names the report uses."""
    p50, p90, p99 = np.percentile(times_ms, [50, 90, 99])
    return {
        "latency_ms_p50": round(float(p50), 4),
        "latency_ms_p90": round(float(p90), 4),
        "latency_ms_p99": round(float(p99), 4),
        "latency_ms_mean": round(float(times_ms.mean()), 4),
        "latency_ms_min": round(float(times_ms.min()), 4),
    }


def speedup_of(reference_ms: np.ndarray, other_ms: np.ndarray, *, seed: int = 0) -> dict[str, float]:
    """Return how many times faster the other one is: ratio of medians with its 95 % interval.

    Args:
        reference_ms: (n,) milliseconds.
        other_ms: (n,) milliseconds, round by round beside the reference.
        seed: of the bootstrap, which draws whole rounds.

    Returns:
        `speedup_p50` (> 1 is faster than the reference), `speedup_low`, `speedup_high`.
    """
    draws = np.random.default_rng(seed).integers(0, len(reference_ms), (_RESAMPLES, len(reference_ms)))
    ratios = np.median(reference_ms[draws], axis=1) / np.median(other_ms[draws], axis=1)
    low, high = np.percentile(ratios, [2.5, 97.5])
    return {
        "speedup_p50": round(float(np.median(reference_ms) / np.median(other_ms)), 4),
        "speedup_low": round(float(low), 4),
        "speedup_high": round(float(high), 4),
    }


def compare(
    calls: Mapping[str, Callable[[], object]],
    *,
    warmup: int,
    runs: int,
    tick: Callable[[int], object] | None = None,
) -> dict[str, Any]:
    """Measure functions in turns and compare each with the first one.

    Returns:
        `models`: label -> percentiles; `ratios`: label -> speedup over the first label;
        `reference`: the first label.
    """
    times_ms = measure_interleaved(calls, warmup=warmup, runs=runs, tick=tick)
    reference = next(iter(times_ms))
    return {
        "models": {label: summarize(times) for label, times in times_ms.items()},
        "ratios": {
            label: speedup_of(times_ms[reference], times) for label, times in times_ms.items() if label != reference
        },
        "reference": reference,
    }


def random_inputs(
    session: InferenceSession, *, image_size: tuple[int, int] | None = None, batch_size: int = 1, seed: int = 0
) -> dict[str, np.ndarray]:
    """Return inputs of the right shapes and types for any model.

    In a four-dimensional input, unknown sizes become batch, 3 channels and `image_size` (channels
    last if the last dimension is known to be 1, 3 or 4 and the second is not); elsewhere 1. Floats
    are drawn from a normal distribution, uint8 from 0..255, other integers are 0 or 1 because
    they may be indices.

    Args:
        session: the model.
        image_size: (height, width) for unknown sizes, pixels.
        batch_size: for an unknown first dimension.
        seed: of the numbers.

    Raises:
        StageError: a height or width is unknown and `image_size` is None, it contradicts a fixed
            size, or an input is not a plain tensor.
    """
    rng = np.random.default_rng(seed)
    feeds = {}
    for entry in session.get_inputs():
        if entry.type not in _DTYPES:
            raise StageError(f"input {entry.name!r}: type {entry.type} cannot be filled with random numbers.")
        shape = _concrete_shape(entry.name, entry.shape, image_size, batch_size)
        feeds[entry.name] = _draw(rng, shape, np.dtype(_DTYPES[entry.type]))
    return feeds


def _concrete_shape(
    name: str, shape: Sequence[Any], image_size: tuple[int, int] | None, batch_size: int
) -> tuple[int, ...]:
    known = [size if isinstance(size, int) and size > 0 else None for size in shape]
    if len(known) != 4:
        return tuple(batch_size if i == 0 and size is None else size or 1 for i, size in enumerate(known))
    channels_last = known[3] in (1, 3, 4) and known[1] not in (1, 3, 4)
    rows, columns, channels = (1, 2, 3) if channels_last else (2, 3, 1)
    known[0] = known[0] or batch_size
    known[channels] = known[channels] or 3
    for axis, wanted in zip((rows, columns), image_size or (None, None), strict=True):
        if known[axis] is None and wanted is None:
            raise StageError(
                f"input {name!r}: shape {list(shape)} leaves the picture's size open. Give --image-size H W."
            )
        if known[axis] is not None and wanted is not None and known[axis] != wanted:
            raise StageError(f"input {name!r}: shape {list(shape)} is fixed; {wanted} was asked for. Leave it out.")
        known[axis] = known[axis] or wanted
    return tuple(int(size) for size in known if size is not None)


def _draw(rng: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    if dtype.kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    return rng.integers(0, 256 if dtype == np.uint8 else 2, shape).astype(dtype)
