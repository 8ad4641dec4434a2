"""What is inside a .krimp file, tensor by tensor."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from compress.codec.encoding.tensor_encoder import entropy_bits
from compress.codec.files.named_tensors import named_spans
from compress.codec.files.network_source import Source, open_source
from compress.codec.files.packed_file import PackedFile, Progress
from compress.codec.files.tensor_places import Span
from compress.codec.format.element_planes import to_planes
from compress.codec.format.index_and_skeleton import Placed
from compress.codec.format.layout import CONSTANT, COUNTS, KINDS, MAGIC, RAW, Kind, Plane, Runs, Stream, Table
from compress.codec.format.ways import LISTED, Lzma, Numbered, Part
from compress.codec.mapped_memory import forget, memory_for, open_map

_BLOCK = 1 << 18  # elements counted at a time: bounds the memory


@dataclass(frozen=True)
class TensorFacts:
    """One tensor of a packed file.

    Attributes:
        name, dims, data_type: as the original says.
        elements: number of elements.
        bit_width: bits that hold every value (8 bits or less: the true width), else those of the type.
        zeros: share of elements equal to zero, 0..1 (for 8 bits or less; else of all-zero elements).
        entropy_bits_per_weight: order-0 entropy of an element; of its byte planes above 8 bits.
        bits_per_weight: coded bits an element.
        original_bytes, packed_bytes: before and after.
        share: of the packed file, 0..1.
        coder: in words, e.g. 'mask of 8 + values'; of a tensor in parts the first three ways.
    """

    name: str
    dims: tuple[int, ...]
    data_type: str
    elements: int
    bit_width: int
    zeros: float
    entropy_bits_per_weight: float
    bits_per_weight: float
    original_bytes: int
    packed_bytes: int
    share: float
    coder: str


def inspect_file(
    path: Path | str, progress: Progress | None = None, *, max_bytes: int | None = None
) -> list[TensorFacts]:
    """Return facts about every coded tensor of a .krimp file, in file order; of another network, about every tensor.

    Args:
        path: a .krimp, ONNX or safetensors file, or a folder with one.
        progress: called with (tensors done, tensors in all).
        max_bytes: size of the original of a .krimp file from which on it is refused; None for none.

    Raises:
        CodecError: the file is none of them, damaged, truncated, or of a newer version.
    """
    if Path(path).is_dir() or (bytes(open_map(path)[: len(MAGIC)]) != MAGIC and Path(path).suffix != ".krimp"):
        with memory_for(path):
            return _plain_facts(open_source(path), progress)
    facts = []
    with memory_for(path), PackedFile(path, max_bytes=max_bytes) as packed:
        names = {span.start: span for span in named_spans(packed)}
        done = 0
        for span, parts in _in_parts(packed, names):
            coders = list(dict.fromkeys(_words(packed, part) for part in parts))
            coder = coders[0] if len(parts) == 1 else f"{len(parts)} parts: " + " | ".join(coders[:3])
            blocks = (block for part in parts for block in packed.blocks(part))
            size = sum(_own_bytes(packed, part) for part in parts)
            facts.append(_facts(span, blocks, size=size, total=packed.file_bytes, coder=coder))
            done += len(parts)
            if progress:
                progress(done, len(packed.tensors))
    return facts


def _in_parts(packed: PackedFile, names: dict[int, Span]) -> Iterator[tuple[Span, list[Placed]]]:
    """Yield the tensors of the original, each with what it is coded in, and anything else that is coded."""
    at = 0
    while at < len(packed.tensors):
        tensor = packed.tensors[at]
        span = names.get(tensor.start, Span(tensor.start, tensor.record.num_bytes, _kind(tensor)))
        end = at + 1
        while end < len(packed.tensors) and packed.tensors[end].start < span.start + span.num_bytes:
            end += 1
        parts = packed.tensors[at:end]
        covered = sum(part.record.num_bytes for part in parts)
        yield span if covered == span.num_bytes else replace(span, num_bytes=covered, dims=()), parts
        at = end


def _plain_facts(source: Source, progress: Progress | None) -> list[TensorFacts]:
    """Return facts about the tensors of a network that is not packed."""
    facts, total = [], source.num_bytes
    for number, span in enumerate(source.spans):
        data = source.array(span.start, span.num_bytes)
        facts.append(_facts(span, [data], size=span.num_bytes, total=total, coder="not packed"))
        forget(data)
        if progress:
            progress(number + 1, len(source.spans))
    return facts


def _values(blocks: Iterable[np.ndarray], kind: Kind) -> tuple[int, int, float]:
    """Return bit width, number of zeros and order-0 entropy (bits, of all values together) of a tensor's bytes."""
    counts, zeros = np.zeros((kind.planes, 256), dtype=np.int64), 0
    step = _BLOCK * kind.planes
    for block in blocks:
        for start in range(0, len(block), step):
            part = block[start : start + step]
            for number, plane in enumerate(to_planes(part, kind)):
                counts[number] += np.bincount(plane, minlength=256)
            if kind.planes > 1:
                zeros += int(np.count_nonzero(~part.reshape(-1, kind.planes).any(axis=1)))
    bit_width = 8 * kind.planes
    if kind.planes == 1:
        zeros = int(counts[0, 1 << kind.value_bits - 1 if kind.is_signed else 0])
        bit_width = _bit_width(np.flatnonzero(counts[0]), kind.value_bits, kind.is_signed)
    return bit_width, zeros, sum(entropy_bits(row) for row in counts)


