"""Size and speed of the codec against the best known coders, side by side in one run, on one core.

    make bench-codec                      everything, 20 to 30 minutes; installs the other coders into .venv-codec
    make bench-codec ARGS=--quick         the same on few weights, in about a minute
    .venv-codec/bin/python benchmarks/codec.py --weights my.safetensors more.pth     on networks of your own

What it does
  sizes    Weights of trained networks (the zoo's float network and those of --weights), quantized here per output
           channel to 8, 6 and 4 bits with 0, 50, 80 and 90 % of them pruned, and synthetic ones of 2 to 8 bits with 0
           to 95 % zeros: bytes of each coder against the order-0 entropy. Each coder's output is decoded and compared.
  speeds   Millions of weights a second, encode and decode, coders in turns; median of the rounds.
  files    Whole ONNX files: .krimp against general compressors, and its integers against NNCodec's.
  loading  From file to a ready ONNX Runtime session for a quantized detector of 36 M weights, against the plain
           ONNX file; peak memory; the first call of a process (numba compiles once and keeps it).

How to read it
  Times are processor seconds of one core, so that other work on the machine hardly counts; wall seconds are in the
  record too. Krimp's bytes are everything in its file but the original's own header: code tables, index, checksums.
  constriction and dahuffman get their tables for nothing, NNCodec its file headers. NNCodec has its context models,
  so that it can end below the order-0 entropy. Every target ends as met or MISSED, with the number.
  A coder that is not installed is named with the reason, and what hangs on it counts as not measured.

Writes benchmarks/records/<date>_codec.json and .png unless --quick; --out chooses another name.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # run as a file: make the repository importable, not the folder of this script
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[_name] = "1"


from benchmarks.codec_coders import Coder, all_coders, whole_file_coders
from benchmarks.codec_measure import Row, loading, memory, sizes, speeds, whole_file
from benchmarks.codec_networks import LargeNetwork, float_onnx, quantized_onnx
from benchmarks.codec_targets import MIB, Verdict, verdicts
from benchmarks.codec_weights import (
    REAL_BITS,
    REAL_ZEROS,
    SYNTHETIC_BITS,
    SYNTHETIC_ZEROS,
    ZOO,
    Weights,
    default_files,
    large_tensors,
    real_weights,
    synthetic,
    trained_networks,
)
from benchmarks.record_file import RECORDS, refuse_existing, write_record
from compress import codec
from compress.errors import CompressError
from compress.machine import describe_machine, version_of
from compress.progress import console, say, track

RIVALS = ("zstandard", "zipnn", "nncodec", "constriction", "dahuffman")
PARTS = ("speeds", "loading", "sizes", "files")
_BIG, _SMALL = 1 << 20, 1 << 16
_FEW_COUNT = 1 << 18  # weights that the slowest coders are timed with


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure everything and return the record."""
    coders = all_coders()
    for coder in coders:
        if coder.missing:
            say(f"{coder.name}: not measured, {coder.missing}")
    files = options.weights if options.weights is not None else default_files()
    if not files:
        say("no weights beside the checkout (../shared/weights); name some with --weights. The zoo's are used.")
    networks = trained_networks(files)
    pth = next((path for path in files if "mobilenet_v2" in path.name), None)
    quick = options.quick
    record: dict[str, Any] = {
        "format_version": 1,
        "benchmark": "codec",
        "name": "codec",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "note": options.note,
        "quick": quick,
        "clock": "processor seconds of one core, median; wall seconds beside them",
        "threads": 1,
        "warmup": 1,
        "rounds": options.rounds,
        "environment": describe_machine(),
        "coders": {coder.name: coder.missing or "measured" for coder in coders},
        "tables_not_counted": [coder.name for coder in coders if not coder.tables_counted],
        "weights": {path.name: path.stat().st_size for path in files},
    }
    record["environment"]["versions"] |= {name: version_of(name) or "not installed" for name in RIVALS}
    known = _known_sizes(options.sizes_from, record) if options.sizes_from else {}
    alone = [coder for coder in coders if coder.name in ("Krimp", "NNCodec optimized", "constriction ANS")]
    real, tensors, grid, timed = [], [], [], []
    if "sizes" in options.only:
        bits, zeros = ((8, 4), (0.0, 0.8)) if quick else (REAL_BITS, REAL_ZEROS)
        chosen = dict(list(networks.items())[:1]) if quick else networks
        real = list(real_weights(chosen, bits, zeros))
        tensors, grid = list(_large_tensors(real)), list(_grid(quick))
    if "speeds" in options.only:
        timed = list(_timed(quick))
    record["speeds"] = [speeds(weights, coders, options.rounds, _FEW_COUNT) for weights in timed]
    record["loading"] = list(_loading(options.rounds, quick)) if "loading" in options.only else []
    record["memory"] = list(_memory(quick)) if "loading" in options.only else []
    everybody = coders[:1] + coders[2:]  # Krimp's two ways give the same bytes
    record["synthetic_sizes"] = [sizes(weights, alone, known) for weights in track(grid, "sizes, synthetic")]
    record["tensor_sizes"] = [sizes(weights, alone, known) for weights in track(tensors, "sizes, large tensors")]
    record["real_sizes"] = [sizes(weights, everybody, known) for weights in track(real, "sizes, networks")]
    record["files"] = list(_files(pth, coders, quick, known)) if "files" in options.only else []
    if options.rest_from:
        _add_rest(record, options.rest_from)
    record["verdicts"] = verdicts(record)
    return record


