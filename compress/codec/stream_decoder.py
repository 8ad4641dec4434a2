"""Reading streams of symbols: all chunks of many streams side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from compress.codec import ans_code, prefix_code
from compress.codec.bitstream import choose_backend, unpack_uints
from compress.codec.layout import COUNTS, Stream, Table

TAIL = 16  # bytes that must follow the codes, so that windows never end outside
_BLOCK = 1 << 21  # symbols decoded at a time by NumPy: bounds its memory


@dataclass(frozen=True)
class StreamJob:
    """One stream to decode.

    Attributes:
        data: (>= size + TAIL,), uint8, read-only: its payload, then anything.
        size: bytes of the payload.
        count: symbols, >= 1.
        stream: its description, not constant.
        tables: tables of its classes.
        expand: (alphabet, group), uint8: the bytes that each symbol stands for.
        out: (values,), uint8, contiguous; count * group of them or up to group - 1 less.
    """

    data: np.ndarray
    size: int
    count: int
    stream: Stream
    tables: tuple[Table, ...]
    expand: np.ndarray
    out: np.ndarray


class StreamError(ValueError):
    """A stream contradicts itself; `number` says which of the jobs."""

    def __init__(self, number: int, what: str) -> None:
        self.number = number
        super().__init__(what)


@dataclass(frozen=True)
class _Split:
    """Where the parts of a stream are.

    Attributes:
        classes: (segments,), uint8.
        code_byte: first byte of the codes.
        starts, ends: (chunks,), int64, bits from there.
    """

    classes: np.ndarray
    code_byte: int
    starts: np.ndarray
    ends: np.ndarray


def decode_streams(jobs: Sequence[StreamJob], backend: str = "auto") -> None:
    """Decode streams into their `out`; the more at once, the faster NumPy is.

    Args:
        jobs: the streams.
        backend: 'auto', 'numpy' or 'numba' (same bytes).

    Raises:
        StreamError: chunk lengths, code bits and padding of a stream do not fit together.
    """
    backend = choose_backend(backend, sum(job.count for job in jobs))
    splits = [_split(number, job, backend) for number, job in enumerate(jobs)]
    if backend == "numba":
        for number, (job, split) in enumerate(zip(jobs, splits, strict=True)):
            _decode_numba(number, job, split)
        return
    for is_ans in (False, True):
        chosen = [number for number, job in enumerate(jobs) if (job.tables[0].form == COUNTS) == is_ans]
        _lock_step(jobs, splits, chosen, is_ans)


def _split(number: int, job: StreamJob, backend: str) -> _Split:
    stream = job.stream
    chunks, segments = -(-job.count // stream.chunk), -(-job.count // stream.segment)
    if job.tables[0].form != COUNTS and job.count > stream.total_bits:
        raise StreamError(number, f"{job.count} symbols in {stream.total_bits} bits; expected a bit or more for each")
    found = _read_numba(job, chunks, segments) if backend == "numba" else None
    classes, ends, code_byte = found or _read_numpy(number, job, chunks, segments)  # which says what is wrong
    if len(job.tables) > 1 and int(classes.max()) >= len(job.tables):
        raise _wrong_classes(number, job)
    if chunks > 1 and not 0 <= int(ends[-2]) < stream.total_bits:
        raise StreamError(
            number,
            f"chunks have {int(ends[-2])} bits without the last one; the index says {stream.total_bits} with it",
        )
    if stream.total_bits & 7 and int(job.data[job.size - 1]) >> (stream.total_bits & 7):
        raise StreamError(number, "padding after the last code is not zero")
    starts = np.zeros(chunks, dtype=np.int64)
    starts[1:] = ends[:-1]
    return _Split(classes, code_byte, starts, ends)


def _wrong_classes(number: int, job: StreamJob) -> StreamError:
    return StreamError(number, f"classes of the segments are not below {len(job.tables)}, or padding is not zero")


def _read_numba(job: StreamJob, chunks: int, segments: int) -> tuple[np.ndarray, np.ndarray, int] | None:
    """Do what `_read_numpy` does; None if something is wrong."""
    from compress.codec import fast_headers

    stream = job.stream
    classes, ends = np.empty(segments, dtype=np.uint8), np.empty(chunks, dtype=np.int64)
    code_byte = fast_headers.split(
        job.data, stream.selector_bits, stream.width, stream.min_bits, stream.total_bits, classes, ends
    )
    return (classes, ends, code_byte) if code_byte >= 0 else None


def _read_numpy(number: int, job: StreamJob, chunks: int, segments: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the class of each segment, uint8, the bit behind each chunk, int64, and the first byte of the codes."""
    stream = job.stream
    class_bytes = (segments * stream.selector_bits + 7) // 8
    code_byte = class_bytes + ((chunks - 1) * stream.width + 7) // 8
    classes = unpack_uints(job.data[:class_bytes], segments, stream.selector_bits)
    if classes is None:
        raise _wrong_classes(number, job)
    stored = unpack_uints(job.data[class_bytes:code_byte], chunks - 1, stream.width)
    if stored is None:
        raise StreamError(number, "padding after the chunk lengths is not zero")
    ends = np.empty(chunks, dtype=np.int64)
    np.cumsum(stored + stream.min_bits, out=ends[:-1])
    ends[-1] = stream.total_bits
    return classes.astype(np.uint8), ends, code_byte


