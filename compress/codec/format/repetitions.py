"""From groups of bytes and numbers to the bytes, each group as often as it is there (FORMAT.md, section 8)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from compress.codec.format.layout import Runs

_BLOCK = 1 << 22  # bytes at a time


def spread(way: Runs, values: np.ndarray, numbers: np.ndarray, num_bytes: int) -> Iterator[np.ndarray]:
    """Yield the bytes of a tensor in order, whole groups at a time, in memory that does not grow with it.

    Args:
        way: how groups are repeated.
        values: (groups * way.group,), uint8.
        numbers: (numbers * way.width,), uint8, little-endian.
        num_bytes: of the tensor.

    Raises:
        ValueError: there are more or fewer numbers or bits than groups need, or other bytes come of them.
    """
    if way.announced == 0:
        yield from _placed(way.group, values, numbers, num_bytes // way.group)
        return
    groups = values.reshape(-1, way.group)
    counts = np.ones(len(groups), dtype=np.int64)
    announces = np.arange(len(groups)) if way.announced == 1 else second_ones(groups)
    more = numbers.view(f"<u{way.width}")
    if len(more) != len(announces):
        raise ValueError(f"{len(more)} numbers of repetitions; the groups need {len(announces)}")
    counts[announces] += more
    ends = np.cumsum(counts)
    if int(ends[-1]) * way.group != num_bytes:
        raise ValueError(f"{int(ends[-1])} groups of {way.group} bytes; the index says {num_bytes} bytes")
    step = max(_BLOCK // way.group, 1)
    for start in range(0, int(ends[-1]), step):
        stop = min(start + step, int(ends[-1]))
        first, last = np.searchsorted(ends, (start, stop - 1), side="right")
        inside = counts[first : last + 1].copy()
        inside[0] = min(int(ends[first]), stop) - start
        if last > first:
            inside[-1] = stop - int(ends[last - 1])
        yield np.repeat(groups[first : last + 1], inside, axis=0).reshape(-1)


def _placed(group: int, values: np.ndarray, mask: np.ndarray, count: int) -> Iterator[np.ndarray]:
    """Yield groups where bits are 1, one after the other, and the first of them where bits are 0."""
    if len(mask) != -(-count // 8):
        raise ValueError(f"{len(mask)} bytes of bits; {count} groups need {-(-count // 8)}")
    kind = np.dtype(f"<u{group}") if group in (1, 2, 4, 8) else np.dtype(f"V{group}")
    groups, at = values.view(kind), 1
    step = max(_BLOCK // group // 8, 1) * 8
    for start in range(0, count, step):
        bits = np.unpackbits(mask[start // 8 : (start + step) // 8], bitorder="little")
        is_other, spare = bits[: count - start].view(bool), bits[count - start :]
        number = int(np.count_nonzero(is_other))
        if at + number > len(groups) or spare.any():
            raise ValueError(f"more bits are 1 than there are groups, which are {len(groups)}, and places, {count}")
        out = np.empty(len(is_other), dtype=kind)
        out[:] = groups[0]
        out[is_other] = groups[at : at + number]
        at += number
        yield out.view(np.uint8)
    if at != len(groups):
        raise ValueError(f"{at - 1} bits are 1; {len(groups)} groups need {len(groups) - 1}")


def second_ones(groups: np.ndarray) -> np.ndarray:
    """Return the places of groups that equal the one before, (n,), int64, for (groups, bytes), uint8."""
    return np.flatnonzero((groups[1:] == groups[:-1]).all(axis=1)) + 1
