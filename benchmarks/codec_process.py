"""Measurements of benchmarks/codec.py that need a process of their own; each prints one line of JSON.

python -m benchmarks.codec_process memory FILE.krimp       memory that codec.load adds to the imported process
python -m benchmarks.codec_process first FILE.krimp        seconds of the first and of the second codec.load
python -m benchmarks.codec_process session FILE.onnx FILE.krimp ROUNDS    file to a ready ONNX Runtime session
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from compress import codec
from compress.codec.files import packed_file
from compress.codec.files.packed_file import OriginalHash
from compress.codec.format.index_and_skeleton import Placed
from compress.runtime.session import open_session


def memory(path: Path) -> dict[str, Any]:
    """Return the peak memory of a process before and after it unpacked a file, bytes.

    Everything is imported and compiled before: a small file of the same kinds goes first.
    """
    warm_up(path)
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak back to what is in use now
    before = _peak_bytes()
    data = codec.load(path)
    peak = _peak_bytes()
    return {"original_bytes": len(data), "before_bytes": before, "peak_bytes": peak, "added_bytes": peak - before}


def first(path: Path) -> dict[str, Any]:
    """Return processor seconds of this process's first codec.load (compiler's cache as it is) and of its second."""
    seconds = [_seconds(lambda: codec.load(path))[1] for _ in range(2)]
    return {"first_s": seconds[0], "second_s": seconds[1]}


def session(plain: Path, packed: Path, rounds: int) -> dict[str, Any]:
    """Return times from file to session in turns.

    'krimp' compares the checksums of the tensors, 'krimp_with_hash' the SHA-256 of the whole instead; 'hash' is what
    that takes of it, measured where it happens.
    """
    calls: dict[str, Callable[[], Any]] = {
        "plain": lambda: open_session(plain, threads=1),
        "krimp": lambda: open_session(packed, threads=1, check_hash=False),
        "krimp_with_hash": lambda: open_session(packed, threads=1),
    }
    times: dict[str, list[dict[str, float]]] = {name: [] for name in (*calls, "hash")}
    hashing = [0.0, 0.0]  # seconds and processor seconds of a load

    class TimedHash(OriginalHash):
        def add(self, tensors: Sequence[Placed], outs: Sequence[np.ndarray]) -> None:
            for i, seconds in enumerate(_seconds(lambda: OriginalHash.add(self, tensors, outs))):
                hashing[i] += seconds

    packed_file.OriginalHash = TimedHash  # type: ignore[misc]
    for _ in range(rounds + 1):
        for name, call in calls.items():
            hashing[:] = 0.0, 0.0
            wall, cpu = _seconds(call)
            times[name].append({"wall_s": wall, "cpu_s": cpu})
        times["hash"].append({"wall_s": hashing[0], "cpu_s": hashing[1]})
    return {"times": {name: found[1:] for name, found in times.items()}, "rounds": rounds}  # the first one warms up


def warm_up(path: Path) -> None:
    """Decode a file once through every kernel it needs, without keeping anything of its size."""
    with codec.PackedFile(path) as file:
        for tensor in sorted(file.tensors, key=lambda tensor: tensor.record.num_bytes)[:50]:
            file.decode(tensor)


def _seconds(call: Callable[[], Any]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    result = call()
    seconds = time.perf_counter() - wall, time.process_time() - cpu
    del result  # taking a session down again is no part of it
    return seconds


def _peak_bytes() -> int:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    raise OSError("/proc/self/status: no VmHWM. Memory is measured on Linux only.")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    command, *arguments = sys.argv[1:]
    calls: dict[str, Callable[..., dict[str, Any]]] = {"memory": memory, "first": first, "session": session}
    values = [int(text) if text.isdigit() else Path(text) for text in arguments]
    print(json.dumps(calls[command](*values)))
