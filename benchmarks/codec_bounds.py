"""No packed file larger than the smaller one of xz -9 and zstd -19, by more than 0.5 % and 200 bytes: every file tried.

    python benchmarks/codec_bounds.py                         generated files of every kind, those of installed packages
    python benchmarks/codec_bounds.py my.onnx folder --quick  and others; --quick makes the generated ones small

Packs each file, unpacks it, compares the bytes, and tells the largest ratio of each group. Exit code 1 if a file is
over the bound or does not come back. Writes benchmarks/records/<date>_codec_bounds.json; --out chooses another name.
"""

from __future__ import annotations

import argparse
import json
import lzma
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # run as a file: make the repository importable, not the folder of this script
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import zstandard

from benchmarks.record_file import RECORDS, head, refuse_existing, write_record
from compress import codec
from compress.errors import CodecError, CompressError
from compress.progress import console, say

SHARE, BYTES = 1.005, 200
_SUFFIXES = (".onnx", ".safetensors")
Tensors = dict[str, tuple[str, np.ndarray]]  # name -> type as safetensors calls it, values


def safetensors(tensors: Tensors) -> bytes:
    """Return the bytes of a safetensors file."""
    header, at = {}, 0
    for name, (dtype, array) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    return len(text).to_bytes(8, "little") + text + b"".join(array.tobytes() for _, array in tensors.values())


def _bfloat16(values: np.ndarray) -> np.ndarray:
    bits = values.astype(np.float32).view(np.uint32)
    return (bits + np.uint32(0x7FFF) + (bits >> 16 & 1) >> 16).astype(np.uint16)


