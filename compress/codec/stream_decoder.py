"""Reading streams of prefix codes: all chunks of many streams side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from compress.codec.bitstream import fast_module, index_bytes, num_chunks
from compress.codec.prefix_code import decode_table

_TAIL = 16  # zero bytes after the codes, so that windows never end outside


@dataclass(frozen=True)
class StreamJob:
    """One stream to decode.

    Attributes:
        payload: (bytes,), uint8, exactly the bytes of this stream.
        count: symbols, >= 1.
        lengths: (alphabet,), uint8, a complete code.
        chunk_log2: symbols a chunk, as a power of two.
        total_bits, min_bits, width: see `bitstream.CodedStream`.
    """

    payload: np.ndarray
    count: int
    lengths: np.ndarray
    chunk_log2: int
    total_bits: int
    min_bits: int
    width: int


class StreamError(ValueError):
    """A stream contradicts itself; `number` says which of the jobs."""

    def __init__(self, number: int, what: str) -> None:
        self.number = number
        super().__init__(what)


def decode_streams(jobs: Sequence[StreamJob], backend: str = "auto") -> list[np.ndarray]:
    """Decode streams; the more at once, the faster NumPy is.

    Args:
        jobs: the streams.
        backend: 'auto', 'numpy' or 'numba' (same symbols).

    Returns:
        (count,), uint16, for each job.

    Raises:
        StreamError: chunk lengths, code bits and padding of a stream do not fit together.
    """
    split = [_chunk_bits(number, job) for number, job in enumerate(jobs)]
    tables: dict[int, np.ndarray] = {}
    for job in jobs:
        if id(job.lengths) not in tables:
            tables[id(job.lengths)] = decode_table(job.lengths)
    fast = fast_module(backend, sum(job.count for job in jobs))
    if fast is None:
        return _lock_step(jobs, split, tables)
    found = []
    for number, (job, (chunk_bits, bits)) in enumerate(zip(jobs, split, strict=True)):
        ends = np.cumsum(chunk_bits)
        padded = np.concatenate([bits, np.zeros(_TAIL, dtype=np.uint8)])
        symbols, stops = fast.decode(padded, ends - chunk_bits, job.count, 1 << job.chunk_log2, tables[id(job.lengths)])
        _check_ends(number, stops, ends)
        found.append(symbols)
    return found


def _chunk_bits(number: int, job: StreamJob) -> tuple[np.ndarray, np.ndarray]:
    """Return (bits of every chunk, int64; code bytes), checked."""
    chunks = num_chunks(job.count, job.chunk_log2)
    split = index_bytes(chunks, job.width)
    if job.count > job.total_bits or len(job.payload) != split + (job.total_bits + 7) // 8:
        raise StreamError(
            number,
            f"{job.count} symbols in {job.total_bits} bits and {len(job.payload)} bytes;"
            " expected a bit or more for each",
        )
    unpacked = np.unpackbits(job.payload[:split], bitorder="little")
    stored_bits = (chunks - 1) * job.width
    if unpacked[stored_bits:].any():
        raise StreamError(number, "padding after the chunk lengths is not zero")
    weights = 1 << np.arange(job.width, dtype=np.int64)
    stored = unpacked[:stored_bits].reshape(chunks - 1, job.width).astype(np.int64) @ weights + job.min_bits
    before_last = int(stored.sum())
    if not 0 <= before_last < job.total_bits:
        raise StreamError(
            number, f"chunks have {before_last} bits without the last one; the index says {job.total_bits} with it"
        )
    bits = job.payload[split:]
    if job.total_bits & 7 and int(bits[-1]) >> (job.total_bits & 7):
        raise StreamError(number, "padding after the last code is not zero")
    return np.append(stored, job.total_bits - before_last), bits


def _check_ends(number: int, stops: np.ndarray, ends: np.ndarray) -> None:
    wrong = np.flatnonzero(stops != ends)
    if len(wrong):
        first = wrong[0]
        raise StreamError(number, f"codes of chunk {first} end at bit {stops[first]}; the index says {ends[first]}")


def _lock_step(
    jobs: Sequence[StreamJob], split: list[tuple[np.ndarray, np.ndarray]], tables: dict[int, np.ndarray]
) -> list[np.ndarray]:
    """Decode all chunks of all streams together: one vector operation advances each by a symbol."""
    if not jobs:
        return []
    table_at, joined_tables = _join_tables(tables)
    starts, counts, masks, bases, origins = [], [], [], [], []
    origin = 0
    for job, (chunk_bits, bits) in zip(jobs, split, strict=True):
        lanes = len(chunk_bits)
        chunk = 1 << job.chunk_log2
        starts.append(np.cumsum(chunk_bits) - chunk_bits + 8 * origin)
        counts.append(np.minimum(chunk, job.count - chunk * np.arange(lanes)))
        masks.append(np.full(lanes, len(tables[id(job.lengths)]) - 1, dtype=np.uint64))
        bases.append(np.full(lanes, table_at[id(job.lengths)], dtype=np.int64))
        origins.append(origin)
        origin += len(bits)
    data = np.concatenate([*(bits for _, bits in split), np.zeros(_TAIL, dtype=np.uint8)])
    count = np.concatenate(counts)
    order = np.argsort(-count, kind="stable")  # long chunks first: the ones that are done fall off the end
    rows, stops = _advance(
        data,
        np.concatenate(starts)[order],
        count[order],
        np.concatenate(masks)[order],
        np.concatenate(bases)[order],
        joined_tables,
    )
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    found, lane = [], 0
    for number, (job, (chunk_bits, _)) in enumerate(zip(jobs, split, strict=True)):
        mine = place[lane : lane + len(chunk_bits)]
        _check_ends(number, stops[mine] - 8 * origins[number], np.cumsum(chunk_bits))
        chunk = min(1 << job.chunk_log2, job.count)
        found.append(np.ascontiguousarray(rows[:chunk, mine].T).reshape(-1)[: job.count])
        lane += len(chunk_bits)
    return found


def _advance(
    data: np.ndarray, position: np.ndarray, count: np.ndarray, mask: np.ndarray, base: np.ndarray, table: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Run the lanes; return (symbols, (longest, lanes), uint16; end positions)."""
    # windows[i] = the eight bytes from byte i on: one gather serves four symbols.
    overlapping = np.lib.stride_tricks.as_strided(data, shape=(len(data) - 8, 8), strides=(1, 1))
    windows: np.ndarray = np.ascontiguousarray(overlapping).view("<u8")[:, 0]
    rows = np.empty((int(count[0]), len(count)), dtype=np.uint16)
    stops = position.copy()
    window: np.ndarray = np.empty(0, dtype=np.uint64)
    # active[step] = lanes that have a symbol left.
    active = len(count) - np.searchsorted(count[::-1], np.arange(int(count[0])), side="right")
    for step, lanes in enumerate(active.tolist()):
        if lanes < len(position):
            stops[lanes : len(position)] = position[lanes:]
            position, window, mask, base = position[:lanes], window[:lanes], mask[:lanes], base[:lanes]
        if step % 4 == 0:
            window = np.take(windows, position >> 3, mode="clip") >> (position & 7).astype(np.uint64)
        entry = table[(window & mask).astype(np.int64) + base]
        rows[step, :lanes] = entry & 0xFFF
        size = entry >> 12
        window = window >> size
        position = position + size
    stops[: len(position)] = position
    return rows, stops


def _join_tables(tables: dict[int, np.ndarray]) -> tuple[dict[int, int], np.ndarray]:
    table_at, at = {}, 0
    for key, table in tables.items():
        table_at[key] = at
        at += len(table)
    return table_at, np.concatenate(list(tables.values()))
