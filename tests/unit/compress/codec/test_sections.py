"""Sections are unpacked a part at a time, and refused where they are not what the header says."""

import json
import lzma

import numpy as np
import pytest
from safetensors.numpy import save_file

from compress import codec
from compress.codec.format import index_and_skeleton, sections
from compress.codec.format.sections import SectionReader, expand, shrink
from compress.errors import CodecError

TEXT = b"weights and biases, " * 400


def array(data):
    return np.frombuffer(data, dtype=np.uint8)


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(sections, "PART_BYTES", 64)
    monkeypatch.setattr(index_and_skeleton, "PART_BYTES", 64)


@pytest.mark.parametrize("is_lzma", [True, False])
@pytest.mark.parametrize("sizes", [[], [8000], [0, 1, 7, 0, 200, 3000]])
def test_parts_are_the_whole_in_order(small_parts, is_lzma, sizes):
    packed = shrink(TEXT)[0] if is_lzma else TEXT
    reader = SectionReader(array(packed), len(TEXT), is_lzma, "f: byte 1")
    found = [b"".join(reader.parts(size)) for size in sizes]
    assert [len(each) for each in found] == sizes
    assert b"".join([*found, *reader.parts()]) == TEXT == expand(array(packed), len(TEXT), is_lzma, "f: byte 1")


@pytest.mark.parametrize("change", [-1, 1, 1000])
def test_a_size_that_is_not_that_of_the_section_is_refused(small_parts, change):
    for packed, is_lzma in (shrink(TEXT), (TEXT, False)):
        with pytest.raises(CodecError, match=r"f: byte 1: section (has|does not end after)"):
            list(SectionReader(array(packed), len(TEXT) + change, is_lzma, "f: byte 1").parts())


def test_what_follows_the_end_of_a_section_is_refused(small_parts, monkeypatch):
    packed, _ = shrink(TEXT)
    for more in (b"x", packed):
        with pytest.raises(CodecError, match="f: byte 1: section"):
            list(SectionReader(array(packed + more), len(TEXT), True, "f: byte 1").parts())
    monkeypatch.setattr(sections, "PART_BYTES", len(packed))  # the decoder sees the end, and nothing behind it
    with pytest.raises(CodecError, match="f: byte 1: section"):
        list(SectionReader(array(packed + b"x"), len(TEXT), True, "f: byte 1").parts())
    with pytest.raises(CodecError, match="f: byte 1: section"):
        list(SectionReader(array(lzma.compress(TEXT)), len(TEXT), True, "f: byte 1").parts())


def test_a_file_with_much_between_its_tensors_comes_back_through_every_door(tmp_path, small_parts):
    values = np.arange(300, dtype=np.int16)
    save_file({f"t{i:03}": values[: 20 + i] for i in range(60)}, tmp_path / "w.safetensors")  # most stay outside
    codec.pack_file(tmp_path / "w.safetensors", tmp_path / "w.krimp")
    original = (tmp_path / "w.safetensors").read_bytes()
    for check_hash in (True, False):
        assert codec.load(tmp_path / "w.krimp", check_hash=check_hash) == original
    codec.unpack_file(tmp_path / "w.krimp", tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == original
    codec.verify_file(tmp_path / "w.krimp")
    found = codec.load_tensors(tmp_path / "w.krimp")
    assert all(np.array_equal(found[f"t{i:03}"], values[: 20 + i]) for i in range(60))


def counted(count):
    """Return a header of safetensors with many names, and numbers behind it that no coder shrinks."""
    row = {"dtype": "F32", "shape": [4]}
    places = {f"layer.{i}.weight": row | {"data_offsets": [16 * i, 16 * i + 16]} for i in range(count)}
    return json.dumps(places).encode() + np.random.default_rng(0).bytes(16 * count)


@pytest.mark.long
def test_a_long_section_is_packed_in_two_tries_and_no_larger_than_xz_packs_it(monkeypatch):
    long, tries = counted(30_000), []
    pack = sections._pack
    monkeypatch.setattr(sections, "_pack", lambda data, settings: tries.append(len(data)) or pack(data, settings))
    packed, is_lzma = shrink(long, is_thorough=True)
    assert is_lzma
    assert len(packed) <= 1.005 * len(lzma.compress(long, preset=9)) + 200
    assert tries.count(len(long)) == 2  # each takes long: the second, with short matches, a quarter of the first
    assert sum(tries) < 3 * len(long)
    assert expand(np.frombuffer(packed, np.uint8), len(long), True, "a") == long


@pytest.mark.parametrize(
    "size", [1 << 16, *(pytest.param(size, marks=pytest.mark.long) for size in (1 << 20, 1 << 22))]
)
def test_names_that_count_are_packed_by_short_matches(size):
    row = {"dtype": "I8", "shape": [32]}
    names = {f"model.layers.{i}.w": row | {"data_offsets": [32 * i, 32 * i + 32]} for i in range(50_000)}
    part = json.dumps(names, separators=(",", ":")).encode()[:size]
    assert len(shrink(part, is_thorough=True)[0]) < 0.9 * len(lzma.compress(part, preset=9))


def test_a_damaged_skeleton_that_is_read_in_parts_is_refused(tmp_path, small_parts, monkeypatch):
    save_file({f"t{i:03}": np.arange(20 + i, dtype=np.int16) for i in range(60)}, tmp_path / "w.safetensors")
    codec.pack_file(tmp_path / "w.safetensors", tmp_path / "w.krimp")
    data = bytearray((tmp_path / "w.krimp").read_bytes())
    with codec.PackedFile(tmp_path / "w.krimp") as packed:
        at = 108 + packed.header.payload_bytes + packed.header.skeleton_packed_bytes // 2
    data[at] ^= 0xFF
    (tmp_path / "w.krimp").write_bytes(data)
    with pytest.raises(CodecError, match="checksum of the skeleton"):
        codec.load(tmp_path / "w.krimp")
    monkeypatch.setattr(
        index_and_skeleton, "_checked", lambda data, section, _: data[section.offset :][: section.packed_bytes]
    )
    for door in (codec.load, codec.verify_file):
        with pytest.raises(CodecError, match=r"w\.krimp: byte \d+: (section|sha256)"):
            door(tmp_path / "w.krimp")


def test_a_section_that_is_tried_in_several_files_is_packed_once(tmp_path, monkeypatch):
    packed = []
    pack = sections._pack
    monkeypatch.setattr(
        sections, "_pack", lambda data, settings: packed.append((data, str(settings))) or pack(data, settings)
    )
    rng = np.random.default_rng(0)
    save_file({f"layer{i}": rng.standard_normal(4).astype(np.float32) for i in range(300)}, tmp_path / "m.safetensors")
    monkeypatch.setattr(sections, "_LONG_BYTES", 1 << 10)
    codec.pack_file(tmp_path / "m.safetensors", tmp_path / "m.krimp")
    assert len(packed) > 4
    assert len(set(packed)) == len(packed)
