"""Large tensors are decoded in blocks: same bytes, same refusals, and memory that does not grow with them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from compress import codec
from compress.codec import PackedFile, tensor_decoder
from compress.codec.layout import KINDS
from compress.codec.plane_coder import encode_plane
from compress.codec.plane_decoder import plane_reader, with_tail
from compress.codec.tables import Tables
from compress.errors import CodecError

GOOD = sorted((Path(__file__).parents[3] / "golden" / "codec" / "good").glob("*.krimp"))
ADDED_MEMORY = """
import json, sys
from pathlib import Path
from compress import codec
status = lambda key: next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key))
import os
if os.environ["KRIMP_NUMBA"] == "1": import compress.codec.fast
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
    blocks = []
    by_blocks = tensor_decoder.TensorDecoder._decode_large

    def noted(decoder, tensor, out):
        blocks.append(tensor)
        by_blocks(decoder, tensor, out)

    monkeypatch.setattr(tensor_decoder.TensorDecoder, "_decode_large", noted)
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
        "index": np.arange(count),
        "noise": rng.integers(0, 256, count).astype(np.uint8),
        "constant": np.full(count, 7, dtype=np.int16),
    }


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_tensors_of_every_kind_come_back_from_blocks(tmp_path, in_blocks, backend):
    save_file(arrays(), tmp_path / "w.safetensors")
    codec.pack_file(tmp_path / "w.safetensors", tmp_path / "w.krimp")
    in_blocks.clear()
    found = codec.load(tmp_path / "w.krimp", backend=backend)
    assert found == (tmp_path / "w.safetensors").read_bytes()
    assert len(in_blocks) == len(arrays())
    coded = {KINDS[tensor.record.kind].name for tensor in in_blocks}
    assert {"float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8"} <= coded


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_golden_files_come_back_from_blocks(path, in_blocks, backend, monkeypatch):
    monkeypatch.setattr(tensor_decoder, "LARGE", 64)
    with PackedFile(path, backend=backend) as packed:
        data = b"".join(packed.pieces())
    monkeypatch.undo()
    with PackedFile(path, backend="numpy") as packed:
        assert data == b"".join(packed.pieces())


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_a_damaged_block_is_refused_as_the_whole_is(tmp_path, in_blocks, backend, monkeypatch):
    rng = np.random.default_rng(0)
    chosen = {name: arrays(5003)[name] for name in ("float32", "int8", "sparse")}
    save_file(chosen, tmp_path / "w.safetensors")
    codec.pack_file(tmp_path / "w.safetensors", tmp_path / "w.krimp")
    monkeypatch.setattr(tensor_decoder.TensorDecoder, "check", lambda *_: None)  # else the checksums would refuse it
    data = bytearray((tmp_path / "w.krimp").read_bytes())
    for _ in range(20):
        at, bit = int(rng.integers(108, len(data) // 2)), 1 << int(rng.integers(8))
        data[at] ^= bit
        (tmp_path / "bad.krimp").write_bytes(data)
        data[at] ^= bit
        with pytest.raises(CodecError, match=r"byte \d+: (codes of chunk|.*escape digits|sha256|chunks have)"):
            codec.load(tmp_path / "bad.krimp", backend=backend)
    assert in_blocks


@pytest.mark.parametrize("change", [-1, 1])
@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_a_wrong_number_of_escapes_is_refused_from_blocks(backend, change):
    values = arrays()["sparse"].astype(np.int16) + 128
    count, tables = len(values), Tables()
    plane, payload, _ = encode_plane(values.astype(np.uint8), 8, tables)
    assert plane.escapes
    wrong = plane._replace(escapes=plane.escapes + change)

    def read():
        reader = plane_reader(wrong, with_tail(payload, 0, len(payload)), count, tables.tables, 0, backend)
        for start in range(0, count, 5000):
            reader.read(np.empty(min(5000, count - start), dtype=np.uint8))

    with pytest.raises(ValueError, match="the index says"):
        read()


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from Linux's /proc")
@pytest.mark.parametrize(
    ("kind", "numba"), [("float32", "1"), ("masked int8", "1"), ("float64, several", "0"), ("noise, many", "1")]
)
def test_loading_adds_the_decoded_file_and_little_more_whatever_its_tensors_are(tmp_path, kind, numba):
    rng = np.random.default_rng(0)
    if kind == "noise, many":
        weights, number = rng.integers(0, 256, 120_000_000, dtype=np.uint8), 40
    elif kind == "float64, several":
        weights, number = rng.standard_normal(15_600_000), 4  # none of four million values
    else:
        weights, number = rng.standard_normal(30_000_000 if kind == "float32" else 120_000_000, dtype=np.float32), 1
    if kind == "masked int8":
        weights = np.where(np.abs(weights) < 0.7, 0, (weights * 40).clip(-127, 127)).astype(np.int8)
    parts = {str(i): part for i, part in enumerate(np.split(weights, number))}
    for name, arrays in (("small", {"w": weights[:5_000_000]}), ("large", parts)):
        save_file(arrays, tmp_path / f"{name}.safetensors")
        codec.pack_file(tmp_path / f"{name}.safetensors", tmp_path / f"{name}.krimp")
    command = [sys.executable, "-c", ADDED_MEMORY, str(tmp_path / "small.krimp"), str(tmp_path / "large.krimp")]
    environment = os.environ | {"KRIMP_NUMBA": numba}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    size, added = json.loads(done.stdout)
    assert size > 100_000_000
    assert added <= size + (64 << 20)
