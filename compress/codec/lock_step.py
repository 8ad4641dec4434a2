"""The NumPy form of decoding: all chunks of many streams side by side, one vector operation a symbol."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from compress.codec import ans_code, prefix_code
from compress.codec.layout import COUNTS, Table
from compress.codec.streams import TAIL, Piece

_BLOCK = 1 << 21  # symbols decoded at a time: bounds the memory


def decode_in_step(pieces: Sequence[Piece], is_ans: bool) -> None:
    """Decode pieces into their `out`, all chunks together.

    Args:
        pieces: all coded by table ANS, or all by prefix codes.
        is_ans: which.

    Raises:
        StreamError: codes do not end where the index says.
    """
    block: list[Piece] = []
    waiting = 0  # symbols in the block
    for piece in _short_pieces(pieces):
        size = piece.stream.symbols_in(piece.first, piece.stop)
        if block and waiting + size > _BLOCK:
            _decode_block(block, is_ans)
            block, waiting = [], 0
        block.append(piece)
        waiting += size
    if block:
        _decode_block(block, is_ans)


def _short_pieces(pieces: Sequence[Piece]) -> Iterator[Piece]:
    """Yield the pieces, those that are too long for a block in several."""
    for piece in pieces:
        chunk = piece.stream.job.stream.chunk
        values = chunk * piece.stream.job.expansion.group
        step = max(_BLOCK // chunk, 1)
        for first in range(piece.first, piece.stop, step):
            stop = min(piece.stop, first + step)
            out = piece.out[(first - piece.first) * values : (stop - piece.first) * values]
            yield piece._replace(first=first, stop=stop, out=out)


def _decode_block(pieces: list[Piece], is_ans: bool) -> None:
    tables, bases = _join_tables(pieces)
    data, starts, counts, lane_logs, lane_bases = [], [], [], [], []
    at = 0
    for piece, base in zip(pieces, bases, strict=True):
        job, bounds = piece.stream.job, piece.stream.bounds[piece.first : piece.stop + 1]
        lanes = piece.stop - piece.first
        begin, end = int(bounds[0] >> 3), int(bounds[-1] + 7 >> 3)
        data.append(job.data[begin:end])
        starts.append(bounds[:-1] + 8 * (at - begin))
        at += end - begin
        chunk = job.stream.chunk
        counts.append(np.minimum(chunk, job.symbols - chunk * np.arange(piece.first, piece.stop)))
        lane_logs.append(np.full(lanes, job.log))
        lane_bases.append(np.full(lanes, base))
    count = np.concatenate(counts)
    order = np.argsort(-count, kind="stable")  # long chunks first: the ones that are done fall off the end
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    rows, stops, states = _advance(
        np.concatenate([*data, np.zeros(TAIL, dtype=np.uint8)]),
        np.concatenate(starts)[order],
        count[order],
        np.concatenate(lane_logs)[order],
        np.concatenate(lane_bases)[order],
        tables,
        _switches(pieces, place, bases),
        is_ans,
    )
    lane = 0
    for piece, firsts in zip(pieces, starts, strict=True):
        job, bounds = piece.stream.job, piece.stream.bounds[piece.first : piece.stop + 1]
        mine = place[lane : lane + len(firsts)]
        lane += len(firsts)
        _check_ends(piece, stops[mine] - firsts[0] + bounds[0], states[mine] if is_ans else None)
        size = piece.stream.symbols_in(piece.first, piece.stop)
        symbols = np.ascontiguousarray(rows[: min(job.stream.chunk, size), mine].T).reshape(-1)[:size]
        piece.out[:] = _expand(symbols, job.expansion.digits)[: len(piece.out)]


def _check_ends(piece: Piece, stops: np.ndarray, states: np.ndarray | None) -> None:
    wrong = stops != piece.stream.bounds[piece.first + 1 : piece.stop + 1]
    if states is not None:
        wrong |= states != 0
    if wrong.any():
        chunk = int(np.flatnonzero(wrong)[0])
        raise piece.wrong_end(chunk, int(stops[chunk]), None if states is None else int(states[chunk]))


def _join_tables(pieces: list[Piece]) -> tuple[np.ndarray, list[int]]:
    """Return all tables behind each other, uint64, and for each piece where its first one is."""
    parts: list[np.ndarray] = []
    known: dict[tuple[tuple[int, ...], int], int] = {}
    bases, at = [], 0
    for piece in pieces:
        job = piece.stream.job
        key = (tuple(map(id, job.tables)), job.log)
        if key not in known:
            known[key] = at
            parts += [_decode_table(table, job.log) for table in job.tables]
            at += len(job.tables) << job.log
        bases.append(known[key])
    return np.concatenate(parts).astype(np.uint64), bases


@lru_cache(maxsize=256)  # tables are shared by tensors
def _decode_table(table: Table, log: int) -> np.ndarray:
    if table.form == COUNTS:
        return ans_code.decode_table(table.entries)
    return prefix_code.decode_table(table.entries, log)


@dataclass(frozen=True)
class _Switch:
    """Lanes that change their table every `segment` symbols.

    Attributes:
        segment: symbols.
        lanes: (n,), int64, ascending.
        bases: (steps, n), int64: where the table is in each segment.
    """

    segment: int
    lanes: np.ndarray
    bases: np.ndarray


def _switches(pieces: list[Piece], place: np.ndarray, bases: list[int]) -> list[_Switch]:
    found, lane = [], 0
    for piece, base in zip(pieces, bases, strict=True):
        mine = place[lane : lane + piece.stop - piece.first]
        lane += len(mine)
        job = piece.stream.job
        if len(job.tables) == 1:
            continue
        each = job.stream.chunk // job.stream.segment
        chosen = np.zeros(len(mine) * each, dtype=np.int64)
        classes = piece.stream.classes[piece.first * each : piece.stop * each]
        chosen[: len(classes)] = classes
        order = np.argsort(mine)
        columns = chosen.reshape(-1, each)[order].T
        found.append(_Switch(job.stream.segment, mine[order], base + (columns << job.log)))
    return found


def _advance(
    data: np.ndarray,
    starts: np.ndarray,
    count: np.ndarray,
    logs: np.ndarray,
    bases: np.ndarray,
    table: np.ndarray,
    switches: list[_Switch],
    is_ans: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Run the lanes; return (symbols, (longest, lanes), uint16; end positions and last states, int64)."""
    # windows[i] = the eight bytes from byte i on: one gather serves four symbols.
    overlapping = np.lib.stride_tricks.as_strided(data, shape=(len(data) - 8, 8), strides=(1, 1))
    windows: np.ndarray = np.ascontiguousarray(overlapping).view("<u8")[:, 0]
    position: np.ndarray = starts.astype(np.uint64)
    base: np.ndarray = bases.astype(np.uint64)
    window: np.ndarray = np.empty(len(starts), dtype=np.uint64)
    mask = (np.uint64(1) << logs.astype(np.uint64)) - np.uint64(1)
    state: np.ndarray = np.zeros(len(starts), dtype=np.uint64)
    if is_ans:
        state = np.take(windows, (position >> 3).view(np.int64), mode="clip") >> (position & 7) & mask
        position += logs.astype(np.uint64)
    symbol_shift, size_mask = np.uint64(16 if is_ans else 8), np.uint64(15 if is_ans else 0xFF)
    one, four, next_mask = np.uint64(1), np.uint64(4), np.uint64(0xFFF)
    rows = np.empty((int(count[0]), len(count)), dtype=np.uint16)
    stops, states = np.empty(len(count), dtype=np.uint64), np.zeros(len(count), dtype=np.uint64)
    # active[step] = lanes that have a symbol left.
    active = len(count) - np.searchsorted(count[::-1], np.arange(int(count[0])), side="right")
    for step, lanes in enumerate(active.tolist()):
        if lanes < len(position):
            stops[lanes : len(position)], states[lanes : len(position)] = position[lanes:], state[lanes:]
            position, window, mask, base, state = (x[:lanes] for x in (position, window, mask, base, state))
        for switch in switches:
            if step % switch.segment == 0:
                live = int(np.searchsorted(switch.lanes, lanes))
                base[switch.lanes[:live]] = switch.bases[step // switch.segment, :live] if live else 0
        if step % 4 == 0:
            window = np.take(windows, (position >> 3).view(np.int64), mode="clip") >> (position & 7)
        index = state + base if is_ans else (window & mask) + base
        entry = np.take(table, index.view(np.int64), mode="clip")
        rows[step, :lanes] = entry >> symbol_shift
        size = entry & size_mask
        if is_ans:
            state = (entry >> four & next_mask) + (window & (one << size) - one)
        window = window >> size
        position = position + size
    stops[: len(position)], states[: len(position)] = position, state
    return rows, stops.astype(np.int64), states.astype(np.int64)


def _expand(symbols: np.ndarray, expand: np.ndarray) -> np.ndarray:
    """Return the bytes of the symbols, (count * group,), uint8."""
    group = expand.shape[1]
    if group in (1, 2, 4, 8):  # gather whole groups as one integer
        return np.take(expand.view(f"u{group}")[:, 0], symbols).view(np.uint8)
    return np.take(expand, symbols, axis=0).reshape(-1)
