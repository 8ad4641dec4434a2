"""Arithmetic of post-training quantization on arrays: each part against what it promises, and against brute force."""

from __future__ import annotations

import itertools
import subprocess
import sys

import numpy as np
import pytest

from compress.post_training.correction import bias_shift
from compress.post_training.equalization import LARGEST_FACTOR, equalizing_factors, scale_input_channels
from compress.post_training.moments import LARGEST_BLOCK, InputMoments, blocks_of
from compress.post_training.ranges import ValueHistogram, least_error_range
from compress.post_training.rounding import round_with_feedback


def histogram_of(values):
    histogram = ValueHistogram(min(0.0, float(values.min())), max(0.0, float(values.max())))
    histogram.add(values)
    return histogram


def loss(values, low, high, power=2.4):
    step = (high - low) / 255
    found = np.clip(np.rint(values / step), np.rint(low / step), np.rint(high / step)) * step
    return float((np.abs(found - values) ** power).sum())


def moments_of(patches, groups=1):
    """Return the moments of (positions, groups * columns) kernel inputs."""
    columns = patches.shape[1] // groups
    moments = InputMoments.empty(groups, columns)
    blocks, width = moments.first.shape
    parts = patches.reshape(len(patches), blocks, width).transpose(1, 0, 2)
    moments.first += parts.sum(1)
    moments.second += parts.transpose(0, 2, 1) @ parts
    moments.positions += len(patches)
    return moments


def steps_of(weights, largest_code):
    return np.abs(weights).max(axis=1) / largest_code


def nearest(weights, scales, largest_code):
    return np.clip(np.rint(weights / scales[:, None]), -largest_code, largest_code)


def output_error(weights, codes, scales, patches):
    """Mean squared error of a dense layer's outputs."""
    return float((((codes * scales[:, None] - weights) @ patches.T) ** 2).mean())


