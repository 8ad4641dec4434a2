"""Writes the golden files of the codec. Run by hand when the format changes: python tests/golden/codec/make_golden.py.

`good/` holds originals and their packed files; `refused/` one damaged file per refusal of FORMAT.md,
each made from the worked example with all checksums put right, so that only the named check can refuse it.
"""

import json
import lzma
import struct
import sys
from pathlib import Path
from zlib import crc32

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[2]))

import numpy as np  # noqa: E402

from compress import codec  # noqa: E402
from compress.errors import CodecError  # noqa: E402


def safetensors(tensors):
    """Return the bytes of a safetensors file from {name: (dtype, array)}."""
    header, at = {}, 0
    for name, (dtype, array) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    return len(text).to_bytes(8, "little") + text + b"".join(array.tobytes() for _, array in tensors.values())


def example():
    """Return the original of FORMAT.md's worked example."""
    return safetensors({"w": ("I8", np.array([(73 * i % 251).bit_count() - 4 for i in range(128)], dtype=np.int8))})


def mixed():
    """Return a file with every way of coding in it."""
    rng = np.random.default_rng(0)
    sparse = np.where(rng.random(6000) < 0.9, 0, rng.integers(-60, 60, 6000)).astype(np.int8)
    return safetensors(
        {
            "sparse": ("I8", sparse),
            "dense": ("I8", np.round(rng.laplace(0, 9, 4000)).clip(-127, 127).astype(np.int8)),
            "ternary": ("U8", rng.integers(0, 3, 5000).astype(np.uint8)),
            "zeros": ("I32", np.zeros(64, dtype=np.int32)),
            "biases": ("I32", rng.integers(-3000, 3000, 300).astype(np.int32)),
            "noise": ("U8", rng.integers(0, 256, 300).astype(np.uint8)),
            "halves": ("F16", rng.standard_normal(501).astype(np.float16)),
            "floats": ("F32", (0.1 * rng.standard_normal(777)).astype(np.float32)),
            "doubles": ("F64", rng.standard_normal(65)),
            "sizes": ("I64", np.arange(40) - 20),
            "shorts": ("U16", rng.integers(0, 900, 300).astype(np.uint16)),
        }
    )


def rebuild(packed, *, index=None, payload=None, skeleton=None, tensor_crc=True, **fields):
    """Return the example with parts replaced and all checksums put right.

    Args:
        packed: example.krimp.
        index: new bytes of the index up to the tensor's checksum, and of what follows it.
        payload: new payload.
        skeleton: new skeleton, stored.
        tensor_crc: False keeps the index as given.
        fields: header fields by name.
    """
    names = "version container flags num_tensors original_bytes sha256 payload_bytes"
    names += " skeleton_bytes skeleton_packed index_bytes index_packed"
    values = dict(zip(names.split(), struct.unpack_from("<HBBIQ32sQQQQQ", packed, 8), strict=True))
    payload_end = 108 + values["payload_bytes"]
    index_at = payload_end + values["skeleton_packed"]
    payload = packed[108:payload_end] if payload is None else payload
    skeleton = packed[payload_end:index_at] if skeleton is None else skeleton
    body = packed[index_at:-4] if index is None else index
    if tensor_crc:
        body += struct.pack("<I", crc32(payload))
    values |= {"payload_bytes": len(payload), "skeleton_bytes": len(skeleton), "skeleton_packed": len(skeleton)}
    values |= {"index_bytes": len(body), "index_packed": len(body)}
    values |= fields
    head = b"\x89KRIMP\r\n" + struct.pack("<HBBIQ32sQQQQQ", *values.values())
    head += struct.pack("<II", crc32(skeleton), crc32(body))
    return head + struct.pack("<I", crc32(head)) + payload + skeleton + body


