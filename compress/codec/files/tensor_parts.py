"""Which bytes of a network are coded as one: whole tensors, equal parts of them, rows of large ones."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from compress.codec.files.network_source import Source
from compress.codec.files.tensor_places import Span
from compress.codec.format.layout import KINDS

_MOST_TENSORS = 1 << 14  # the largest are coded, the others stay in the skeleton: a reader needs a kilobyte for each
_MOST_EQUAL, _LEAST_EQUAL = 16, 1 << 12  # parts of a tensor, and their bytes
LARGE_BYTES = 1 << 23  # a tensor above this is coded in parts: coding takes several times their memory
PART_BYTES = 1 << 22


def coded_spans(spans: Iterable[Span], least_bytes: int) -> list[Span]:
    """Return the tensors that are coded: those of at least so many bytes, and the largest where they are many."""
    chosen = [span for span in spans if span.num_bytes >= least_bytes]
    if len(chosen) > _MOST_TENSORS:
        largest = sorted(chosen, key=lambda span: -span.num_bytes)[:_MOST_TENSORS]
        chosen = sorted(largest, key=lambda span: span.start)
    return chosen


def equal_parts(source: Source, span: Span) -> list[Span]:
    """Return a tensor in parts that are equal, so that all but the first are copies; itself if there are none."""
    data = source.array(span.start, span.num_bytes)
    for number in range(2, _MOST_EQUAL + 1):
        size = span.num_bytes // number
        if size * number == span.num_bytes and size >= _LEAST_EQUAL and size % KINDS[span.kind].planes == 0:
            probe = data[: _LEAST_EQUAL // 4]
            if np.array_equal(data[size : size + len(probe)], probe) and _repeats(data, size):
                dims = (span.dims[0] // number, *span.dims[1:]) if span.dims and span.dims[0] % number == 0 else ()
                return _cut(span, size, dims)
    return [span]


def _repeats(data: np.ndarray, size: int) -> bool:
    """Return True if all bytes equal those `size` before."""
    return all(
        np.array_equal(data[start + size :][:PART_BYTES], data[start : len(data) - size][:PART_BYTES])
        for start in range(0, len(data) - size, PART_BYTES)
    )


def parts_of(span: Span) -> list[Span]:
    """Return a large tensor in parts of whole rows, of a few megabytes each; any other one as it is."""
    if span.num_bytes <= LARGE_BYTES:
        return [span]
    for axis in range(1, len(span.dims)):
        rows = math.prod(span.dims[:axis])
        row_bytes = span.num_bytes // rows
        if rows and row_bytes * rows == span.num_bytes and 0 < row_bytes <= PART_BYTES:
            if row_bytes % KINDS[span.kind].planes:
                break
            inside = PART_BYTES // row_bytes
            return _cut(span, inside * row_bytes, (inside, *span.dims[axis:]))
    return _cut(span, PART_BYTES, ())


def _cut(span: Span, size: int, dims: tuple[int, ...]) -> list[Span]:
    """Return a tensor in parts of some size and shape, and what is left."""
    parts = []
    for at in range(0, span.num_bytes, size):
        left = min(size, span.num_bytes - at)
        shape = (dims[0] * left // size, *dims[1:]) if dims else ()
        parts.append(replace(span, start=span.start + at, num_bytes=left, dims=shape))
    return parts


def without_end(spans: list[Span], num_bytes: int) -> list[Span]:
    """Return tensors of which the largest is shorter by so many bytes, a multiple of 8, which are not coded then."""
    longest = max(range(len(spans)), key=lambda number: spans[number].num_bytes)
    span = spans[longest]
    cut = replace(span, num_bytes=span.num_bytes - num_bytes, dims=())
    return [*spans[:longest], cut, *spans[longest + 1 :]]
