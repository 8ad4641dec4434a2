"""From a network to its .krimp file: of version 2 of the format where that is clearly smaller."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import BinaryIO

from compress.codec.files.assembled_file import Assembled, assemble, write_file
from compress.codec.files.coded_tensors import CodedTensors, Codes
from compress.codec.files.network_source import Source
from compress.codec.files.pack_facts import PackFacts
from compress.codec.files.packed_file import Progress
from compress.codec.files.skeleton_choice import smallest
from compress.codec.files.tensor_parts import coded_spans, without_end
from compress.codec.files.tensor_places import Span
from compress.codec.format.layout import MAX_RATIO
from compress.codec.kernels.contract import Kernels

_SMALLEST_BYTES = 128  # smaller tensors stay in the skeleton, which lzma packs
_WORTH = 9980  # ten-thousandths of the file that other ways may leave, or they are not used
_WORTH_BYTES = 100
_CLEARLY, _LARGE_BYTES = 0.02, 1 << 20  # share of the file that its large tensors save


def write_packed(source: Source, file: BinaryIO, progress: Progress | None, kernels: Kernels) -> PackFacts:
    """Write a .krimp file.

    It is of version 1 of the format where version 2 saves next to nothing.

    Args:
        source: what is packed.
        file: empty; codes wait in its folder for their turn.
        progress: called with (bytes done, bytes in all).
        kernels: what runs the loops; the bytes are the same.

    Returns:
        What packing did, without its proof.

    Raises:
        CodecError: the file would pass a limit of the format.
    """
    spans = coded_spans(source.spans, _SMALLEST_BYTES)
    with closing(Codes(Path(file.name).parent)) as codes:
        coded = CodedTensors(source, codes, kernels, is_best=True).add_all(spans, progress)
        made, seconds = smallest(coded), coded.seconds
        if not _saves_much(coded, made):
            plain = coded
            if any(item.record.way or item.saved_bytes for item in coded.items):
                plain = CodedTensors(source, codes, kernels, is_best=False).add_all(spans)
                seconds += plain.seconds
            first = assemble(source, plain.items, plain.tables.tables, is_thorough=False)
            if made.num_bytes + _WORTH_BYTES >= min(first.num_bytes, first.num_bytes * _WORTH // 10000):
                made = first
        if (missing := source.num_bytes // MAX_RATIO + 1 - made.num_bytes) > 0:
            made = _longer(source, spans, codes, kernels, missing)
        return write_file(source, made, codes, file, seconds)


def _saves_much(coded: CodedTensors, made: Assembled) -> bool:
    """Return True if version 1 of the format is larger without coding everything once more to see it."""
    large = sum(item.saved_bytes for item in coded.items if item.span.num_bytes >= _LARGE_BYTES)  # tables are nothing
    return large > made.num_bytes * _CLEARLY


def _longer(source: Source, spans: list[Span], codes: Codes, kernels: Kernels, missing: int) -> Assembled:
    """Return a file of which the format's largest ratio is kept: hundreds of megabytes of zeros take more bytes."""
    cut = without_end(spans, -(-missing // 8) * 8 + 64)
    coded = CodedTensors(source, codes, kernels, is_best=False).add_all(cut)
    return assemble(source, coded.items, coded.tables.tables, is_stored=True)