def classed():
    """Return a file whose tensors need tables for classes of channels, by both kinds of code."""
    rng = np.random.default_rng(1)
    spread = np.repeat(np.array([1, 2, 6, 20]), 16)[rng.permutation(64)][:, None]
    dense = np.round(rng.laplace(0, spread, (64, 144))).clip(-127, 127).astype(np.int8)
    ternary = np.where(rng.random((64, 144)) < 0.02 * spread, rng.integers(1, 3, (64, 144)), 0).astype(np.uint8)
    packed = (ternary.reshape(-1, 2)[:, 0] | ternary.reshape(-1, 2)[:, 1] << 4).reshape(64, 72)
    few = np.where(rng.random((64, 512)) < 0.02 * spread, rng.choice([-1, 1], (64, 512)), 0).astype(np.int8)
    return safetensors(
        {"dense": ("I8", dense), "ternary": ("U8", ternary), "pairs": ("U8", packed), "few": ("I8", few)}
    )


def rare():
    """Return a file that is coded by table ANS."""
    rng = np.random.default_rng(2)
    values = np.where(rng.random(20000) < 0.96, 0, rng.choice([-1, 1], 20000)).astype(np.int8)
    return safetensors({"rare": ("I8", values)})


def second():
    """Return a file with every way of version 2 in it: copies, LZMA, lists, scaled integers, heaps."""
    rng = np.random.default_rng(3)
    integers = np.round(rng.standard_normal((48, 96)) * 20).clip(-127, 126).astype(np.float32)
    integers[integers == 0] *= rng.choice([-1, 1], int((integers == 0).sum()))  # zeros of both signs
    scales = rng.uniform(0.001, 0.01, (48, 1)).astype(np.float32)
    channels = integers * scales
    bits = channels.view(np.uint32)
    halves = (bits + np.uint32(0x7FFF) + (bits >> 16 & 1) >> 16).astype(np.uint16)
    palette = rng.standard_normal(300).astype(np.float32)
    tensors = {
        "channels": ("F32", channels),
        "again": ("F32", channels),
        "half": ("F16", channels.astype(np.float16)),
        "bfloat16": ("BF16", halves),
        "whole": ("F64", (integers[:12] * 0.013)),
        "listed": ("F32", palette[rng.integers(0, 300, 3000)]),
        "numbers": ("I64", 1000 * rng.integers(-3, 3, 3000)),
        "large": ("F32", rng.integers(-2047, 2048, 3000).astype(np.float32) * np.float32(0.003)),
        "counted": ("I32", np.arange(70000, dtype=np.int32) * 3),
    }
    for i in range(300):
        tensors[f"layer{i}.weight"] = ("F16", rng.standard_normal(40).astype(np.float16))
        tensors[f"layer{i}.zero"] = ("I8", np.round(rng.laplace(0, 9, 40)).clip(-127, 127).astype(np.int8))
    return safetensors(tensors)


def repeated():
    """Return a file with runs of every kind in it, and listed rows."""
    rng = np.random.default_rng(4)

    def bell(shape):
        return np.round(rng.laplace(0, 9, shape)).clip(-127, 127).astype(np.int8)

    halves = rng.uniform(0.001, 0.01, (30, 1)).astype(np.float32)
    bits = (bell((30, 90)) * halves).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + (bits >> 16 & 1) >> 16) << np.uint32(16)
    return safetensors(
        {
            "bytes": ("I8", np.repeat(bell(2000), 7)),
            "lengths": ("I16", np.repeat(rng.integers(-900, 900, 200).astype(np.int16), rng.geometric(0.01, 200))),
            "blocks": ("I8", np.repeat(np.repeat(bell((16, 48)), 6, axis=0), 5, axis=1)),
            "zeros": ("I8", (bell(24000) * np.repeat(rng.random(240) < 0.5, 100)).astype(np.int8)),
            "rows": ("I8", np.repeat(bell((300, 3, 3)), 5, axis=0)),
            "floats": ("F32", np.repeat(rng.standard_normal(600).astype(np.float32), 6)),
            "wide halves": ("F32", (bell((30, 90)) * halves).astype(np.float16).astype(np.float32)),
            "wide bfloat16": ("F32", rounded.view(np.float32)),
            "wide floats": ("F64", (bell((30, 90)) * halves).astype(np.float64)),
            "kernels": ("I8", bell((40, 3, 3))[rng.integers(0, 40, 1500)]),
            "pruned": ("F32", np.where(rng.random(3001) < 0.5, 0, rng.standard_normal(3001)).astype(np.float32)),
            "mostly one": ("F16", np.where(rng.random(3000) < 0.8, 1, rng.standard_normal(3000)).astype(np.float16)),
        }
    )