def _table_log(job: StreamJob) -> int:
    return job.tables[0].log or max([table.longest for table in job.tables])


@lru_cache(maxsize=256)  # tables are shared by tensors
def _decode_table(table: Table, log: int, backend: str, names: bytes | None = None) -> np.ndarray:
    """Return what the next `log` bits, or the state, mean, (2 ** log,), read-only; see the two codes."""
    shown = None if names is None else np.frombuffer(names, dtype=np.uint8)
    if table.form == COUNTS:
        decoded = ans_code.decode_table(table.entries, shown)
    elif backend == "numba":
        from compress.codec import fast_headers

        decoded = np.empty(1 << log, dtype=np.uint32 if shown is None else np.uint16)
        symbols = np.arange(table.alphabet) if shown is None else shown
        fast_headers.fill_prefix_table(table.entries, symbols, log, decoded)
    else:
        decoded = prefix_code.decode_table(table.entries, log, shown)
    decoded.flags.writeable = False
    return decoded


def _check_ends(number: int, stops: np.ndarray, ends: np.ndarray, states: np.ndarray | None, first: int = 0) -> None:
    wrong = stops != ends
    if states is not None:
        wrong |= states != 0
    if wrong.any():
        chunk = int(np.flatnonzero(wrong)[0])
        state = "" if states is None else f" in state {int(states[chunk])}"
        raise StreamError(
            number,
            f"codes of chunk {first + chunk} end at bit {int(stops[chunk])}{state};"
            f" the index says {int(ends[chunk])}{'' if states is None else ', and state 0 is the last one'}",
        )


def _decode_numba(number: int, job: StreamJob, split: _Split) -> None:
    from compress.codec import fast, fast_headers

    log, group = _table_log(job), job.expand.shape[1]
    names: bytes | None = None
    expand: np.ndarray | None = None
    if group == 1:  # the byte itself takes the place of the symbol: one look-up less
        names = job.expand.tobytes()
    else:
        wide = np.zeros((len(job.expand), 8), dtype=np.uint8)
        wide[:, :group] = job.expand
        expand = wide.view("<u8")[:, 0]
    found = [_decode_table(table, log, "numba", names) for table in job.tables]
    tables = found[0] if len(found) == 1 else np.concatenate(found)
    tables.flags.writeable = False  # of one type for the compiler
    is_ans = job.tables[0].form == COUNTS
    stops, states = fast.decode(
        job.data,
        split.starts + 8 * split.code_byte,
        tables,
        log,
        is_ans,
        split.classes,
        job.stream.chunk,
        job.stream.segment,
        job.count,
        expand,
        group,
        job.out,
    )
    if not fast_headers.ends_fit(stops, states, split.ends, 8 * split.code_byte):
        _check_ends(number, stops - 8 * split.code_byte, split.ends, states if is_ans else None)


@dataclass
class _Lanes:
    """Chunks that are decoded in one go; lists with an entry for each piece of a stream."""

    pieces: list[tuple[int, int, int]]  # job, first chunk, end chunk
    symbols: int = 0


