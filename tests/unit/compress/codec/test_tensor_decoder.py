"""Large tensors are decoded in blocks: same bytes, same refusals, and memory that does not grow with them."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from compress import codec
from compress.codec import PackedFile
from compress.codec.decoding import tensor_decoder
from compress.codec.decoding.plane_decoder import plane_reader, with_tail
from compress.codec.encoding.plane_encoder import encode_plane
from compress.codec.encoding.table_choice import Tables
from compress.codec.format.layout import CONSTANT, KINDS, Stream, Table
from compress.codec.kernels import by_numba, by_numpy
from compress.errors import CodecError

GOOD = sorted((Path(__file__).parents[3] / "golden" / "codec" / "good").glob("*.krimp"))
ADDED_MEMORY = """
import json, sys
from pathlib import Path
from compress import codec
status = lambda key: next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key))
import os
if os.environ["KRIMP_NUMBA"] == "1": import compress.codec.kernels.by_numba
codec.load(sys.argv[1])  # compiles
Path("/proc/self/clear_refs").write_text("5")  # sets the peak back
before = status("VmRSS")
size = len(codec.load(sys.argv[2]))
print(json.dumps([size, 1024 * (status("VmHWM") - before)]))
"""


@pytest.fixture
def in_blocks(monkeypatch):
    """Have everything decoded in blocks of 256 values."""
    monkeypatch.setattr(tensor_decoder, "LARGE", 256)
    monkeypatch.setattr(by_numpy, "AHEAD_SYMBOLS", 1)
    blocks = []
    by_blocks = tensor_decoder.TensorDecoder._large_blocks

    def noted(decoder, tensor, out):
        blocks.append(tensor)
        return by_blocks(decoder, tensor, out)

    monkeypatch.setattr(tensor_decoder.TensorDecoder, "_large_blocks", noted)
    return blocks


def arrays(count=40_003):
    rng = np.random.default_rng(3)
    weights = rng.laplace(0, 6, count)
    zeros = rng.random(len(weights)) < 0.6
    return {
        "float32": weights.astype(np.float32) / 100,
        "float16": (weights / 100).astype(np.float16),
        "float64": weights / 100,
        "int8": np.rint(weights).clip(-127, 127).astype(np.int8),
        "masked": np.where(zeros, 0, np.rint(weights).clip(-127, 127)).astype(np.int8),
        "sparse": np.where(rng.random(len(weights)) < 0.97, 0, np.rint(weights)).astype(np.int8),
        "wide": np.rint(weights * 1000).astype(np.int32),
        "long": np.rint(weights * 1000).astype(np.int64),
        "noise": rng.integers(0, 256, count).astype(np.uint8),
        "constant": np.full(count, 7, dtype=np.int16),
    }


@pytest.mark.parametrize("kernels", ["numpy", "numba"])
def test_tensors_of_every_kind_come_back_from_blocks(tmp_path, in_blocks, kernels):
    save_file(arrays(), tmp_path / "w.safetensors")
    codec.pack_file(tmp_path / "w.safetensors", tmp_path / "w.krimp")
    in_blocks.clear()
    found = codec.load(tmp_path / "w.krimp", kernels=kernels)
    assert found == (tmp_path / "w.safetensors").read_bytes()
    assert len(in_blocks) == len(arrays())
    coded = {KINDS[tensor.record.kind].name for tensor in in_blocks}
    assert {"float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8"} <= coded


@pytest.mark.parametrize("kernels", ["numpy", "numba"])
@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_golden_files_come_back_from_blocks(path, in_blocks, kernels, monkeypatch):
    monkeypatch.setattr(tensor_decoder, "LARGE", 64)
    with PackedFile(path, kernels=kernels) as packed:
        data = b"".join(packed.pieces())
    monkeypatch.undo()
    with PackedFile(path, kernels="numpy") as packed:
        assert data == b"".join(packed.pieces())


@pytest.mark.parametrize("kernels", ["numpy", "numba"])
def test_a_damaged_block_is_refused_as_the_whole_is(tmp_path, in_blocks, kernels, monkeypatch):
    rng = np.random.default_rng(0)
    chosen = {name: arrays(5003)[name] for name in ("float32", "int8", "sparse")}
    save_file(chosen, tmp_path / "w.safetensors")
    codec.pack_file(tmp_path / "w.safetensors", tmp_path / "w.krimp")
    monkeypatch.setattr(tensor_decoder.TensorDecoder, "check", lambda *_, **__: None)  # they would refuse it
    data = bytearray((tmp_path / "w.krimp").read_bytes())
    for _ in range(20):
        at, bit = int(rng.integers(108, len(data) // 2)), 1 << int(rng.integers(8))
        data[at] ^= bit
        (tmp_path / "bad.krimp").write_bytes(data)
        data[at] ^= bit
        with pytest.raises(CodecError, match=r"byte \d+: (codes of chunk|.*escape digits|sha256|chunks have)"):
            codec.load(tmp_path / "bad.krimp", kernels=kernels)
    assert in_blocks


@pytest.mark.parametrize("change", [-1, 0, 1])
@pytest.mark.parametrize("kernels", [by_numpy, by_numba])
def test_a_wrong_number_of_escapes_is_refused_from_blocks(kernels, change):
    values = arrays()["sparse"].astype(np.int16) + 128
    count, tables = len(values), Tables()
    plane, payload, _ = encode_plane(values.astype(np.uint8), 8, tables, by_numpy)
    assert plane.escapes
    constant = Table(8, 1, 0, CONSTANT, np.empty(0, dtype=np.int64), 3)  # codes of its own would be wrong first
    numbered = [*tables.tables, constant]
    wrong = plane._replace(escapes=plane.escapes + change, escape=Stream((len(tables.tables),)))

    def read():
        reader = plane_reader(wrong, with_tail(payload, 0, len(payload)), count, numbered, 0, kernels)
        for start in range(0, count, 5000):
            reader.read(np.empty(min(5000, count - start), dtype=np.uint8))

    if change:
        with pytest.raises(ValueError, match="escape digits; the index says"):
            read()
    else:
        read()


def test_a_checksum_is_taken_in_parts(tmp_path, monkeypatch):
    save_file(arrays(), tmp_path / "w.safetensors")
    codec.pack_file(tmp_path / "w.safetensors", tmp_path / "w.krimp")
    monkeypatch.setattr(tensor_decoder, "_BATCH_BYTES", 1000)
    assert codec.load(tmp_path / "w.krimp", check_hash=False) == (tmp_path / "w.safetensors").read_bytes()


@pytest.mark.parametrize("kernels", ["numpy", "numba"])
def test_a_place_that_is_none_is_refused_before_anything_is_written(kernels):
    path = next(path for path in GOOD if path.stem == "mixed")
    with PackedFile(path, kernels=kernels) as packed:
        tensor = packed.tensors[0]
        size = tensor.record.num_bytes
        read_only = np.zeros(size, dtype=np.uint8)
        read_only.flags.writeable = False
        for place in (
            np.zeros(size - 1, dtype=np.uint8),
            np.zeros(size + 1, dtype=np.uint8),
            np.zeros(2 * size, dtype=np.uint8)[::2],
            np.zeros(size, dtype=np.int8),
            read_only,
        ):
            with pytest.raises(ValueError, match=r"a place of u?int8"):
                packed.decode(tensor, place)
            assert not place.any()


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("kernels", ["numpy", "numba"])
def test_a_closed_file_says_so(kernels, check):
    with PackedFile(GOOD[0], kernels=kernels) as packed:
        pass
    outs = [np.empty(tensor.record.num_bytes, dtype=np.uint8) for tensor in packed.tensors]
    with pytest.raises(ValueError, match="is closed"):
        packed.decode_many(packed.tensors, outs, check=check)


def mapped_bytes(path):
    """Return how much memory the pages of a mapped file take in this process."""
    maps = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text(encoding="utf-8"), flags=re.M)
    return sum(1024 * int(re.search(r"^Rss: +(\d+)", part, re.M)[1]) for part in maps if str(path) in part)


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="mapped pages are counted by Linux's /proc")
@pytest.mark.parametrize("large", [tensor_decoder.LARGE, 1 << 19], ids=["whole", "blocks"])
@pytest.mark.parametrize("kind", ["noise", "int8", "float32"])
def test_pages_of_the_file_are_let_go_of(tmp_path, monkeypatch, kind, large):
    save_file({"w": arrays(6_000_000 if kind == "int8" else 3_000_000)[kind]}, tmp_path / "w.safetensors")
    codec.pack_file(tmp_path / "w.safetensors", tmp_path / "w.krimp")
    whole = large == tensor_decoder.LARGE
    monkeypatch.setattr(tensor_decoder, "LARGE", large)
    little = 1 << 19  # header, index, and what the kernel maps around a byte that is touched
    seen = []

    def note(kernels):
        decode_pieces = kernels.decode_pieces

        def noted(pieces):
            seen.append(mapped_bytes(tmp_path / "w.krimp"))
            decode_pieces(pieces)

        monkeypatch.setattr(kernels, "decode_pieces", noted)

    note(by_numpy)
    note(by_numba)
    with PackedFile(tmp_path / "w.krimp") as packed:
        assert packed.file_bytes > 4 * little
        for tensor in packed.tensors:
            packed.decode_many([tensor], [np.empty(tensor.record.num_bytes, dtype=np.uint8)], check=False)
            assert mapped_bytes(tmp_path / "w.krimp") < little
        packed.check_payloads()
        assert mapped_bytes(tmp_path / "w.krimp") < little
    if not whole:  # while a tensor is decoded, too
        assert min(seen[-3:], default=0) < packed.file_bytes // 2  # the kernel maps some more now and then


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from Linux's /proc")
@pytest.mark.parametrize(
    ("kind", "numba"),
    [("float32", "1"), ("masked int8", "1"), ("float64, several", "0"), ("noise, many", "1"), ("noise", "0")],
)
def test_loading_adds_the_decoded_file_and_little_more_whatever_its_tensors_are(tmp_path, kind, numba):
    rng = np.random.default_rng(0)
    if kind.startswith("noise"):
        weights, number = rng.integers(0, 256, 120_000_000, dtype=np.uint8), 40 if kind == "noise, many" else 1
    elif kind == "float64, several":
        weights, number = rng.standard_normal(15_600_000), 4  # none of four million values
    else:
        weights, number = rng.standard_normal(30_000_000 if kind == "float32" else 120_000_000, dtype=np.float32), 1
    if kind == "masked int8":
        weights = np.where(np.abs(weights) < 0.7, 0, (weights * 40).clip(-127, 127)).astype(np.int8)
    parts = {str(i): part for i, part in enumerate(np.split(weights, number))}
    for name, saved in (("small", {"w": weights[:5_000_000]}), ("large", parts)):
        save_file(saved, tmp_path / f"{name}.safetensors")
        codec.pack_file(tmp_path / f"{name}.safetensors", tmp_path / f"{name}.krimp")
    command = [sys.executable, "-c", ADDED_MEMORY, str(tmp_path / "small.krimp"), str(tmp_path / "large.krimp")]
    environment = os.environ | {"KRIMP_NUMBA": numba}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    size, added = json.loads(done.stdout)
    assert size > 100_000_000
    assert added <= size + (64 << 20)
