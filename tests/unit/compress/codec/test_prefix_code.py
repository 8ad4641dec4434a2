from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.codec.entropy.prefix_code import (
    MAX_LENGTH,
    canonical_codes,
    code_lengths,
    decode_table,
    is_complete,
    limited_lengths,
    quick_lengths,
)

COUNTS = st.lists(st.integers(0, 10**9), min_size=2, max_size=300).filter(lambda c: sum(x > 0 for x in c) >= 2)


def as_text(code, length):
    """Return a bit-reversed code as text, first bit first."""
    return "".join(str(int(code) >> i & 1) for i in range(length))


@settings(max_examples=60, deadline=None)
@given(COUNTS)
def test_lengths_form_a_complete_code_within_the_limit(counts):
    lengths = code_lengths(np.array(counts))
    assert is_complete(lengths)
    assert lengths.max() <= MAX_LENGTH
    assert ((lengths > 0) == (np.array(counts) > 0)).all()


@settings(max_examples=60, deadline=None)
@given(COUNTS)
def test_quick_lengths_cost_as_much_as_those_of_the_huffman_package(counts):
    weights = np.array(counts)
    assert int(weights @ quick_lengths(weights)) == int(weights @ code_lengths(weights).astype(np.int64))


@settings(max_examples=60, deadline=None)
@given(COUNTS)
def test_codes_are_canonical_and_prefix_free(counts):
    lengths = code_lengths(np.array(counts))
    codes = canonical_codes(lengths)
    used = sorted(np.flatnonzero(lengths), key=lambda s: (lengths[s], s))
    texts = [as_text(codes[s], lengths[s]) for s in used]
    assert texts == sorted(texts)  # prefix-free codes of growing length in numeric order
    assert not any(b.startswith(a) for a, b in pairwise(texts))


def test_table_gives_every_symbol_for_every_continuation():
    lengths = np.array([1, 0, 3, 3, 2])
    codes, table = canonical_codes(lengths), decode_table(lengths, 3)
    for symbol, length in enumerate(lengths):
        if length:
            for rest in range(1 << 3 - length):
                entry = int(table[int(codes[symbol]) | rest << length])
                assert (entry >> 8, entry & 0xFF) == (symbol, length)


def test_fibonacci_counts_are_limited_to_the_optimal_limited_code():
    counts = [1, 1]
    while len(counts) < 40:
        counts.append(counts[-1] + counts[-2])
    lengths = code_lengths(np.array(counts))
    assert lengths.max() == MAX_LENGTH
    assert is_complete(lengths)


def test_package_merge_finds_the_best_of_all_limited_codes():
    weights = np.array([1, 2, 3, 5, 20])
    best = min(
        sum(w * x for w, x in zip(weights, (a, b, c, d, e), strict=True))
        for a in range(1, 4) for b in range(1, 4) for c in range(1, 4) for d in range(1, 4) for e in range(1, 4)
        if sum(2.0**-x for x in (a, b, c, d, e)) <= 1
    )  # fmt: skip
    assert int(weights @ limited_lengths(weights, 3)) == best


@pytest.mark.parametrize("counts", [[0, 0], [5], [0, 7, 0]])
def test_fewer_than_two_symbols_are_refused(counts):
    with pytest.raises(ValueError, match="symbols occur"):
        code_lengths(np.array(counts))
