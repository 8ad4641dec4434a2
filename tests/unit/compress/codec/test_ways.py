"""What version 2 of the format is for: repeats, few values, fake quantization, many small tensors; and its limits."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.codec_bounds import generated, measured, safetensors
from compress import codec
from compress.codec.encoding import lzma_choice, way_choice
from compress.codec.encoding.repeated_groups import repeated_group
from compress.codec.encoding.scaled_integers import find_scaled
from compress.codec.encoding.table_choice import Tables
from compress.codec.encoding.way_choice import Described, encode_best
from compress.codec.kernels import by_numpy
from compress.errors import CodecError

rng = np.random.default_rng(0)
FIRST = rng.bit_generator.state
GENERATED = [pytest.param(name, data, id=name) for _, name, data in generated(16)]


@pytest.fixture(autouse=True)
def the_same_numbers_alone_and_after_other_tests():
    rng.bit_generator.state = FIRST


def packed(folder, tensors):
    """Pack tensors, check that they come back as a whole and one by one; return the facts."""
    (folder / "w.safetensors").write_bytes(safetensors(tensors))
    facts = codec.pack_file(folder / "w.safetensors", folder / "w.krimp")
    for kernels in ("numpy", "numba"):
        found = codec.load_tensors(folder / "w.krimp", kernels=kernels)
        assert all(found[name].tobytes() == array.tobytes() for name, (_, array) in tensors.items())
    assert codec.load(folder / "w.krimp") == (folder / "w.safetensors").read_bytes()
    codec.verify_file(folder / "w.krimp")
    return facts


@pytest.mark.parametrize(("name", "data"), GENERATED)
def test_no_file_is_larger_than_xz_and_zstd_make_it(tmp_path, name, data):
    row = measured(data, Path(name).suffix, tmp_path)
    assert row["within"], row


def integers(most, shape=(64, 512)):
    return np.round(rng.standard_normal(shape) * most / 3.5).clip(-most, most).astype(np.float32) + np.float32(0)


CHANNELS = (64, 1)


@pytest.mark.parametrize(
    ("most", "shape", "kind"),
    [(127, CHANNELS, "F32"), (7, CHANNELS, "F32"), (127, (1, 1), "F32"), (127, (1, 512), "F32"),
     (127, CHANNELS, "F16"), (127, CHANNELS, "BF16"), (127, CHANNELS, "F64"), (7, CHANNELS, "BF16")],
)  # fmt: skip
def test_a_fake_quantized_float_costs_what_its_integers_cost(tmp_path, most, shape, kind):
    whole = integers(most)
    scales = rng.uniform(0.001, 0.01, shape).astype(np.float32)
    fake = whole * (scales.astype(np.float64) if kind == "F64" else scales)  # in the arithmetic of the file
    if kind == "BF16":
        bits = fake.view(np.uint32)
        fake = (bits + np.uint32(0x7FFF) + (bits >> 16 & 1) >> 16).astype(np.uint16)
    fake = fake.astype({"F16": np.float16, "F64": np.float64}.get(kind, fake.dtype))
    plain = packed(tmp_path, {"w": ("I8", whole.astype(np.int8))}).packed_bytes
    assert packed(tmp_path, {"w": (kind, fake)}).packed_bytes < 1.02 * plain + 4 * scales.size + 300


def bfloat16(values):
    bits = values.view(np.uint32)
    return (bits + np.uint32(0x7FFF) + (bits >> 16 & 1) >> 16).astype(np.uint16)


AS_THEY_COME = {
    "float64 of float32": ("F64", lambda fake: fake.astype(np.float64)),
    "float32 of float16": ("F32", lambda fake: fake.astype(np.float16).astype(np.float32)),
    "float32 of bfloat16": ("F32", lambda fake: (bfloat16(fake).astype(np.uint32) << 16).view(np.float32)),
    "bfloat16": ("BF16", bfloat16),
}


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=[] if kind == "float32 of float16" else pytest.mark.long) for kind in AS_THEY_COME],
)
def test_large_fake_quantized_tensors_that_were_stored_in_a_wider_type_cost_what_their_integers_cost(tmp_path, kind):
    whole = integers(127, (4096, 512))  # of which some rows have 123 as the largest: 246 / 2 for 8 bits of mantissa
    scales = rng.uniform(0.001, 0.01, (4096, 1)).astype(np.float32)
    data_type, stored = AS_THEY_COME[kind]
    for name, tensor in (("i", ("I8", whole.astype(np.int8))), ("f", (data_type, stored(whole * scales)))):
        (tmp_path / name).write_bytes(safetensors({"w": tensor}))
        codec.pack_file(tmp_path / name, tmp_path / f"{name}.krimp")
    assert codec.load(tmp_path / "f.krimp") == (tmp_path / "f").read_bytes()
    found, plain = ((tmp_path / f"{name}.krimp").stat().st_size for name in "fi")
    assert found < 1.02 * plain


@pytest.mark.parametrize(
    ("shape", "spread", "seed"),
    [((8192, 256), 25, 2), ((8192, 256), 42, 0), ((4096, 1024), 42, 1), ((8192, 64), 36, 1)],
)
def test_rows_of_8_bits_take_the_integers_that_they_were_made_of(shape, spread, seed):
    own = np.random.default_rng(seed)
    whole = np.round(own.standard_normal(shape) * spread).clip(-127, 127).astype(np.float32) + np.float32(0)
    stored = bfloat16(whole * own.uniform(0.001, 0.01, (len(whole), 1)).astype(np.float32))
    found = find_scaled(stored.reshape(-1), 1, whole.shape)
    codes = found.numbers.astype(int) + found.way.base
    assert np.abs(codes).max() <= 127  # one row that takes more costs the whole tensor a wider table
    others = (codes.reshape(whole.shape) != whole).any(axis=1)  # a short row may fit two scales
    assert others.sum() <= 4


@pytest.mark.parametrize("kind", ["BF16", "F16"])
def test_short_groups_whose_scales_are_of_few_bits_cost_what_integers_and_scales_cost(tmp_path, kind):
    whole = np.random.default_rng(1).laplace(size=(8192, 32)).astype(np.float32)
    largest = np.abs(whole).max(1, keepdims=True)
    whole = np.round(whole / largest * 7) + np.float32(0)
    scales = (largest / 7).astype(np.float16)
    if kind == "BF16":
        scales = bfloat16(largest / 7)
        wide = (scales.astype(np.uint32) << 16).view(np.float32)
        fake = bfloat16(whole * wide)
    else:
        fake = whole.astype(np.float16) * scales
    plain = packed(tmp_path, {"w": ("I8", whole.astype(np.int8)), "s": (kind, scales)}).packed_bytes
    assert packed(tmp_path, {"w": (kind, fake)}).packed_bytes < 1.02 * plain


def test_scales_of_groups_and_zeros_of_both_signs_are_found():
    groups = integers(7, (256, 64)) * rng.uniform(0.001, 0.01, (256, 1)).astype(np.float32)
    found = find_scaled(groups.reshape(-1).view(np.uint32), 2, (16, 1024))
    assert (found.way.inner, found.way.entries, found.way.has_negative_zero) == (64, 256, False)
    signed = np.where(groups == 0, np.copysign(np.float32(0), rng.standard_normal(groups.shape)), groups)
    found = find_scaled(signed.astype(np.float32).reshape(-1).view(np.uint32), 2, (16, 1024))
    assert found.way.has_negative_zero
    assert find_scaled(rng.standard_normal(4096).astype(np.float32).view(np.uint32), 2, (64, 64)) is None


def test_version_1_is_written_where_version_2_saves_nothing(tmp_path):
    plain = packed(tmp_path, {"w": ("I8", integers(90).astype(np.int8))})
    twice = packed(tmp_path, {name: ("I8", integers(90).astype(np.int8)) for name in "ab"})
    same = integers(90).astype(np.int8)
    copied = packed(tmp_path, {name: ("I8", same) for name in "ab"})
    assert (plain.format_version, twice.format_version, copied.format_version) == (1, 1, 2)
    assert copied.packed_bytes < 0.52 * twice.packed_bytes
    assert [fact.coder for fact in codec.inspect_file(tmp_path / "w.krimp")][1] == "copy"


def bell(shape):
    return np.round(rng.laplace(0, 9, shape)).clip(-127, 127).astype(np.int8)


RUNS = {
    "values": (("I8", np.repeat(bell(9000), 7)), "runs of 1:"),
    "kernels": (("I8", np.repeat(bell((3000, 3, 3)), 3, axis=0)), "runs of 9:"),
    "blocks": (
        ("I16", np.repeat(np.repeat(bell((32, 64)).astype(np.int16), 5, axis=0), 6, axis=1)),
        "runs of 768: runs",
    ),
    "floats": (
        ("F32", np.repeat(rng.standard_normal(3000).astype(np.float32), rng.geometric(0.1, 3000))),
        "runs of 4:",
    ),
    "long": (("F16", np.repeat(rng.standard_normal(900).astype(np.float16), rng.geometric(0.0003, 900))), "runs of 2:"),
    "many long": (("U8", np.repeat(rng.integers(0, 9, 7).astype(np.uint8), 1 << 20)), "runs of 1:"),
    "kernels of few kinds": (("I8", bell((90, 3, 3))[rng.integers(0, 90, 4000)]), "list of 90"),
}


@pytest.mark.parametrize("name", RUNS)
def test_what_follows_itself_unchanged_is_coded_once(tmp_path, name):
    (data_type, array), words = RUNS[name]
    facts = packed(tmp_path, {"w": (data_type, array)})
    assert codec.inspect_file(tmp_path / "w.krimp")[0].coder.startswith(words)
    left = {"values": 9000, "kernels": 27000, "blocks": 2100, "kernels of few kinds": 5000}.get(name, array.nbytes // 5)
    assert facts.packed_bytes < left


def half_zeros(shape, kind=np.float32):
    return np.where(rng.random(shape) < 0.5, 0, rng.standard_normal(shape)).astype(kind)


@pytest.mark.parametrize(("data_type", "kind", "share"), [("F32", np.float32, 0.57), ("F16", np.float16, 0.83)])
def test_floats_with_zeros_cost_the_others_and_a_bit_for_each_place(tmp_path, data_type, kind, share):
    sparse = half_zeros((64, 512), kind)
    dense = sparse[sparse != 0]
    whole, others = (packed(tmp_path, {"w": (data_type, each)}).packed_bytes for each in (sparse, dense))
    assert codec.inspect_file(tmp_path / "w.krimp")[0].coder.startswith("planes")
    assert whole < 1.005 * (others + sparse.size / 8) + 200
    assert whole < share * sparse.nbytes


@pytest.mark.parametrize("filler", [0, 1, -np.inf])
def test_whatever_is_there_most_often_is_left_out(tmp_path, filler):
    values = np.where(rng.random(4001) < 0.7, filler, rng.standard_normal(4001)).astype(np.float32)
    packed(tmp_path, {"w": ("F32", values)})
    assert codec.inspect_file(tmp_path / "w.krimp")[0].coder.startswith("all but one value: planes")


def test_bytes_of_which_zeros_are_left_out_hardly_go_through_lzma(monkeypatch):
    """Work is counted, not timed: half zeros took 40 times as long as dense floats, all of it in LZMA."""
    done = []
    pack = lzma_choice._packed
    monkeypatch.setattr(lzma_choice, "_packed", lambda data, *settings: done.append(len(data)) or pack(data, *settings))
    work = {}
    for name, array in (
        ("dense", rng.standard_normal((512, 1024)).astype(np.float32)),
        ("zeros", half_zeros((512, 1024))),
    ):
        what = Described(9, "float32", array.shape, 1024, 0)
        encode_best(array.reshape(-1).view(np.uint8), what, Tables(), by_numpy, 1 << 25)
        work[name] = sum(done)
        done.clear()
    assert work["zeros"] < array.nbytes
    assert work["zeros"] < 3 * work["dense"]


def test_few_windows_are_kept_of_bytes_that_are_the_same_everywhere(monkeypatch):
    kept = []
    mixed = lzma_choice._mixed
    monkeypatch.setattr(lzma_choice, "_mixed", lambda windows: kept.append(len(windows)) or mixed(windows))
    noise = rng.integers(0, 256, 1 << 20).astype(np.uint8)
    lzma_choice.repeated(noise)
    usual = sum(kept)
    for filler in range(256):  # of some of them the words are chosen, wherever they are
        spread = np.full(1 << 18, filler, dtype=np.uint8)
        spread[::40] = noise[: len(spread[::40])]
        kept.clear()
        lzma_choice.repeated(spread)
        assert sum(kept) < 2 * usual
    sparse = half_zeros((256, 1024)).reshape(-1).view(np.uint8)
    assert lzma_choice.repeated(sparse, 4) < 0.001
    assert lzma_choice.repeated(np.concatenate([sparse, sparse]), 4) > 0.4


def test_runs_that_pieces_of_a_large_tensor_show_to_be_larger_are_not_coded(monkeypatch):
    tried = []
    encode = way_choice._encode_runs
    monkeypatch.setattr(
        way_choice, "_encode_runs", lambda size, left, *rest: tried.append(left.announced) or encode(size, left, *rest)
    )
    sparse = half_zeros((256, 1024))
    for array in (sparse, np.repeat(sparse[:64], 4)):
        what = Described(9, "float32", array.shape, 0, 0)
        encode_best(array.reshape(-1).view(np.uint8), what, Tables(), by_numpy, 1 << 25)
        tried.append("")
    assert tried[:2] == [0, ""]
    assert 1 in tried[2:]


def test_groups_that_repeat_by_chance_alone_are_none():
    assert repeated_group(bell(1 << 16).view(np.uint8), 1, (256, 256)) == 0
    sparse = np.where(rng.random(1 << 16) < 0.9, 0, bell(1 << 16)).astype(np.int8)
    assert repeated_group(sparse.view(np.uint8), 1, (256, 256)) == 0
    assert repeated_group(np.repeat(bell((64, 9)), 4, axis=0).reshape(-1).view(np.uint8), 1, (256, 9)) == 9
    assert repeated_group(np.repeat(bell((64, 9)), 4, axis=0).reshape(-1).view(np.uint8), 1, (256 * 9,)) == 9


@pytest.mark.parametrize("count", [400, pytest.param(2000, marks=pytest.mark.long)])
def test_small_tensors_share_a_heap_and_are_loaded_one_by_one(tmp_path, count):
    tensors = {f"layer{i}": ("F16", rng.standard_normal(60).astype(np.float16)) for i in range(count)}
    facts = packed(tmp_path, tensors)
    assert facts.num_tensors == count
    assert facts.packed_bytes < 0.97 * count * 120
    alone = codec.load_tensors(tmp_path / "w.krimp", ["layer377"])["layer377"]
    assert np.array_equal(alone, tensors["layer377"][1])


def test_a_file_that_is_cut_short_or_written_over_while_it_is_open_is_refused(tmp_path):
    packed(tmp_path, {f"w{i}": ("I8", integers(90 + i).astype(np.int8)) for i in range(4)})
    path, data = tmp_path / "w.krimp", (tmp_path / "w.krimp").read_bytes()
    for change in (data[:300], data[:-300] + bytes(300), b"", data + data):
        path.write_bytes(data)
        with codec.PackedFile(path) as opened:
            os.utime(path, ns=(1, 1))
            path.write_bytes(change)
            with pytest.raises(CodecError, match="has changed while it was read"):
                b"".join(opened.pieces())
    path.write_bytes(data)
    with codec.PackedFile(path) as opened:
        other = tmp_path / "other"
        other.write_bytes(b"else")
        other.replace(path)  # a new file in its place leaves the open one as it was
        assert b"".join(opened.pieces()) == (tmp_path / "w.safetensors").read_bytes()


@pytest.mark.parametrize(("count", "most"), [(60, 10), pytest.param(300, 30, marks=pytest.mark.long)])
def test_many_small_tensors_are_read_in_few_calls_and_leave_no_pages_behind(tmp_path, monkeypatch, count, most):
    own = np.random.default_rng(4)  # of other numbers LZMA makes as much, and no tensor is left
    weights = np.rint(own.standard_normal((count, 40, 64)) * 26).clip(-90, 90).astype(np.int8)
    packed(tmp_path, {f"w{i}": ("I8", weight) for i, weight in enumerate(weights)})
    calls, read = [], os.preadv
    monkeypatch.setattr(os, "preadv", lambda *given: calls.append(given) or read(*given))
    with codec.PackedFile(tmp_path / "w.krimp", kernels="numpy") as opened:
        pages = opened._decoder.data
        outs = [np.empty(tensor.record.num_bytes, np.uint8) for tensor in opened.tensors]
        opened.decode_all(outs)
    assert len(outs) > count * 2 // 3
    assert len(calls) < most
    assert not pages[108 : opened.header.payload_bytes].any()  # none of them was filled


MEMORY = """
import sys
from pathlib import Path
from compress import codec

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return [int(line.split()[1]) for line in lines if line[:6] == "VmHWM:"][0]