def network():
    """Return {name: bytes} of an ONNX file and the file of its weights, written by hand, field by field."""

    def message(number, data):
        return bytes([number << 3 | 2]) + varint(len(data)) + data

    weights = bytes((31 * i % 97).bit_count() for i in range(300))
    place = message(13, message(1, b"location") + message(2, b"weights/w.bin"))
    tensor = b"\x08\xac\x02\x10\x03" + message(8, b"w") + place + b"\x70\x01"  # 300 x int8, external
    graph = message(2, b"g") + message(5, tensor)
    model = b"\x08\x0a" + message(7, graph) + message(8, b"\x10\x15")
    return {"network.onnx": model, "weights/w.bin": weights}


def varint(value):
    """Return an unsigned LEB128 number."""
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)


def refused(packed, ans, split):
    """Return {file name: bytes} of files that a reader must refuse.

    Args:
        packed: example.krimp.
        ans: rare.krimp.
        split: network.krimp.
    """
    body = packed[0xD6:-4]  # index up to the tensor's checksum
    payload = packed[0x6C:0x95]

    def put(at, *new):
        """Return the index with bytes from `at` on replaced."""
        return rebuild(packed, index=body[:at] + bytes(new) + body[at + len(new) :])

    def stream(*new):
        """Return the example with another description of its stream."""
        return rebuild(packed, index=body[:17] + bytes(new))

    crc = struct.pack("<I", crc32(payload))
    record = body[11:]
    constant = bytes([8, 1, 4, 1, 4])  # the constant table of digit 4
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 23}]
    shrunk = lzma.compress(packed[0x95:0xD6], lzma.FORMAT_RAW, filters=filters)
    return {
        "empty": b"",
        "magic": b"\x88" + packed[1:],
        "version_newer": rebuild(packed, version=3),
        "version_zero": rebuild(packed, version=0),
        "truncated_in_header": packed[:60],
        "truncated_in_payload": packed[:120],
        "truncated_by_one_byte": packed[:-1],
        "bytes_at_end": packed + b"\0",
        "header_checksum": packed[:104] + b"\0\0\0\0" + packed[108:],
        "container": rebuild(packed, container=3),
        "flags": rebuild(packed, flags=4),
        "ten_terabytes": rebuild(packed, original_bytes=10**13),
        "ratio": rebuild(packed, original_bytes=(len(packed) << 20) + 1),
        "skeleton_larger_than_original": rebuild(packed, original_bytes=64),
        "index_limit": rebuild(packed, index_bytes=(1 << 26) + 1),
        "index_ratio": rebuild(packed, index_bytes=64 * (len(body) + 4) + 1),
        "tensor_limit": rebuild(packed, num_tensors=(1 << 17) + 1),
        "more_tensors_than_room": rebuild(packed, num_tensors=4),
        "section_size": rebuild(packed, index_bytes=len(body) + 5),
        "lzma_damaged": rebuild(packed, flags=1),
        "lzma_ends_early": rebuild(packed, flags=1, skeleton=shrunk + b"\0", skeleton_bytes=0xD6 - 0x95),
        "skeleton_checksum": packed[:0x96] + b"\1" + packed[0x97:],
        "index_checksum": packed[:0xD7] + b"\7" + packed[0xD8:],
        "tensor_checksum": packed[:0x6D] + b"\0" + packed[0x6E:],
        "sha256": rebuild(packed, sha256=bytes(32)),
        "varint_not_shortest": rebuild(packed, index=body[:11] + b"\xc1\x00" + body[12:]),
        "varint_too_large": rebuild(packed, index=body[:11] + b"\xff" * 9 + b"\x01" + body[12:]),
        "radix_zero": put(2, 0),
        "group_zero": put(3, 0),
        "group_too_large": put(2, 1, 9, 0),
        "alphabet_too_large": put(3, 5),
        "centre": put(4, 8),
        "table_form": put(5, 3),
        "constant_symbol": rebuild(packed, index=b"\0\1\x08\1\4\1\x08" + record),
        "too_many_lengths": put(10, 0x62),
        "code_incomplete": put(7, 0x50),
        "code_oversubscribed": put(7, 0x10),
        "code_length_15": put(10, 0xF1),
        "one_length": rebuild(packed, index=b"\0\1\x08\1\4\0\x10\x06" + record),
        "too_many_tables": rebuild(packed, index=b"\0\xff\xff\xff\x01" + body[2:]),
        "more_tables_than_room": put(1, 6),
        "kind": put(14, 7),
        "num_bytes_zero": rebuild(packed, index=body[:12] + b"\0" + body[14:]),
        "half_element": rebuild(packed, index=body[:12] + b"\x7f\x08" + bytes(3) * 2),
        "method": put(15, 3),
        "low_too_large": put(16, 249),
        "classes_zero": stream(0, 0, 0x80, 8, 0xC5, 2, 0, 0),
        "classes_17": stream(17, *bytes(17), 0x80, 8, 0x80, 1, 0xC5, 2, 0, 0),
        "unknown_table": put(18, 1),
        "chunk_zero": stream(1, 0, 0),
        "chunk_too_large": stream(1, 0, 0x81, 0x80, 0x40, 0xC5, 2, 0, 0),
        "segment_15": stream(1, 0, 15, 0xC5, 2, 0, 0),
        "segment_zero": stream(2, 0, 0, 0x80, 8, 0, 0xC5, 2, 0, 0),
        "chunk_of_one_and_a_half_segments": stream(2, 0, 0, 48, 32, 0xC5, 2, 0, 0),
        "constant_with_chunks": rebuild(packed, index=b"\0\1" + constant + record),
        "constant_in_classes": rebuild(packed, index=b"\0\1" + constant + record[:6] + b"\2\0\0\0", payload=b""),
        "tables_differ": rebuild(
            packed, index=b"\0\2" + body[2:11] + constant + record[:6] + bytes([2, 0, 1, 0x80, 8, 64, 0xC5, 2, 0, 0])
        ),
        "table_without_use": rebuild(packed, index=b"\0\2" + body[2:11] + constant + record),
        "class_unknown": rebuild(
            packed, index=body[:17] + bytes([3, 0, 0, 0, 0x80, 8, 64, 0xC5, 2, 0, 0]), payload=b"\x0c" + payload
        ),
        "class_padding": rebuild(
            packed, index=body[:17] + bytes([3, 0, 0, 0, 0x80, 8, 64, 0xC5, 2, 0, 0]), payload=b"\x10" + payload
        ),
        "no_bits": rebuild(packed, index=body[:21] + b"\0\0\0", payload=b""),
        "width_25": rebuild(packed, index=body[:-1] + b"\x19"),
        "more_symbols_than_bits": rebuild(packed, index=body[:21] + b"\x7f\0\0", payload=payload[:16]),
        "chunk_ends_elsewhere": rebuild(packed, index=body[:21] + b"\xc4\x02\0\0", payload=payload[:-1] + b"\x0c"),
        "padding": rebuild(packed, payload=payload[:-1] + bytes([payload[-1] | 0x80])),
        "chunk_lengths": stream(1, 0, 64, 0xC5, 2, 0xC5, 2, 0),
        "chunk_length_padding": rebuild(
            packed, index=body[:17] + bytes([1, 0, 64, 0xC5, 2, 1, 7]), payload=b"\xa0" + payload
        ),
        "tensor_past_original": rebuild(packed, index=body[:12] + b"\x81\x01" + body[14:]),
        "gap_past_skeleton": put(11, 0x42),
        "payload_left_over": rebuild(packed, payload=payload + b"\0"),
        "index_left_over": rebuild(packed, index=body + crc + b"\0", tensor_crc=False),
        "index_ends_early": rebuild(packed, index=body, tensor_crc=False),
        "skeleton_left_over": rebuild(packed, skeleton=packed[0x95:0xD6] + b"\0"),
        "escapes_zero": escapes(packed, body, count=0),
        "escapes_wrong": escapes(packed, body, count=4),
        "escapes_more_than_values": escapes(packed, body, count=129),
        "escape_low_too_large": escapes(packed, body, low=249),
        "escape_beside_all_values": rebuild(
            packed,
            index=b"\0\2"
            + bytes([0x81, 2, 1, 4, 1, 0x80, 2])
            + constant
            + record[:4]
            + bytes([2, 0, 1, 0, 0, 100, 0x80, 1, 1, 1, 0]),
            payload=b"",
        ),
        **refused_ans(ans),
        **refused_names(split),
        **refused_second(packed),
    }


