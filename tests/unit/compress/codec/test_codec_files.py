"""Whole files through the public interface of compress.codec."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

from compress import codec
from compress.codec.format.index_reader import IndexReader
from compress.errors import CodecError

ROOT = Path(__file__).parents[4]
ONNX_TYPES = [
    TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.INT8, TensorProto.UINT8, TensorProto.INT16,
    TensorProto.UINT16, TensorProto.INT32, TensorProto.INT64, TensorProto.UINT64, TensorProto.BOOL,
    TensorProto.BFLOAT16, TensorProto.INT4, TensorProto.UINT4, TensorProto.FLOAT8E4M3FN,
]  # fmt: skip
WIDTH = {TensorProto.INT4: 0.5, TensorProto.UINT4: 0.5, TensorProto.FLOAT16: 2, TensorProto.BFLOAT16: 2}
WIDTH |= {TensorProto.INT16: 2, TensorProto.UINT16: 2, TensorProto.FLOAT: 4, TensorProto.INT32: 4}
WIDTH |= {TensorProto.DOUBLE: 8, TensorProto.INT64: 8, TensorProto.UINT64: 8}


def model_bytes(initializers, nodes=()):
    graph = helper.make_graph(
        [*nodes, helper.make_node("Identity", ["x"], ["y"])],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
        list(initializers),
    )
    return helper.make_model(graph, producer_name="test").SerializeToString()


def raw_tensor(name, data_type, count, rng):
    data = rng.integers(0, 256, max(int(count * WIDTH.get(data_type, 1) + 0.5), 0)).astype(np.uint8)
    data[rng.random(len(data)) < rng.random()] = 0
    return TensorProto(name=name, data_type=data_type, dims=[count], raw_data=data.tobytes())


def varint(value):
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes(out) + bytes([value])


def message(number, data):
    return varint(number << 3 | 2) + varint(len(data)) + data


def round_trip(folder, data, name="model.onnx"):
    source, packed = folder / name, folder / "model.krimp"
    source.write_bytes(data)
    facts = codec.pack_file(source, packed)
    assert codec.unpack_bytes(packed) == data
    assert facts.packed_bytes == packed.stat().st_size
    return packed


@pytest.fixture
def small(tmp_path):
    """Return a packed file of a few hundred bytes."""
    values = np.random.default_rng(0).binomial(8, 0.5, 200).astype(np.int8)
    return round_trip(tmp_path, model_bytes([numpy_helper.from_array(values, "w")]))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(ONNX_TYPES), st.integers(0, 900)), max_size=5), st.integers(0, 2**32 - 1))
def test_every_onnx_file_comes_back_identical(tmp_path, tensors, seed):
    rng = np.random.default_rng(seed)
    round_trip(tmp_path, model_bytes([raw_tensor(f"t{i}", kind, n, rng) for i, (kind, n) in enumerate(tensors)]))


def test_values_outside_raw_data_and_in_constants_come_back(tmp_path):
    values = np.random.default_rng(0).standard_normal(300)
    typed = [
        helper.make_tensor("f", TensorProto.FLOAT, [300], values),
        helper.make_tensor("d", TensorProto.DOUBLE, [300], values),
        helper.make_tensor("i", TensorProto.INT8, [300], (values * 20).astype(np.int8)),
        helper.make_tensor("s", TensorProto.STRING, [2], [b"a", b"b"]),
        helper.make_tensor("scalar", TensorProto.FLOAT, [], [1.0]),
    ]
    constant = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(values.astype(np.float32)))
    packed = round_trip(tmp_path, model_bytes(typed, [constant]))
    assert {fact.name for fact in codec.inspect_file(packed)} == {"f", "d", "c"}


def test_unknown_fields_and_unusual_order_come_back(tmp_path):
    weights = np.random.default_rng(0).binomial(20, 0.5, 2000).astype(np.int8)
    unknown = varint(1000 << 3) + varint(7) + varint(999 << 3 | 3) + varint(8) + b"\x01" + varint(999 << 3 | 4)
    tensor = message(9, weights.tobytes()) + unknown + message(8, b"w") + varint(2 << 3) + varint(3)  # data before type
    tensor += varint(1 << 3) + b"\xd0\x8f\x00"  # 2000 in three bytes where two would do
    graph = unknown + message(5, tensor) + message(2, b"graph")
    data = message(7, graph) + unknown + message(8, varint(2 << 3) + b"\x13") + varint(1 << 3) + b"\x0a"
    packed = round_trip(tmp_path, data)
    (fact,) = codec.inspect_file(packed)
    assert (fact.name, fact.dims, fact.data_type) == ("w", (2000,), "int8")
    assert onnx.load_model_from_string(data).SerializeToString() != data  # why nothing may be parsed and re-serialized


def test_safetensors_come_back(tmp_path):
    values = (0.1 * np.random.default_rng(0).standard_normal(5000)).astype(np.float32)
    header = json.dumps(
        {"__metadata__": {"a": "b"}, "w": {"dtype": "F32", "shape": [5000], "data_offsets": [0, 20000]}}
    )
    data = len(header).to_bytes(8, "little") + header.encode() + values.tobytes()
    packed = round_trip(tmp_path, data, "model.safetensors")
    assert packed.stat().st_size < 0.9 * len(data)


def test_the_same_input_gives_the_same_bytes_with_all_kernels(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "a.onnx").write_bytes(
        model_bytes([raw_tensor(f"t{i}", k, 3000, rng) for i, k in enumerate(ONNX_TYPES)])
    )
    packed = []
    for i, kernels in enumerate(("numpy", "numba", "numba")):
        codec.pack_file(tmp_path / "a.onnx", tmp_path / f"{i}.krimp", kernels=kernels)
        packed.append((tmp_path / f"{i}.krimp").read_bytes())
    assert packed[0] == packed[1] == packed[2]
    assert codec.unpack_bytes(tmp_path / "0.krimp", kernels="numpy") == codec.unpack_bytes(
        tmp_path / "0.krimp", kernels="numba"
    )


def test_every_truncation_is_refused_with_the_place(small, tmp_path):
    data = small.read_bytes()
    for size in range(len(data)):
        (tmp_path / "cut.krimp").write_bytes(data[:size])
        with pytest.raises(CodecError, match=r"cut\.krimp: byte \d+: "):
            codec.unpack_bytes(tmp_path / "cut.krimp")


def test_every_flipped_bit_is_refused_with_the_place(small, tmp_path):
    data = bytearray(small.read_bytes())
    for bit in range(8 * len(data)):
        data[bit >> 3] ^= 1 << (bit & 7)
        (tmp_path / "flip.krimp").write_bytes(data)
        with pytest.raises(CodecError, match=r"flip\.krimp: (index )?byte \d+: "):
            codec.unpack_bytes(tmp_path / "flip.krimp")
        data[bit >> 3] ^= 1 << (bit & 7)


def test_every_truncated_onnx_file_is_refused(tmp_path):
    data = model_bytes([raw_tensor("w", TensorProto.INT8, 300, np.random.default_rng(0))])
    for size in range(0, len(data), 3):
        (tmp_path / "cut.onnx").write_bytes(data[:size])
        for read in (codec.load, lambda path: codec.pack_file(path, tmp_path / "out.krimp")):
            with pytest.raises(CodecError, match=r"cut\.onnx: byte \d+: .*truncated"):
                read(tmp_path / "cut.onnx")
    assert not (tmp_path / "out.krimp").exists()


@pytest.mark.parametrize("content", [b"PNG nonsense that is no model at all", b"", bytes(100), b"\xff" * 100])
def test_files_that_are_no_models_are_refused(tmp_path, content):
    (tmp_path / "x.onnx").write_bytes(content)
    with pytest.raises(CodecError, match=r"x\.onnx: byte"):
        codec.pack_file(tmp_path / "x.onnx", tmp_path / "x.krimp")


@pytest.mark.parametrize(
    ("shape", "offsets"),
    [
        (["a", "b"], [0, 300]),
        ([[3], [100]], [0, 300]),
        ([3.0, 100.0], [0, 300]),
        ([3, 1 << 64], [0, 300]),
        ("3x100", [0, 300]),
        ([300], [0.5, 300]),
        ([300], [0, float("inf")]),
    ],
)
def test_shapes_and_places_that_are_no_numbers_are_refused(tmp_path, shape, offsets):
    header = json.dumps({"w": {"dtype": "I8", "shape": shape, "data_offsets": offsets}}).encode()
    (tmp_path / "x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(300))
    with pytest.raises(CodecError, match=r"x\.safetensors: byte 8: header is not that .* whole numbers"):
        codec.pack_file(tmp_path / "x.safetensors", tmp_path / "x.krimp")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dims", [[-1, 300], [1 << 62, 1 << 62], [7, 7]])
def test_a_tensor_whose_shape_does_not_fit_its_bytes_is_loaded_flat(tmp_path, dims):
    values = np.arange(300, dtype=np.uint16).astype(np.int8)
    tensor = TensorProto(name="w", data_type=TensorProto.INT8, dims=dims, raw_data=values.tobytes())
    packed = round_trip(tmp_path, model_bytes([tensor]))
    assert np.array_equal(codec.load_tensors(packed)["w"], values)


def test_a_missing_file_is_named(tmp_path):
    for call in (codec.load, codec.verify_file, codec.inspect_file, codec.unpack_bytes):
        with pytest.raises(CodecError, match="cannot be read"):
            call(tmp_path / "none.krimp")


def external_model(folder, location, values, offset=0, length=None):
    """Write x.onnx whose tensor 'w' lies in another file; return its path."""
    tensor = TensorProto(name="w", data_type=TensorProto.INT8, dims=[len(values)])
    tensor.data_location = TensorProto.EXTERNAL
    entries = {"location": location, "offset": str(offset), "length": str(length or len(values))}
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    (folder / "x.onnx").write_bytes(model_bytes([tensor]))
    return folder / "x.onnx"


def test_weights_in_another_file_come_back_beside_the_model(tmp_path):
    values = np.random.default_rng(0).binomial(9, 0.5, 4000).astype(np.int8)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "w.bin").write_bytes(b"head" + values.tobytes() + b"tail")
    model = external_model(tmp_path, "./sub/w.bin", values, offset=4)
    codec.pack_file(model, tmp_path / "x.krimp")
    (tmp_path / "new").mkdir()
    for _ in range(2):  # a second time over identical files
        codec.unpack_file(tmp_path / "x.krimp", tmp_path / "new" / "y.onnx")
    assert (tmp_path / "new" / "y.onnx").read_bytes() == model.read_bytes()
    assert (tmp_path / "new" / "sub" / "w.bin").read_bytes() == (tmp_path / "sub" / "w.bin").read_bytes()
    assert np.array_equal(codec.load_tensors(tmp_path / "x.krimp")["w"], values)
    (fact,) = codec.inspect_file(tmp_path / "x.krimp")
    assert (fact.name, fact.elements) == ("w", 4000)
    (tmp_path / "new" / "sub" / "w.bin").write_bytes(b"other")
    with pytest.raises(CodecError, match="is there already"):
        codec.unpack_file(tmp_path / "x.krimp", tmp_path / "new" / "y.onnx")
    assert (tmp_path / "new" / "sub" / "w.bin").read_bytes() == b"other"
    for read in (codec.load, codec.unpack_bytes):
        with pytest.raises(CodecError, match="holds files beside the model"):
            read(tmp_path / "x.krimp")


def test_a_file_of_weights_is_never_written_over(tmp_path):
    (tmp_path / "w.krimp").write_bytes(bytes(300))
    model = external_model(tmp_path, "w.krimp", bytes(300))
    with pytest.raises(CodecError, match=r"w\.krimp: keeps weights of .*x\.onnx, which would be lost"):
        codec.pack_file(model, tmp_path / "w.krimp")
    assert (tmp_path / "w.krimp").read_bytes() == bytes(300)


@pytest.mark.parametrize("location", ["../w.bin", "/etc/hostname", "a/../../w.bin", "link.bin", "x.onnx"])
def test_files_that_leave_the_folder_are_refused(tmp_path, location):
    (tmp_path / "w.bin").write_bytes(bytes(300))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "link.bin").symlink_to(tmp_path / "w.bin")
    with pytest.raises(CodecError, match="expected a file beside the model or below"):
        codec.pack_file(external_model(folder, location, bytes(300)), folder / "x.krimp")
    assert not (folder / "x.krimp").exists()


def test_missing_and_short_files_of_weights_are_named(tmp_path):
    model = external_model(tmp_path, "w.bin", bytes(300))
    with pytest.raises(CodecError, match=r"w\.bin: byte 0: cannot be read"):
        codec.pack_file(model, tmp_path / "x.krimp")
    (tmp_path / "w.bin").write_bytes(bytes(299))
    with pytest.raises(CodecError, match="truncated"):
        codec.pack_file(model, tmp_path / "x.krimp")
    with pytest.raises(CodecError, match="'w' keeps its data in another file"):
        codec.load(model)


def test_tensors_are_loaded_by_name_and_in_threads(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        "b": rng.integers(-9, 9, (40, 50)).astype(np.int8),
        "f": rng.standard_normal((30, 20)).astype(np.float32),
        "i": rng.integers(-(2**40), 2**40, 77),
        "scalar": np.array(3.5, dtype=np.float32),
        "none": np.empty((0, 4), dtype=np.float32),
    }
    nibbles = rng.integers(-8, 8, 1001).astype(np.int8)
    tensors = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    tensors.append(helper.make_tensor("n", TensorProto.INT4, [1001], nibbles))
    raw = TensorProto(name="q", data_type=TensorProto.INT4, dims=[1001])
    padded = np.append(nibbles, 0).astype(np.uint8) & 15
    raw.raw_data = (padded[0::2] | padded[1::2] << 4).tobytes()
    packed = round_trip(tmp_path, model_bytes([*tensors, raw]))
    for threads in (1, 3):
        found = codec.load_tensors(packed, threads=threads)
        for name in ("b", "f", "i", "scalar"):
            assert found[name].dtype == arrays[name].dtype
            assert np.array_equal(found[name], arrays[name])
        assert np.array_equal(found["q"], nibbles)
        assert codec.load(packed, threads=threads) == codec.load(packed, check_hash=False)
    assert list(codec.load_tensors(packed, ["f"])) == ["f"]
    with pytest.raises(CodecError, match="no tensor 'x'"):
        codec.load_tensors(packed, ["x"])


def test_nothing_but_a_regular_file_is_written_over(small, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for target, what in ((tmp_path / "pipe", "a device or pipe"), (tmp_path, "a folder")):
        with pytest.raises(CodecError, match=what):
            codec.unpack_file(small, target)
    assert (tmp_path / "pipe").is_fifo()


def test_inputs_that_are_something_else_get_their_own_words(small, tmp_path):
    pointer = tmp_path / "p.onnx"
    pointer.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0")
    nested = tmp_path / "n.safetensors"
    nested.write_bytes((5000).to_bytes(8, "little") + b"[" * 5000)
    (tmp_path / "e.onnx").write_bytes(b"")
    cases = (
        (pointer, "Git LFS"),
        (nested, "not that of a safetensors"),
        (tmp_path / "e.onnx", "empty"),
        (small, "already"),
    )
    for path, words in cases:
        with pytest.raises(CodecError, match=words):
            codec.pack_file(path, tmp_path / "out.krimp")


@pytest.mark.parametrize("check_hash", [True, False])
def test_a_damaged_tensor_is_named_with_and_without_the_hash(small, check_hash):
    data = bytearray(small.read_bytes())
    data[110] ^= 4
    small.write_bytes(data)
    with pytest.raises(CodecError, match=r"byte 108: checksum of this tensor"):
        codec.load(small, check_hash=check_hash)


def test_load_takes_both_forms_whatever_their_names(small, tmp_path):
    original = codec.load(small)
    renamed = tmp_path / "packed.bin"
    renamed.write_bytes(small.read_bytes())
    assert codec.load(tmp_path / "model.onnx") == codec.load(renamed) == original


def test_a_damaged_file_leaves_the_old_output_untouched(small, tmp_path):
    data = bytearray(small.read_bytes())
    data[60] ^= 1
    small.write_bytes(data)
    (tmp_path / "old.onnx").write_bytes(b"old")
    with pytest.raises(CodecError):
        codec.unpack_file(small, tmp_path / "old.onnx")
    assert (tmp_path / "old.onnx").read_bytes() == b"old"
    assert not list(tmp_path.glob("*.part"))


def test_a_full_disk_is_a_clear_error_and_leaves_nothing(small, tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CodecError, match="No space left on device"):
        codec.unpack_file(small, tmp_path / "new.onnx")
    assert not (tmp_path / "new.onnx").exists()
    assert not list(tmp_path.glob(".*.part"))


def test_unpack_file_and_verify_agree_with_unpack_bytes(small, tmp_path):
    seen = []
    codec.verify_file(small, lambda done, total: seen.append((done, total)))
    size = codec.unpack_file(small, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == codec.unpack_bytes(small)
    assert seen[-1] == (size, size)


def test_inspection_counts_zeros_and_bit_widths(tmp_path):
    values = np.zeros(1000, dtype=np.int8)
    values[:200] = np.tile([-8, 7], 100)
    packed = round_trip(tmp_path, model_bytes([numpy_helper.from_array(values.reshape(10, 100), "w")]))
    (fact,) = codec.inspect_file(packed)
    assert (fact.dims, fact.elements, fact.bit_width, fact.zeros) == ((10, 100), 1000, 4, 0.8)
    assert fact.bits_per_weight == pytest.approx(8 * fact.packed_bytes / 1000)


def test_tensors_can_be_decoded_alone(small):
    with codec.PackedFile(small) as packed:
        (tensor,) = packed.tensors
        assert packed.decode(tensor).tobytes() == codec.unpack_bytes(small)[tensor.start : tensor.start + 200]


def test_importing_the_codec_needs_neither_torch_nor_onnx_nor_numba():
    code = "import sys, compress.codec; print({'torch', 'onnx', 'numba', 'huffman', 'pydantic'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x80" * 20, "too large"),
        (b"\x80" * 11, "too large"),
        (b"\x80" * 10, "the index ends"),
        (b"\xff" * 20, "too large"),
        (b"", "the index ends"),
        (b"\x80\x00", "not written in the shortest way"),
    ],
)
def test_a_number_that_is_none_is_refused_with_its_reason(data, reason):
    with pytest.raises(CodecError, match=reason):
        IndexReader(data, "x").varint()


def test_of_too_many_tensors_the_largest_are_coded(tmp_path, monkeypatch):
    monkeypatch.setattr("compress.codec.files.tensor_parts._MOST_TENSORS", 3)
    monkeypatch.setattr("compress.codec.files.coded_file._WORTH_BYTES", 1 << 30)  # no heap, nothing in the skeleton
    monkeypatch.setattr("compress.codec.decoding.tensor_decoder._BATCH_TENSORS", 2)
    tensors = {f"t{size}": np.arange(size, dtype=np.int8) % 7 for size in (300, 128, 500, 200, 400, 150)}
    save_file(tensors, tmp_path / "w.safetensors")
    codec.pack_file(tmp_path / "w.safetensors", tmp_path / "w.krimp")
    with codec.PackedFile(tmp_path / "w.krimp") as packed:
        assert sorted(tensor.record.num_bytes for tensor in packed.tensors) == [300, 400, 500]
    assert codec.load(tmp_path / "w.krimp") == (tmp_path / "w.safetensors").read_bytes()
    found = codec.load_tensors(tmp_path / "w.krimp")
    assert all(np.array_equal(found[name], array) for name, array in tensors.items())
