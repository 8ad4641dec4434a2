"""Whatever a file says, the codec gives the original back or refuses: cheap here, longer in scripts/fuzz_codec.py."""

import json
import struct
import subprocess
import sys
import tempfile
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from compress import codec
from compress.codec.format.layout import Header, parse_header
from compress.errors import CodecError
from scripts import fuzz_codec

ROOT = Path(__file__).parents[2]
GOLDEN = {path.stem: path.read_bytes() for path in sorted((fuzz_codec.GOLDEN / "good").glob("*.krimp"))}
GOLDEN |= dict(fuzz_codec.small_packed())
HEADER_BYTES = 108
# Together they hold everything that a file can: see the test of it.
SMALL = ("example", "network", "tiny ans", "tiny classes", "tiny mask", "tiny halves", "tiny integers", "tiny onnx")
slow = fuzz_codec.slow_decoder()


def tiny_files():
    """Yield (name, .krimp file) of files so small that each of their bits can be tried."""
    rng = np.random.default_rng(0)
    rare = np.where(rng.random(2100) < 0.97, 0, rng.choice([-1, 1], 2100)).astype(np.int8)
    chance = np.repeat([0.01, 0.5], 12)[rng.permutation(24)][:, None]
    channels = (rng.random((24, 176)) < chance).astype(np.uint8)
    mask = np.where(rng.random(700) < 0.9, 0, rng.integers(-60, 60, 700)).astype(np.int8)
    safetensors = {
        "tiny ans": ("I8", rare),
        "tiny classes": ("U8", channels),
        "tiny mask": ("I8", mask),
        "tiny halves": ("F16", rng.standard_normal(150).astype(np.float16)),
        "tiny integers": ("I32", rng.integers(-90, 90, 150).astype(np.int32)),
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, (data_type, array) in safetensors.items():
            entry = {"dtype": data_type, "shape": array.shape, "data_offsets": [0, array.nbytes]}
            header = json.dumps({"w": entry}).encode()
            yield name, packed(folder, struct.pack("<Q", len(header)) + header + array.tobytes(), ".safetensors")
        weights = numpy_helper.from_array(rng.binomial(8, 0.5, 200).astype(np.int8), "w")
        constant = helper.make_node("Constant", [], ["c"], value=weights)
        model = helper.make_model(helper.make_graph([constant], "g", [], [], [weights]))
        yield "tiny onnx", packed(folder, model.SerializeToString(), ".onnx")


def packed(folder, data, suffix):
    source, target = Path(folder) / f"x{suffix}", Path(folder) / "x.krimp"
    source.write_bytes(data)
    codec.pack_file(source, target)
    return target.read_bytes()


GOLDEN |= dict(tiny_files())
few = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
golden = st.sampled_from(sorted(GOLDEN)).map(GOLDEN.get)
names = st.text(max_size=20)

ONNX_BITS = {
    TensorProto.FLOAT: 32, TensorProto.FLOAT16: 16, TensorProto.BFLOAT16: 16, TensorProto.DOUBLE: 64,
    TensorProto.INT8: 8, TensorProto.UINT8: 8, TensorProto.INT16: 16, TensorProto.UINT16: 16, TensorProto.INT32: 32,
    TensorProto.UINT32: 32, TensorProto.INT64: 64, TensorProto.UINT64: 64, TensorProto.BOOL: 8, TensorProto.INT4: 4,
    TensorProto.UINT4: 4, TensorProto.FLOAT8E4M3FN: 8, TensorProto.COMPLEX64: 64,
}  # fmt: skip
SAFETENSORS_BITS = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U8": 8, "BOOL": 8,
    "U16": 16, "U32": 32, "U64": 64, "F8_E4M3": 8, "MADE_UP": 8,
}  # fmt: skip


@st.composite
def tensor_bytes(draw, bits):
    """Return bytes of whole elements as networks have them: constant, few values, bell-shaped, sparse or noise."""
    count = draw(st.sampled_from([0, 1, 2, 7, 127, 128, 129, 500, 3000]))
    size = (count * bits + 7) // 8
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = draw(st.sampled_from(["constant", "few", "bell", "noise"]))
    if shape == "constant":
        data = np.full(size, draw(st.integers(0, 255)), dtype=np.uint8)
    elif shape == "few":
        data = rng.integers(0, draw(st.integers(1, 20)), size).astype(np.uint8)
    elif shape == "bell":
        data = np.round(rng.laplace(0, draw(st.floats(0.2, 50)), size)).clip(-128, 127).astype(np.int8).view(np.uint8)
    else:
        data = rng.integers(0, 256, size).astype(np.uint8)
    data[rng.random(size) < draw(st.sampled_from([0, 0, 0.5, 0.95]))] = 0
    return count, data.tobytes()