def escapes(packed, body, *, count=2, low=100):
    """Return the example with digit 7 as the escape, its values coded by a constant table."""
    tables = b"\0\2" + body[2:11] + bytes([8, 1, 4, 1, 4])
    record = body[11:15] + b"\2" + body[16:] + bytes([low]) + varint(count) + bytes([1, 1, 0])
    return rebuild(packed, index=tables + record)


def refused_ans(ans):
    """Return what is wrong with table ANS, made from a file of one tensor with one table."""
    payload_bytes, skeleton_bytes = struct.unpack_from("<QQ", ans, 56)
    index_at = 108 + payload_bytes + struct.unpack_from("<Q", ans, 72)[0]
    body, payload = ans[index_at:-4], ans[108 : 108 + payload_bytes]
    assert body[:2] == b"\0\1"
    assert body[5] == 2
    first, second = body[:6], body[7:]
    pad = len(payload) * 8
    total_bits = next(bits for bits in range(pad, pad - 8, -1) if varint(bits) in body)

    def again(**new):
        return rebuild(ans, skeleton_bytes=skeleton_bytes, **new)

    return {
        "ans_log_4": again(index=first + b"\x04" + second),
        "ans_log_13": again(index=first + b"\x0d" + second),
        "ans_sum": again(index=first + bytes([body[6] - 1]) + second),
        "ans_too_many_counts": again(index=body[:7] + b"\1\xff\x1f" + second),
        "ans_one_count": again(index=body[:2] + bytes([2, 1, 0, 2, 5, 64, 0]) + body[body.index(varint(20000)) - 1 :]),
        "ans_last_state": again(payload=payload[:-1] + bytes([payload[-1] ^ 1 << (total_bits - 1 & 7)])),
        "ans_ends_elsewhere": again(
            index=body.replace(varint(total_bits), varint(total_bits - 1)),
            payload=payload[:-1] + bytes([payload[-1] & ~(1 << (total_bits - 1 & 7))]),
        ),
    }


