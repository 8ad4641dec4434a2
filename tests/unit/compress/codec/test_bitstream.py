from contextlib import suppress
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.codec.bitstream import decode_symbols, encode_symbols
from compress.codec.prefix_code import code_lengths


def code_of(symbols, alphabet):
    """Return the lengths for some symbols; 0 and 1 always have a code."""
    counts = np.bincount(symbols, minlength=alphabet)
    counts[:2] += 1
    return code_lengths(counts)


def decode(coded, count, lengths, chunk_log2, backend):
    fields = asdict(coded)
    return decode_symbols(fields.pop("payload"), count, lengths, chunk_log2=chunk_log2, backend=backend, **fields)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5000), st.sampled_from([2, 3, 16, 256, 4096]), st.integers(2, 12), st.integers(0, 2**32 - 1))
def test_numpy_and_numba_write_the_same_bytes_and_read_them_back(count, alphabet, chunk_log2, seed):
    rng = np.random.default_rng(seed)
    symbols = np.minimum(rng.geometric(rng.uniform(0.01, 0.9), count) - 1, alphabet - 1).astype(np.uint16)
    lengths = code_of(symbols, alphabet)
    slow = encode_symbols(symbols, lengths, chunk_log2=chunk_log2, backend="numpy")
    fast = encode_symbols(symbols, lengths, chunk_log2=chunk_log2, backend="numba")
    assert slow.payload.tobytes() == fast.payload.tobytes()
    assert (slow.total_bits, slow.min_bits, slow.width) == (fast.total_bits, fast.min_bits, fast.width)
    for backend in ("numpy", "numba"):
        assert np.array_equal(decode(slow, count, lengths, chunk_log2, backend), symbols)


def test_blocks_of_the_numpy_encoder_join_without_a_seam():
    symbols = np.minimum(np.random.default_rng(0).geometric(0.2, (1 << 20) + 77), 30).astype(np.uint16)
    lengths = code_of(symbols, 32)
    slow = encode_symbols(symbols, lengths, backend="numpy")
    assert slow.payload.tobytes() == encode_symbols(symbols, lengths, backend="numba").payload.tobytes()


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_no_damaged_payload_is_read_beyond_its_end(backend):
    rng = np.random.default_rng(1)
    symbols = rng.integers(0, 200, 3000).astype(np.uint16)
    lengths = code_of(symbols, 256)
    coded = encode_symbols(symbols, lengths, chunk_log2=6)
    for _ in range(50):
        damaged = coded.payload.copy()
        damaged[rng.integers(0, len(damaged), 40)] = rng.integers(0, 256, 40)
        with suppress(ValueError):
            found = decode_symbols(
                damaged, 3000, lengths, chunk_log2=6, total_bits=coded.total_bits,
                min_bits=coded.min_bits, width=coded.width, backend=backend,
            )  # fmt: skip
            assert len(found) == 3000
