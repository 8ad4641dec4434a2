"""The order of Deep Compression: pruning by magnitude, a palette, Huffman codes; against counts by hand."""

import numpy as np
import pytest

from benchmarks.deep_compression import coded_bytes, compressed, huffman_bits, on_palette, without_smallest


def test_the_smallest_weights_become_zero():
    weights = np.array([[0.1, -3.0], [0.2, -0.05]], np.float32)
    assert without_smallest(weights, 0.5).tolist() == [[0, -3], [np.float32(0.2), 0]]
    assert np.array_equal(without_smallest(weights, 0.0), weights)


def test_a_palette_holds_means_of_what_it_stands_for():
    palette, places = on_palette(np.array([0.0, 0.2, 10.0, 10.4, 5.0]), 3)
    assert palette == pytest.approx([0.1, 5.0, 10.2])
    assert places.tolist() == [0, 0, 2, 2, 1]


def test_few_values_need_no_means():
    palette, places = on_palette(np.array([2.0, 1.0, 2.0]), 4)
    assert (palette.tolist(), places.tolist()) == ([1.0, 2.0], [1, 0, 1])


def test_bits_are_those_of_a_prefix_code():
    assert huffman_bits(np.array([4, 2, 1, 1])) == 4 * 1 + 2 * 2 + 2 * 3
    assert huffman_bits(np.array([0, 5])) == 5


def test_gaps_that_are_too_long_cost_a_stored_zero():
    near, far = np.zeros(600), np.zeros(600)
    near[[0, 1]] = far[[0, 599]] = 1
    places = np.zeros(2, np.int64)
    tables = (2 + 256) // 2 + 4
    assert coded_bytes(near, places, 1) == tables + 1  # 2 bits of symbols, 2 of gaps
    # Symbols: the entry twice, the filler twice (4 bits). Gaps: 0, 255 twice, 86 (1 + 1 + 2 + 2 bits).
    assert coded_bytes(far, places, 1) == tables + 2


def test_a_finer_palette_errs_less_and_takes_more():
    weights = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    coarse, few = compressed(weights, 0.5, 3)
    fine, many = compressed(weights, 0.5, 6)
    assert few < many < weights.nbytes / 4
    assert np.abs(fine - weights).mean() < np.abs(coarse - weights).mean()
    assert (fine == 0).mean() == pytest.approx(0.5)
