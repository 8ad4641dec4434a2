"""Integers for the price of a bit: the arithmetic, on arrays alone."""

from __future__ import annotations

import itertools
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from compress.errors import StageError
from compress.post_training.feedback import Feedback
from compress.post_training.moments import LARGEST_BLOCK, blocks_of
from compress.rate_rounding.by_price import cheapest, round_by_price
from compress.rate_rounding.choice import LayerChooser, cost_of
from compress.rate_rounding.code_lengths import CodeLengths, entropy_bits
from compress.rate_rounding.descent import descend
from compress.rate_rounding.layer import Layer, Rounded, exponents_of, steps_of
from compress.rate_rounding.search import Priced, RoughCurve, next_price, price_for_size, round_to_bytes


def seen_by_kernels(blocks: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Return second moments of what 3 x 3 (or 1 x 1) kernels see in smooth maps behind a ReLU."""
    taps = 9 if width % 9 == 0 else 1
    spread = np.empty((blocks, width, width))
    for block in range(blocks):
        maps = rng.normal(size=(width // taps, 40, 40))
        for axis in (1, 2):
            maps = maps + np.roll(maps, 1, axis) + np.roll(maps, 2, axis)
        maps = np.maximum(maps * rng.uniform(0.1, 1, size=(len(maps), 1, 1)) + rng.uniform(size=(len(maps), 1, 1)), 0)
        shifts = [(0, 0)] if taps == 1 else list(itertools.product((-1, 0, 1), repeat=2))
        inputs = np.stack([np.roll(one, shift, (0, 1)).ravel() for one in maps for shift in shifts])
        spread[block] = np.cov(inputs) if width > 1 else np.var(inputs)
    return spread


def a_layer(out: int = 24, columns: int = 36, groups: int = 1, seed: int = 0) -> Layer:
    rng = np.random.default_rng(seed)
    blocks, width = blocks_of(groups, columns)
    weights = rng.laplace(size=(out, columns)) * rng.uniform(0.3, 3, size=(out, 1))
    weights[rng.random(weights.shape) < 0.2] = 0
    steps = np.abs(weights).max(axis=1) / 31
    return Layer(weights, steps, 31, rng.uniform(0.1, 2, size=out), seen_by_kernels(blocks, width, rng))


def at_step(layer: Layer, price: float, share: float = 1.0):
    steps = layer.steps * share
    weights = layer.to_blocks(layer.weights / steps[:, None])
    lengths = CodeLengths.fitted(np.clip(np.rint(weights), -31, 31), 31)
    return weights, layer.rows_to_blocks(layer.importance * steps**2 / price), lengths, steps


def cost(layer: Layer, blocks: np.ndarray, steps: np.ndarray, price: float, lengths: CodeLengths) -> float:
    codes = layer.from_blocks(blocks)
    return layer.loss(codes, steps) + price * float(lengths.of(codes).sum())


def test_nothing_of_it_needs_torch():
    code = (
        "import sys, compress.rate_rounding.search, compress.rate_rounding.statistics;"
        "assert not {'torch', 'onnx', 'brevitas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(("groups", "out", "columns"), [(1, 6, 10), (6, 6, 9), (3, 6, 9), (1, 3, 2 * LARGEST_BLOCK)])
def test_blocks_are_what_the_groups_see(groups, out, columns):
    blocks, width = blocks_of(groups, columns)
    layer = Layer(
        np.arange(out * columns).reshape(out, columns), np.ones(out), 31, np.ones(out), np.zeros((blocks, width, width))
    )
    cut = layer.to_blocks(layer.weights)
    assert np.array_equal(layer.from_blocks(cut), layer.weights)
    rows = layer.rows_to_blocks(np.arange(out))
    for block, row in itertools.product(range(blocks), range(cut.shape[1])):
        channel, pieces = rows[block, row], columns // width
        start = block % pieces * width
        assert np.array_equal(cut[block, row], layer.weights[channel, start : start + width])
        assert channel // (out // groups) == block // pieces


def test_loss_is_the_weighted_error_of_the_outputs():
    rng = np.random.default_rng(1)
    inputs = rng.normal(size=(500, 12)) + 1
    layer = Layer(rng.normal(size=(5, 12)), np.full(5, 0.1), 31, rng.uniform(size=5), (inputs.T @ inputs / 500)[None])
    codes = np.rint(layer.weights / 0.1)
    missed = inputs @ (codes * 0.1 - layer.weights).T
    expected = float(((missed**2).mean(axis=0) * layer.importance).sum())
    assert layer.loss(codes, layer.steps) == pytest.approx(expected)


def test_cheapest_is_the_best_of_all_integers():
    rng = np.random.default_rng(0)
    x, weight = rng.uniform(-35, 35, size=2000), rng.uniform(0.01, 20, size=2000)
    lengths = CodeLengths.fitted(np.rint(rng.laplace(size=5000) * 4).clip(-31, 31), 31)
    every = np.arange(-31, 32)
    costs = weight[:, None] * (every - x[:, None]) ** 2 + lengths.of(every)
    found = cheapest(x, weight, lengths)
    lost = weight * (found - x) ** 2 + lengths.of(found) - costs.min(axis=1)
    assert (lost < 1e-9).mean() > 0.9  # the others would be further than a neighbour and not zero
    assert np.abs(found).max() <= 31


def test_free_bits_give_the_integers_of_feedback_alone():
    layer = a_layer()
    weights, row_weights, lengths, _ = at_step(layer, price=1e-30)
    codes = round_by_price(weights, row_weights, Feedback.of(layer.spread, layer.order, damping=0.03), lengths)
    nearest = np.rint(weights)
    assert layer.loss(layer.from_blocks(codes), layer.steps) < 0.7 * layer.loss(layer.from_blocks(nearest), layer.steps)


def test_feedback_beats_independent_choices_at_the_same_price():
    layer, price = a_layer(48, 72), 3e-3
    weights, row_weights, lengths, steps = at_step(layer, price, share=4)
    curve = np.diagonal(layer.spread, axis1=1, axis2=2)[:, None, :]
    alone = cheapest(weights, row_weights[:, :, None] * curve, lengths)
    together = round_by_price(weights, row_weights, Feedback.of(layer.spread, layer.order, damping=0.03), lengths)
    assert cost(layer, together, steps, price, lengths) < 0.97 * cost(layer, alone, steps, price, lengths)


@pytest.mark.parametrize("groups", [1, 24])
def test_descent_never_costs_more_and_comes_close_to_the_best(groups):
    layer, price = a_layer(24, 4, groups=groups, seed=3), 1e-2
    weights, row_weights, lengths, steps = at_step(layer, price, share=8)
    codes = round_by_price(weights, row_weights, Feedback.of(layer.spread, layer.order, damping=0.03), lengths)
    before = cost(layer, codes, steps, price, lengths)
    for _ in range(5):
        codes = descend(weights, codes, row_weights, layer.spread, lengths)
        after = cost(layer, codes, steps, price, lengths)
        assert after <= before + 1e-12
        before = after
    best = np.array(list(itertools.product(range(-5, 6), repeat=4)))  # no weight is larger than four steps
    blocks = range(len(weights))
    errors = best[None] - weights[:, :, None]
    squares = np.stack([((errors[b] @ layer.spread[b]) * errors[b]).sum(-1) for b in blocks])
    least = row_weights[:, :, None] * squares + lengths.of(best).sum(-1)
    least[:, :, :] += np.where((best[None, None] != 0) & (weights[:, :, None] == 0), np.inf, 0).max(-1)
    optimum = price * float(least.min(-1).sum())
    assert optimum <= before * (1 + 1e-9)
    assert before < 1.1 * optimum


def test_descent_in_chunks_knows_all_changes():
    layer, price = a_layer(8, 297), 1e-2
    weights, row_weights, lengths, _ = at_step(layer, price, share=4)
    start = np.rint(weights)
    codes = descend(weights, start, row_weights, layer.spread, lengths)
    one = start.copy()  # the same without any chunks
    for column in range(297):
        pull = ((one - weights) @ layer.spread)[:, :, column]
        bend = layer.spread[:, None, column, column]
        x = np.clip(one[:, :, column] - pull / bend, -31, 31)
        one[:, :, column] = cheapest(x, row_weights * bend, lengths, one[:, :, column])
        one[:, :, column][weights[:, :, column] == 0] = 0
    assert np.array_equal(codes, one)


@pytest.mark.parametrize(("groups", "out", "columns"), [(1, 24, 36), (24, 24, 9), (4, 24, 18)])
def test_a_higher_price_makes_fewer_bits_and_more_loss(groups, out, columns):
    chooser = LayerChooser(a_layer(out, columns, groups))
    found = [chooser.choose(price) for price in (1e-3, 1e-2, 1e-1, 1.0, 1e4)]
    assert all(cheap.bits <= 1.001 * dear.bits for dear, cheap in itertools.pairwise(found))
    assert all(dear.loss <= 1.001 * cheap.loss for dear, cheap in itertools.pairwise(found))
    assert found[0].bits > 2 * found[3].bits
    assert not found[-1].codes.any()
    assert found[-1].bits == 0


def test_zeros_stay_zero_and_codes_stay_in_range():
    layer = a_layer()
    for price in (1e-8, 1e-3):
        found = LayerChooser(layer).choose(price)
        assert not found.codes[layer.weights == 0].any()
        assert np.abs(found.codes).max() <= 31
        assert found.loss == pytest.approx(layer.loss(found.codes, found.steps))


def test_rounding_beats_nearest_integers_in_larger_steps_by_far():
    layer = a_layer(64, 72)
    found = LayerChooser(layer).choose(2e-3)
    for exponent in range(1, 20):  # the coarsest steps whose nearest integers take as many bits
        exponents = exponents_of(layer.steps) + exponent
        codes = np.rint(layer.weights / steps_of(exponents)[:, None])
        if entropy_bits(codes) < found.bits:
            break
    assert layer.loss(codes, steps_of(exponents)) > 2 * found.loss


def test_a_start_from_another_price_is_as_good_as_a_wide_search():
    chooser = LayerChooser(a_layer(48, 72))
    cold = chooser.choose(2e-3)
    warm = chooser.choose(2e-3, chooser.choose(1e-3))
    assert cost_of(warm, 2e-3) < 1.03 * cost_of(cold, 2e-3)


def test_rows_of_zeros_have_the_commonest_step():
    layer = a_layer()
    layer.importance[:5] = 1e-12
    found = LayerChooser(layer).choose(1e-4)
    alive = found.codes.any(axis=1)
    assert not alive[:5].any()
    assert alive[5:].any()
    assert len({*found.exponents[~alive]}) == 1
    assert found.exponents[0] in found.exponents[alive]


def test_inputs_that_were_never_seen_are_no_division_by_zero():
    layer = a_layer(6, 9, groups=6)
    layer.spread[2:] = 0
    layer.importance[3:] = 0
    found = LayerChooser(layer).choose(1e-3)
    assert np.isfinite(found.loss)
    assert np.isfinite(found.steps).all()
    assert not found.codes[3:].any()


class _Curve:
    """Stands for a layer: the size falls with the price as it does for real ones, row by row."""

    ROWS = 500

    def __init__(self, fixed: int = 20_000, slope: float = 0.2) -> None:
        self.fixed, self.slope, self.prices = fixed, slope, []

    def choose(self, price, start=None):
        self.prices.append(price)
        size = 6e3 * price**-self.slope if price < 1.0 else 0.0
        return Rounded(np.full((self.ROWS, 1), int(size > 0), np.int8), np.full(self.ROWS, size), price)

    def rough_bits(self, price):
        return 9 * 6e3 * price ** -(self.slope * 0.8) if price < 1.0 else 0.0  # neither as many nor as steep

    def row_bits(self, rounded):
        return 8 * rounded.exponents / self.ROWS  # which carry the size

    def row_losses(self, rounded):
        return np.full(self.ROWS, rounded.loss / self.ROWS)

    def measure(self, layers):
        return int(self.fixed + self.row_bits(layers["one"]).sum() / 8)


@pytest.mark.parametrize("slope", [0.1, 0.2, 0.5])
@pytest.mark.parametrize("target", [60_000, 330_000, 2_000_000])
def test_the_price_of_a_size_is_found_within_a_percent(target, slope):
    curve = _Curve(slope=slope)
    reachable = 20_000 + 6e3 * 1e-20**-slope
    found = round_to_bytes({"one": curve}, curve.measure, min(target, int(reachable)))
    assert 0.99 * min(target, reachable) <= found.num_bytes <= target
    assert len(curve.prices) <= 6


@pytest.mark.parametrize("slope", [0.02, 0.1, 0.2, 0.5, 2.0])
@pytest.mark.parametrize("excess", [1.001, 1.02, 1.5])
def test_from_a_price_at_which_a_file_is_too_large_one_is_found_at_which_it_fits(slope, excess):
    seen = []

    def size_at(price):
        seen.append(price)
        return int(1e6 * excess * (price / 1e-8) ** -slope)

    price, size = price_for_size(size_at, 1e-8, int(1e6 * excess), 1_000_000)
    assert 990_000 <= size <= 1_000_000
    assert size == size_at(price)
    assert price > 1e-8
    assert len(seen) <= 8


def test_where_the_size_jumps_the_largest_that_fits_is_taken():
    price, size = price_for_size(lambda price: 1_200 if price < 3e-8 else 900, 1e-8, 1_200, 1_000)
    assert (size, price >= 3e-8) == (900, True)


def test_a_file_that_no_price_makes_small_is_told():
    with pytest.raises(StageError, match="no price of a bit made a file of 1,000 bytes; the last one had 1,200"):
        price_for_size(lambda _: 1_200, 1e-8, 1_200, 1_000)


class _Jump(_Curve):
    """A layer whose size jumps at one price."""

    def choose(self, price, start=None):
        size = 380_000 if price < 3e-8 else 180_000
        self.prices.append(price)
        return Rounded(np.ones((self.ROWS, 1), np.int8), np.full(self.ROWS, size), price)


def test_a_size_in_the_middle_of_a_jump_is_made_of_rows_of_both_sides():
    jump = _Jump()
    found = round_to_bytes({"one": jump}, jump.measure, 300_000)
    assert 297_000 <= found.num_bytes <= 300_000
    assert set(found.layers["one"].exponents) == {380_000, 180_000}


class _JumpElsewhere(_Jump):
    """A layer in a file whose rest jumps at that price, much further than its rows do."""

    def choose(self, price, start=None):
        return replace(super().choose(price), price=price)

    def measure(self, layers):
        self.sizes.append(int(self.row_bits(layers["one"]).sum() / 80 + (200_000 if layers["one"].price < 3e-8 else 0)))
        return self.sizes[-1]


def test_mixing_rows_ends_where_they_are_not_what_jumps():
    jump = _JumpElsewhere()
    jump.sizes = []
    found = round_to_bytes({"one": jump}, jump.measure, 150_000)
    assert 18_000 <= found.num_bytes < 40_000
    assert len(jump.sizes) == len(jump.prices) + 1  # one mixture was enough to see it


def test_losses_and_bits_of_rows_add_up_to_those_of_the_layer():
    for groups, out, columns in ((1, 24, 36), (24, 24, 9), (4, 24, 18), (1, 3, 2 * LARGEST_BLOCK)):
        layer = a_layer(out, columns, groups)
        chooser = LayerChooser(layer)
        rounded = Rounded(np.rint(layer.weights / layer.steps[:, None]).astype(np.int8), exponents_of(layer.steps), 0.0)
        alone = chooser.row_losses(rounded)
        assert alone.sum() == pytest.approx(layer.loss(rounded.codes, rounded.steps))
        row = 2  # the others exact: what is left is its own
        kept = np.where(np.arange(out)[:, None] == row, rounded.codes, layer.weights / rounded.steps[:, None])
        assert layer.loss(kept, rounded.steps) == pytest.approx(alone[row])
        assert chooser.row_bits(rounded).sum() == pytest.approx(entropy_bits(rounded.codes), rel=0.02)


def test_a_size_that_the_rest_of_the_file_exceeds_is_refused():
    curve = _Curve(fixed=50_000)
    with pytest.raises(StageError, match=r"50,000 bytes with all weights zero, and 40,000 were asked for"):
        round_to_bytes({"one": curve}, curve.measure, 40_000)


def test_the_next_price_lies_between_sizes_around_the_target():
    layer = _Curve()
    curve = RoughCurve({"one": layer})
    tried = [Priced({"one": layer.choose(price)}, price, size) for price, size in ((1e-9, 400_000), (1e-8, 300_000))]
    assert 1e-9 < next_price(tried, 350_000, curve) < 1e-8
    assert next_price(tried[:1], 350_000, curve) > 1e-9
    assert next_price(tried[1:], 350_000, curve) < 1e-8


def test_the_rough_curve_is_near_enough_to_begin_with_and_falls():
    chooser = LayerChooser(a_layer(64, 288, 1))
    prices = [1e-4, 1e-3, 1e-2, 1e-1]
    rough = [chooser.rough_bits(price) for price in prices]
    assert rough == sorted(rough, reverse=True)
    for price, bits in zip(prices, rough, strict=True):
        real = entropy_bits(chooser.choose(price).codes)
        assert 0.5 * real <= bits <= 2 * real + 100, price
    curve = RoughCurve({"one": chooser})
    assert chooser.rough_bits(curve.price(rough[1])) == pytest.approx(rough[1], rel=0.03)


@pytest.mark.parametrize("price", [1e-12, 1e-6])
def test_weights_that_are_chosen_alone_are_not_cut_off(price):
    chooser = LayerChooser(a_layer(24, 36, 1))
    codes, exponents = chooser.alone(price, by_bits=False)
    steps = np.exp2(exponents / 4)[:, None]
    assert (np.abs(chooser.layer.weights / steps) <= chooser.layer.largest_code + 0.5).all()
    assert (np.abs(codes * steps - chooser.layer.weights) <= 0.501 * steps).all()
