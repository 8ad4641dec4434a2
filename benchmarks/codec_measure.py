"""What benchmarks/codec.py measures: sizes, speeds and whole files. Results are plain dictionaries for the record."""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from benchmarks.codec_coders import Coder, entropy_bytes, same_values
from benchmarks.codec_weights import ROOT, Weights
from compress import codec
from compress.progress import track

Row = dict[str, Any]


def sizes(weights: Weights, coders: Sequence[Coder], known: dict[str, Row]) -> Row:
    """Return the bytes of every coder for one set of weights; each decodes its own output, which is compared.

    Args:
        weights: what to code.
        coders: who codes it.
        known: digest of the tensors -> bytes of other coders in an earlier record; never used for Krimp.
    """
    digest = hashlib.sha256(b"".join(tensor.tobytes() for tensor in weights.tensors)).hexdigest()[:16]
    row: Row = {
        "weights": weights.name,
        "bit_width": weights.bit_width,
        "zeros": weights.zeros,
        "zeros_found": round(1 - sum(map(np.count_nonzero, weights.tensors)) / weights.count, 4),
        "count": weights.count,
        "tensors": len(weights.tensors),
        "entropy_bytes": entropy_bytes(weights.tensors),
        "digest": digest,
        "bytes": {},
    }
    for coder in coders:
        if not coder.missing:
            row["bytes"][coder.name] = _size(coder, weights.tensors, row, known)
    return row


def _size(coder: Coder, tensors: Sequence[np.ndarray], row: Row, known: dict[str, Row]) -> int:
    earlier = known.get(row["digest"], {}).get(coder.name)
    if earlier is not None and not coder.name.startswith("Krimp"):
        return int(earlier)
    coded = coder.encode(tensors)
    if coder.compared_in_sizes and not same_values(coder.decode(coded, tensors), tensors):
        raise ValueError(f"{coder.name} does not give back its input: {row}.")
    return coder.num_bytes(coded)


