from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.codec.decoding.stream_reader import StreamReader
from compress.codec.encoding.stream_encoder import encode_symbols
from compress.codec.entropy.ans_code import normalize
from compress.codec.entropy.prefix_code import code_lengths
from compress.codec.format.layout import COUNTS, LENGTHS, Stream, Table
from compress.codec.kernels import by_numba, by_numpy, numpy_decoding
from compress.codec.kernels.bit_packing import pack_fields
from compress.codec.kernels.stream_jobs import TAIL, Expansion, StreamError, StreamJob

FORMS = st.sampled_from([LENGTHS, COUNTS])
SHAPES = st.sampled_from([(2, 1), (16, 1), (256, 1), (4096, 1), (2, 8), (3, 3), (5, 5)])


def table_of(symbols, radix, group, form, twist=0):
    """Return a table for some symbols; 0 and 1 always have a code."""
    counts = np.bincount(symbols, minlength=radix**group)
    counts[:2] += 1
    counts = np.where(counts > 0, counts + twist * np.arange(len(counts)), 0)
    entries = code_lengths(counts) if form == LENGTHS else normalize(counts, 12)
    return Table(radix, group, 0, form, entries)


def tailed(payload):
    """Return a payload with bytes behind it that mean nothing, read-only as a mapped file is."""
    data = np.concatenate([payload, np.full(TAIL, 0xA5, dtype=np.uint8)])
    data.flags.writeable = False
    return data


