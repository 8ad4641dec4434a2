"""What contexts would gain on int8 weights of real networks: ideal code lengths, nothing is coded.

    python benchmarks/codec_contexts.py my_int8.onnx float.onnx      float weights are rounded to 255 steps first

Every value is coded with the counts of those before it, in its context, mixed with the counts without a context, which
costs no table; the codec's own bytes stand beside it. Contexts: the sizes of the values before it in the channel, of
its neighbours in the kernel, of the value at its place in the channel before, in the input channel before, in an
earlier tensor of the same shape; and its channel's own counts.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

if __name__ == "__main__":  # run as a file: make the repository importable, not the folder of this script
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numba
import numpy as np

from benchmarks.codec_bounds import safetensors
from compress import codec
from compress.codec.files.network_source import open_source
from compress.progress import console, say

_LEAST = 1000  # values of a tensor
_CONTEXTS = ("before", "kernel", "channel before", "input channel before", "own channel", "other tensor")


@numba.njit(cache=False)
def adaptive_bits(values: np.ndarray, sizes: np.ndarray, contexts: np.ndarray, number: int, weight: float) -> float:
    """Return the bits of values: of their size in their context, and of the value among those of its size.

    A size is a few values, so that its counts in a context soon mean something.

    Args:
        values: (count,), uint8.
        sizes: (256,), int64: the size of each value, below 16.
        contexts: (count,), int64, each below `number`.
        number: of contexts.
        weight: how many values the counts of sizes without a context are worth.
    """
    everywhere, of_size = np.full(256, 1 / 16), np.full(16, 1.0)
    inside, totals = np.zeros((number, 16)), np.zeros(number)
    for value in range(256):
        of_size[sizes[value]] += 1 / 16
    of_size -= 1.0
    bits = 0.0
    for i in range(len(values)):
        value, context = values[i], contexts[i]
        size = sizes[value]
        chance = of_size[size] / (16 + i)
        if number > 1:
            chance = (inside[context, size] + weight * chance) / (totals[context] + weight)
        bits -= np.log2(chance * everywhere[value] / of_size[size])
        inside[context, size] += 1
        totals[context] += 1
        everywhere[value] += 1
        of_size[size] += 1
    return bits


def sizes_of(values: np.ndarray) -> np.ndarray:
    """Return the size of each byte, (256,), int64, below 16: how far it is from the middle of int8 values."""
    middle = int(np.rint(np.median(values)))
    far = np.abs(np.arange(256, dtype=np.uint8).view(np.int8).astype(np.int64) - middle)
    bounds = np.array([1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96])
    return np.searchsorted(bounds, far, side="right").astype(np.int64)


def contexts_of(values: np.ndarray, other: np.ndarray | None) -> dict[str, np.ndarray]:
    """Return contexts by name, (count,), int64, of a tensor's values, int8, of any shape.

    Args:
        values: the tensor.
        other: an earlier one of the same shape, None if there is none.
    """
    sizes = np.abs(values.astype(np.int64) - int(np.rint(np.median(values))))
    rows = sizes.reshape(len(sizes), -1) if sizes.ndim > 1 else sizes[None]
    scale = max(float(sizes.mean()), 0.5)

    def bins(near: np.ndarray) -> np.ndarray:
        bounds = np.array([0.25, 0.5, 0.75, 1, 1.4, 2, 3])
        return np.searchsorted(bounds, near / scale).reshape(-1).astype(np.int64)

    def shifted(array: np.ndarray, by: int, axis: int) -> np.ndarray:
        moved = np.roll(array, by, axis).astype(np.float64)
        np.moveaxis(moved, axis, 0)[:by] = scale
        return moved

    found = {"before": bins((2 * shifted(rows, 1, 1) + shifted(rows, 2, 1) + shifted(rows, 3, 1)) / 4)}
    found["channel before"] = bins(shifted(rows, 1, 0))
    found["own channel"] = np.repeat(np.arange(len(rows)), rows.shape[1])
    if sizes.ndim == 4 and sizes.shape[2] * sizes.shape[3] > 1:
        found["kernel"] = bins((shifted(sizes, 1, 3) + shifted(sizes, 1, 2)) / 2)
    if sizes.ndim > 2 and sizes.shape[1] > 1:
        found["input channel before"] = bins(shifted(sizes, 1, 1))
    if other is not None:
        found["other tensor"] = bins(np.abs(other.astype(np.int64)).astype(np.float64))
    return found


def int8_tensors(path: Path, *, per_channel: bool) -> Iterator[np.ndarray]:
    """Yield the weights of a network as int8: those that are, else its float32 ones, rounded to 255 steps.

    Args:
        path: the network.
        per_channel: floats get a scale for each output channel, else for each tensor.
    """
    source = open_source(path)
    found = [span for span in source.spans if len(span.dims) > 1 and math.prod(span.dims) >= _LEAST]
    whole = [span for span in found if span.kind in (0, 1) and span.num_bytes == math.prod(span.dims)]
    for span in whole:
        values = source.array(span.start, span.num_bytes).copy()
        yield (values ^ np.uint8(0 if span.kind else 128)).view(np.int8).reshape(span.dims)
    for span in () if whole else (span for span in found if span.data_type == "float32"):
        weights = source.array(span.start, span.num_bytes).view(np.float32).reshape(span.dims)
        axes = tuple(range(1, len(span.dims))) if per_channel else None
        top = np.maximum(np.abs(weights).max(axis=axes, keepdims=True), 1e-12) / 127
        yield np.rint(weights / top).astype(np.int8)


def measured(path: Path, folder: Path, *, per_channel: bool) -> dict[str, float]:
    """Return the bytes of a network's int8 weights: coded, without a context, with each, with the best of a tensor."""
    found = dict.fromkeys(("values", "coded", "none", *_CONTEXTS, "best of each"), 0.0)
    earlier: dict[tuple[int, ...], np.ndarray] = {}
    tensors: dict[bytes, np.ndarray] = {}
    for values in int8_tensors(path, per_channel=per_channel):
        if values.tobytes() in tensors:  # a copy costs next to nothing
            continue
        flat = values.reshape(-1).view(np.uint8)
        far = sizes_of(values)
        plain = adaptive_bits(flat, far, np.zeros(len(flat), np.int64), 1, 1.0) / 8
        sizes = {
            name: min(adaptive_bits(flat, far, context, int(context.max()) + 1, weight) for weight in (4.0, 32.0)) / 8
            for name, context in contexts_of(values, earlier.get(values.shape)).items()
        }
        earlier[values.shape] = tensors[values.tobytes()] = values
        found["values"] += len(flat)
        found["none"] += plain
        for name in _CONTEXTS:
            found[name] += min(sizes.get(name, plain), plain)
        found["best of each"] += min(plain, *sizes.values())
    (folder / "w.safetensors").write_bytes(safetensors({f"w{i}": ("I8", w) for i, w in enumerate(tensors.values())}))
    facts = codec.pack_file(folder / "w.safetensors", folder / "w.krimp")
    found["coded"] = facts.packed_bytes  # names and sizes too
    return found


@console()
def main() -> int:
    """Measure; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", type=Path, help="networks, ONNX or safetensors")
    for path in parser.parse_args().paths:
        for per_channel in (True, False):
            with tempfile.TemporaryDirectory() as name:
                found = measured(path, Path(name), per_channel=per_channel)
            if found["none"]:
                gains = (f"{key} {100 * (1 - found[key] / found['none']):.2f}" for key in list(found)[3:])
                say(
                    f"{path.name}, a scale a {'channel' if per_channel else 'tensor'}: {found['values']:.0f} values,"
                    f" coded {found['coded']:.0f} bytes, by counts {found['none']:.0f}; gain in %: coded"
                    f" {100 * (1 - found['coded'] / found['none']):.2f}, " + ", ".join(gains)
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
