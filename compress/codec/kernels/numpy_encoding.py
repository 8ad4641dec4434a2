"""The NumPy form of encoding: counting, joining and coding of many values in one vector operation each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from compress.codec.format.layout import COUNTS, Table
from compress.codec.kernels.bit_packing import pack_fields
from compress.codec.kernels.encoding_tables import ans_tables, prefix_codes

_BLOCK = 1 << 20  # symbols coded, or values counted, at a time: bounds the memory


def histogram(values: np.ndarray) -> np.ndarray:
    """Count (count,) uint8 values: (256,), int64."""
    return np.bincount(values, minlength=256)


def class_histograms(values: np.ndarray, bins: np.ndarray, number: int, segment: int, segments: int) -> np.ndarray:
    """Count the bin of each value in each segment: (segments, number), int64."""
    found = np.zeros((segments, number), dtype=np.int64)
    step = max(_BLOCK // segment, 1)
    for first in range(0, segments, step):
        part = bins[values[first * segment : (first + step) * segment]].astype(np.int64)
        part += np.arange(len(part)) // segment * number
        rows = min(step, segments - first)
        found[first : first + rows] = np.bincount(part, minlength=rows * number).reshape(rows, number)
    return found


def join_digits(values: np.ndarray, digit_of_value: np.ndarray, radix: int, group: int, centre: int) -> np.ndarray:
    """Join the digits of the values: (ceil(count / group),), uint16; the last symbol is filled with the centre."""
    each = digit_of_value[values]
    missing = -len(each) % group
    if missing:
        each = np.append(each, np.full(missing, centre, dtype=np.uint8))
    columns = each.reshape(-1, group)
    symbols: np.ndarray = columns[:, -1].astype(np.uint16)
    for i in range(group - 2, -1, -1):
        symbols *= np.uint16(radix)
        symbols += columns[:, i]
    return symbols


def count_symbols(symbols: np.ndarray, labels: np.ndarray, segment: int, classes: int, alphabet: int) -> np.ndarray:
    """Count the symbols of each class of segments: (classes, alphabet), int64."""
    places = np.repeat(labels.astype(np.int64) * alphabet, segment)[: len(symbols)]
    return np.bincount(places + symbols, minlength=classes * alphabet).reshape(classes, alphabet)


def select_escapes(values: np.ndarray, digit_of_value: np.ndarray, marker: int, low: int, number: int) -> np.ndarray:
    """Return value - low of the `number` values whose digit is the marker, (number,), uint8."""
    found: np.ndarray = values[digit_of_value[values] == np.uint8(marker)] - np.uint8(low)
    return found


def encode_symbols(
    symbols: np.ndarray, tables: Sequence[Table], classes: np.ndarray, chunk: int, segment: int
) -> tuple[np.ndarray, np.ndarray]:
    """Do what `contract.Kernels.encode_symbols` says, a block of symbols at a time."""
    chunk_bits: list[np.ndarray] = []
    parts: list[np.ndarray] = [np.empty(0, dtype=np.uint8)]
    carried = 0
    fields_of = _ans_fields if tables[0].form == COUNTS else _prefix_fields
    for fields, sizes, per_chunk in fields_of(symbols, tables, classes, chunk, segment):
        bounds = np.cumsum(per_chunk)
        sums = np.concatenate([[0], np.cumsum(sizes)])
        chunk_bits.append(sums[bounds] - sums[bounds - per_chunk])
        packed = pack_fields(fields, sizes, carried)
        if carried:
            packed[0] |= parts[-1][-1]
            parts[-1] = parts[-1][:-1]
        parts.append(packed)
        carried = (carried + int(sums[-1])) & 7
    return np.concatenate(chunk_bits), np.concatenate(parts)


_Fields = Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]  # fields, their sizes, fields of every chunk


def _blocks(count: int, chunk: int) -> Iterator[tuple[int, int]]:
    step = max(_BLOCK // chunk, 1) * chunk
    for start in range(0, count, step):
        yield start, min(count, start + step)


def _prefix_fields(
    symbols: np.ndarray, tables: Sequence[Table], classes: np.ndarray, chunk: int, segment: int
) -> _Fields:
    codes = prefix_codes(tables)
    for start, stop in _blocks(len(symbols), chunk):
        block = symbols[start:stop]
        if len(tables) == 1:
            entries = codes[0][block]
        else:
            chosen = np.repeat(classes[start // segment : -(-stop // segment)], segment)[: stop - start]
            entries = codes[chosen, block]
        yield entries >> 8, entries & 0xFF, _chunk_counts(stop - start, chunk)


def _chunk_counts(count: int, chunk: int) -> np.ndarray:
    counts: np.ndarray = np.minimum(chunk, count - np.arange(0, count, chunk))
    return counts


def _ans_fields(symbols: np.ndarray, tables: Sequence[Table], classes: np.ndarray, chunk: int, segment: int) -> _Fields:
    log = tables[0].log
    size = 1 << log
    states, offsets, thresholds = ans_tables(tables)
    for start, stop in _blocks(len(symbols), chunk):
        counts = _chunk_counts(stop - start, chunk)
        lanes, steps = len(counts), int(counts[0])
        padded = np.zeros(lanes * steps, dtype=np.int64)
        padded[: stop - start] = symbols[start:stop]
        columns = padded.reshape(lanes, steps)
        chosen = np.zeros(lanes * steps // segment + 1, dtype=np.int64)
        mine = classes[start // segment : -(-stop // segment)]
        chosen[: len(mine)] = mine
        fields, sizes = np.zeros((lanes, steps + 1), dtype=np.int64), np.zeros((lanes, steps + 1), dtype=np.int64)
        state = np.full(lanes, size)
        for step in range(steps - 1, -1, -1):  # the decoder goes forwards
            live = lanes if step < counts[-1] else lanes - 1  # only the last chunk can be short
            number = chosen[(np.arange(live) * steps + step) // segment]
            symbol = columns[:live, step]
            threshold, now = thresholds[number, symbol], state[:live]
            bits = (threshold >> 16) + (now >= (threshold & 0xFFFF))
            fields[:live, step + 1], sizes[:live, step + 1] = now & ((1 << bits) - 1), bits
            state[:live] = size + states[number, offsets[number, symbol] + (now >> bits)]
        fields[:, 0], sizes[:, 0] = state - size, log
        kept = np.arange(steps + 1) <= counts[:, None]
        yield fields[kept], sizes[kept], counts + 1