def job(symbols, tables, chunk, segment, kernels=by_numpy, values=None):
    """Return (what was coded, a job that decodes it, an array for its values)."""
    classes = (np.arange(-(-len(symbols) // segment)) * 7 % len(tables)).astype(np.uint8)
    coded = encode_symbols(symbols, tables, classes, chunk=chunk, segment=segment, kernels=kernels)
    stream = Stream(tuple(range(len(tables))), chunk, segment, coded.total_bits, coded.min_bits, coded.width)
    group, alphabet = tables[0].group, np.arange(tables[0].alphabet)
    expand = np.stack([alphabet // tables[0].radix ** i % tables[0].radix % 256 for i in range(group)], axis=1)
    out = np.zeros(len(symbols) * group if values is None else values, dtype=np.uint8)
    size = len(coded.payload)
    expansion = Expansion(expand.astype(np.uint8))
    return coded, StreamJob(tailed(coded.payload), size, len(symbols), stream, tuple(tables), expansion), out


def geometric(rng, count, alphabet):
    return np.minimum(rng.geometric(rng.uniform(0.01, 0.9), count) - 1, alphabet - 1).astype(np.uint16)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 6000), SHAPES, FORMS, st.integers(16, 400), st.integers(1, 7), st.integers(1, 4),
    st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_numpy_and_numba_write_the_same_bytes_and_read_them_back(count, shape, form, segment, per_chunk, classes, seed):
    rng = np.random.default_rng(seed)
    radix, group = shape
    symbols = geometric(rng, count, radix**group)
    tables = [table_of(symbols, radix, group, form, twist) for twist in range(classes)]
    if classes == 1:
        segment *= per_chunk
    chunk = segment * (per_chunk if classes > 1 else 1)
    cut = int(rng.integers(0, group))
    slow, decoding, out = job(symbols, tables, chunk, segment, by_numpy, count * group - cut)
    fast, *_ = job(symbols, tables, chunk, segment, by_numba)
    assert slow.payload.tobytes() == fast.payload.tobytes()
    assert (slow.total_bits, slow.min_bits, slow.width) == (fast.total_bits, fast.min_bits, fast.width)
    expected = decoding.expansion.digits[symbols].reshape(-1)[: count * group - cut]
    for kernels in (by_numpy, by_numba):
        out[:] = 99
        kernels.decode_streams([(decoding, out)])
        assert np.array_equal(out, expected)
        out[:] = 99
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(by_numpy, "AHEAD_SYMBOLS", int(rng.integers(3 * chunk)))
            reader, at = StreamReader(decoding, kernels), 0
            while at < len(out):
                step = int(rng.integers(1, 3 * chunk * group))
                reader.read(out[at : at + step])
                at += step
        assert np.array_equal(out, expected)


@pytest.mark.parametrize("form", [LENGTHS, COUNTS])
@pytest.mark.parametrize(("radix", "group", "count", "cut"), [(2, 4, 40_000, 0), (4, 2, 8192, 0), (4, 2, 8192, 1)])
def test_nothing_is_written_beyond_the_output(form, radix, group, count, cut):
    symbols = geometric(np.random.default_rng(0), count, 16)
    _, decoding, out = job(symbols, [table_of(symbols, radix, group, form)], 1024, 1024, values=count * group - cut)
    room = np.full(len(out) + 64, 77, dtype=np.uint8)
    for kernels in (by_numpy, by_numba):
        kernels.decode_streams([(decoding, room[32:-32])])
        assert (room[:32] == 77).all()
        assert (room[-32:] == 77).all()


@pytest.mark.parametrize("form", [LENGTHS, COUNTS])
def test_blocks_of_the_numpy_encoder_join_without_a_seam(form):
    symbols = np.minimum(np.random.default_rng(0).geometric(0.2, (1 << 20) + 77), 30).astype(np.uint16)
    tables = [table_of(symbols, 32, 1, form)]
    slow, *_ = job(symbols, tables, 1000, 1000, by_numpy)
    fast, *_ = job(symbols, tables, 1000, 1000, by_numba)
    assert slow.payload.tobytes() == fast.payload.tobytes()


@given(st.lists(st.tuples(st.integers(0, 16), st.integers(0, 2**16 - 1)), max_size=60), st.integers(0, 7))
def test_fields_are_packed_behind_each_other(fields, offset):
    sizes = np.array([size for size, _ in fields], dtype=np.int64)
    values = np.array([value & ((1 << size) - 1) for size, value in fields], dtype=np.int64)
    expected = at = 0
    for size, value in zip(sizes.tolist(), values.tolist(), strict=True):
        expected |= value << (at + offset)
        at += size
    packed = pack_fields(values, sizes, offset)
    assert int.from_bytes(packed.tobytes(), "little") == expected
    assert len(packed) == (at + offset + 7) // 8


@pytest.mark.parametrize("form", [LENGTHS, COUNTS])
@pytest.mark.parametrize("kernels", [by_numpy, by_numba])
def test_no_damaged_payload_is_read_beyond_its_end(kernels, form):
    rng = np.random.default_rng(1)
    symbols = rng.integers(0, 200, 3000).astype(np.uint16)
    coded, decoding, out = job(symbols, [table_of(symbols, 256, 1, form)] * 2, 64, 16)
    for _ in range(50):
        payload = coded.payload.copy()
        payload[rng.integers(0, len(payload), 40)] = rng.integers(0, 256, 40)
        damaged = decoding._replace(data=tailed(payload))
        with suppress(ValueError):
            kernels.decode_streams([(damaged, out)])
        with suppress(ValueError):
            StreamReader(damaged, kernels).read(out[:1000])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 3000), st.integers(16, 999), SHAPES, FORMS, st.integers(1, 3)), max_size=8))
def test_streams_of_all_lengths_and_codes_are_decoded_together(streams):
    rng = np.random.default_rng(len(streams))
    jobs, expected = [], []
    for count, segment, (radix, group), form, classes in streams:
        symbols = geometric(rng, count, radix**group)
        tables = [table_of(symbols, radix, group, form, twist) for twist in range(classes)]
        jobs.append(job(symbols, tables, segment * (3 if classes > 1 else 1), segment)[1:])
        expected.append(jobs[-1][0].expansion.digits[symbols].reshape(-1))
    for kernels in (by_numpy, by_numba):
        for _, out in jobs:
            out[:] = 99
        kernels.decode_streams(jobs)
        for (_, out), values in zip(jobs, expected, strict=True):
            assert np.array_equal(out, values)