def _known_sizes(path: Path, record: dict[str, Any]) -> dict[str, Row]:
    """Return digest -> bytes of the other coders in an earlier record of the same versions."""
    earlier = json.loads(path.read_text(encoding="utf-8"))
    versions, now = earlier["environment"]["versions"], record["environment"]["versions"]
    changed = [name for name in RIVALS if versions.get(name) != now.get(name)]
    if changed:
        raise ValueError(
            f"{path}: other versions of {', '.join(changed)}; its sizes do not hold. Leave --sizes-from out."
        )
    record["sizes_of_others_from"] = path.name
    rows = (row for part in ("synthetic_sizes", "tensor_sizes", "real_sizes", "files") for row in earlier[part])
    return {row["digest"]: row["bytes"] for row in rows}


def _add_rest(record: dict[str, Any], path: Path) -> None:
    """Put the parts that this run left out in from an earlier record of the same commit and machine."""
    earlier = json.loads(path.read_text(encoding="utf-8"))
    for name in ("commit", "cpu"):
        ours, theirs = record["environment"].get(name), earlier["environment"].get(name)
        if ours != theirs:
            raise ValueError(f"{path}: {name} is {theirs}, here {ours}. Only parts of the same can stand together.")
    parts = ("speeds", "loading", "memory", "synthetic_sizes", "tensor_sizes", "real_sizes", "files")
    taken = [part for part in parts if not record[part] and earlier[part]]
    record |= {part: earlier[part] for part in taken}
    record["parts_measured_before"] = {"date": earlier["date"], "parts": taken}


def _large_tensors(real: Sequence[Weights]) -> Iterator[Weights]:
    """Yield each tensor from 65,536 weights on by itself, all-zero ones left out."""
    for weights in real:
        for tensor in weights.tensors:
            if tensor.size >= _SMALL and tensor.any():
                yield Weights(weights.name, weights.bit_width, weights.zeros, (tensor,))


def _grid(quick: bool) -> Iterator[Weights]:
    bits, zeros = ((8, 4, 2), (0.0, 0.8)) if quick else (SYNTHETIC_BITS, SYNTHETIC_ZEROS)
    for count in (_SMALL, _BIG):
        for bit_width in bits:
            for share in zeros:
                yield synthetic(bit_width, share, count)


def _timed(quick: bool) -> Iterator[Weights]:
    cases = ((8, 0.0), (8, 0.8)) if quick else ((8, 0.0), (8, 0.5), (8, 0.8), (8, 0.9), (4, 0.0))
    for bit_width, share in cases:
        yield synthetic(bit_width, share, (1 << 20) if quick else (1 << 23))


def _files(pth: Path | None, coders: Sequence[Coder], quick: bool, known: dict[str, Row]) -> Iterator[Row]:
    nncodec = next((coder for coder in coders if coder.name == "NNCodec optimized" and not coder.missing), None)
    general = whole_file_coders()
    for path in sorted(ZOO.glob("*.krimp")):
        say(f"whole file {path.stem}")
        yield whole_file(path.stem, codec.load(path), general, nncodec, known)
    if pth is None or quick:
        return
    for bit_width, share in ((8, 0.0), (8, 0.5), (6, 0.8), (4, 0.0), (4, 0.9)):
        name = f"mobilenet_v2 int{bit_width}, {share:.0%} zeros"
        say(f"whole file {name}")
        yield whole_file(name, quantized_onnx(pth, bit_width, share), general, nncodec, known)
    for half in (False, True):
        name = f"float{16 if half else 32} mobilenet_v2"
        say(f"whole file {name}")
        yield whole_file(name, float_onnx(pth, half=half), general, None, known)


def _loading(rounds: int, quick: bool) -> Iterator[Row]:
    for share in (0.0,) if quick else (0.0, 0.5):
        network = LargeNetwork(scale=0.3 if quick else 1.0, zeros=share)
        data = network.bytes()
        say(f"loading a detector of {network.weights / 1e6:.1f} M weights, {share:.0%} zeros")
        yield {"name": f"detector, {share:.0%} zeros"} | loading(data, network.weights, max(rounds, 3))


