"""Prefix codes: optimal lengths, limited to `MAX_LENGTH` bits, made canonical.

Everything here is integer arithmetic, so the same counts give the same code on every machine.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from compress.errors import CodecError

MAX_LENGTH = 14  # four codes fit into one 57-bit window
MAX_ALPHABET = 4096
_MANY = 512
_ROOM = 1 << np.arange(MAX_LENGTH - 1, -1, -1)  # that a code of each length takes of all longest ones


def code_lengths(counts: np.ndarray, limit: int = MAX_LENGTH) -> np.ndarray:
    """Return the code length of every symbol.

    The lengths come from the package `huffman`; where its longest code exceeds the limit, or so many symbols
    occur that it would be slow, they are replaced by the optimal lengths under that limit.

    Args:
        counts: (symbols,), int64, >= 0; at least two of them positive.
        limit: longest code allowed, bits.

    Returns:
        (symbols,), int64; 0 for symbols that never occur.

    Raises:
        CodecError: the package `huffman` is not installed.
        ValueError: fewer than two symbols occur, or more than the limit can tell apart.

    Source:
        Huffman 1952; Larmore and Hirschberg 1990 for the limit.
    """
    used = np.flatnonzero(counts)
    if not 2 <= len(used) <= 1 << limit:
        raise ValueError(f"{len(used)} symbols occur; a code of at most {limit} bits needs 2 to {1 << limit}")
    if len(used) > _MANY:
        return quick_lengths(counts, limit)
    try:
        import huffman
    except ImportError as error:
        raise CodecError("the package 'huffman' is missing; packing needs it. Install krimp[compress].") from error
    weights = counts[used].astype(np.int64)
    book = huffman.codebook(list(enumerate(weights.tolist())))
    found = np.fromiter((len(book[i]) for i in range(len(used))), dtype=np.int64, count=len(used))
    if found.max() > limit:
        found = limited_lengths(weights, limit)
    lengths = np.zeros(len(counts), dtype=np.int64)
    lengths[used] = found
    return lengths


def quick_lengths(counts: np.ndarray, limit: int = MAX_LENGTH) -> np.ndarray:
    """Return lengths that code the counts in as few bits as `code_lengths`, ties broken otherwise.

    Args:
        counts: (symbols,), int64, >= 0; at least two of them positive.
        limit: longest code allowed, bits.

    Returns:
        (symbols,), int64; 0 for symbols that never occur.
    """
    used = np.flatnonzero(counts)
    lengths = np.zeros(len(counts), dtype=np.int64)
    lengths[used] = limited_lengths(counts[used].astype(np.int64), limit)
    return lengths


def limited_lengths(weights: np.ndarray, limit: int) -> np.ndarray:
    """Return optimal code lengths of at most `limit` bits (package-merge).

    Args:
        weights: (symbols,), int64, > 0, 2 <= symbols <= 2 ** limit.
        limit: longest code allowed, bits.

    Returns:
        (symbols,), int64, 1..limit, with Kraft sum exactly 1.

    Source:
        Larmore and Hirschberg 1990, "A fast algorithm for optimal length-limited Huffman codes".
    """
    order = np.argsort(weights, kind="stable")
    leaves = weights[order]
    count = len(leaves)
    merged = leaves
    is_leaf: np.ndarray = np.ones(count, dtype=bool)
    levels = [is_leaf]
    for _ in range(limit - 1):
        pairs = len(merged) // 2
        packages = merged[0 : 2 * pairs : 2] + merged[1 : 2 * pairs : 2]
        both = np.concatenate([leaves, packages])
        place = np.argsort(both, kind="stable")
        merged, is_leaf = both[place], place < count
        levels.append(is_leaf)
    sorted_lengths = np.zeros(count, dtype=np.int64)
    take = 2 * count - 2
    for is_leaf in reversed(levels):
        taken = int(np.count_nonzero(is_leaf[:take]))
        sorted_lengths[:taken] += 1
        take = 2 * (take - taken)
    lengths = np.empty(count, dtype=np.int64)
    lengths[order] = sorted_lengths
    return lengths


def is_complete(lengths: np.ndarray) -> bool:
    """Return True if the lengths belong to a complete prefix code (Kraft sum exactly 1)."""
    counts = np.bincount(lengths, minlength=MAX_LENGTH + 1)
    if len(counts) > MAX_LENGTH + 1 or int(counts[1:].sum()) < 2:
        return False
    return int(counts[1:] @ _ROOM) == 1 << MAX_LENGTH


def canonical_codes(lengths: np.ndarray) -> np.ndarray:
    """Return the codes, bit-reversed so that the first bit is the least significant one.

    Codes are given out in the order of (length, symbol), as in RFC 1951, section 3.2.2.

    Args:
        lengths: (symbols,), int64, a complete code.

    Returns:
        (symbols,), int64; 0 for unused symbols.
    """
    order = _canonical_order(lengths)
    room = 1 << (MAX_LENGTH - lengths[order])  # in units of the longest code, each starts where the one before ends
    codes = np.zeros(len(lengths), dtype=np.int64)
    codes[order] = _reversed_bits(MAX_LENGTH)[np.cumsum(room) - room]
    return codes


def decode_table(lengths: np.ndarray, log: int) -> np.ndarray:
    """Return the table that maps the next bits to (symbol << 8 | length).

    Args:
        lengths: (symbols,), int64, a complete code of at most `MAX_ALPHABET` symbols.
        log: bits looked at, at least the longest length.

    Returns:
        (2 ** log,), uint32; index = the next bits, first bit least significant.
    """
    order = _canonical_order(lengths)
    sizes = lengths[order]
    by_code = np.repeat((order << 8 | sizes).astype(np.uint32), 1 << (log - sizes))
    table: np.ndarray = by_code[_reversed_bits(log)]
    return table


def _canonical_order(lengths: np.ndarray) -> np.ndarray:
    order = np.argsort(lengths, kind="stable")
    return order[np.count_nonzero(lengths == 0) :]


@cache
def _reversed_bits(width: int) -> np.ndarray:
    """Return the numbers of `width` bits, each with its bits in the opposite order; read-only."""
    rest: np.ndarray = np.arange(1 << width)
    reversed_: np.ndarray = np.zeros_like(rest)
    for _ in range(width):
        reversed_ = reversed_ << 1 | rest & 1
        rest = rest >> 1
    reversed_.flags.writeable = False
    return reversed_
