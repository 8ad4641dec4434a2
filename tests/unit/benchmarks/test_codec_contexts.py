"""The script that estimates what contexts would gain: code lengths of the formula; what tells is worth its bits."""

import math

import numpy as np
import pytest

from benchmarks.codec_contexts import adaptive_bits, contexts_of, sizes_of

rng = np.random.default_rng(0)


def test_without_a_context_each_value_costs_what_the_counts_before_it_say():
    values = rng.integers(0, 5, 50).astype(np.uint8)
    expected, counts = 0.0, [1 / 16] * 256
    for value in values:
        expected -= math.log2(counts[value] / sum(counts))
        counts[value] += 1
    assert adaptive_bits(values, sizes_of(values.view(np.int8)), np.zeros(50, np.int64), 1, 1.0) == pytest.approx(
        expected
    )


def test_a_context_that_tells_is_worth_its_bits_and_noise_is_not():
    width = np.repeat(rng.choice([1, 20], 64), 144)
    weights = np.round(rng.laplace(0, width)).clip(-127, 127).astype(np.int8).reshape(64, 16, 3, 3)
    flat = weights.reshape(-1).view(np.uint8)
    far = sizes_of(weights)
    plain = adaptive_bits(flat, far, np.zeros(len(flat), np.int64), 1, 1.0)
    contexts = contexts_of(weights, None)
    bits = {name: adaptive_bits(flat, far, context, int(context.max()) + 1, 8.0) for name, context in contexts.items()}
    assert bits["before"] < 0.93 * plain
    assert bits["own channel"] < 0.93 * plain
    assert set(contexts) == {"before", "kernel", "channel before", "input channel before", "own channel"}
    noise = adaptive_bits(flat, far, rng.integers(0, 4, len(flat)), 4, 64.0)
    assert noise > 0.99 * plain
