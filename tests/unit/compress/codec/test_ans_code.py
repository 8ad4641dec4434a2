import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.codec.entropy.ans_code import (
    MAX_LOG,
    coded_bits,
    decode_table,
    encode_tables,
    log2_table,
    normalize,
    spread,
)

COUNTS = st.lists(st.integers(0, 10**9), min_size=2, max_size=300).filter(lambda c: sum(x > 0 for x in c) >= 2)


@settings(max_examples=60, deadline=None)
@given(COUNTS, st.integers(9, MAX_LOG))
def test_normalized_counts_fill_the_table_and_forget_no_symbol(counts, log):
    table = normalize(np.array(counts), log)
    assert table.sum() == 1 << log
    assert ((table > 0) == (np.array(counts) > 0)).all()


def test_logarithms_are_those_of_math():
    exact = [math.log2(i) * 2**16 for i in range(1, 4097)]
    assert np.abs(log2_table()[1:] - exact).max() < 2


@settings(max_examples=40, deadline=None)
@given(COUNTS, st.lists(st.integers(0, 10**6), min_size=1, max_size=200))
def test_what_a_state_machine_writes_backwards_another_reads_forwards(counts, picks):
    table = normalize(np.array(counts), 10)
    used = np.flatnonzero(table)
    symbols = [int(used[pick % len(used)]) for pick in picks]
    states, offsets, thresholds = encode_tables(table)
    size = int(table.sum())
    state, written = 0, []
    for symbol in reversed(symbols):
        whole = state + size
        bits = int(thresholds[symbol] >> 16) + (whole >= int(thresholds[symbol]) & 0xFFFF)
        written.append(whole & ((1 << bits) - 1))
        state = int(states[offsets[symbol] + (whole >> bits)])
    decoding = decode_table(table)
    for symbol, value in zip(symbols, reversed(written), strict=True):
        entry = int(decoding[state])
        assert entry >> 16 == symbol
        state = (entry >> 4 & 0xFFF) + value
    assert state == 0


def test_the_estimate_is_what_is_written():
    rng = np.random.default_rng(0)
    counts = np.array([5000, 300, 40, 5, 1])
    table = normalize(counts, 12)
    states, offsets, thresholds = encode_tables(table)
    state, total = 0, 0
    for symbol in rng.permutation(np.repeat(np.arange(5), counts)):
        whole = state + 4096
        bits = int(thresholds[symbol] >> 16) + (whole >= int(thresholds[symbol]) & 0xFFFF)
        total += bits
        state = int(states[offsets[symbol] + (whole >> bits)])
    assert coded_bits(counts, table) == pytest.approx(total, rel=0.01)


def test_symbols_are_spread_evenly():
    symbols = spread(np.array([16, 16]))
    assert abs(int(np.bincount(symbols[:16])[0]) - 8) <= 1
