from contextlib import suppress
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.codec.bitstream import encode_symbols
from compress.codec.prefix_code import code_lengths
from compress.codec.stream_decoder import StreamError, StreamJob, decode_streams


def code_of(symbols, alphabet):
    """Return the lengths for some symbols; 0 and 1 always have a code."""
    counts = np.bincount(symbols, minlength=alphabet)
    counts[:2] += 1
    return code_lengths(counts)


def job(coded, count, lengths, chunk_log2):
    return StreamJob(count=count, lengths=lengths, chunk_log2=chunk_log2, **asdict(coded))


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
        (found,) = decode_streams([job(slow, count, lengths, chunk_log2)], backend)
        assert np.array_equal(found, symbols)


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
        payload = coded.payload.copy()
        payload[rng.integers(0, len(payload), 40)] = rng.integers(0, 256, 40)
        with suppress(ValueError):
            (found,) = decode_streams([job(replace(coded, payload=payload), 3000, lengths, 6)], backend)
            assert len(found) == 3000


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 3000), st.integers(2, 10), st.integers(2, 300)), max_size=8))
def test_streams_of_all_lengths_and_codes_are_decoded_together(shapes):
    rng = np.random.default_rng(len(shapes))
    jobs, expected = [], []
    for count, chunk_log2, alphabet in shapes:
        symbols = np.minimum(rng.geometric(0.1, count) - 1, alphabet - 1).astype(np.uint16)
        lengths = code_of(symbols, alphabet)
        jobs.append(job(encode_symbols(symbols, lengths, chunk_log2=chunk_log2), count, lengths, chunk_log2))
        expected.append(symbols)
    for backend in ("numpy", "numba"):
        for found, symbols in zip(decode_streams(jobs, backend), expected, strict=True):
            assert np.array_equal(found, symbols)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_the_damaged_stream_is_named(backend):
    symbols = np.random.default_rng(0).integers(0, 200, 3000).astype(np.uint16)
    lengths = code_of(symbols, 256)
    good = job(encode_symbols(symbols, lengths, chunk_log2=6), 3000, lengths, 6)
    with pytest.raises(StreamError) as caught:
        decode_streams([good, good, replace(good, count=2999), good], backend)
    assert caught.value.number == 2