def speeds(weights: Weights, coders: Sequence[Coder], rounds: int, few_count: int) -> Row:
    """Time every coder in turns on the same weights, in symbols a second of processor time.

    Args:
        weights: one tensor.
        coders: the coders; slow ones get the first `few_count` weights or a third of the rounds.
        rounds: counted rounds; one before that is compared with the input and warms up.
        few_count: weights for the slowest coders.
    """
    (tensor,) = weights.tensors
    few = tensor[: max(1, len(tensor) * few_count // tensor.size)]
    usable = [coder for coder in coders if not coder.missing]
    given = {coder.name: [few] if coder.few_weights else [tensor] for coder in usable}
    coded = {coder.name: coder.encode(given[coder.name]) for coder in usable}
    for coder in usable:
        if not same_values(coder.decode(coded[coder.name], given[coder.name]), given[coder.name]):
            raise ValueError(f"{coder.name} does not give back its input of {weights.bit_width} bits.")
    taken: dict[str, dict[str, list[tuple[float, float]]]] = {
        coder.name: {"encode": [], "decode": []} for coder in usable
    }
    label = f"speed, {weights.bit_width} bits, {weights.zeros:.0%} zeros"
    for number in track(range(rounds), label):
        for coder in usable:
            if coder.slow and number >= max(1, rounds // 3):
                continue
            tensors = given[coder.name]
            code = (
                partial(coder.encode_only, coded[coder.name]) if coder.encode_only else partial(coder.encode, tensors)
            )
            calls: dict[str, Callable[[], Any]] = {
                "encode": code,
                "decode": partial(coder.decode, coded[coder.name], tensors),
            }
            for what, call in calls.items():
                taken[coder.name][what].append(_seconds(call))
    return {
        "weights": weights.name,
        "bit_width": weights.bit_width,
        "zeros": weights.zeros,
        "count": weights.count,
        "rounds": rounds,
        "coders": {
            coder.name: {
                "count": given[coder.name][0].size,
                **{what: summary(times, given[coder.name][0].size) for what, times in taken[coder.name].items()},
            }
            for coder in usable
        },
    }


def summary(times: Sequence[tuple[float, float]], count: int) -> Row:
    """Return percentiles of (wall, processor) seconds and the speed of the median round, processor time."""
    wall, cpu = [wall for wall, _ in times], [cpu for _, cpu in times]
    return {
        "msym_per_s": count / statistics.median(cpu) / 1e6,
        "runs": len(times),
        **{f"cpu_s_{name}": value for name, value in percentiles(cpu).items()},
        **{f"wall_s_{name}": value for name, value in percentiles(wall).items()},
    }


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Return min, p50, p90 and p99 of a list of seconds."""
    return {"min": min(values)} | {f"p{q}": float(np.percentile(values, q)) for q in (50, 90, 99)}


def whole_file(name: str, data: bytes, coders: Sequence[Coder], nncodec: Coder | None, known: dict[str, Row]) -> Row:
    """Return the bytes of one ONNX file packed by everybody, and of its integers by Krimp and NNCodec.

    Args:
        name: for the table.
        data: the ONNX file.
        coders: general compressors.
        nncodec: it codes the integer tensors that Krimp codes, or None if it is missing.
        known: as for `sizes`.
    """
    whole = np.frombuffer(data, dtype=np.int8).reshape(1, -1)
    with tempfile.TemporaryDirectory() as folder:
        source, packed = Path(folder) / "model.onnx", Path(folder) / "model.krimp"
        source.write_bytes(data)
        facts = codec.pack_file(source, packed)
        if codec.load(packed) != data:
            raise ValueError(f"{name} does not come back.")
        tensors = codec.inspect_file(packed)
        spans = _integers(packed)
    digest = hashlib.sha256(data).hexdigest()[:16]
    row: Row = {"file": name, "onnx_bytes": len(data), "digest": digest, "bytes": {"Krimp": facts.packed_bytes}}
    for coder in coders:
        if not coder.missing:
            row["bytes"][coder.name] = _size(coder, [whole], row, known)
    others = sum(fact.packed_bytes for fact in tensors if fact.bit_width > 8)
    row["integers"] = {
        "count": sum(span.size for span in spans),
        "bit_width": max((fact.bit_width for fact in tensors if fact.bit_width <= 8), default=0),
        "entropy_bytes": entropy_bytes(spans),
        "Krimp": facts.packed_bytes - facts.skeleton_packed_bytes - others,
    }
    if nncodec is not None and spans:
        row["integers"][nncodec.name] = _size(nncodec, spans, row, {})
    return row


def _integers(packed: Path) -> list[np.ndarray]:
    """Return the coded tensors of at most 8 bits as int8, (out, rest), with the shapes that the file states."""
    found = []
    facts = codec.inspect_file(packed)
    with codec.PackedFile(packed) as file:
        for fact, tensor in zip(facts, file.tensors, strict=True):
            if fact.data_type in ("int8", "uint8") and fact.elements == tensor.record.num_bytes:
                values = file.decode(tensor).view(np.int8)
                found.append(values.reshape(fact.dims[0] if len(fact.dims) > 1 else 1, -1))
    return found


def in_child(command: str, *arguments: Any, environment: dict[str, str] | None = None) -> Row:
    """Run a measurement of codec_process.py in a fresh process and return its JSON.

    Raises:
        RuntimeError: it failed.
    """
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.codec_process", command, *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, **(environment or {})},
    )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(f"benchmarks.codec_process {command} failed: {done.stderr.strip()[-400:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def loading(data: bytes, weights: int, rounds: int) -> Row:
    """Return load-to-session times, peak memory and the first call for a large network."""
    with tempfile.TemporaryDirectory() as folder:
        plain, packed = Path(folder) / "model.onnx", Path(folder) / "model.krimp"
        plain.write_bytes(data)
        facts = codec.pack_file(plain, packed)
        session = in_child("session", plain, packed, rounds)
        empty = {"NUMBA_CACHE_DIR": str(Path(folder) / "numba")}
        row = {
            "weights": weights,
            "onnx_bytes": len(data),
            "packed_bytes": facts.packed_bytes,
            "entropy_bits_per_weight": facts.entropy_bits_per_weight,
            "bits_per_weight": facts.bits_per_weight,
            "rounds": rounds,
            "memory": in_child("memory", packed),
            "first_call": {"compiling": in_child("first", packed, environment=empty)}
            | {"cached": in_child("first", packed, environment=empty)},
        }
    for name, times in session["times"].items():
        row[name] = {
            f"{kind}_s_{label}": value
            for kind in ("cpu", "wall")
            for label, value in percentiles([entry[f"{kind}_s"] for entry in times]).items()
        }
    return row


def memory(name: str, tensor: np.ndarray) -> Row:
    """Return the peak memory of loading a file of one large tensor, with numba and with NumPy alone.

    Args:
        name: of the row.
        tensor: any shape and type that safetensors has.
    """
    with tempfile.TemporaryDirectory() as folder:
        plain, packed = Path(folder) / "tensor.safetensors", Path(folder) / "tensor.krimp"
        save_file({"weights": tensor}, plain)
        codec.pack_file(plain, packed)
        plain.unlink()
        return {
            "name": name,
            "elements": tensor.size,
            "packed_bytes": packed.stat().st_size,
            "numba": in_child("memory", packed, environment={"KRIMP_NUMBA": "1"}),
            "NumPy alone": in_child("memory", packed, environment={"KRIMP_NUMBA": "0"}),
        }


def _seconds(call: Callable[[], Any]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - cpu