def _floats(rng: np.random.Generator, rows: int) -> dict[str, Tensors]:
    """Return floats as quantization, pruning and casts leave them."""
    weights = (rng.standard_normal((rows, 512)) * 0.05).astype(np.float32)
    found: dict[str, Tensors] = {"float32": {"w": ("F32", weights)}, "bfloat16": {"w": ("BF16", _bfloat16(weights))}}
    found["float16"] = {"w": ("F16", weights.astype(np.float16))}
    for bits in (8, 6, 4, 2):
        most = 2 ** (bits - 1) - 1
        for what, axis in (("tensor", None), ("channel", 1), ("input channel", 0)):
            scale = np.abs(weights).max(axis=axis, keepdims=axis is not None) / np.float32(most)
            integers = np.clip(np.rint(weights / scale), -most, most) + np.float32(0)
            fake = (integers * scale).astype(np.float32)
            name = f"int{bits} a {what}"
            found[f"fake-quantized {name}"] = {"w": ("F32", fake)}
            if axis == 1 and bits == 8:
                halves, wide = fake.astype(np.float16), _bfloat16(fake).astype(np.uint32) << 16
                found[f"fake-quantized {name}, float16 as float32"] = {"w": ("F32", halves.astype(np.float32))}
                found[f"fake-quantized {name}, bfloat16 as float32"] = {"w": ("F32", wide.view(np.float32))}
                found[f"fake-quantized {name}, float32 as float64"] = {"w": ("F64", fake.astype(np.float64))}
            if axis == 1:
                found[f"fake-quantized {name}, float16"] = {"w": ("F16", fake.astype(np.float16))}
                found[f"fake-quantized {name}, bfloat16"] = {"w": ("BF16", _bfloat16(fake))}
    groups = weights.reshape(-1, 64)
    scale = np.abs(groups).max(axis=1, keepdims=True) / np.float32(7)
    found["fake-quantized int4 a group"] = {"w": ("F32", (np.rint(groups / scale) * scale).reshape(weights.shape))}
    low = weights.min(axis=1, keepdims=True)
    scale = (weights.max(axis=1, keepdims=True) - low) / np.float32(255)
    zero = np.rint(-low / scale)
    uneven = (np.clip(np.rint(weights / scale + zero), 0, 255) - zero) * scale
    found["fake-quantized uint8 with zero points"] = {"w": ("F32", uneven.astype(np.float32))}
    centers = np.sort(rng.standard_normal(256).astype(np.float32) * 0.05)
    found["palette of 256"] = {"w": ("F32", centers[np.searchsorted(centers, weights).clip(0, 255)])}
    found["palette of 1500"] = {
        "w": ("F32", rng.standard_normal(1500).astype(np.float32)[rng.integers(0, 1500, weights.shape)])
    }
    found["float16 as float32"] = {"w": ("F32", weights.astype(np.float16).astype(np.float32))}
    found["bfloat16 as float32"] = {"w": ("F32", (_bfloat16(weights).astype(np.uint32) << 16).view(np.float32))}
    found["half zeros"] = {"w": ("F32", np.where(rng.random(weights.shape) < 0.5, 0, weights).astype(np.float32))}
    found["nine tenths zeros"] = {
        "w": ("F32", np.where(rng.random(weights.shape) < 0.9, 0, weights).astype(np.float32))
    }
    blocks = np.repeat(rng.random((rows, 64)) < 0.5, 8, axis=1)
    found["zeros in blocks"] = {"w": ("F32", np.where(blocks, 0, weights).astype(np.float32))}
    signs = np.sign(weights) * (np.abs(weights) > 0.04) * np.float32(0.07)
    found["ternary"] = {"w": ("F32", signs.astype(np.float32))}
    found["float64"] = {"w": ("F64", weights[: rows // 2].astype(np.float64))}
    found["ramp"] = {"w": ("F32", np.linspace(0, 1, rows * 64, dtype=np.float32))}
    return found


def _repeats(rng: np.random.Generator, rows: int) -> dict[str, Tensors]:
    """Return weights that are there more than once."""
    floats = (rng.standard_normal((rows, 512)) * 0.05).astype(np.float32)
    integers = np.round(rng.laplace(0, 9, (rows, 512))).clip(-127, 127).astype(np.int8)
    nearly = floats.copy()
    nearly[rng.integers(0, rows, 9), rng.integers(0, 512, 9)] += 1
    return {
        "the same weights twice": {"a": ("F32", floats), "b": ("F32", floats)},
        "the same int8 twice": {"a": ("I8", integers), "x": ("F32", floats[:3]), "b": ("I8", integers)},
        "twice in one tensor": {"a": ("I8", np.concatenate([integers, integers]))},
        "rows twice": {"a": ("I8", np.repeat(integers[: rows // 4], 4, axis=0))},
        "nearly the same": {"a": ("F32", floats), "b": ("F32", nearly)},
        "a part again": {"a": ("F32", floats), "b": ("F32", floats[rows // 3 : rows // 2])},
        "small ones again": {f"w{i}": ("F32", floats[i % 16]) for i in range(200)},
    }


def _integers(rng: np.random.Generator, rows: int) -> dict[str, Tensors]:
    """Return packed half bytes, index tables and other integers."""
    nibbles = np.round(rng.standard_normal((rows, 512)) * 2.5).clip(-8, 7).astype(np.int64)
    unsigned, signed = (nibbles + 8).astype(np.uint8), (nibbles & 15).astype(np.uint8)
    found: dict[str, Tensors] = {}
    for name, half in (("unsigned", unsigned), ("signed", signed)):
        pairs = half[:, ::2] | half[:, 1::2] << 4
        found[f"{name} half bytes in uint8"] = {"w": ("U8", pairs)}
        found[f"{name} half bytes in int32"] = {"w": ("I32", pairs.view(np.int32))}
        found[f"{name} half bytes in few uint8"] = {"w": ("U8", pairs[:4])}
    two_bits = rng.choice(4, (rows, 512), p=[0.2, 0.5, 0.2, 0.1]).astype(np.uint8).reshape(rows, 128, 4)
    found["two bits in int32"] = {"w": ("I32", (two_bits @ np.array([1, 4, 16, 64], np.uint8)).view(np.int32))}
    count = rows * 64
    found["arange int64"] = {"w": ("I64", np.arange(count))}
    found["arange int32"] = {"w": ("I32", np.arange(count, dtype=np.int32))}
    window = (np.arange(49)[:, None] - np.arange(49)[None, :] + 48).reshape(-1)
    found["window index"] = {f"w{i}": ("I64", window) for i in range(12)}
    found["repeating index"] = {"w": ("I64", np.tile(np.arange(169), count // 169))}
    found["random index"] = {"w": ("I64", rng.integers(0, 30000, count))}
    found["sorted index"] = {"w": ("I64", np.sort(rng.integers(0, 50 * count, count)))}
    found["grid"] = {"w": ("I64", np.stack(np.meshgrid(np.arange(80), np.arange(rows)), -1).reshape(-1, 2))}
    found["anchors"] = {
        "w": ("F32", (np.stack(np.meshgrid(np.arange(80), np.arange(rows)), -1) * 8 + 4).astype(np.float32))
    }
    found["int32 biases"] = {"w": ("I32", (rng.standard_normal(count) * 3000).astype(np.int32))}
    found["mask"] = {"w": ("BOOL", rng.random(count * 8) < 0.3)}
    found["triangle"] = {"w": ("BOOL", np.tril(np.ones((rows, rows), dtype=bool)))}
    found["noise"] = {"w": ("U8", rng.integers(0, 256, count * 4).astype(np.uint8))}
    found["zeros"] = {"w": ("F32", np.zeros(count, np.float32)), "v": ("I8", np.zeros(count, np.int8))}
    found["int8"] = {"w": ("I8", np.round(rng.laplace(0, 9, (rows, 512))).clip(-127, 127).astype(np.int8))}
    found["int8 with runs"] = {"w": ("I8", np.repeat(rng.integers(-9, 9, count).astype(np.int8), 7))}
    found["counter in bytes"] = {"w": ("U8", (np.arange(count * 4) % 251).astype(np.uint8))}
    return found


def _runs(rng: np.random.Generator, rows: int) -> dict[str, Tensors]:
    """Return values, pairs, kernels and blocks that follow each other unchanged."""

    def bell(*shape: int, width: float = 9) -> np.ndarray:
        return np.round(rng.laplace(0, width, shape)).clip(-127, 127).astype(np.int8)

    count = rows * 512
    found: dict[str, Tensors] = {}
    for times in (2, 3, 4, 7, 16, 64):
        found[f"int8, each {times} times"] = {"w": ("I8", np.repeat(bell(count // times), times))}
    found["narrow int8, each 7 times"] = {"w": ("I8", np.repeat(bell(count // 7, width=2), 7))}
    found["uint8 noise, each 7 times"] = {"w": ("U8", np.repeat(rng.integers(0, 256, count // 7).astype(np.uint8), 7))}
    for mean in (2, 5, 20):
        lengths = rng.geometric(1 / mean, count // mean)
        for name, kind in (("int8", "i1"), ("int32", "i4"), ("int64", "i8"), ("float16", "f2"), ("float32", "f4")):
            values = (rng.standard_normal(len(lengths)) * 30).astype(kind)
            data_type = ("F" if kind[0] == "f" else "I") + str(8 * int(kind[1]))
            found[f"{name} in runs of {mean}"] = {"w": (data_type, np.repeat(values, lengths))}
        classes = rng.integers(0, 3, len(lengths)).astype(np.uint8)
        found[f"three values in runs of {mean}"] = {"w": ("U8", np.repeat(classes, lengths))}
        is_kept = np.repeat(rng.random(len(lengths)) < 0.5, lengths)
        found[f"zeros in runs of {mean}"] = {"w": ("I8", (bell(len(is_kept)) * is_kept).astype(np.int8))}
    found["blocks of 4 x 4"] = {"w": ("I8", np.repeat(np.repeat(bell(rows, 32), 4, axis=0), 4, axis=1))}
    found["kernels of equal values"] = {"w": ("I8", np.repeat(bell(rows, 56, 1), 9, axis=2))}
    found["pairs, each 4 times"] = {"w": ("I8", np.repeat(bell(rows * 64, 2), 4, axis=0))}
    found["kernels, each 3 times"] = {"w": ("I8", np.repeat(bell(rows * 20, 3, 3), 3, axis=0))}
    found["kernels of 40 kinds"] = {"w": ("I8", bell(40, 3, 3)[rng.integers(0, 40, rows * 50)])}
    found["kernels of 900 kinds"] = {"w": ("I8", bell(900, 3, 3)[rng.integers(0, 900, rows * 50)])}
    found["float kernels of 200 kinds"] = {
        "w": ("F32", rng.standard_normal((200, 3, 3)).astype(np.float32)[rng.integers(0, 200, rows * 12)])
    }
    found["runs, then others"] = {"w": ("I8", np.concatenate([np.repeat(bell(count // 14), 7), bell(count // 2)]))}
    return found


def _many(rng: np.random.Generator, rows: int) -> dict[str, Tensors]:
    """Return files of very many small tensors."""
    number = rows * 40
    halves = rng.standard_normal((number, 64)).astype(np.float16)
    bytes_ = np.round(rng.laplace(0, 9, (number, 32))).clip(-127, 127).astype(np.int8)
    mixed: Tensors = {}
    for i in range(number // 8):
        mixed[f"model.layers.{i}.weight"] = ("I8", bytes_[i : i + 9])
        mixed[f"model.layers.{i}.scale"] = ("F32", halves[i].astype(np.float32))
        mixed[f"model.layers.{i}.zero"] = ("I8", np.zeros(160, np.int8))
    return {
        "tiny float16": {f"model.layers.{i}.w": ("F16", halves[i]) for i in range(number)},
        "tiny int8": {f"model.layers.{i}.w": ("I8", bytes_[i]) for i in range(number)},
        "small of three kinds": mixed,
    }


def _onnx(rng: np.random.Generator, rows: int) -> Iterator[tuple[str, bytes]]:
    """Yield ONNX files that keep values elsewhere than in raw_data of initializers."""
    from onnx import TensorProto, helper, numpy_helper

    def model(initializers: Sequence[Any] = (), sparse: Sequence[Any] = (), nodes: Sequence[Any] = ()) -> bytes:
        graph = helper.make_graph(nodes, "g", [], [], initializers, sparse_initializer=sparse)
        return bytes(helper.make_model(graph).SerializeToString())

    integers = np.round(rng.laplace(0, 9, rows * 64)).clip(-127, 127).astype(np.int8)
    floats = (rng.standard_normal(rows * 64) * 0.05).astype(np.float32)
    indices = np.sort(rng.choice(rows * 640, rows * 64, replace=False))
    typed = helper.make_tensor("w", TensorProto.INT8, integers.shape, integers)
    yield "int8 in int32_data", model([typed])
    yield (
        "uint8 in int32_data",
        model([helper.make_tensor("w", TensorProto.UINT8, integers.shape, integers.view(np.uint8))]),
    )
    yield "int64 in int64_data", model([helper.make_tensor("w", TensorProto.INT64, indices.shape, indices)])
    yield (
        "float16 in int32_data",
        model([helper.make_tensor("w", TensorProto.FLOAT16, floats.shape, floats.astype(np.float16))]),
    )
    yield "floats in float_data", model([helper.make_tensor("w", TensorProto.FLOAT, floats.shape, floats)])
    for name, values in (("int8", integers), ("floats", floats)):
        kept, places = numpy_helper.from_array(values, "w"), numpy_helper.from_array(indices)
        yield f"sparse {name}", model(sparse=[helper.make_sparse_tensor(kept, places, [rows * 640])])
    small = [numpy_helper.from_array(floats[64 * i : 64 * i + 64], f"layer{i}.weight") for i in range(rows)]
    yield "small initializers", model(small)
    tiny = [
        numpy_helper.from_array(integers[16 * i : 16 * i + 16 + i % 40], f"layer{i}.weight") for i in range(rows * 3)
    ]
    yield "tiny int8 initializers", model(tiny)
    constants = [helper.make_node("Constant", [], [f"c{i}"], value=tensor) for i, tensor in enumerate(small)]
    yield "constants, each twice", model(small, nodes=constants)
    branch = helper.make_graph(constants, "b", [], [helper.make_tensor_value_info("c0", TensorProto.FLOAT, [64])])
    yield (
        "branches that are equal",
        model(nodes=[helper.make_node("If", ["i"], ["o"], then_branch=branch, else_branch=branch)]),
    )


def generated(rows: int, seed: int = 0) -> Iterator[tuple[str, str, bytes]]:
    """Yield (group, name with suffix, content) of files of every kind, some megabytes for 512 rows."""
    groups: dict[str, Callable[[np.random.Generator, int], dict[str, Tensors]]] = {
        "floats": _floats, "repeats": _repeats, "integers": _integers, "runs": _runs, "many": _many,
    }  # fmt: skip
    for group, make in groups.items():
        for name, tensors in make(np.random.default_rng(seed), rows).items():
            yield group, f"{name}.safetensors", safetensors(tensors)
    for name, data in _onnx(np.random.default_rng(seed), rows):
        yield "onnx", f"{name}.onnx", data


def measured(data: bytes, suffix: str, folder: Path) -> dict[str, Any]:
    """Pack one file and return its sizes, and whether it keeps the bound.

    Args:
        data: the file.
        suffix: of its name.
        folder: for files.
    """
    source, target = folder / f"source{suffix}", folder / "packed.krimp"
    source.write_bytes(data)
    started = time.process_time()
    try:
        facts = codec.pack_file(source, target)
    except CodecError as error:
        return {"bytes": len(data), "refused": str(error).replace(str(source), "")}
    seconds = time.process_time() - started
    if codec.unpack_bytes(target) != data:
        raise ValueError(f"{suffix} file of {len(data)} bytes: does not come back. Expected the same bytes.")
    xz, zstd = len(lzma.compress(data, preset=9)), len(zstandard.ZstdCompressor(level=19).compress(data))
    bound = SHARE * min(xz, zstd) + BYTES
    return {
        "bytes": len(data), "packed": facts.packed_bytes, "format_version": facts.format_version, "xz9": xz,
        "zstd19": zstd, "ratio": facts.packed_bytes / min(xz, zstd), "within": facts.packed_bytes <= bound,
        "pack_s": round(seconds, 2),
    }  # fmt: skip


def installed() -> Iterator[Path]:
    """Yield the networks that the installed packages ship."""
    for suffix in _SUFFIXES:
        yield from sorted(Path(sysconfig.get_paths()["purelib"]).rglob(f"*{suffix}"))


@console()
def main() -> int:
    """Measure; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="*", type=Path, help="files, and folders in which to look for them")
    parser.add_argument("--quick", action="store_true", help="small generated files")
    parser.add_argument("--rows", type=int, help="size of the generated files; 0 makes none")
    parser.add_argument("--no-installed", action="store_true", help="leave the installed packages out")
    parser.add_argument("--out", type=Path, help="record to write")
    options = parser.parse_args()
    wanted = options.out is not None or not options.quick
    out = (options.out or RECORDS / f"{datetime.now(UTC):%Y-%m-%d}_codec_bounds.json") if wanted else None
    try:
        refuse_existing(out)
    except CompressError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    rows = options.rows if options.rows is not None else 64 if options.quick else 512
    files = [each for path in options.paths for each in (sorted(path.rglob("*")) if path.is_dir() else [path])]
    files += [] if options.no_installed else list(installed())
    found = [("files", path.name, path) for path in files if path.suffix in _SUFFIXES and path.is_file()]
    rows_of: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for group, name, content in [*found, *(generated(rows) if rows else ())]:
            data = content.read_bytes() if isinstance(content, Path) else content
            row = {"group": group, "name": name} | measured(data, Path(name).suffix, Path(folder))
            rows_of.append(row)
            if not row.get("within", True) or group != "files":
                say(
                    f"{'over' if not row.get('within', True) else 'ok':5}{row.get('ratio', 0):7.4f}  {name}  "
                    + "  ".join(
                        f"{key} {row.get(key)}"
                        for key in ("bytes", "packed", "xz9", "zstd19", "format_version", "pack_s")
                    )
                )
    packed = [row for row in rows_of if "ratio" in row]
    over = [row for row in packed if not row["within"]]
    say(
        f"{len(packed)} files, {len(rows_of) - len(packed)} refused; over the bound: {len(over)}; largest ratio of"
        f" files from 100 kB on: {max((row['ratio'] for row in packed if row['bytes'] >= 100_000), default=0):.4f}"
    )
    bound = {"share": SHARE, "bytes": BYTES}
    write_record(out, head("codec_bounds") | {"name": "codec_bounds", "bound": bound, "rows": rows, "files": rows_of})
    return int(bool(over))


if __name__ == "__main__":
    sys.exit(main())
