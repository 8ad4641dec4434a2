"""Writes the golden files of the codec. Run by hand when the format changes: python tests/golden/codec/make_golden.py.

`good/` holds originals and their packed files; `refused/` one damaged file per refusal of FORMAT.md,
each made from the worked example with all checksums put right, so that only the named check can refuse it.
"""

import json
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


def refused(packed):
    """Return {file name: bytes} of files that a reader must refuse."""
    body = packed[0xD6:-4]  # index up to the tensor's checksum
    payload = packed[0x6C:0x95]

    def put(at, *new):
        """Return the index with bytes from `at` on replaced."""
        return rebuild(packed, index=body[:at] + bytes(new) + body[at + len(new) :])

    crc = struct.pack("<I", crc32(payload))
    record = body[10:]
    constant = bytes([8, 1, 4, 1, 4])  # the constant table of digit 4
    return {
        "empty": b"",
        "magic": b"\x88" + packed[1:],
        "version_newer": rebuild(packed, version=2),
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
        "index_limit": rebuild(packed, index_bytes=(1 << 28) + 1),
        "tensor_limit": rebuild(packed, num_tensors=(1 << 17) + 1),
        "section_size": rebuild(packed, index_bytes=27),
        "lzma_damaged": rebuild(packed, flags=1),
        "skeleton_checksum": packed[:0x96] + b"\1" + packed[0x97:],
        "index_checksum": packed[:0xD7] + b"\7" + packed[0xD8:],
        "tensor_checksum": packed[:0x6D] + b"\0" + packed[0x6E:],
        "sha256": rebuild(packed, sha256=bytes(32)),
        "varint_not_shortest": rebuild(packed, index=body[:10] + b"\xc1\x00" + body[11:]),
        "varint_too_large": rebuild(packed, index=body[:10] + b"\xff" * 9 + b"\x01" + body[11:]),
        "radix_zero": put(1, 0),
        "group_zero": put(2, 0),
        "group_too_large": put(2, 13),
        "alphabet_too_large": put(2, 5),
        "centre": put(3, 8),
        "table_form": put(4, 2),
        "constant_symbol": rebuild(packed, index=b"\1\x08\1\4\1\x08" + record),
        "too_many_lengths": put(9, 0x62),
        "code_incomplete": put(6, 0x50),
        "code_oversubscribed": put(6, 0x10),
        "code_length_15": put(9, 0xF1),
        "one_length": rebuild(packed, index=b"\1\x08\1\4\0\x10\x06" + record),
        "too_many_tables": rebuild(packed, index=b"\xff\xff\xff\x01" + body[1:]),
        "kind": put(13, 7),
        "num_bytes_zero": rebuild(packed, index=body[:11] + b"\0" + body[13:]),
        "half_element": rebuild(packed, index=body[:11] + b"\x7f\x08" + bytes(3) * 2),
        "method": put(14, 3),
        "low_too_large": put(15, 249),
        "unknown_table": put(16, 1),
        "chunk_size_zero": put(17, 0),
        "chunk_size_one": put(17, 1),
        "chunk_size_17": put(17, 17),
        "constant_with_chunks": rebuild(packed, index=b"\1" + constant + record),
        "no_bits": rebuild(packed, index=body[:18] + b"\0\0\0", payload=b""),
        "width_25": rebuild(packed, index=body[:-1] + b"\x19"),
        "more_symbols_than_bits": rebuild(packed, index=body[:18] + b"\x7f\0\0", payload=payload[:16]),
        "chunk_ends_elsewhere": rebuild(packed, index=body[:18] + b"\xc4\x02\0\0", payload=payload[:-1] + b"\x0c"),
        "padding": rebuild(packed, payload=payload[:-1] + bytes([payload[-1] | 0x80])),
        "chunk_lengths": rebuild(packed, index=body[:17] + b"\x06\xc5\x02\xc5\x02\0"),
        "chunk_length_padding": rebuild(packed, index=body[:17] + b"\x06\xc5\x02\x01\x07", payload=b"\xa0" + payload),
        "tensor_past_original": rebuild(packed, index=body[:11] + b"\x81\x01" + body[13:]),
        "gap_past_skeleton": put(10, 0x42),
        "payload_left_over": rebuild(packed, payload=payload + b"\0"),
        "index_left_over": rebuild(packed, index=body + crc + b"\0", tensor_crc=False),
        "index_ends_early": rebuild(packed, index=body, tensor_crc=False),
        "skeleton_left_over": rebuild(packed, skeleton=packed[0x95:0xD6] + b"\0"),
        "escapes_zero": escapes(packed, body, count=0),
        "escapes_wrong": escapes(packed, body, count=4),
        "escape_joined": escapes(packed, body, table=2),
        "escape_low_too_large": escapes(packed, body, low=249),
        "digits_after_the_end": joined(packed, body, constant=16),
    }


def escapes(packed, body, *, count=2, low=100, table=1):
    """Return the example with digit 7 as the escape, its values coded by a constant table."""
    tables = b"\3" + body[1:10] + bytes([8, 1, 4, 1, 4]) + bytes([8, 2, 4, 1, 4])
    record = body[10:14] + b"\2" + body[15:] + bytes([low, count, table, 0])
    return rebuild(packed, index=tables + record)


def joined(packed, body, *, constant):
    """Return the example with a constant table of three joined digits, which leaves one digit over."""
    index = b"\1" + bytes([4, 3, 0, 1, constant]) + body[10:14] + bytes([1, 0, 0, 0])
    return rebuild(packed, index=index, payload=b"")


def main():
    """Write all files."""
    for name, data in (("example", example()), ("mixed", mixed())):
        (HERE / "good" / f"{name}.safetensors").write_bytes(data)
        codec.pack_file(HERE / "good" / f"{name}.safetensors", HERE / "good" / f"{name}.krimp", backend="numpy")
    texts = []
    for name, data in sorted(refused((HERE / "good" / "example.krimp").read_bytes()).items()):
        path = HERE / "refused" / f"{name}.krimp"
        path.write_bytes(data)
        try:
            codec.unpack_bytes(path, backend="numpy")
        except CodecError as error:
            texts.append(f"{name}: {str(error).removeprefix(f'{path}: ')}\n")
    (HERE / "refused" / "expected.txt").write_text("".join(texts), encoding="utf-8")


if __name__ == "__main__":
    main()