def refused_names(split):
    """Return names of side files that are refused, made from a network of two files."""
    payload_bytes = struct.unpack_from("<Q", split, 56)[0]
    index_at = 108 + payload_bytes + struct.unpack_from("<Q", split, 72)[0]
    body = split[index_at:-4]
    entry = b"\x0dweights/w.bin\xac\x02"
    assert body[:17] == b"\1" + entry
    names = {
        "absolute": b"/weights/w.bin", "parent": b"../ghts/w.bin", "dot": b"./weights/w.b",
        "double_slash": b"weights//w.bin",
        "backslash": b"weights\\w.bin", "drive": b"c:weights.bin", "control": b"weights/w\nbin",
        "not_utf8": b"weights/w\xff", "empty": b"",
    }  # fmt: skip

    def named(name):
        return rebuild(split, index=b"\1" + varint(len(name)) + name + body[15:])

    return {
        **{f"name_{what}": named(name) for what, name in names.items()},
        "name_too_long": named(b"w" * 1025),
        "name_twice": rebuild(split, index=b"\2" + entry * 2 + body[17:]),
        "side_file_too_large": rebuild(split, index=body[:15] + b"\xac\x7f" + body[17:]),
        "too_many_side_files": rebuild(split, index=b"\x81\x20" + body[1:]),
    }