def _lock_step(jobs: Sequence[StreamJob], splits: list[_Split], chosen: list[int], is_ans: bool) -> None:
    """Decode all chunks of all streams together: one vector operation advances each by a symbol."""
    block = _Lanes([])
    for number in chosen:
        chunk, chunks = jobs[number].stream.chunk, len(splits[number].starts)
        step = max(_BLOCK // chunk, 1)
        for first in range(0, chunks, step):
            stop = min(chunks, first + step)
            size = min(jobs[number].count, stop * chunk) - first * chunk
            if block.pieces and block.symbols + size > _BLOCK:
                _decode_block(jobs, splits, block.pieces, is_ans)
                block = _Lanes([])
            block.pieces.append((number, first, stop))
            block.symbols += size
    if block.pieces:
        _decode_block(jobs, splits, block.pieces, is_ans)


def _decode_block(
    jobs: Sequence[StreamJob], splits: list[_Split], pieces: list[tuple[int, int, int]], is_ans: bool
) -> None:
    tables, bases, logs = _join_tables(jobs, {number for number, _, _ in pieces})
    data, starts, counts, lane_logs, lane_bases, lane_jobs = [], [], [], [], [], []
    at = 0
    for number, first, stop in pieces:
        job, split = jobs[number], splits[number]
        lanes = stop - first
        begin = split.code_byte + int(split.starts[first] >> 3)
        end = split.code_byte + int(split.ends[stop - 1] + 7 >> 3)
        data.append(job.data[begin:end])
        starts.append(split.starts[first:stop] + 8 * (at + split.code_byte - begin))
        at += end - begin
        chunk = job.stream.chunk
        counts.append(np.minimum(chunk, job.count - chunk * np.arange(first, stop)))
        lane_logs.append(np.full(lanes, logs[number]))
        lane_bases.append(np.full(lanes, bases[number]))
        lane_jobs.append(np.arange(first, stop))
    count = np.concatenate(counts)
    order = np.argsort(-count, kind="stable")  # long chunks first: the ones that are done fall off the end
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    switches = _switches(jobs, splits, pieces, place, bases, logs)
    rows, stops, states = _advance(
        np.concatenate([*data, np.zeros(TAIL, dtype=np.uint8)]),
        np.concatenate(starts)[order],
        count[order],
        np.concatenate(lane_logs)[order],
        np.concatenate(lane_bases)[order],
        tables,
        switches,
        is_ans,
    )
    lane = 0
    for (number, first, stop), firsts in zip(pieces, starts, strict=True):
        job, split = jobs[number], splits[number]
        mine = place[lane : lane + stop - first]
        lane += stop - first
        moved = int(firsts[0] - split.starts[first])
        _check_ends(number, stops[mine] - moved, split.ends[first:stop], states[mine] if is_ans else None, first)
        chunk = job.stream.chunk
        size = min(job.count, stop * chunk) - first * chunk
        symbols = np.ascontiguousarray(rows[: min(chunk, size), mine].T).reshape(-1)[:size]
        group = job.expand.shape[1]
        part = job.out[first * chunk * group : (first * chunk + size) * group]
        part[:] = _expand(symbols, job.expand)[: len(part)]


def _join_tables(jobs: Sequence[StreamJob], numbers: set[int]) -> tuple[np.ndarray, dict[int, int], dict[int, int]]:
    """Return all tables behind each other, uint64, and for each job where its first one is and their log."""
    parts, known, bases, logs, at = [], {}, {}, {}, 0
    for number in sorted(numbers):
        job = jobs[number]
        logs[number] = _table_log(job)
        key = (tuple(map(id, job.tables)), logs[number])
        if key not in known:
            known[key] = at
            parts += [_decode_table(table, logs[number], "numpy") for table in job.tables]
            at += len(job.tables) << logs[number]
        bases[number] = known[key]
    return np.concatenate(parts).astype(np.uint64), bases, logs


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


def _switches(
    jobs: Sequence[StreamJob],
    splits: list[_Split],
    pieces: list[tuple[int, int, int]],
    place: np.ndarray,
    bases: dict[int, int],
    logs: dict[int, int],
) -> list[_Switch]:
    found, lane = [], 0
    for number, first, stop in pieces:
        mine = place[lane : lane + stop - first]
        lane += stop - first
        if len(jobs[number].tables) == 1:
            continue
        stream = jobs[number].stream
        each = stream.chunk // stream.segment
        chosen = np.zeros((stop - first) * each, dtype=np.int64)
        classes = splits[number].classes[first * each : stop * each]
        chosen[: len(classes)] = classes
        order = np.argsort(mine)
        columns = chosen.reshape(-1, each)[order].T
        found.append(_Switch(stream.segment, mine[order], bases[number] + (columns << logs[number])))
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