@pytest.mark.parametrize("form", [LENGTHS, COUNTS])
@pytest.mark.parametrize("kernels", [by_numpy, by_numba])
def test_the_damaged_stream_is_named(kernels, form):
    symbols = np.random.default_rng(0).integers(0, 200, 3000).astype(np.uint16)
    _, stream, out = job(symbols, [table_of(symbols, 256, 1, form)], 64, 64)
    good, bad = (stream, out), (stream._replace(symbols=2999), out[:2999])
    with pytest.raises(StreamError) as caught:
        kernels.decode_streams([good, good, bad, good])
    assert caught.value.number == 2


@pytest.mark.parametrize("form", [LENGTHS, COUNTS])
@pytest.mark.parametrize(("chunk", "segment"), [(64, 64), (64, 16), (1024, 512)])
def test_streams_longer_than_a_block_of_numpy_join_without_a_seam(monkeypatch, form, chunk, segment):
    monkeypatch.setattr(numpy_decoding, "_BLOCK", 300)
    symbols = geometric(np.random.default_rng(0), 5003, 27)
    tables = [table_of(symbols, 3, 3, form, twist) for twist in range(1 if chunk == segment else 3)]
    _, decoding, out = job(symbols, tables, chunk, segment, values=3 * 5003 - 2)
    short, space = job(symbols[:70], tables, chunk, segment)[1:]
    by_numpy.decode_streams([(short, space), (decoding, out), (short, space)])
    assert np.array_equal(out, decoding.expansion.digits[symbols].reshape(-1)[:-2])
    assert np.array_equal(space, decoding.expansion.digits[symbols[:70]].reshape(-1))


@pytest.mark.parametrize("kernels", [by_numpy, by_numba])
def test_chunk_lengths_that_come_back_to_zero_beyond_64_bits_are_refused(kernels):
    symbols = np.random.default_rng(0).integers(0, 200, 320).astype(np.uint16)
    _, decoding, out = job(symbols, [table_of(symbols, 256, 1, LENGTHS)], 64, 64)
    stream = decoding.stream._replace(min_bits=1 << 62, width=0)
    with pytest.raises(StreamError, match="bits without the last one"):
        kernels.decode_streams([(decoding._replace(stream=stream), out)])


@pytest.mark.parametrize("step", [100, 3000, 70_000])
def test_numpy_decodes_many_chunks_in_one_go_however_few_values_are_wanted(monkeypatch, step):
    """It takes as long for one of them as for hundreds: 64-bit numbers in blocks took it three times as long."""
    calls = []
    in_step = by_numpy.decode_in_step
    monkeypatch.setattr(by_numpy, "decode_in_step", lambda *given: calls.append(given) or in_step(*given))
    symbols = geometric(np.random.default_rng(0), 200_000, 16)
    _, decoding, out = job(symbols, [table_of(symbols, 2, 4, LENGTHS)], 1024, 1024)
    reader = StreamReader(decoding, by_numpy)
    for at in range(0, len(out), step):
        reader.read(out[at : at + step])
    assert np.array_equal(out, decoding.expansion.digits[symbols].reshape(-1))
    assert len(calls) <= 2  # one for each kind of code


@pytest.mark.parametrize("form", [LENGTHS, COUNTS])
@pytest.mark.parametrize("at", [0.1, 0.5, 0.9])
def test_numba_names_the_wrong_chunk_as_numpy_does_and_does_not_ask_it(monkeypatch, form, at):
    """NumPy takes seconds for a long chunk: a small file that numba refuses must not cost them."""
    symbols = np.random.default_rng(0).integers(0, 200, 3000).astype(np.uint16)
    coded, stream, out = job(symbols, [table_of(symbols, 256, 1, form)] * 2, 128, 32)
    payload = coded.payload.copy()
    payload[int(at * len(payload)) :][:99] = 0x5A
    damaged = stream._replace(data=tailed(payload))
    with pytest.raises(StreamError, match="codes of chunk") as wanted:
        by_numpy.decode_streams([(stream, out), (damaged, out)])
    monkeypatch.setattr(by_numpy, "decode_in_step", lambda *_: pytest.fail("left to NumPy"))
    for read in (
        lambda: by_numba.decode_streams([(stream, out), (damaged, out)]),
        lambda: StreamReader(damaged, by_numba).read(out),
    ):
        with pytest.raises(StreamError) as caught:
            read()
        assert str(caught.value) == str(wanted.value)
