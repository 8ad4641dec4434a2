"""Files that must decode, files that must be refused, and the worked example of FORMAT.md."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

from compress import codec
from compress.codec.entropy.ans_code import decode_table
from compress.codec.files.unpacking import write_original
from compress.errors import CodecError

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
GOOD = sorted((HERE / "good").glob("*.krimp"))
REFUSED = sorted((HERE / "refused").glob("*.krimp"))
EXPECTED = dict(
    line.split(": ", 1) for line in (HERE / "refused" / "expected.txt").read_text(encoding="utf-8").splitlines()
)


def original(path):
    """Return the bytes that a golden file holds, side files behind the network."""
    if path.stem == "network":
        return b"".join((HERE / "good" / name).read_bytes() for name in ("network.onnx", "weights/w.bin"))
    return path.with_suffix(".safetensors").read_bytes()


def module(name):
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


slow = module("slow_krimp_decoder")


@pytest.mark.parametrize("kernels", ["numpy", "numba"])
@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_golden_files_decode(path, kernels):
    with codec.PackedFile(path, kernels=kernels) as packed:
        assert b"".join(packed.pieces()) == original(path)


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_the_decoder_written_from_the_text_agrees(path):
    assert slow.decode(path.read_bytes()) == original(path)


def test_golden_files_use_every_way_of_coding():
    coders = " ".join(fact.coder for path in GOOD for fact in codec.inspect_file(path))
    for word in (
        "huffman",
        "ans",
        "raw",
        "constant",
        "huffman of",
        "ans of",
        "huffman in",
        "ans of 4 joined in",
        "zero mask",
        "others",
        "copy",
        "lzma",
        "lzma of differences by 4",
        "list of 300",
        "48 scales",
        "in a heap",
        "runs of 1: huffman + numbers by",
        "runs of 240: runs of 1:",
        "numbers by planes",
        "list of 40",
        "all but one value: planes",
    ):
        assert word in coders


def test_a_network_of_two_files_is_unpacked_into_its_folder(tmp_path):
    codec.unpack_file(HERE / "good" / "network.krimp", tmp_path / "network.onnx")
    for name in ("network.onnx", "weights/w.bin"):
        assert (tmp_path / name).read_bytes() == (HERE / "good" / name).read_bytes()


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_packing_again_gives_the_same_bytes(path, tmp_path):
    source = path.with_suffix(".onnx") if path.stem == "network" else path.with_suffix(".safetensors")
    codec.pack_file(source, tmp_path / "again.krimp")
    assert (tmp_path / "again.krimp").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("path", REFUSED, ids=lambda path: path.stem)
def test_damaged_files_are_refused_with_place_and_reason(path):
    for kernels in ("numpy", "numba"):
        with pytest.raises(CodecError) as caught, codec.PackedFile(path, kernels=kernels) as packed:
            write_original(packed, len, None)
        assert str(caught.value) == f"{path}: {EXPECTED[path.stem]}"
    with pytest.raises(CodecError):
        codec.verify_file(path)


@pytest.mark.parametrize("path", REFUSED, ids=lambda path: path.stem)
def test_the_decoder_written_from_the_text_refuses_them_too(path):
    with pytest.raises(slow.RefusedError):
        slow.decode(path.read_bytes())


def test_every_refused_file_has_its_expected_text():
    assert set(EXPECTED) == {path.stem for path in REFUSED}


def test_the_worked_example_is_the_golden_file():
    text = (ROOT / "compress" / "codec" / "FORMAT.md").read_text(encoding="utf-8")
    rows = re.findall(r"^[0-9a-f]{4}  ((?:[0-9a-f]{2} ?)+)$", text, flags=re.MULTILINE)
    packed = bytes.fromhex("".join(rows))
    assert packed == (HERE / "good" / "example.krimp").read_bytes()
    original = (HERE / "good" / "example.safetensors").read_bytes()
    values = bytes((73 * i % 251).bit_count() - 4 & 0xFF for i in range(128))
    assert original == b"\x39" + bytes(7) + b'{"w":{"dtype":"I8","shape":[128],"data_offsets":[0,128]}}' + values


def test_the_ans_table_worked_by_hand_is_that_of_the_decoders():
    text = (ROOT / "compress" / "codec" / "FORMAT.md").read_text(encoding="utf-8")
    found = re.search(r"digit 0 gets the states ([\d,\s]+); digit 1 gets ([\d,\s]+)\.", text)
    listed = [[int(number) for number in part.split(",")] for part in found.groups()]
    states = decode_table(np.array([24, 8])).tolist()
    assert [sorted(part) for part in listed] == [[s for s in range(32) if states[s] >> 16 == d] for d in (0, 1)]
    slow_states = slow.ans_states({0: 24, 1: 8}, 5)
    assert slow_states == [(state >> 16, state >> 4 & 0xFFF, state & 15) for state in states]
    assert (slow_states[4], slow_states[0]) == ((1, 0, 2), (0, 16, 1))
