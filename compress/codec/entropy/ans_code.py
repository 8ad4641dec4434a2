"""Static table ANS: a code without Huffman's one-bit floor, for streams of few and very unequal symbols.

A table of 2 ** log states is filled with symbols in proportion to their counts; coding a symbol moves
from state to state and writes some bits, on average log2(2 ** log / count) of them. Everything here is
integer arithmetic, so the same counts give the same code on every machine.
"""

from __future__ import annotations

from functools import cache

import numpy as np

MIN_LOG, MAX_LOG = 5, 12
_FRACTION_BITS = 16  # fixed point of logarithms


@cache
def log2_table() -> np.ndarray:
    """Return round-down(log2(i) * 2 ** 16) for i of 0..4096 (0 for i = 0), (4097,), int64; read-only.

    Source:
        Bit-by-bit logarithm: squaring a number in [1, 2) gives the next binary digit of its log2.
    """
    numbers = np.arange(1, (1 << MAX_LOG) + 1, dtype=np.int64)
    whole = np.array([int(number).bit_length() - 1 for number in numbers], dtype=np.int64)
    mantissa = numbers << (30 - whole)  # [1, 2) in units of 2 ** -30
    logarithm = whole << _FRACTION_BITS
    for place in range(_FRACTION_BITS - 1, -1, -1):
        mantissa = mantissa * mantissa >> 30
        passed = mantissa >= 1 << 31
        logarithm += passed.astype(np.int64) << place
        mantissa = np.where(passed, mantissa >> 1, mantissa)
    table = np.concatenate([[0], logarithm])
    table.flags.writeable = False
    return table


def coded_bits(counts: np.ndarray, table: np.ndarray) -> int:
    """Return about how many bits a table codes these symbols in, rounded up; never less than one.

    Args:
        counts: (symbols,), int64, how often each occurs.
        table: (symbols,), int64, counts of the table; positive where `counts` is.
    """
    log = int(table.sum()).bit_length() - 1
    scaled = (log << _FRACTION_BITS) - log2_table()[table]
    return max((int(counts @ np.where(counts > 0, scaled, 0)) >> _FRACTION_BITS) + 1, 1)


def normalize(counts: np.ndarray, log: int) -> np.ndarray:
    """Return counts scaled to the sum 2 ** log, at least 1 wherever a symbol occurs.

    Args:
        counts: (symbols,), int64, below 2 ** 50; at least two and at most 2 ** log of them positive.
        log: see above.
    """
    total = int(counts.sum())
    size = 1 << log
    scaled = np.where(counts > 0, np.maximum(counts * size // total, 1), 0)
    rest = size - int(scaled.sum())
    while rest > 0:  # to those who gain most bits from one more
        gains = _gains(counts, scaled, 1)
        take = min(rest, max(int(np.count_nonzero(counts)) // 4, 1))
        scaled[np.argsort(-gains, kind="stable")[:take]] += 1
        rest -= take
    while rest < 0:  # from those who lose least
        losses = np.where(scaled > 1, _gains(counts, scaled - 1, 1), np.iinfo(np.int64).max)
        give = min(-rest, max(int(np.count_nonzero(scaled > 1)) // 4, 1))
        scaled[np.argsort(losses, kind="stable")[:give]] -= 1
        rest += give
    return scaled


def _gains(counts: np.ndarray, scaled: np.ndarray, step: int) -> np.ndarray:
    logs = log2_table()
    usable = (counts > 0) & (scaled > 0)
    before, after = np.where(usable, scaled, 1), np.where(usable, scaled + step, 1)
    weights = counts >> max(int(counts.max()).bit_length() - 40, 0)
    return np.where(usable, weights * (logs[np.minimum(after, len(logs) - 1)] - logs[before]), -1)


def spread(table: np.ndarray) -> np.ndarray:
    """Return the symbol of every state, (2 ** log,), int64.

    Symbols are laid out in their order, each as often as its count, every (size/2 + size/8 + 3)th place.

    Source:
        Collet, FSE; RFC 8878, section 4.1.1.
    """
    size = int(table.sum())
    step = (size >> 1) + (size >> 3) + 3
    symbols = np.empty(size, dtype=np.int64)
    symbols[np.arange(size) * step % size] = np.repeat(np.arange(len(table)), table)
    return symbols


def _numbered(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return for every state its symbol and count[symbol] + how many states before it have the same symbol."""
    symbols = spread(table)
    order = np.argsort(symbols.astype(np.uint16), kind="stable")  # of 16 bits: by radix, in linear time
    first = np.cumsum(table) - table
    numbers = np.empty(len(symbols), dtype=np.int64)
    numbers[order] = np.arange(len(symbols)) - first[symbols[order]] + table[symbols[order]]
    return symbols, numbers


def decode_table(table: np.ndarray) -> np.ndarray:
    """Return the table that maps a state to (symbol << 16 | next state << 4 | bits to read).

    Args:
        table: (symbols,), int64, counts with the sum 2 ** log.

    Returns:
        (2 ** log,), uint32. The bits read are added to the next state.
    """
    symbols, numbers = _numbered(table)
    log = len(symbols).bit_length() - 1
    bits = log - (np.frexp(numbers.astype(np.float64))[1].astype(np.int64) - 1)  # exact: numbers are small
    following = (numbers << bits) - len(symbols)
    decoded: np.ndarray = (symbols << 16 | following << 4 | bits).astype(np.uint32)
    return decoded


def encode_tables(table: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (states, offsets, thresholds) for coding.

    Coding a symbol in state x (0 .. 2 ** log - 1) with X = x + 2 ** log: bits = thresholds[symbol] >> 16,
    one more if X >= thresholds[symbol] & 0xFFFF; the low `bits` bits of X are written and the new state
    is states[offsets[symbol] + (X >> bits)].

    Returns:
        states: (2 ** log,), int64; offsets: (symbols,), int64; thresholds: (symbols,), int64.
    """
    symbols, numbers = _numbered(table)
    size = len(symbols)
    log = size.bit_length() - 1
    first = np.cumsum(table) - table
    states = np.empty(size, dtype=np.int64)
    states[first[symbols] + numbers - table[symbols]] = np.arange(size)
    counts = np.maximum(table, 1)
    longest = np.frexp((counts - 1).astype(np.float64))[1].astype(np.int64)  # ceil(log2(count)), exact
    least = log - longest
    return states, first - table, least << 16 | counts << (least + 1)
