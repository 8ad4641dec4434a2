"""Writing .krimp files, and files in general: whole or not at all."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from zlib import crc32

import numpy as np

from compress.codec.bitstream import choose_backend
from compress.codec.layout import (
    HEADER_BYTES,
    KINDS,
    MAX_COUNT,
    MAX_ORIGINAL_BYTES,
    MAX_RATIO,
    RAW,
    Header,
    TensorRecord,
    write_record,
    write_table,
    write_varint,
)
from compress.codec.plane_coder import Tables, encode_plane
from compress.codec.reader import PackedFile, Progress, open_map
from compress.codec.sections import shrink
from compress.codec.spans import Span, find_spans
from compress.codec.values import to_planes
from compress.errors import CodecError

_SMALLEST_BYTES = 128  # smaller tensors stay in the skeleton, which lzma packs


@dataclass(frozen=True)
class PackFacts:
    """What packing did.

    Attributes:
        original_bytes, packed_bytes: the two files.
        tensor_bytes, payload_bytes: coded tensors before and after.
        skeleton_bytes, skeleton_packed_bytes: everything else, before and after.
        index_packed_bytes: tables and tensor records.
        num_tensors, num_tables: how many.
        weights: elements of at most 8 bits in the coded tensors.
        bits_per_weight: coded bits of those, tables not counted.
        entropy_bits_per_weight: their order-0 entropy, each tensor by itself.
        seconds: time it took, verification included.
    """

    original_bytes: int
    packed_bytes: int
    tensor_bytes: int
    payload_bytes: int
    skeleton_bytes: int
    skeleton_packed_bytes: int
    index_packed_bytes: int
    num_tensors: int
    num_tables: int
    weights: int
    bits_per_weight: float
    entropy_bits_per_weight: float
    seconds: float

    @property
    def compression_ratio(self) -> float:
        """Return original bytes / packed bytes."""
        return self.original_bytes / self.packed_bytes


def pack_file(
    src: Path | str, dst: Path | str, progress: Progress | None = None, *, backend: str = "auto"
) -> PackFacts:
    """Pack an ONNX or safetensors file and prove that it unpacks to the identical bytes.

    The same input gives the same bytes. The output appears whole or not at all.

    Args:
        src: file to pack; .safetensors by its name, ONNX otherwise.
        dst: .krimp file to write; replaced if it exists.
        progress: called with (bytes done, bytes in all).
        backend: 'auto', 'numpy' or 'numba' (same bytes).

    Raises:
        CodecError: src is missing, truncated, not such a file, or keeps weights in other files.
    """
    started = time.monotonic()
    data = open_map(src)
    backend = choose_backend(backend, len(data))
    container = 1 if Path(src).suffix == ".safetensors" else 0
    if len(data) > MAX_ORIGINAL_BYTES:
        raise CodecError(f"{src}: byte 0: {len(data)} bytes; expected at most {MAX_ORIGINAL_BYTES}.")
    spans = [span for span in find_spans(data, container, str(src)) if span.num_bytes >= _SMALLEST_BYTES]
    if len(spans) > MAX_COUNT:  # the largest are coded, the others stay in the skeleton
        largest = sorted(spans, key=lambda span: -span.num_bytes)[:MAX_COUNT]
        spans = sorted(largest, key=lambda span: span.start)
    with whole_file(dst) as file:
        facts = _write(data, spans, container, file, progress, backend)
        file.flush()
        _verify(Path(file.name), data, backend)
    return PackFacts(**facts, seconds=time.monotonic() - started)


def _write(
    data: memoryview, spans: list[Span], container: int, file: BinaryIO, progress: Progress | None, backend: str
) -> dict:
    whole = np.frombuffer(data, dtype=np.uint8)
    tables, records, skeleton = Tables(), bytearray(), bytearray()
    at = payload_bytes = weights = weight_bits = 0
    entropy_bits = 0.0
    file.write(bytes(HEADER_BYTES))
    for span in spans:
        gap = data[at : span.start]
        skeleton += gap
        at = span.start + span.num_bytes
        record, payload, entropy = _encode(whole[span.start : at], span.kind, len(gap), tables, backend)
        records += write_record(record)
        file.write(payload.data)
        payload_bytes += len(payload)
        if KINDS[span.kind].planes == 1:
            weights, weight_bits, entropy_bits = (
                weights + record.count,
                weight_bits + 8 * len(payload),
                entropy_bits + entropy,
            )
        if progress:
            progress(at, len(data))
    skeleton += data[at:]
    index = write_varint(len(tables.tables)) + b"".join(write_table(table) for table in tables.tables) + records
    skeleton_packed, skeleton_lzma = shrink(bytes(skeleton))
    index_packed, index_lzma = shrink(bytes(index))
    header = Header(
        container, skeleton_lzma, index_lzma, len(spans), len(data), hashlib.sha256(data).digest(), payload_bytes,
        len(skeleton), len(skeleton_packed), len(index), len(index_packed), crc32(skeleton_packed), crc32(index_packed),
    )  # fmt: skip
    file.write(skeleton_packed + index_packed)
    packed_bytes = file.tell()
    if len(data) > packed_bytes * MAX_RATIO:
        raise CodecError(f"{len(data)} bytes would become {packed_bytes}; the format allows a ratio of {MAX_RATIO}.")
    file.seek(0)
    file.write(header.to_bytes())
    return {
        "original_bytes": len(data),
        "packed_bytes": packed_bytes,
        "tensor_bytes": len(data) - len(skeleton),
        "payload_bytes": payload_bytes,
        "skeleton_bytes": len(skeleton),
        "skeleton_packed_bytes": len(skeleton_packed),
        "index_packed_bytes": len(index_packed),
        "num_tensors": len(spans),
        "num_tables": len(tables.tables),
        "weights": weights,
        "bits_per_weight": weight_bits / weights if weights else 0.0,
        "entropy_bits_per_weight": entropy_bits / weights if weights else 0.0,
    }


def _encode(
    data: np.ndarray, kind_number: int, gap: int, tables: Tables, backend: str
) -> tuple[TensorRecord, np.ndarray, float]:
    """Return record, payload and order-0 entropy in bits of one tensor."""
    kind = KINDS[kind_number]
    planes, payloads, entropy = [], [], 0.0
    for values in to_planes(data, kind):
        plane, payload = encode_plane(values, kind.value_bits, tables, backend)
        if plane.method == RAW:
            payload = data if kind.planes == 1 else values
        planes.append(plane)
        payloads.append(payload)
        entropy += entropy_bits(np.bincount(values, minlength=256))
    payload = payloads[0] if len(payloads) == 1 else np.concatenate(payloads)
    return TensorRecord(gap, len(data), kind_number, tuple(planes), crc32(payload.data)), payload, entropy


def entropy_bits(counts: np.ndarray) -> float:
    """Return the order-0 entropy of counted values: bits for all of them together.

    Source:
        Shannon 1948: -sum n log2(n / N).
    """
    used = counts[counts > 0].astype(np.float64)
    return float(used.sum() * np.log2(used.sum()) - (used * np.log2(used)).sum()) if len(used) > 1 else 0.0


def _verify(path: Path, data: memoryview, backend: str) -> None:
    with PackedFile(path, backend=backend) as packed:
        at = 0
        for piece in packed.pieces():
            if data[at : at + len(piece)] != piece:
                raise CodecError(
                    f"{path}: byte {at} of the original does not come back. This is a bug: please report it."
                )
            at += len(piece)
        if at != len(data):
            raise CodecError(f"{path}: {at} of {len(data)} bytes come back. This is a bug: please report it.")


@contextmanager
def whole_file(dst: Path | str) -> Iterator[BinaryIO]:
    """Open a temporary file beside `dst` that replaces it when the block ends without error.

    Yields:
        The file; its `name` is its path.

    Raises:
        CodecError: the folder is missing or the disk is full.
    """
    dst = Path(dst)
    temporary = dst.with_name(f".{dst.name}.{os.getpid()}.part")
    try:
        with temporary.open("w+b") as file:
            yield file  # type: ignore[misc]
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(dst)
        folder = os.open(dst.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise CodecError(f"{dst}: cannot be written: {error.strerror}. Expected a folder with room.") from error
    finally:
        temporary.unlink(missing_ok=True)
