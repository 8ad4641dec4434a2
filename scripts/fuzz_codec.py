"""Look for inputs on which the codec crashes, hangs, takes memory that nobody declared, or disagrees with FORMAT.md.

    make fuzz-codec                                          10 minutes over all targets, coverage-guided (atheris)
    make fuzz-codec ARGS="--minutes 60 --targets packed"     longer, one target
    .venv-codec/bin/python scripts/fuzz_codec.py --targets packed --replay build/fuzz/findings/packed-crash-...

Targets
  packed       .krimp files with all checksums ignored, so that mutations reach the decoder; whatever is read must be
               the same through every door, and the slow decoder that was written from FORMAT.md alone must agree.
  checked      .krimp files as they are, checksums on.
  onnx         ONNX files of strangers: packed and unpacked to the same bytes, or refused with a CodecError.
  safetensors  the same for safetensors.

Start from the golden files and small models; the corpus grows in build/fuzz/corpus and is used again by the next run.
An input may take 10 s of processor time, and the process 2 GiB. Findings are kept in build/fuzz/findings, and the exit
code is 1 if there are any.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import random
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":  # run as a file: make the repository importable, not the folder of this script
    sys.path[0] = str(ROOT)

GOLDEN = ROOT / "tests" / "golden" / "codec"
BUILD = ROOT / "build" / "fuzz"
TARGETS = ("packed", "checked", "onnx", "safetensors")
KERNELS = ("numpy", "numba") if importlib.util.find_spec("numba") else ("numpy",)
INPUT_SECONDS, MEMORY_MIB, INPUT_BYTES = 10, 2048, 1 << 14
_HANG_SECONDS = 120  # on the wall: a busy machine stretches time
_SLOW_BYTES = 1 << 14  # largest original for what is slow: the decoder of one bit at a time, small blocks
_BLOCK_VALUES = 64
_HEADER = 108


class FindingError(Exception):
    """The codec broke a promise on an input."""


def slow_decoder() -> ModuleType:
    """Return the decoder that was written from FORMAT.md alone."""
    spec = importlib.util.spec_from_file_location("slow_krimp_decoder", GOLDEN / "slow_krimp_decoder.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check_packed(data: bytes, folder: Path, slow: ModuleType | None = None) -> bytes | None:
    """Read bytes as a .krimp file through every door.

    Args:
        data: the file.
        folder: for files.
        slow: the slow decoder, to be asked as well where it can answer in time.

    Returns:
        The original, or None if the file was refused.

    Raises:
        FindingError: doors disagree, an error names no place, or the slow decoder sees it differently.
        Exception: whatever else escaped from the codec, a finding too.
    """
    from compress import codec

    path, target = folder / "input.krimp", folder / "unpacked" / "original.unpacked"
    path.write_bytes(data)
    shutil.rmtree(target.parent, ignore_errors=True)
    target.parent.mkdir()
    refusal = _or_refusal(lambda: codec.verify_file(path), path)
    found, sides = (b"", []) if refusal else _whole(path)
    unpacked = _or_refusal(lambda: codec.unpack_file(path, target), path)
    if isinstance(unpacked, str) != isinstance(refusal, str):
        raise FindingError(f"unpack_file and verify_file disagree: {unpacked!r:.200} / {refusal!r:.200}")
    written = {other for other in target.parent.rglob("*") if other.is_file()}
    if refusal and written:
        raise FindingError("a refused file left an output")
    if not refusal and _joined(target, sides, written) != found:
        raise FindingError("unpack_file gives other bytes, or other files, than were verified")
    for kernels, block in product(KERNELS, (None, _BLOCK_VALUES)):
        if block and _declared(data) > _SLOW_BYTES:
            continue
        with _in_blocks(block):
            loaded = _or_refusal(partial(codec.unpack_bytes, path, kernels=kernels), path)
        if isinstance(loaded, str) != bool(refusal or sides) or (loaded != found and not isinstance(loaded, str)):
            way = f"{kernels}, in blocks" if block else kernels
            raise FindingError(f"unpack_bytes ({way}) and verify_file disagree: {loaded!r:.200} / {refusal!r:.200}")
    _or_refusal(lambda: codec.inspect_file(path), path)  # it hashes nothing, and may refuse more: it reads names
    if slow is not None and _declared(data) <= _SLOW_BYTES:
        _compare(refusal or found, data, slow)
    return None if refusal else found


@contextmanager
def _in_blocks(values: int | None) -> Iterator[None]:
    """Have tensors of more than so many values decoded in blocks, as else only much larger ones are."""
    from compress.codec.decoding import tensor_decoder

    before = tensor_decoder.LARGE
    tensor_decoder.LARGE = values or before
    try:
        yield
    finally:
        tensor_decoder.LARGE = before


def _whole(path: Path) -> tuple[bytes, list[str]]:
    """Return all bytes in a .krimp file, and the names of the files after the first."""
    from compress import codec

    with codec.PackedFile(path, kernels="numpy") as packed:
        return b"".join(map(bytes, packed.pieces())), [file.name for file in packed.side_files]


def _joined(target: Path, sides: Sequence[str], written: set[Path]) -> bytes | None:
    """Return the bytes of the unpacked files in order, or None if other files than those are there."""
    paths = [target, *(target.parent / name for name in sides)]
    return b"".join(path.read_bytes() for path in paths) if set(paths) == written else None


def check_original(data: bytes, suffix: str, folder: Path) -> bool:
    """Pack bytes as a file of some kind; return whether they were taken.

    Args:
        data: the file.
        suffix: '.onnx' or '.safetensors'.
        folder: for files.

    Raises:
        FindingError: what was packed does not come back, or the output of a refused file exists.
    """
    from compress import codec

    source, packed = folder / f"input{suffix}", folder / "input.krimp"
    source.write_bytes(data)
    packed.unlink(missing_ok=True)
    refusal = _or_refusal(lambda: codec.pack_file(source, packed), source)
    if isinstance(refusal, str):
        if packed.exists():
            raise FindingError("a refused file left an output")
        return False
    if codec.unpack_bytes(packed) != data:
        raise FindingError("the original does not come back")
    codec.inspect_file(packed)
    return True


def _or_refusal(door: Callable[[], Any], path: Path) -> Any:
    """Return what a call gives, or the text of its CodecError, which must name the file and the place."""
    from compress.errors import CodecError

    try:
        return door()
    except CodecError as error:
        if not re.match(re.escape(str(path)) + r": (index )?byte \d+: .", str(error)):
            raise FindingError(f"this refusal names no place: {error}") from error
        return str(error)


def _declared(data: bytes) -> int:
    return struct.unpack_from("<Q", data, 16)[0] if len(data) >= _HEADER else 0


def _compare(found: bytes | str, data: bytes, slow: ModuleType) -> None:
    try:
        expected = slow.decode(data)
    except slow.RefusedError as refusal:
        if not isinstance(found, str):
            raise FindingError(f"the text refuses this file ({refusal}); the codec does not") from refusal
        return
    if isinstance(found, str):
        raise FindingError(f"the text takes this file; the codec says: {found}")
    if found != expected:
        raise FindingError("the text and the codec give different bytes")


class _AnyNumber(int):
    """A checksum that is equal to every other."""

    __hash__ = int.__hash__

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False


class _AnyDigest(bytes):
    """A digest that is equal to every other."""

    __hash__ = bytes.__hash__

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False


@contextmanager
def without_checksums(*others: ModuleType) -> Iterator[None]:
    """Make the codec, and other modules, take every checksum and hash as right, so that damage reaches the decoder."""
    import compress.cli.packing  # noqa: F401  with it every module of the codec is loaded

    always = _AnyNumber(0)
    digest = SimpleNamespace(
        update=lambda _: None, digest=lambda: _AnyDigest(32), hexdigest=lambda: "00" * 32, digest_size=32
    )
    stub = SimpleNamespace(sha256=lambda *_: digest)
    zlib_stub = SimpleNamespace(**{name: getattr(zlib, name) for name in dir(zlib) if not name.startswith("_")})
    zlib_stub.crc32 = lambda *_: always
    modules = [module for name, module in sys.modules.items() if name.startswith("compress.codec")]
    kept = []
    for module in [*modules, *others]:
        for name, value, fake in (
            ("crc32", zlib.crc32, zlib_stub.crc32),
            ("hashlib", hashlib, stub),
            ("zlib", zlib, zlib_stub),
        ):
            if getattr(module, name, None) is value:
                kept.append((module, name, value))
                setattr(module, name, fake)
    try:
        yield
    finally:
        for module, name, value in kept:
            setattr(module, name, value)


def mutate_section(data: bytes, seed: int, mutate: Callable[[bytes], bytes]) -> bytes:
    """Change one section of a .krimp file and put the header's sizes right, so that the change is looked at.

    Args:
        data: a .krimp file; other bytes are changed as a whole.
        seed: chooses the section.
        mutate: what to do with its bytes.
    """
    from compress.codec.format.layout import parse_header
    from compress.errors import CodecError

    try:
        header = parse_header(data[:_HEADER], len(data), "input")
    except CodecError:
        return mutate(data)
    names = ("payload_bytes", "skeleton_packed_bytes", "index_packed_bytes")
    sizes = [getattr(header, name) for name in names]
    chosen = random.Random(seed).choice([*(i for i, size in enumerate(sizes) if size), 2, 3])
    if chosen == 3:
        return mutate(data[:_HEADER]) + data[_HEADER:]
    at = _HEADER + sum(sizes[:chosen])
    section = mutate(data[at : at + sizes[chosen]])
    changes: dict[str, Any] = {names[chosen]: len(section)}
    plain, packed = (("skeleton_bytes", "skeleton_packed_by_lzma"), ("index_bytes", "index_packed_by_lzma"))[
        chosen == 2
    ]
    if chosen and not getattr(header, packed):
        changes[plain] = len(section)
    if chosen == 1 and plain in changes:
        changes["original_bytes"] = max(0, header.original_bytes + len(section) - sizes[1])
    return replace(header, **changes).to_bytes() + data[_HEADER:at] + section + data[at + sizes[chosen] :]


def seeds(target: str) -> Iterator[tuple[str, bytes]]:
    """Yield (name, content) of the inputs to start from."""
    if target in ("packed", "checked"):
        for path in sorted(GOLDEN.glob("*/*.krimp")):
            yield path.stem, path.read_bytes()
        yield from small_packed()
    elif target == "safetensors":
        for path in sorted(GOLDEN.glob("good/*.safetensors")):
            yield path.stem, path.read_bytes()
        header = json.dumps({"__metadata__": {"a": "b"}, "w": {"dtype": "F16", "shape": [2], "data_offsets": [0, 4]}})
        yield "metadata", struct.pack("<Q", len(header)) + header.encode() + bytes(4)
    else:
        yield from _onnx_seeds()


def small_packed() -> Iterator[tuple[str, bytes]]:
    """Yield .krimp files, one tensor each, that are small enough for the slow decoder."""
    import numpy as np

    from compress import codec

    rng = np.random.default_rng(0)
    sparse = np.where(rng.random(4000) < 0.9, 0, rng.integers(-60, 60, 4000)).astype(np.int8)
    tensors: dict[str, tuple[str, np.ndarray]] = {
        "sparse": ("I8", sparse),
        "dense": ("I8", np.round(rng.laplace(0, 9, 3000)).clip(-127, 127).astype(np.int8)),
        "ternary": ("U8", rng.choice(3, 4000, p=[0.1, 0.8, 0.1]).astype(np.uint8)),
        "constant": ("U8", np.full(500, 7, dtype=np.uint8)),
        "channels": ("I8", np.round(rng.laplace(0, np.repeat([1, 30, 3, 9], 1000))).clip(-127, 127).astype(np.int8)),
        "halves": ("F16", rng.standard_normal(700).astype(np.float16)),
        "biases": ("I32", rng.integers(-3000, 3000, 300).astype(np.int32)),
        # version 2
        "scaled": ("F32", rng.integers(-90, 90, (4, 500)) * np.array([[0.5], [0.3], [0.7], [0.1]], dtype=np.float32)),
        "listed": ("F32", rng.standard_normal(40).astype(np.float32)[rng.integers(0, 40, 2000)]),
        "counted": ("I64", np.arange(1500) * 7),
        "repeated": ("I8", np.repeat(np.round(rng.laplace(0, 9, 500)).clip(-127, 127).astype(np.int8), 7)),
        "blocks": ("I16", np.repeat(np.repeat(rng.integers(-9, 9, (9, 30)).astype(np.int16), 6, axis=0), 5, axis=1)),
        "rows": ("I8", rng.integers(-90, 90, (20, 9)).astype(np.int8)[rng.integers(0, 20, 800)]),
        "pruned": ("F32", np.where(rng.random(900) < 0.6, 0, rng.standard_normal(900)).astype(np.float32)),
        "copied": ("I8", np.tile(np.round(rng.laplace(0, 9, 4096)).clip(-127, 127).astype(np.int8), 2)),
    }
    with tempfile.TemporaryDirectory() as folder:
        source, packed = Path(folder) / "w.safetensors", Path(folder) / "w.krimp"
        for name, (data_type, array) in tensors.items():
            shape = [4, array.size // 4]
            header = json.dumps({"w": {"dtype": data_type, "shape": shape, "data_offsets": [0, array.nbytes]}}).encode()
            source.write_bytes(struct.pack("<Q", len(header)) + header + array.tobytes())
            codec.pack_file(source, packed)
            yield name, packed.read_bytes()
        parts = {f"w{i}": {"dtype": "F16", "shape": [50], "data_offsets": [100 * i, 100 * i + 100]} for i in range(60)}
        header = json.dumps(parts).encode()
        halves = rng.standard_normal(3000).astype(np.float16).tobytes()
        source.write_bytes(struct.pack("<Q", len(header)) + header + halves)
        codec.pack_file(source, packed)
        yield "heap", packed.read_bytes()


def _onnx_seeds() -> Iterator[tuple[str, bytes]]:
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    weights = rng.binomial(9, 0.5, 200).astype(np.int8)
    yield "small", _onnx([numpy_helper.from_array(weights, "w")])
    types = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT4, TensorProto.INT32, TensorProto.BOOL)
    yield "types", _onnx([TensorProto(name=f"t{t}", data_type=t, dims=[64], raw_data=bytes(256)) for t in types])
    typed = helper.make_tensor("f", TensorProto.FLOAT, [40], rng.standard_normal(40))
    constant = helper.make_node("Constant", [], ["c"], value=typed)
    inner = helper.make_graph([constant], "inner", [], [helper.make_tensor_value_info("c", TensorProto.FLOAT, [40])])
    branch = helper.make_node("If", ["b"], ["o"], then_branch=inner, else_branch=inner)
    yield "subgraphs", _onnx([typed], [branch])
    external = TensorProto(name="e", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    external.external_data.add(key="location", value="../e.bin")
    yield "external", _onnx([external])


def _onnx(tensors: Sequence[Any], nodes: Sequence[Any] = ()) -> bytes:
    from onnx import helper

    return bytes(helper.make_model(helper.make_graph(nodes, "g", [], [], tensors)).SerializeToString())


def fuzz(target: str, seconds: int, corpus: Path, findings: Path, *, replay: Path | None = None) -> None:
    """Fuzz one target in this process with libFuzzer; it does not return."""
    import resource

    import atheris

    resource.setrlimit(resource.RLIMIT_AS, ((MEMORY_MIB + 4096) << 20,) * 2)
    with atheris.instrument_imports(include=["compress.codec"]):
        pass
    slow = slow_decoder()
    folder = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))

    def packed(data: bytes) -> None:
        check_packed(data, folder, slow)

    def unchecked(data: bytes) -> None:
        with without_checksums(slow):
            check_packed(data, folder, slow)

    def mutator(data: bytes, max_size: int, seed: int) -> bytes:
        return mutate_section(data, seed, lambda part: atheris.Mutate(part, max(len(part) + 64, 64)))[:max_size]

    calls: dict[str, Callable[[bytes], Any]] = {
        "packed": unchecked,
        "checked": packed,
        "onnx": lambda data: check_original(data, ".onnx", folder),
        "safetensors": lambda data: check_original(data, ".safetensors", folder),
    }
    flags = [
        f"-max_total_time={seconds}",
        f"-timeout={_HANG_SECONDS}",
        f"-rss_limit_mb={MEMORY_MIB}",
        f"-max_len={INPUT_BYTES}",
        f"-artifact_prefix={findings}/{target}-",
        "-print_final_stats=1",
    ]
    where = [str(replay)] if replay else [str(corpus)]

    def timed(data: bytes) -> None:
        started = time.process_time()
        calls[target](data)
        if (seconds := time.process_time() - started) > INPUT_SECONDS:
            raise FindingError(f"{len(data)} bytes took {seconds:.0f} s of processor time")

    options = {"custom_mutator": mutator} if target in ("packed", "checked") else {}
    atheris.Setup([sys.argv[0], *flags, *where], timed, **options)
    atheris.Fuzz()


def run_target(target: str, seconds: int, build: Path) -> tuple[int, list[Path]]:
    """Fuzz a target for so long in child processes, started again after a finding; return executions and findings."""
    corpus, findings = build / "corpus" / target, build / "findings"
    for path in (corpus, findings):
        path.mkdir(parents=True, exist_ok=True)
    for name, content in seeds(target):
        (corpus / f"seed-{name}").write_bytes(content)
    before, end, executions = _found(findings, target), time.monotonic() + seconds, 0
    for attempt in range(5):
        left = int(end - time.monotonic())
        if left < 2:
            break
        log = build / f"{target}-{attempt}.log"
        with log.open("w", encoding="utf-8") as file:
            arguments = [str(Path(__file__)), "--child", target, "--seconds", str(left), "--build", str(build)]
            process = subprocess.Popen([sys.executable, *arguments], stdout=file, stderr=subprocess.STDOUT, cwd=ROOT)
            _watch(process, target, end)
        text = log.read_text(encoding="utf-8", errors="replace")
        executions += _executions(text)
        if process.returncode == 0:
            break
        print(f"{target}: {_reason(text)} (log: {log})", flush=True)
    return executions, sorted(_found(findings, target) - before)


def _found(findings: Path, target: str) -> set[Path]:
    """Return the inputs that broke a promise; libFuzzer keeps its slowest ones beside them."""
    return {path for kind in ("crash", "timeout", "oom", "leak") for path in findings.glob(f"{target}-{kind}-*")}


def _watch(process: subprocess.Popen, target: str, end: float) -> None:
    while True:
        try:
            process.wait(timeout=15)
            return
        except subprocess.TimeoutExpired:
            print(f"{target}: fuzzing, {max(0, int(end - time.monotonic()))} s left", flush=True)


def _executions(text: str) -> int:
    """Return how many inputs libFuzzer's log counts."""
    return max(
        (int(a or b) for a, b in re.findall(r"executed_units:\s*(\d+)|^#(\d+)\s", text, re.MULTILINE)), default=0
    )