def refused_second(packed):
    """Return what is wrong with the ways of version 2, made from the example without a table."""
    values = bytes(range(128))
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 12}]
    parts_of = (values, values[:64], values[:32])
    whole, half, quarter = (lzma.compress(part, lzma.FORMAT_RAW, filters=filters) for part in parts_of)
    start, size = b"\x41", b"\x80\x01"  # gap, 128 bytes
    scale = struct.pack("<f", 0.5)

    def again(records, payload=whole, *, heaps=b"\0", version=2, **fields):
        return rebuild(packed, index=b"\0\0" + heaps + records, payload=payload, version=version, **fields)

    def by_lzma(*head, data=whole):
        return start + size + bytes([32, *head]) + varint(len(data))

    def checked(data):
        return struct.pack("<I", crc32(data))

    def copies(*records):
        return rebuild(packed, index=b"\0\0\0" + b"".join(records), payload=half, version=2, tensor_crc=False,
                       num_tensors=len(records))  # fmt: skip

    def numbered(*head, entries=scale, codes=bytes(32)):
        """Return a numbered tensor, its numbers raw: form, element, numbers, ..., packed_bytes."""
        return again(start + size + bytes([34, *head]) + b"\0", entries + codes)

    first = b"\x41\x40" + bytes([32, 0, 12]) + varint(len(half)) + checked(half)  # 64 of the 128 bytes
    heap = b"\1\x40" + bytes([32, 0, 12]) + varint(len(half)) + checked(half)

    def parts(records, number=2, heaps=heap):
        return rebuild(packed, index=b"\0\0" + heaps + records, payload=half, version=2, tensor_crc=False,
                       num_tensors=number)  # fmt: skip

    def runs(*head, groups=b"\x40\0\0", numbers=b"\x40\0\0", data=bytes(64) + b"\1" * 64, total=size, checks=None,
             **fields):  # fmt: skip
        """Return runs of raw groups and numbers: group, announced, width."""
        sums = checks or [checked(data[:64]), checked(data[64:])]
        records = start + total + bytes([36, *head]) + groups + sums[0] + numbers + sums[1]
        return rebuild(packed, index=b"\0\0\0" + records, payload=data, version=2, tensor_crc=False, **fields)

    ones = b"\xff" * 7 + b"\x7f"  # 63 of them, as many as there are groups behind the first
    deep = bytes([36, 1, 1, 1])
    return {
        "runs_group_zero": runs(0, 1, 1),
        "runs_group_too_large": runs(0x81, 0x80, 4, 1, 1),
        "runs_half_a_group": runs(3, 1, 1),
        "runs_half_a_group_inside": runs(128, 1, 1, 1),
        "runs_announced": runs(1, 3, 1),
        "runs_width": runs(1, 1, 3),
        "runs_half_a_number": runs(1, 1, 4, numbers=b"\x3f\0\0", data=bytes(64) + b"\1" * 63),
        "runs_of_numbers": runs(1, 1, 1, numbers=b"\x40" + deep + b"\x40\0\0"),
        "runs_too_deep": runs(1, 1, 1, groups=b"\x40" + deep + b"\x40" + deep + b"\x40" + deep + b"\x40\0\0"),
        "runs_too_many_bytes_inside": runs(1, 1, 1, groups=b"\x81\x80\x80\x08\0\0"),
        "runs_too_many_groups": runs(1, 1, 1, groups=b"\x81\x80\x80\x01\0\0"),
        "runs_of_fewer_numbers": runs(1, 1, 1, numbers=b"\x3f\0\0", data=bytes(64) + b"\1" * 63),
        "runs_of_more_numbers": runs(1, 2, 1, data=bytes(range(64)) + b"\1" * 64),
        "runs_of_more_bytes": runs(1, 1, 1, data=bytes(64) + b"\2" + b"\1" * 63),
        "runs_of_fewer_bytes": runs(1, 1, 1, data=bytes(64) + b"\0" + b"\1" * 63),
        "bits_width": runs(1, 0, 2),
        "bits_of_fewer_bytes": runs(1, 0, 1, numbers=b"\x0f\0\0", data=bytes(64) + ones + bytes(7)),
        "bits_of_more_bytes": runs(1, 0, 1, numbers=b"\x11\0\0", data=bytes(64) + ones + bytes(9)),
        "bits_of_fewer_groups": runs(1, 0, 1, numbers=b"\x10\0\0", data=bytes(64) + ones + bytes(7) + b"\1"),
        "bits_of_more_groups": runs(1, 0, 1, numbers=b"\x10\0\0", data=bytes(80)),
        "bits_behind_the_last_group": runs(
            1, 0, 1, numbers=b"\x10\0\0", data=bytes(64) + ones + bytes(7) + b"\x80", total=b"\x7f", original_bytes=192
        ),
        "runs_checksum": runs(1, 1, 1, checks=[checked(bytes(64)), bytes(4)]),
        "second_kind_in_version_1": rebuild(packed, index=b"\0\0" + by_lzma(0, 12), payload=whole),
        "lzma_dictionary_too_large": again(by_lzma(0, 13)),
        "lzma_dictionary_too_small": again(by_lzma(0, 11)),
        "lzma_no_stream": again(by_lzma(0, 12), b"\xff" + whole[1:]),
        "lzma_of_fewer_bytes": again(start + b"\x81\x01" + by_lzma(0, 12)[3:], original_bytes=194),
        "lzma_of_more_bytes": again(start + b"\x7f" + by_lzma(0, 12)[3:], original_bytes=192),
        "lzma_bytes_behind": again(by_lzma(0, 12, data=whole + b"\0"), whole + b"\0"),
        "copy_of_itself": copies(first, b"\0\x40\x21\0"),
        "copy_before_first": copies(first, b"\0\x40\x21\2"),
        "copy_of_another_size": copies(first, b"\0\x20\x21\1", b"\0\x20\x21\2"),
        "copy_of_a_copy": rebuild(
            packed,
            index=b"\0\0\0\x41\x20"
            + bytes([32, 0, 12])
            + varint(len(quarter))
            + checked(quarter)
            + b"\0\x20\x21\1" * 2,
            payload=quarter,
            skeleton=packed[0x95:0xD6] + bytes(32),
            version=2,
            tensor_crc=False,
            num_tensors=3,
        ),
        "part_of_no_heap": parts(b"\x41\x40\x23\1\0\x40\x23\0"),
        "part_past_its_heap": parts(b"\x41\x40\x23\0\0\x40\x23\0"),
        "heap_left_over": parts(b"\x41\x20\x23\0\0\x1f\x23\0"),
        "heap_that_is_a_copy": parts(b"\x41\x40\x23\0\0\x40\x23\0", heaps=b"\1\x40\x21\1"),
        "heaps_too_many": parts(b"\x41\x40\x23\0\0\x40\x23\0", heaps=b"\x81\x08" + heap[1:]),
        "heap_too_large": parts(b"\x41\x40\x23\0\0\x40\x23\0", heaps=b"\1\x81\x80\x80\x08" + heap[2:]),
        "numbered_form": numbered(2, 4, 0, 1, 0, 4),
        "numbered_element_listed": numbered(0, 1, 0, 1, 0, 4),
        "numbered_element_scaled": numbered(1, 7, 0, 0, 0, 32, 1, 0, 4),
        "numbered_numbers": numbered(1, 2, 1, 0, 0, 32, 1, 0, 4),
        "numbered_flags": numbered(1, 2, 0, 0, 2, 32, 1, 0, 4),
        "numbered_base": numbered(1, 2, 0, 0x81, 0x80, 0x04, 0, 32, 1, 0, 4),
        "numbered_base_above_negative_zero": numbered(1, 2, 0, 2, 1, 32, 1, 0, 4),
        "numbered_inner_zero": numbered(1, 2, 0, 0, 0, 0, 1, 0, 4),
        "numbered_inner_too_large": numbered(1, 2, 0, 0, 0, 33, 1, 0, 4),
        "numbered_no_entry": numbered(1, 2, 0, 0, 0, 32, 0, 0, 0, entries=b""),
        "numbered_too_many_scales": numbered(1, 2, 0, 0, 0, 32, 2, 0, 8, entries=scale * 2),
        "numbered_too_long_list": numbered(0, 4, 0, 33, 0, 0x84, 1, entries=scale * 33),
        "numbered_packed": numbered(1, 2, 0, 0, 0, 32, 1, 2, 4),
        "numbered_stored_bytes": numbered(1, 2, 0, 0, 0, 32, 1, 0, 3, entries=scale[:3]),
        "numbered_packed_bytes": numbered(1, 2, 0, 0, 0, 32, 1, 1, 5, entries=scale + b"\0"),
        "numbered_no_lzma": numbered(1, 2, 0, 0, 0, 32, 1, 1, 4),
        "numbered_without_entry": numbered(0, 4, 0, 1, 0, 4, codes=bytes(31) + b"\1"),
        "numbered_scale_zero": numbered(1, 2, 0, 0, 0, 32, 1, 0, 4, entries=bytes(4)),
        "numbered_scale_infinite": numbered(1, 2, 0, 0, 0, 32, 1, 0, 4, entries=struct.pack("<f", float("inf"))),
        "numbered_half_element": again(
            start + b"\x7f" + bytes([34, 1, 2, 0, 0, 0, 31, 1, 0, 4]) + b"\0", scale + bytes(31), original_bytes=192
        ),
    }


def main():
    """Write all files."""
    good = HERE / "good"
    originals = {"example": example(), "mixed": mixed(), "classed": classed(), "rare": rare(), "second": second()}
    originals["repeated"] = repeated()
    for name, data in originals.items():
        (good / f"{name}.safetensors").write_bytes(data)
        codec.pack_file(good / f"{name}.safetensors", good / f"{name}.krimp", kernels="numpy")
    for name, data in network().items():
        (good / name).parent.mkdir(exist_ok=True)
        (good / name).write_bytes(data)
    codec.pack_file(good / "network.onnx", good / "network.krimp", kernels="numpy")
    packed = [(good / f"{name}.krimp").read_bytes() for name in ("example", "rare", "network")]
    texts = []
    for name, data in sorted(refused(*packed).items()):
        path = HERE / "refused" / f"{name}.krimp"
        path.write_bytes(data)
        try:
            codec.verify_file(path)
            print(f"{name}: NOT REFUSED")
        except CodecError as error:
            texts.append(f"{name}: {str(error).removeprefix(f'{path}: ')}\n")
    (HERE / "refused" / "expected.txt").write_text("".join(texts), encoding="utf-8")


if __name__ == "__main__":
    main()
