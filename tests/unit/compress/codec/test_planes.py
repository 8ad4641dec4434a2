import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from compress.codec.decoding.plane_decoder import plane_job, plane_reader, with_tail
from compress.codec.encoding.plane_encoder import encode_plane
from compress.codec.encoding.table_choice import Tables
from compress.codec.encoding.tensor_encoder import entropy_bits
from compress.codec.format.element_planes import from_planes, to_planes
from compress.codec.format.index_writer import write_table
from compress.codec.format.layout import CODED, CONSTANT, KINDS, RAW, Plane, Stream, Table
from compress.codec.kernels import by_numba, by_numpy


def decode_plane(plane, payload, count, tables, kernels=by_numpy):
    out = np.empty(count, dtype=np.uint8)
    job = plane_job(plane, with_tail(payload, 0, len(payload)), count, tables, out)
    kernels.decode_streams(job.streams)
    job.finish(kernels)
    return out


def read_plane(plane, payload, count, tables, kernels, step):
    """Return the values of a plane, `step` at a time."""
    reader = plane_reader(plane, with_tail(payload, 0, len(payload)), count, tables, 0, kernels)
    out = np.empty(count, dtype=np.uint8)
    for start in range(0, count, step):
        reader.read(out[start : start + step])
    return out


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(sorted(KINDS)), st.data())
def test_planes_of_every_kind_give_the_bytes_back(number, data):
    kind = KINDS[number]
    count = data.draw(st.integers(1, 40)) * kind.planes
    original = data.draw(hnp.arrays(np.uint8, count))
    planes = to_planes(original, kind)
    assert all(plane.max(initial=0) < 1 << kind.value_bits for plane in planes)
    flip = np.uint8(1 << kind.value_bits - 1 if kind.is_signed else 0)
    for kernels in (by_numpy, by_numba):
        out = np.empty_like(original)
        from_planes(np.stack(planes) ^ flip, kind, out, kernels.join_planes)
        assert np.array_equal(out, original)


def test_signs_move_out_of_the_exponent_byte():
    values = np.array([1.5, -1.5, 1.0], dtype=np.float32)
    assert len(set(to_planes(values.view(np.uint8), KINDS[9])[3].tolist())) == 1


def test_small_negative_integers_have_empty_high_bytes():
    planes = to_planes(np.array([-3, 2, -1], dtype=np.int32).view(np.uint8), KINDS[13])
    assert planes[0].tolist() == [5, 4, 1]
    assert not any(plane.any() for plane in planes[1:])


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6000), st.sampled_from([2, 4, 8]), st.floats(0, 1), st.floats(0.3, 40), st.integers(0, 2**32 - 1))
def test_every_plane_comes_back(count, bits, zeros, spread, seed):
    rng = np.random.default_rng(seed)
    middle = 1 << bits - 1
    values = np.where(rng.random(count) < zeros, 0, np.round(rng.laplace(0, spread, count)))
    values = (np.clip(values, -middle, middle - 1) + middle).astype(np.uint8)
    tables = Tables()
    for kernels in (by_numpy, by_numba):
        plane, payload, _ = encode_plane(values, bits, tables, kernels)
        if plane.method != RAW:
            assert np.array_equal(decode_plane(plane, payload, count, tables.tables, kernels), values)
            step = int(rng.integers(1, count + 1)) if count < 2000 else 1000
            assert np.array_equal(read_plane(plane, payload, count, tables.tables, kernels, step), values)


@pytest.mark.parametrize("step", [1, 5, 6, 7, 100])
def test_a_constant_symbol_of_several_digits_goes_on_where_it_stopped(step):
    tables = [Table(3, 3, 0, CONSTANT, np.empty(0, dtype=np.int64), 2 + 3 * 1 + 9 * 0)]
    plane, nothing = Plane(CODED, 10, Stream((0,))), np.empty(0, dtype=np.uint8)
    wanted = np.resize([12, 11, 10], 100)
    assert np.array_equal(decode_plane(plane, nothing, 100, tables), wanted)
    assert np.array_equal(read_plane(plane, nothing, 100, tables, by_numpy, step), wanted)


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
@pytest.mark.parametrize("zeros", [0.0, 0.5, 0.9, 0.95])
@pytest.mark.parametrize(("count", "spare_bytes"), [(65_536, 256), (1_000_000, 0)])
def test_weights_take_at_most_a_percent_more_than_their_entropy(bits, zeros, count, spare_bytes):
    rng = np.random.default_rng(bits)
    top = 2 ** (bits - 1) - 1
    weights = rng.laplace(0, max(top / 6, 0.5), count)
    values = np.clip(np.round(weights), -top, top)
    values[np.abs(weights) < np.quantile(np.abs(weights), zeros)] = 0
    plane_values = (values + 128).astype(np.uint8)
    tables = Tables()
    _, payload, _ = encode_plane(plane_values, 8, tables, by_numpy)
    coded = len(payload) + sum(len(write_table(table)) for table in tables.tables)
    assert coded <= 1.01 * entropy_bits(np.bincount(plane_values, minlength=256)) / 8 + spare_bytes