@st.composite
def onnx_files(draw):
    """Return a model of initializers, constants in subgraphs, any domains, and fields that ONNX does not know."""
    tensors = []
    for data_type in draw(st.lists(st.sampled_from(sorted(ONNX_BITS)), max_size=4)):
        count, data = draw(tensor_bytes(ONNX_BITS[data_type]))
        dims = [count] if draw(st.booleans()) else [1, count, 1]
        tensors.append(TensorProto(name=draw(names), data_type=data_type, dims=dims, raw_data=data))
    nodes = []
    if tensors and draw(st.booleans()):
        body = helper.make_graph([helper.make_node("Constant", [], ["c"], value=tensors[0])], "body", [], [])
        nodes.append(helper.make_node("Loop", ["n"], ["o"], domain=draw(st.sampled_from(["", "my.ops"])), body=body))
    domains = draw(st.lists(st.tuples(names, st.integers(1, 30)), max_size=3))
    model = helper.make_model(
        helper.make_graph(nodes, draw(names), [], [], tensors),
        opset_imports=[helper.make_opsetid("", draw(st.integers(7, 24))), *(helper.make_opsetid(*d) for d in domains)],
        doc_string=draw(st.text(max_size=50)),
    )
    unknown = draw(st.sampled_from([b"", b"\xc0\x3e\x07", b"\xfa\x3e\x03abc"]))
    return model.SerializeToString() + unknown


@st.composite
def safetensors_files(draw):
    header, body = {}, b""
    if draw(st.booleans()):
        header["__metadata__"] = draw(st.dictionaries(names, names, max_size=3))
    for number, dtype in enumerate(draw(st.lists(st.sampled_from(sorted(SAFETENSORS_BITS)), max_size=4))):
        count, data = draw(tensor_bytes(SAFETENSORS_BITS[dtype]))
        offsets = [len(body), len(body) + len(data)]
        header[f"{number}{draw(names)}"] = {"dtype": dtype, "shape": [count], "data_offsets": offsets}
        body += data
    text = json.dumps(header, ensure_ascii=draw(st.booleans())).encode("utf-8", errors="replace")
    text += b" " * draw(st.integers(0, 7))
    return struct.pack("<Q", len(text)) + text + body


@few
@given(onnx_files())
def test_every_onnx_file_comes_back(tmp_path, data):
    assert fuzz_codec.check_original(data, ".onnx", tmp_path)


@few
@given(safetensors_files())
def test_every_safetensors_file_comes_back(tmp_path, data):
    assert fuzz_codec.check_original(data, ".safetensors", tmp_path)


@few
@given(st.binary(max_size=400), st.sampled_from([".onnx", ".safetensors"]))
@example(b"", ".onnx")
@example(struct.pack("<Q", 2**63) + b"{}", ".safetensors")
@example(struct.pack("<Q", 2) + b"[]", ".safetensors")
@example(struct.pack("<Q", 3000) + b"[" * 3000, ".safetensors")
def test_random_bytes_as_original_come_back_or_are_refused(tmp_path, data, suffix):
    fuzz_codec.check_original(data, suffix, tmp_path)


@few
@given(onnx_files(), st.data())
def test_damaged_onnx_files_come_back_or_are_refused(tmp_path, content, data):
    at = data.draw(st.integers(0, len(content) - 1))
    damaged = content[:at] + data.draw(st.binary(max_size=4)) + content[at + data.draw(st.integers(0, 9)) :]
    fuzz_codec.check_original(damaged, ".onnx", tmp_path)


@few
@given(st.binary(max_size=300), st.booleans())
def test_random_bytes_are_no_packed_file(tmp_path, data, with_magic):
    data = GOLDEN["example"][:10] + data if with_magic else data
    assert fuzz_codec.check_packed(data, tmp_path, slow) is None


@few
@given(golden, st.data())
def test_every_truncation_is_refused(tmp_path, content, data):
    size = data.draw(st.integers(0, len(content) - 1))
    assert fuzz_codec.check_packed(content[:size], tmp_path) is None


@few
@given(golden, st.data())
def test_every_flipped_bit_is_refused(tmp_path, content, data):
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    flipped = bytearray(content)
    flipped[bit >> 3] ^= 1 << (bit & 7)
    assert fuzz_codec.check_packed(bytes(flipped), tmp_path) is None