def _memory(quick: bool) -> Iterator[Row]:
    for name, tensor in large_tensors(5_000_000 if quick else 100_000_000):
        say(f"memory of one tensor, {name}")
        yield memory(f"one tensor, {name}", tensor)


def table(record: dict[str, Any]) -> str:
    """Return the record as text for a terminal."""
    names = [name for name in record["coders"] if name != "Krimp, NumPy alone"]
    lines = ["", "bits a weight (networks; * tables not counted)", _header(("", "entropy", *names), record)]
    for row in record["real_sizes"]:
        cells = [row["entropy_bytes"], *(row["bytes"].get(name) for name in names)]
        label = f"{row['weights'][:18]} int{row['bit_width']} {row['zeros']:.0%}"
        lines.append(f"{label:30}" + "".join(_cell(8 * cell / row["count"] if cell else None, ".3f") for cell in cells))
    lines += ["", "Msym/s decode / encode, one core", _header(("", *record["coders"]), record)]
    for row in record["speeds"]:
        for what in ("decode", "encode"):
            speeds_of = [row["coders"].get(name, {}).get(what, {}).get("msym_per_s") for name in record["coders"]]
            label = f"{what}, {row['bit_width']} bits, {row['zeros']:.0%} zeros"
            lines.append(f"{label:30}" + "".join(_cell(value, ".1f") for value in speeds_of))
    rivals = ("Krimp", "zstd -3", "zstd -19", "xz -9", "ZipNN")
    lines += ["", "bytes of whole files", _header(("", "ONNX", *rivals), record)]
    for row in record["files"]:
        cells = [row["onnx_bytes"], *(row["bytes"].get(name) for name in rivals)]
        lines.append(f"{row['file'][:29]:30}" + "".join(_cell(cell, ",") for cell in cells))
    if record["memory"]:
        lines += ["", "memory that loading adds beyond the decoded file, MB: numba, NumPy alone"]
    for row in record["memory"]:
        added = [(row[way]["added_bytes"] - row[way]["original_bytes"]) / MIB for way in ("numba", "NumPy alone")]
        lines.append(f"{row['name']} of {row['elements'] / 1e6:.0f} M: {added[0]:.0f}, {added[1]:.0f}")
    for row in record["loading"]:
        first = row["first_call"]
        lines.append(
            f"\n{row['name']}: first load of a process {first['compiling']['first_s']:.2f} s when numba compiles,"
            f" {first['cached']['first_s']:.2f} s from its cache, then {first['cached']['second_s']:.2f} s"
        )
    lines += ["", "targets", *(Verdict(**verdict).line() for verdict in record["verdicts"])]
    absent = [f"{name}: {state}" for name, state in record["coders"].items() if state != "measured"]
    return "\n".join([*lines, "", *(f"not installed: {entry}" for entry in absent)]).rstrip()


def _header(names: Sequence[str], record: dict[str, Any]) -> str:
    free = set(record["tables_not_counted"])
    short = [name.replace("optimized", "opt.").replace("NumPy alone", "NumPy") for name in names]
    cells = [text + ("*" if name in free else "") for name, text in zip(names, short, strict=True)]
    return f"{cells[0]:30}" + "".join(f"{cell:>18}" for cell in cells[1:])


def _cell(value: float | None, form: str) -> str:
    return f"{'-' if value is None else format(value, form):>18}"


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--quick", action="store_true", help="few weights, two rounds, no record: a minute")
    found.add_argument("--weights", type=Path, nargs="*", help="trained networks (default: ../shared/weights/*.pth)")
    found.add_argument("--rounds", type=int, help="timed rounds (default 7; 2 with --quick)")
    found.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts to measure (default: all)")
    found.add_argument(
        "--sizes-from", type=Path, metavar="RECORD",
        help="take the other coders' sizes of the same weights from this record, to see a change to Krimp's sooner",
    )  # fmt: skip
    found.add_argument("--rest-from", type=Path, metavar="RECORD", help="parts that --only leaves out, same commit")
    found.add_argument("--note", default="", help="what a reader must know, e.g. that the machine was not idle")
    found.add_argument("--out", type=Path, help="record to write, .json; the plot goes beside it")
    return found


@console()
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return the exit code."""
    options = parser().parse_args(arguments)
    options.rounds = options.rounds or (2 if options.quick else 7)
    target = options.out or RECORDS / f"{datetime.now(UTC).date().isoformat()}_codec.json"
    keep = options.out is not None or not options.quick
    try:
        refuse_existing(target if keep else None)
        record = measure(options)
    except (CompressError, FileNotFoundError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(table(record))
    if keep:
        from benchmarks.codec_plot import draw

        write_record(target, record)
        draw(record, target.with_suffix(".png"))
        print(f"\n{target}\n{target.with_suffix('.png')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