before = peak()
calls = {"verify": codec.verify_file, "inspect": codec.inspect_file, "pack": codec.pack_file}
calls[sys.argv[1]](*sys.argv[2:])
print(peak(), peak() - before)
"""


def peak_kb(*arguments):
    """Return the largest memory of a process that does something with the codec, and how much is its own doing."""
    run = subprocess.run([sys.executable, "-c", MEMORY, *arguments], capture_output=True, text=True, check=True)
    return [int(number) for number in run.stdout.split()]


@pytest.mark.long
def test_large_tensors_are_coded_in_parts_and_found_whole(tmp_path):
    one = bell((1300, 64, 130))  # 10.8 MB
    tensors = {"a": ("I8", one), "b": ("F32", rng.standard_normal(3 << 20).astype(np.float32)), "c": ("I8", one)}
    facts = packed(tmp_path, tensors)
    assert facts.num_tensors == 3 + 3 + 3
    found = codec.inspect_file(tmp_path / "w.krimp")
    assert [(fact.name, fact.dims, fact.coder[:8]) for fact in found] == [
        ("a", (1300, 64, 130), "3 parts:"), ("b", (3 << 20,), "3 parts:"), ("c", (1300, 64, 130), "3 parts:"),
    ]  # fmt: skip
    assert found[2].packed_bytes == 0
    assert found[0].coder != found[2].coder == "3 parts: copy"


@pytest.mark.long
def test_a_large_tensor_that_repeats_over_a_long_way_is_one_lzma_stream(tmp_path):
    noise = rng.integers(0, 256, 5 << 20).astype(np.uint8)
    facts = packed(tmp_path, {"a": ("U8", np.concatenate([noise, noise[:-1], noise[:7]]))})
    assert (facts.num_tensors, codec.inspect_file(tmp_path / "w.krimp")[0].coder[:4]) == (1, "lzma")
    assert facts.packed_bytes < 1.01 * len(noise)


@pytest.mark.long
def test_packing_takes_less_memory_than_twice_the_file(tmp_path):
    scales = rng.uniform(0.001, 0.01, (1 << 13, 1)).astype(np.float32)
    path = tmp_path / "w.safetensors"
    path.write_bytes(safetensors({"w": ("F32", integers(127, (1 << 13, 1024)) * scales)}))
    without_numba = "from functools import partial; codec.pack_file = partial(codec.pack_file, kernels='numpy')"
    script = MEMORY.replace("def peak", f"{without_numba}\ndef peak")  # which alone takes 120 MB
    command = [sys.executable, "-c", script, "pack", path, tmp_path / "w.krimp"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(run.stdout.split()[1]) < 2 * path.stat().st_size // 1000 + 100_000


@pytest.mark.long
def test_more_zeros_than_the_format_has_a_ratio_for_are_packed(tmp_path):
    path = zeros(tmp_path, 300 << 20)
    assert 300 <= path.stat().st_size < 2000
    codec.verify_file(path)


def zeros(folder, num_bytes=600 << 20):
    """Write a .krimp file of so many zeros, without as many in memory; return its path."""
    header = json.dumps({"w": {"dtype": "U8", "shape": [num_bytes], "data_offsets": [0, num_bytes]}}).encode()
    with (folder / "z.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + num_bytes)
    codec.pack_file(folder / "z.safetensors", folder / "z.krimp", kernels="numpy")
    (folder / "z.safetensors").unlink()
    return folder / "z.krimp"


def test_what_declares_much_is_refused_where_it_would_be_written_unless_it_is_allowed(tmp_path):
    path = packed(tmp_path, {"w": ("U8", np.zeros(1 << 16, np.uint8))}) and tmp_path / "w.krimp"
    size = codec.PackedFile(path).header.original_bytes
    for call in (
        lambda limit: codec.unpack_file(path, tmp_path / "out", max_bytes=limit),
        lambda limit: codec.load(path, max_bytes=limit),
        lambda limit: codec.load_tensors(path, max_bytes=limit),
        lambda limit: codec.verify_file(path, max_bytes=limit),
        lambda limit: codec.inspect_file(path, max_bytes=limit),
    ):
        call(size)
        with pytest.raises(CodecError, match=rf"declares {size} bytes; expected at most {size - 1}\. .*--max-bytes"):
            call(size - 1)


def test_the_default_limit_is_a_gigabyte_or_256_times_the_file():
    from compress.codec.files.packed_file import sane_bytes

    assert (sane_bytes(4236), sane_bytes(1 << 24)) == (1 << 30, 1 << 32)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["verify", "inspect"])
def test_verify_and_inspect_take_little_memory_for_a_large_tensor(tmp_path, command):
    assert peak_kb(command, zeros(tmp_path, 300 << 20))[0] < 150_000