def test_small_files_hold_everything_that_a_file_can(tmp_path):
    words, containers, side_files, planes = [], set(), 0, set()
    for name in SMALL:
        path = tmp_path / "x.krimp"
        path.write_bytes(GOLDEN[name])
        words += [fact.coder for fact in codec.inspect_file(path)]
        with codec.PackedFile(path) as file:
            containers.add(file.header.container)
            side_files += len(file.side_files)
            planes |= {len(tensor.record.planes) for tensor in file.tensors}
    text = " / ".join(words)
    for word in ("huffman", "ans", "classes", "others by", "raw", "constant", "planes"):
        assert word in text
    assert (containers, side_files, planes) == ({0, 1}, 1, {1, 2, 4})


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", SMALL)
def test_every_single_truncation_and_bit_flip_of_small_files_is_refused_with_its_place(tmp_path, name):
    content = GOLDEN[name]
    path = tmp_path / "x.krimp"
    damaged = [content[:size] for size in range(len(content))]
    whole = int.from_bytes(content, "little")
    damaged += [(whole ^ 1 << bit).to_bytes(len(content), "little") for bit in range(8 * len(content))]
    for data in damaged:
        path.write_bytes(data)
        with pytest.raises(CodecError, match=r"x\.krimp: (index )?byte \d+: ."):
            codec.verify_file(path)


@settings(few, max_examples=25)  # the slow decoder is slow
@given(golden, st.integers(0, 2**32 - 1), st.data())
def test_damage_behind_the_checksums_never_crashes_and_the_text_agrees(tmp_path, content, seed, data):
    def mutate(part):
        at = data.draw(st.integers(0, len(part)))
        return part[:at] + data.draw(st.binary(max_size=3)) + part[at + data.draw(st.integers(0, 4)) :]

    with fuzz_codec.without_checksums(slow):
        fuzz_codec.check_packed(fuzz_codec.mutate_section(content, seed, mutate), tmp_path, slow)


def test_the_checksums_are_really_off(tmp_path):
    content = bytearray(GOLDEN["example"])
    content[HEADER_BYTES - 1] ^= 1  # the header's own checksum
    assert fuzz_codec.check_packed(bytes(content), tmp_path, slow) is None
    with fuzz_codec.without_checksums(slow):
        assert fuzz_codec.check_packed(bytes(content), tmp_path, slow) is not None
    assert fuzz_codec.check_packed(bytes(content), tmp_path, slow) is None


NUMBERS = [field.name for field in fields(Header) if field.type == "int" and not field.name.endswith("crc32")]
CLAIMS = st.one_of(st.sampled_from([0, 1, 2**16, 2**31, 2**32 - 1]), st.integers(0, 2**32 - 1))


@few
@given(golden, st.dictionaries(st.sampled_from(NUMBERS), CLAIMS, min_size=1))
def test_a_header_that_lies_is_refused(tmp_path, content, lies):
    header = parse_header(content[:HEADER_BYTES], len(content), "golden")
    for name, most in (("container", 2**8), ("version", 2**16)):
        lies |= {name: lies[name] % most} if name in lies else {}
    lying = replace(header, **lies)
    found = fuzz_codec.check_packed(lying.to_bytes() + content[HEADER_BYTES:], tmp_path, slow)
    # What the original is called ('container') is information only.
    assert found is None or {**vars(lying), "container": 0} == {**vars(header), "container": 0}


CHILD = """
import resource, sys, time
import numpy, numba
from compress import codec
from compress.errors import CodecError
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
for path in sys.argv[1:]:
    for door in (codec.load, codec.unpack_bytes, codec.verify_file, codec.inspect_file):
        before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
        try:
            door(path)
            print("taken")
        except CodecError as error:
            grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            print(f"refused; {grown}; {time.process_time() - started}; {error}")
"""


def claims(claim):
    """Return the example with 10 TB declared in a field, header checksum put right."""
    content = GOLDEN["example"]
    header = parse_header(content[:HEADER_BYTES], len(content), "golden")
    return replace(header, **{claim: 10 * 10**12}).to_bytes() + content[HEADER_BYTES:]


def test_ten_terabytes_are_refused_at_once_within_two_gigabytes_of_address_space(tmp_path):
    paths = []
    for claim in ("original_bytes", "payload_bytes", "skeleton_bytes", "index_bytes"):
        paths.append(tmp_path / f"{claim}.krimp")
        paths[-1].write_bytes(claims(claim))
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *map(str, paths)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 4 * len(paths)
    for line in lines:
        word, grown_kib, seconds, message = line.split("; ", 3)
        assert word == "refused"
        assert int(grown_kib) < 16 * 1024
        assert float(seconds) < 0.5
        assert "bytes.krimp: byte " in message


def test_a_file_of_a_hundred_bytes_that_declares_ten_terabytes_is_refused(tmp_path):
    path = tmp_path / "short.krimp"
    path.write_bytes(claims("original_bytes")[:100])
    with pytest.raises(CodecError, match=r"short\.krimp: byte 100: .*expected 108"):
        codec.load(path)