def _kind(tensor: Placed) -> int:
    return tensor.record.kind if tensor.record.way is None else 0


def _facts(span: Span, blocks: Iterable[np.ndarray], *, size: int, total: int, coder: str) -> TensorFacts:
    """Return facts about a tensor.

    Args:
        span: its place and type.
        blocks: its bytes, piece by piece, uint8.
        size: bytes that it takes in its file.
        total: bytes of the file.
        coder: how it is stored, in words.
    """
    kind = KINDS[span.kind]
    elements = span.num_bytes // kind.planes * (8 // kind.value_bits)
    bit_width, zeros, entropy = _values(blocks, kind)
    return TensorFacts(
        name=span.name,
        dims=span.dims,
        data_type=span.data_type or kind.name,
        elements=elements,
        bit_width=bit_width,
        zeros=zeros / elements,
        entropy_bits_per_weight=entropy / elements,
        bits_per_weight=8 * size / elements,
        original_bytes=span.num_bytes,
        packed_bytes=size,
        share=size / total,
        coder=coder,
    )


def _bit_width(values: np.ndarray, value_bits: int, is_signed: bool) -> int:
    low, high = int(values.min()), int(values.max())
    if not is_signed:
        return max(high.bit_length(), 1)
    middle = 1 << value_bits - 1
    return (
        max((middle - low - 1).bit_length(), (high - middle).bit_length()) + 1
        if low < middle
        else (high - middle).bit_length() + 1
    )


def _own_bytes(packed: PackedFile, tensor: Placed) -> int:
    """Return the coded bytes of a tensor: none of a copy, its share of a heap."""
    if isinstance(way := tensor.record.way, Part):
        heap = packed.heaps[way.heap]
        return round(heap.size * tensor.record.num_bytes / heap.record.num_bytes)
    return tensor.own_size


def _words(packed: PackedFile, tensor: Placed) -> str:
    if tensor.copy_of is not None:
        return "copy"
    match tensor.record.way:
        case Part(heap, _):
            return f"{_words(packed, packed.heaps[heap])}, in a heap"
        case Lzma(delta, _, _):
            return f"lzma of differences by {delta}" if delta else "lzma"
        case Runs(group, announced, _, _, _):
            values, numbers = (_words(packed, part) for part in tensor.inside)
            if announced == 0:
                return f"all but one value: {values} + where they are by {numbers}"
            return f"runs of {group}: {values} + numbers by {numbers}"
        case Numbered() as way:
            what = f"list of {way.entries}" if way.form == LISTED else f"{way.entries} scales"
            return f"{what} + {_coder(tensor.record.planes, packed.tables)}"
    return _coder(tensor.record.planes, packed.tables)


def _coder(planes: tuple[Plane, ...], tables: list[Table]) -> str:
    words = [_plane_words(plane, tables) for plane in planes]
    return words[0] if len(words) == 1 else "planes: " + ", ".join(words)


def _plane_words(plane: Plane, tables: list[Table]) -> str:
    if plane.method == RAW or plane.main is None:
        return "raw"
    table = tables[plane.main.tables[0]]
    if table.form == CONSTANT and plane.escape is None:
        return "constant"
    words = _stream_words(plane.main, tables)
    if plane.escape is None:
        return words
    kept = "zero mask" if table.radix == 2 else f"{table.radix - 1} values"
    return f"{kept} by {words} + others by {_stream_words(plane.escape, tables)}"


def _stream_words(stream: Stream, tables: list[Table]) -> str:
    table = tables[stream.tables[0]]
    words = {CONSTANT: "constant", COUNTS: "ans"}.get(table.form, "huffman")
    if table.group > 1:
        words += f" of {table.group} joined"
    return words + (f" in {len(stream.tables)} classes" if len(stream.tables) > 1 else "")
