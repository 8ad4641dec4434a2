"""Writing .krimp files."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO
from zlib import crc32

from compress.codec.encoding.table_choice import Tables
from compress.codec.encoding.tensor_encoder import encode_tensor
from compress.codec.files.network_source import Source, channel_values, open_source
from compress.codec.files.packed_file import PackedFile, Progress
from compress.codec.files.tensor_places import Span
from compress.codec.files.whole_file import whole_file
from compress.codec.format.index_writer import write_record, write_side_files, write_table, write_varint
from compress.codec.format.layout import HEADER_BYTES, KINDS, MAX_INDEX_RATIO, MAX_RATIO, Header
from compress.codec.format.sections import shrink
from compress.codec.kernels.choice import choose
from compress.codec.kernels.contract import Kernels
from compress.codec.mapped_memory import memory_for
from compress.errors import CodecError

_SMALLEST_BYTES = 128  # smaller tensors stay in the skeleton, which lzma packs
_MOST_TENSORS = 1 << 14  # the largest are coded, the others stay there too: a reader needs a kilobyte for each


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
        encode_seconds: time that coding the tensors took, choices included.
        verify_seconds: time that unpacking and comparing took.
        seconds: time all of it took.
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
    encode_seconds: float
    verify_seconds: float
    seconds: float

    @property
    def compression_ratio(self) -> float:
        """Return original bytes / packed bytes."""
        return self.original_bytes / self.packed_bytes


def pack_file(
    src: Path | str, dst: Path | str, progress: Progress | None = None, *, kernels: str = "auto"
) -> PackFacts:
    """Pack an ONNX (with the files of its external data) or safetensors file and prove that it unpacks identically.

    The same input gives the same bytes. The output appears whole or not at all.

    Args:
        src: file to pack; .safetensors by its name, ONNX otherwise.
        dst: .krimp file to write; replaced if it exists.
        progress: called with (bytes done, bytes in all).
        kernels: 'auto', 'numpy' or 'numba' (same bytes).

    Raises:
        CodecError: src is missing, truncated or not such a file, or a file that it names is missing, truncated,
            outside its folder or dst itself.
    """
    with memory_for(src):
        return _pack(src, dst, progress, kernels)


def _pack(src: Path | str, dst: Path | str, progress: Progress | None, kernels: str) -> PackFacts:
    started = time.monotonic()
    source = open_source(src)
    _refuse_own_file(source, Path(dst))
    chosen = choose(kernels, source.num_bytes)
    spans = [span for span in source.spans if span.num_bytes >= _SMALLEST_BYTES]
    if len(spans) > _MOST_TENSORS:
        largest = sorted(spans, key=lambda span: -span.num_bytes)[:_MOST_TENSORS]
        spans = sorted(largest, key=lambda span: span.start)
    with whole_file(dst) as file:
        facts = _write(source, spans, file, progress, chosen)
        file.flush()
        written = time.monotonic()
        _verify(Path(file.name), source, chosen)
        verified = time.monotonic()
    return PackFacts(**facts, verify_seconds=verified - written, seconds=time.monotonic() - started)


def _refuse_own_file(source: Source, dst: Path) -> None:
    if any(dst.exists() and dst.samefile(path) for path in source.paths):
        raise CodecError(f"{dst}: keeps weights of {source.paths[0]}, which would be lost. Choose another name.")


@dataclass
class _Coded:
    """What a file is made of, and what is told of it, while its tensors are coded."""

    tables: Tables = field(default_factory=Tables)
    records: bytearray = field(default_factory=bytearray)
    skeleton: bytearray = field(default_factory=bytearray)
    payload_bytes: int = 0
    weights: int = 0  # elements of at most 8 bits
    weight_bits: int = 0
    entropy_bits: float = 0.0
    encode_seconds: float = 0.0


def _write(
    source: Source, spans: list[Span], file: BinaryIO, progress: Progress | None, kernels: Kernels
) -> dict[str, Any]:
    """Write a .krimp file; return the fields of `PackFacts` that do not depend on its proof."""
    file.write(bytes(HEADER_BYTES))
    coded = _write_tensors(source, spans, file, progress, kernels)
    index = write_side_files(source.side_files) + write_varint(len(coded.tables.tables))
    index += b"".join(write_table(table) for table in coded.tables.tables) + coded.records
    skeleton_packed, skeleton_lzma = shrink(bytes(coded.skeleton))
    index_packed, index_lzma = shrink(bytes(index))
    if len(index) > len(index_packed) * MAX_INDEX_RATIO:
        index_packed, index_lzma = bytes(index), False
    header = Header(
        source.container, skeleton_lzma, index_lzma, len(spans), source.num_bytes, source.sha256(),
        coded.payload_bytes, len(coded.skeleton), len(skeleton_packed), len(index), len(index_packed),
        crc32(skeleton_packed), crc32(index_packed),
    )  # fmt: skip
    file.write(skeleton_packed + index_packed)
    packed_bytes = file.tell()
    if source.num_bytes > packed_bytes * MAX_RATIO:
        raise CodecError(
            f"{source.num_bytes} bytes would become {packed_bytes}; the format allows a ratio of {MAX_RATIO}."
        )
    file.seek(0)
    file.write(header.to_bytes())
    return _facts(coded, header, packed_bytes)


def _write_tensors(
    source: Source, spans: list[Span], file: BinaryIO, progress: Progress | None, kernels: Kernels
) -> _Coded:
    coded, at = _Coded(), 0
    for span in spans:
        gap = source.copy(at, span.start)
        coded.skeleton += gap
        at = span.start + span.num_bytes
        started = time.perf_counter()
        record, payload, entropy = encode_tensor(
            source.array(span.start, span.num_bytes),
            span.kind,
            coded.tables,
            kernels,
            gap=len(gap),
            channel=channel_values(span),
        )
        coded.encode_seconds += time.perf_counter() - started
        coded.records += write_record(record)
        file.write(payload.data)
        coded.payload_bytes += len(payload)
        if KINDS[span.kind].planes == 1:
            coded.weights += record.num_values
            coded.weight_bits += 8 * len(payload)
            coded.entropy_bits += entropy
        if progress:
            progress(at, source.num_bytes)
    coded.skeleton += source.copy(at, source.num_bytes)
    return coded


def _facts(coded: _Coded, header: Header, packed_bytes: int) -> dict[str, Any]:
    weights = max(coded.weights, 1)
    return {
        "original_bytes": header.original_bytes,
        "packed_bytes": packed_bytes,
        "tensor_bytes": header.original_bytes - header.skeleton_bytes,
        "payload_bytes": header.payload_bytes,
        "skeleton_bytes": header.skeleton_bytes,
        "skeleton_packed_bytes": header.skeleton_packed_bytes,
        "index_packed_bytes": header.index_packed_bytes,
        "num_tensors": header.num_tensors,
        "num_tables": len(coded.tables.tables),
        "weights": coded.weights,
        "bits_per_weight": coded.weight_bits / weights,
        "entropy_bits_per_weight": coded.entropy_bits / weights,
        "encode_seconds": coded.encode_seconds,
    }


def _verify(path: Path, source: Source, kernels: Kernels) -> None:
    with PackedFile(path, kernels=kernels) as packed:
        at = 0
        for piece in packed.pieces():
            if source.copy(at, at + len(piece)) != piece:
                raise CodecError(
                    f"{path}: byte {at} of the original does not come back. This is a bug: please report it."
                )
            at += len(piece)
        if at != source.num_bytes:
            raise CodecError(f"{path}: {at} of {source.num_bytes} bytes come back. This is a bug: please report it.")