def _reason(text: str) -> str:
    lines = [line.strip() for line in text.splitlines()]
    marks = [line for line in lines if re.match(r"([\w.]*(Error|Exception)\b|==\d+== ?ERROR)", line)]
    return (marks or lines or ["no output"])[0][:300]


def main() -> int:
    """Fuzz the targets one after the other; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10, help="for all targets together (default 10)")
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=TARGETS, help="default: all")
    parser.add_argument("--build", type=Path, default=BUILD, help="folder of corpus, findings and logs (build/fuzz)")
    parser.add_argument("--replay", type=Path, help="run one input and stop; name its target with --targets")
    parser.add_argument("--child", choices=TARGETS, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if importlib.util.find_spec("atheris") is None:
        print("error: atheris is not installed here. Run `make fuzz-codec`, or `bash scripts/setup_codec.sh` and"
              " .venv-codec/bin/python scripts/fuzz_codec.py.", file=sys.stderr)  # fmt: skip
        return 1
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if options.replay:
        fuzz(options.targets[0], 0, BUILD, BUILD, replay=options.replay)
    if options.child:
        fuzz(options.child, options.seconds, options.build / "corpus" / options.child, options.build / "findings")
    share = int(60 * options.minutes / len(options.targets))
    results = {target: run_target(target, share, options.build) for target in options.targets}
    for target, (executions, found) in results.items():
        print(f"{target:12} {executions:10,} executions, {len(found)} findings", *found, sep="\n   ")
    return int(any(found for _, found in results.values()))


if __name__ == "__main__":
    sys.exit(main())
