"""COCO's run-length masks: from the two ways of writing them to the points around what they cover. NumPy only.

A mask is counted column by column, top to bottom: so many pixels outside, so many inside, and so on. Pixel
(row, column) covers the square from (column, row) to (column + 1, row + 1), so a single pixel has an area of 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np

_MAX_SIDE = 1 << 24  # px
_FIRST = 48  # the character for 0: '0'
_MORE, _SIGN, _BITS = 0x20, 0x10, 5


def decode_counts(text: str) -> list[int]:
    """Return the run lengths of a compressed mask.

    Args:
        text: 5 bits a character, from '0' on, the low ones first; from the fourth number on each is stored as the
            difference to the one two places before.

    Raises:
        ValueError: a character that cannot be there, or the text ends inside a number.

    Source:
        COCO API, `maskApi.c`, `rleFrString` (Lin et al. 2014).
    """
    counts: list[int] = []
    value = shift = 0
    for position, character in enumerate(text):
        bits = ord(character) - _FIRST
        if not 0 <= bits < 64:
            raise ValueError(f"counts has {character!r} at place {position}, expected characters from '0' to 'o'")
        value |= (bits & (_MORE - 1)) << shift
        shift += _BITS
        if bits & _MORE:
            continue
        if bits & _SIGN:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError("counts ends inside a number, expected a complete text")
    return counts


def read_mask(mask: dict[str, Any]) -> tuple[np.ndarray, int, int]:
    """Return (run lengths (n,) int64, height, width) of a mask in COCO's JSON, compressed or not.

    Raises:
        ValueError: size or counts are missing or wrong, or the runs do not fill the size; the text says what was
            expected.
    """
    size, counts = mask.get("size"), mask.get("counts")
    if not (isinstance(size, list) and len(size) == 2 and all(type(n) is int and 0 < n <= _MAX_SIDE for n in size)):
        raise ValueError(f"size is {size!r}, expected [height, width] in pixels")
    if isinstance(counts, str):
        counts = decode_counts(counts)
    if not (isinstance(counts, list) and all(type(n) is int and n >= 0 for n in counts)):
        raise ValueError("counts is neither a list of run lengths nor a compressed text")
    height, width = size
    if sum(counts) != height * width:
        raise ValueError(f"counts add up to {sum(counts)} pixels, expected {height} x {width} = {height * width}")
    return np.array(counts, np.int64), height, width


def outline_points(counts: np.ndarray, height: int) -> np.ndarray:
    """Return corner points of the pixels of a mask, enough of them for its convex hull.

    Args:
        counts: (n,) run lengths, outside first.
        height: of the mask, px.

    Returns:
        (k, 2) float64, x and y, px; none where nothing is covered.
    """
    ends = np.cumsum(counts)
    start, end = (ends - counts)[1::2], ends[1::2]
    start, end = start[start < end], end[start < end]
    first, top = np.divmod(start, height)
    last, bottom = np.divmod(end - 1, height)
    one = first == last  # the run stays in one column
    full = last - first > 1  # it covers whole columns between its first and its last
    left = np.concatenate([first, last, first[full] + 1])
    right = np.concatenate([first + 1, last + 1, last[full]])
    upper = np.concatenate([top, np.where(one, top, 0), np.zeros(full.sum(), np.int64)])
    lower = np.concatenate([np.where(one, bottom + 1, height), bottom + 1, np.full(full.sum(), height)])
    x = np.stack([left, right, right, left], axis=1).reshape(-1)
    y = np.stack([upper, upper, lower, lower], axis=1).reshape(-1)
    return np.stack([x, y], axis=1).astype(np.float64)