def test_nothing_here_needs_torch():
    code = (
        "import sys; import compress.post_training.rounding, compress.post_training.ranges,"
        " compress.post_training.correction, compress.post_training.equalization; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# Ranges


@pytest.mark.parametrize("kind", ["normal", "laplace", "uniform", "sparse", "one_sided"])
def test_range_loses_less_than_minimum_and_maximum_and_any_percentile(kind):
    random = np.random.default_rng(3)
    size = 60_000
    values = {
        "normal": random.normal(size=size),
        "laplace": random.laplace(size=size),
        "uniform": random.uniform(-1, 2, size),
        "sparse": random.laplace(size=size) ** 3 * (random.random(size) < 0.1),
        "one_sided": np.maximum(random.normal(size=size), 0),
    }[kind]
    low, high = least_error_range(histogram_of(values))
    found = loss(values, low, high)
    rivals = [(100.0, 0.0), (99.99, 0.01), (99.9, 0.1), (99.0, 1.0)]
    for upper, lower in rivals:
        ends = min(np.percentile(values, lower), 0), max(np.percentile(values, upper), 0)
        assert found <= 1.05 * loss(values, *ends)


def test_uniform_values_keep_their_whole_range():
    values = np.random.default_rng(0).uniform(0, 5, 50_000)
    assert least_error_range(histogram_of(values)) == (0.0, pytest.approx(values.max()))


def test_a_dead_tensor_has_an_empty_range():
    assert least_error_range(histogram_of(np.zeros(100))) == (0.0, 0.0)


def test_values_beyond_the_ends_and_many_values_are_counted():
    histogram = ValueHistogram(-1.0, 1.0)
    histogram.add(np.array([-5.0, 0.0, 5.0]))
    assert histogram.counts[0] == histogram.counts[-1] == 1
    assert histogram.counts.sum() == 2
    histogram.add(np.ones(3_000_000, np.float32))
    assert 500_000 <= histogram.counts[-1] <= 700_000


# Equalization


def test_equalized_layers_compute_the_same_to_the_bit():
    random = np.random.default_rng(1)
    x = np.abs(random.normal(size=(50, 7))).astype(np.float32)
    first = (random.normal(size=(6, 7)) * np.geomspace(0.001, 3, 6)[:, None]).astype(np.float32)
    second = random.normal(size=(4, 6)).astype(np.float32)
    between = np.maximum(x @ first.T, 0)
    factors = equalizing_factors(between.max(0))
    changed = np.maximum(x @ (first * factors[:, None].astype(np.float32)).T, 0)
    scaled = scale_input_channels(second[:, :, None, None], factors, 1)[:, :, 0, 0]
    products = between[:, None, :] * second
    assert np.array_equal(changed[:, None, :] * scaled, products)
    spread = lambda v: v.max() / v.min()  # noqa: E731
    assert spread(changed.max(0)) < 0.2 * spread(between.max(0))
    assert factors.min() >= 1
    assert factors.max() <= LARGEST_FACTOR


def test_channels_near_the_limit_and_dead_layers_keep_their_size():
    factors = equalizing_factors(np.array([6.0, 1.6, 0.4, 0.0]), limit=6.0)
    assert factors[0] == 1
    assert (np.array([6.0, 1.6, 0.4, 0.0]) * factors <= 6).all()
    assert factors[3] == LARGEST_FACTOR
    assert (equalizing_factors(np.zeros(3)) == 1).all()


def test_grouped_layers_take_the_factors_of_their_own_inputs():
    weights = np.ones((4, 3, 1, 1))  # two groups of three inputs
    factors = np.array([1.0, 2, 4, 8, 16, 1])
    scaled = scale_input_channels(weights, factors, 2)[:, :, 0, 0]
    assert np.array_equal(scaled, 1 / np.array([[1, 2, 4], [1, 2, 4], [8, 16, 1], [8, 16, 1]]))


# Rounding


def test_feedback_is_near_the_best_of_all_roundings():
    random = np.random.default_rng(5)
    patches = random.normal(size=(400, 6)) @ random.normal(size=(6, 6)) + 1
    weights = random.normal(size=(8, 6))
    top = 7
    scales = steps_of(weights, top)
    codes = round_with_feedback(weights, scales, moments_of(patches), top)
    best = []
    for row, scale in zip(weights, scales, strict=True):
        floor = np.floor(row / scale)
        choices = [np.clip(floor + up, -top, top) for up in itertools.product((0, 1), repeat=6)]
        best.append(min(float((((choice * scale - row) @ patches.T) ** 2).mean()) for choice in choices))
    found = output_error(weights, codes, scales, patches)
    plain = output_error(weights, nearest(weights, scales, top), scales, patches)
    assert found < 0.6 * plain
    assert found < 2 * np.mean(best)


def test_taps_that_see_the_same_value_keep_their_sum():
    """A bright, flat channel in front of a depthwise layer: what went wrong on HIT-UAV."""
    random = np.random.default_rng(2)
    channels, taps = 32, 9
    patches = (
        random.uniform(0.4, 0.8, size=(500, channels, 1)) + random.normal(size=(500, channels, taps)) * 0.01
    ).reshape(500, -1)
    weights = random.normal(size=(channels, taps)) * 5
    top = 127
    scales = steps_of(weights, top)
    codes = round_with_feedback(weights, scales, moments_of(patches, channels), top)
    shift = lambda codes: np.abs((codes * scales[:, None] - weights).sum(1)).mean()  # noqa: E731
    assert shift(codes) < 0.35 * shift(nearest(weights, scales, top))


@pytest.mark.parametrize("groups", [1, 2, 12])
def test_zeros_and_the_largest_weight_keep_their_codes(groups):
    random = np.random.default_rng(7)
    weights = random.normal(size=(12, 20))
    weights[random.random(weights.shape) < 0.4] = 0
    weights[3] = 0
    scales = np.maximum(steps_of(weights, 31), 1e-10)
    patches = random.normal(size=(300, groups * 20)) + 1
    codes = round_with_feedback(weights, scales, moments_of(patches, groups), 31)
    assert codes.dtype == np.int8
    assert (codes[weights == 0] == 0).all()
    assert np.abs(codes).max() == 31
    largest = np.abs(weights).argmax(1)
    alive = weights.any(1)
    rows = np.arange(12)[alive]
    assert np.array_equal(codes[rows, largest[alive]], 31 * np.sign(weights[rows, largest[alive]]))


def test_error_falls_as_bits_rise():
    random = np.random.default_rng(11)
    patches = np.maximum(random.normal(size=(800, 64)) @ random.normal(size=(64, 64)) * 0.1 + 0.3, 0)
    weights = random.normal(size=(24, 64))
    errors = []
    for bits in range(2, 9):
        top = 2 ** (bits - 1) - 1
        scales = steps_of(weights, top)
        errors.append(
            output_error(weights, round_with_feedback(weights, scales, moments_of(patches), top), scales, patches)
        )
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 100 * errors[-1]


def test_inputs_that_were_never_seen_do_no_harm():
    weights = np.random.default_rng(0).normal(size=(3, 10))
    scales = steps_of(weights, 127)
    codes = round_with_feedback(weights, scales, InputMoments.empty(1, 10), 127)
    assert np.array_equal(codes, nearest(weights, scales, 127))


@pytest.mark.parametrize(
    ("columns", "expected"), [(9, (1, 9)), (LARGEST_BLOCK, (1, LARGEST_BLOCK)), (4608, (2, 2304)), (4611, (3, 1537))]
)
def test_wide_rows_are_cut_into_equal_blocks(columns, expected):
    assert blocks_of(1, columns) == expected
    assert blocks_of(5, 9) == (5, 9)


def test_blocks_of_a_wide_row_are_rounded_each_for_itself(monkeypatch):
    random = np.random.default_rng(4)
    patches, weights = random.normal(size=(200, 24)) + 1, random.normal(size=(6, 24))
    scales = steps_of(weights, 7)
    whole = round_with_feedback(weights, scales, moments_of(patches), 7)
    monkeypatch.setattr("compress.post_training.moments.LARGEST_BLOCK", 8)
    moments = moments_of(patches)
    assert moments.first.shape == (3, 8)
    codes = round_with_feedback(weights, scales, moments, 7)
    plain = output_error(weights, nearest(weights, scales, 7), scales, patches)
    assert output_error(weights, whole, scales, patches) < output_error(weights, codes, scales, patches) < plain


# Correction


@pytest.mark.parametrize("groups", [1, 3])
def test_corrected_bias_keeps_the_mean_output(groups):
    random = np.random.default_rng(8)
    patches = random.normal(size=(500, groups, 10)) + 2
    weights = random.normal(size=(6, 10))
    rounded = np.rint(weights * 3) / 3
    shift = bias_shift(weights, rounded, moments_of(patches.reshape(500, -1), groups))
    for row in range(6):
        inputs = patches[:, row // (6 // groups)]
        assert (inputs @ weights[row]).mean() == pytest.approx((inputs @ rounded[row]).mean() + shift[row], abs=1e-5)