@pytest.mark.parametrize("kernels", [by_numpy, by_numba])
def test_channels_of_different_spread_go_below_the_entropy_of_the_whole(kernels):
    rng = np.random.default_rng(0)
    spread = np.array([2, 5, 12, 30])[rng.integers(0, 4, 128)][:, None]
    values = (np.round(rng.laplace(0, spread, (128, 576))).clip(-127, 127) + 128).astype(np.uint8).reshape(-1)
    tables = Tables()
    plane, payload, _ = encode_plane(values, 8, tables, kernels, channel=576)
    assert plane.main is not None
    assert len(plane.main.tables) > 1
    assert 8 * len(payload) < 0.95 * entropy_bits(np.bincount(values, minlength=256))
    assert np.array_equal(decode_plane(plane, payload, len(values), tables.tables, kernels), values)


def test_a_constant_plane_takes_no_bytes():
    plane, payload, _ = encode_plane(np.full(1000, 7, dtype=np.uint8), 8, tables := Tables(), by_numpy)
    assert len(payload) == 0
    assert (decode_plane(plane, payload, 1000, tables.tables) == 7).all()


def test_noise_stays_raw():
    plane, *_ = encode_plane(np.random.default_rng(0).integers(0, 256, 5000).astype(np.uint8), 8, Tables(), by_numpy)
    assert plane.method == RAW


def test_equal_tensors_share_their_table():
    values = (np.random.default_rng(0).binomial(16, 0.5, 3000) + 100).astype(np.uint8)
    tables = Tables()
    encode_plane(values, 8, tables, by_numpy)
    before = len(tables.tables)
    encode_plane(values[::-1].copy(), 8, tables, by_numpy)
    assert len(tables.tables) == before


@pytest.mark.parametrize("outliers", [[255], [0], [0, 255]])
@pytest.mark.parametrize("spread", [0.0, 0.3, 0.7, 2.0, 30.0])
def test_values_so_rare_that_the_sample_of_a_large_plane_misses_them_come_back(spread, outliers):
    values = np.clip(np.round(np.random.default_rng(0).normal(100, spread, 600_001)), 60, 140).astype(np.uint8)
    # The sample takes whole blocks from the first value on, and never the last, broken one.
    values[-len(outliers) :] = outliers
    tables = Tables()
    plane, payload, _ = encode_plane(values, 8, tables, by_numpy)
    assert np.array_equal(decode_plane(plane, payload, len(values), tables.tables), values)


@pytest.mark.parametrize("case", ["two values and outliers", "narrow and outliers", "other values in one place"])
def test_a_sample_that_is_unlike_its_large_plane_costs_no_size(case):
    rng, count = np.random.default_rng(0), 1_200_000
    values = np.full(count, 128)
    if case == "two values and outliers":
        values += rng.integers(0, 2, count)
    elif case == "narrow and outliers":
        values += np.round(rng.laplace(0, 0.3, count)).astype(np.int64)
    else:
        values[5000:8000] = rng.integers(0, 256, 3000)  # between two blocks of the sample
    values[-2:] = 3, 250  # as are these
    values = values.clip(0, 255).astype(np.uint8)
    tables = Tables()
    plane, payload, _ = encode_plane(values, 8, tables, by_numpy)
    coded = len(payload) + sum(len(write_table(table)) for table in tables.tables)
    assert coded <= 1.01 * entropy_bits(np.bincount(values, minlength=256)) / 8
    assert np.array_equal(decode_plane(plane, payload, count, tables.tables), values)
