"""The NumPy form of decoding: all chunks of many streams side by side, one vector operation a symbol."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np

from compress.codec.entropy import ans_code, prefix_code
from compress.codec.format.layout import COUNTS, Table
from compress.codec.kernels.stream_jobs import TAIL, Piece

_ONE, _MOST = np.uint64(1), np.uint64(63)
_TILE = 64  # steps that are turned into lanes at a time: they stay in the processor's cache
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
    entries, bases = _join_tables(pieces)
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
    data.append(np.zeros(TAIL + -at % 8, dtype=np.uint8))
    rows, stops, states = _advance(
        np.concatenate(data).view("<u8"),
        np.concatenate(starts)[order],
        count[order],
        _tables(entries, np.concatenate(lane_logs)[order], is_ans),
        np.concatenate(lane_bases)[order],
        _switches(pieces, place, bases),
    )
    lane = 0
    for piece, firsts in zip(pieces, starts, strict=True):
        job, bounds = piece.stream.job, piece.stream.bounds[piece.first : piece.stop + 1]
        mine = place[lane : lane + len(firsts)]
        lane += len(firsts)
        _check_ends(piece, stops[mine] - firsts[0] + bounds[0], states[mine] if is_ans else None)
        size = piece.stream.symbols_in(piece.first, piece.stop)
        symbols = _of_lanes(rows[: min(job.stream.chunk, size)], mine).reshape(-1)[:size]
        piece.out[:] = _expand(symbols, job.expansion.digits)[: len(piece.out)]


def _check_ends(piece: Piece, stops: np.ndarray, states: np.ndarray | None) -> None:
    wrong = stops != piece.stream.bounds[piece.first + 1 : piece.stop + 1]
    if states is not None:
        wrong |= states != 0
    if wrong.any():
        chunk = int(np.flatnonzero(wrong)[0])
        raise piece.wrong_end(chunk, int(stops[chunk]), None if states is None else int(states[chunk]))


@dataclass(frozen=True)
class _Tables:
    """What bits or states mean, for all lanes; tables of different streams behind each other.

    Attributes:
        symbols: (entries,), uint16.
        sizes: (entries,), int64: bits of the symbol.
        lows: (entries,), int64: 2 ** size - 1; None for prefix codes, as the next one.
        following: (entries,), int64: what the bits are added to for the next state.
        logs, masks: (lanes,), int64: log2 of the size of each lane's table, and 2 ** log - 1.
    """

    symbols: np.ndarray
    sizes: np.ndarray
    lows: np.ndarray | None
    following: np.ndarray | None
    logs: np.ndarray
    masks: np.ndarray


def _join_tables(pieces: list[Piece]) -> tuple[np.ndarray, list[int]]:
    """Return all tables behind each other, uint32, and for each piece where its first one is."""
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
    return np.concatenate(parts), bases


def _tables(entries: np.ndarray, logs: np.ndarray, is_ans: bool) -> _Tables:
    """Take decoding tables apart (`decode_table` of the two codes)."""
    masks = (1 << logs) - 1
    if not is_ans:
        return _Tables((entries >> 8).astype(np.uint16), (entries & 0xFF).astype(np.int64), None, None, logs, masks)
    sizes = (entries & 15).astype(np.int64)
    following = (entries >> 4 & 0xFFF).astype(np.int64)
    return _Tables((entries >> 16).astype(np.uint16), sizes, (1 << sizes) - 1, following, logs, masks)


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


@dataclass
class _Lanes:
    """Chunks that are being decoded side by side; each attribute has an entry a lane.

    Attributes:
        position: int64, bits.
        window: uint64, the bits that come next.
        mask: int64, 2 ** log - 1 of its table.
        base: int64, where its table begins.
        state: int64, of table ANS.
        index: int64, where the next symbol is in the tables.
    """

    position: np.ndarray
    window: np.ndarray
    mask: np.ndarray
    base: np.ndarray
    state: np.ndarray
    index: np.ndarray

    def first(self, lanes: int) -> _Lanes:
        """Return the first lanes alone."""
        return _Lanes(*(getattr(self, field.name)[:lanes] for field in fields(self)))


def _advance(
    words: np.ndarray, starts: np.ndarray, count: np.ndarray, tables: _Tables, base: np.ndarray, switches: list[_Switch]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Run the lanes; return (symbols, (longest, lanes), uint16; end positions and last states, int64)."""
    now = _start(words, starts, tables, base)
    rows = np.empty((int(count[0]), len(count)), dtype=np.uint16)
    stops, states = np.empty(len(count), dtype=np.int64), np.zeros(len(count), dtype=np.int64)
    # active[step] = lanes that have a symbol left.
    active = len(count) - np.searchsorted(count[::-1], np.arange(int(count[0])), side="right")
    for step, lanes in enumerate(active.tolist()):
        if lanes < (before := len(now.position)):
            stops[lanes:before], states[lanes:before] = now.position[lanes:], now.state[lanes:]
            now = now.first(lanes)
        for switch in switches:
            if step % switch.segment == 0:
                live = int(np.searchsorted(switch.lanes, lanes))
                now.base[switch.lanes[:live]] = switch.bases[step // switch.segment, :live] if live else 0
        if step % 4 == 0:  # a window serves four symbols
            _look(words, now.position, now.window)
        _step(now, tables, rows[step, :lanes])
    stops[: len(now.position)], states[: len(now.position)] = now.position, now.state
    return rows, stops, states


def _start(words: np.ndarray, starts: np.ndarray, tables: _Tables, base: np.ndarray) -> _Lanes:
    window, state = np.empty(len(starts), dtype=np.uint64), np.zeros(len(starts), dtype=np.int64)
    position = starts.copy()
    if tables.following is not None:
        _look(words, position, window)
        state = window.view(np.int64) & tables.masks
        position += tables.logs
    return _Lanes(position, window, tables.masks, base, state, np.empty(len(starts), dtype=np.int64))


def _step(now: _Lanes, tables: _Tables, out: np.ndarray) -> None:
    """Decode a symbol of each lane into `out`, (lanes,), uint16."""
    index = now.index
    if tables.following is None:
        np.bitwise_and(now.window.view(np.int64), now.mask, out=index)
        np.add(index, now.base, out=index)
    else:
        np.add(now.state, now.base, out=index)
    tables.symbols.take(index, out=out, mode="clip")
    size = tables.sizes.take(index, mode="clip")
    if tables.following is not None and tables.lows is not None:
        np.bitwise_and(now.window.view(np.int64), tables.lows.take(index, mode="clip"), out=now.state)
        np.add(now.state, tables.following.take(index, mode="clip"), out=now.state)
    np.right_shift(now.window, size.view(np.uint64), out=now.window)
    np.add(now.position, size, out=now.position)


def _look(words: np.ndarray, position: np.ndarray, window: np.ndarray) -> None:
    """Put the 64 bits from each position on, (lanes,), int64, into `window`, (lanes,), uint64."""
    at, bit = position >> 6, (position & 63).view(np.uint64)
    words.take(at, out=window, mode="clip")
    np.right_shift(window, bit, out=window)
    upper = words.take(at + 1, mode="clip")
    np.left_shift(upper, _ONE, out=upper)
    np.left_shift(upper, bit ^ _MOST, out=upper)  # together by 64 - bit, which no shift can be if that is 64
    np.bitwise_or(window, upper, out=window)


def _of_lanes(rows: np.ndarray, lanes: np.ndarray) -> np.ndarray:
    """Return the symbols of some lanes, (lanes, steps), uint16, from those of each step, (steps, all lanes)."""
    found = np.empty((len(lanes), len(rows)), dtype=rows.dtype)
    first = int(lanes[0])
    # Lanes of a stream follow each other as a rule, but for its last chunk.
    straight = len(lanes) - 1 if np.array_equal(lanes[:-1], np.arange(first, first + len(lanes) - 1)) else 0
    for step in range(0, len(rows), _TILE):
        tile = rows[step : step + _TILE]
        found[:straight, step : step + _TILE] = tile[:, first : first + straight].T
        found[straight:, step : step + _TILE] = tile[:, lanes[straight:]].T
    return found


def _expand(symbols: np.ndarray, expand: np.ndarray) -> np.ndarray:
    """Return the bytes of the symbols, (count * group,), uint8."""
    group = expand.shape[1]
    if group in (1, 2, 4, 8):  # gather whole groups as one integer
        return np.take(expand.view(f"u{group}")[:, 0], symbols).view(np.uint8)
    return np.take(expand, symbols, axis=0).reshape(-1)
