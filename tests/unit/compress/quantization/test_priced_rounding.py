"""Training at a size: integers by price in the forward, the price held by the size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from quantized_lookalike import Lookalike, images_of
from torch import nn

from compress.actions import qat
from compress.model_copy import copy_of
from compress.quantization import QuantizationSettings, calibrate, quantize
from compress.quantization.checks import quantized_layers
from compress.quantization.priced_rounding import PricedRounding, SizeHolder, round_by_price, settle
from compress.quantization.rate_rounding import layer_choosers, set_rounded
from compress.quantization.statistics import gather_statistics
from compress.rate_rounding.code_lengths import CodeLengths, entropy_bits
from compress.rate_rounding.search import Priced, round_network
from compress.stages.qat import Qat
from compress.training.distillation import output_loss

torch.set_num_threads(1)
DETECTOR = Lookalike()
PRICE = 1e-6


@pytest.fixture(scope="module")
def rounded_once():
    """Return a model whose layers choose by price, and what they were rounded to."""
    torch.manual_seed(0)
    images = images_of(DETECTOR, 3)
    model = quantize(DETECTOR.build().eval(), QuantizationSettings(weight_bit_width=6), DETECTOR)
    calibrate(model, images)
    batches = [(image.clone(), output_loss) for image in images]
    statistics = gather_statistics(model, batches, num_outputs=len(DETECTOR.output_names()), seed=0)
    rounded = round_network(layer_choosers(model, statistics), PRICE)
    set_rounded(model, rounded, statistics)
    round_by_price(model, rounded, statistics, PRICE)
    return model, rounded, statistics


@pytest.fixture
def priced(rounded_once):
    """Return the same, to be changed."""
    model, rounded, _ = rounded_once
    return copy_of(model), rounded


def bits_of(model: nn.Module) -> float:
    with torch.no_grad():
        return sum(entropy_bits(layer.quant_weight().int().numpy()) for layer in quantized_layers(model).values())


@pytest.mark.parametrize("price", [1e-3, 1.0, 30.0])
def test_each_weight_becomes_what_costs_least_of_zero_the_nearest_and_the_one_nearer_to_zero(price):
    rng = np.random.default_rng(0)
    lengths = CodeLengths.fitted(np.rint(rng.laplace(scale=1.5, size=4000)).clip(-7, 7), 7)
    x = torch.from_numpy(rng.laplace(scale=2.0, size=3000)).float()
    worth = torch.from_numpy(rng.exponential(size=3000)).float()
    chosen = PricedRounding(worth, lengths, price)(x)
    nearest = x.round().clamp(-7, 7)
    tried = torch.stack([nearest, nearest - nearest.sign(), torch.zeros_like(x)])
    bits = torch.from_numpy(lengths.bits).float()[tried.long() + 7]
    cost = worth * (tried - x) ** 2 + price * bits
    own = torch.from_numpy(lengths.bits).float()[chosen.long() + 7] * price + worth * (chosen - x) ** 2
    assert torch.allclose(own, cost.amin(0), rtol=1e-5, atol=1e-6)
    assert (chosen[:, None] == tried.T).any(1).all()
    if price == 30.0:
        assert (chosen == 0).float().mean() > 0.9


def test_gradients_reach_weights_that_became_zero(priced):
    layer = priced[0].head.first
    layer.train()
    layer.quant_weight().value.sum().backward()
    assert torch.equal(layer.weight.grad, torch.ones_like(layer.weight))


def test_a_higher_price_makes_fewer_bits(priced):
    model, _ = priced
    sizes = []
    for factor in (0.1, 1.0, 10.0, 100.0):
        for layer in quantized_layers(model).values():
            layer.rule.price.fill_(PRICE * factor)
        sizes.append(bits_of(model))
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < sizes[0]


@pytest.mark.parametrize("sign", [-1, 1])
def test_the_size_is_held_while_weights_move(priced, sign):
    model, rounded = priced
    holder = SizeHolder(model)
    assert holder.goal == pytest.approx(sum(entropy_bits(one.codes) for one in rounded.values()))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in quantized_layers(model).values():
            step = layer.weight_step.view(-1, 1, 1, 1)
            noise = torch.rand(layer.weight.shape, generator=generator) * step
            layer.weight.add_(noise * layer.weight.sign() * sign + 0.3 * noise)
    for step in range(20, 1200, 20):
        holder(step, 1200)
    assert bits_of(model) == pytest.approx(holder.goal, rel=0.02)
    assert holder.price != PRICE


def test_a_look_fits_the_code_lengths_to_the_integers_as_they_are(priced):
    model, _ = priced
    holder, layer = SizeHolder(model), model.head.first
    with torch.no_grad():
        layer.weight.mul_(3)
        codes = layer.quant_weight().int().numpy()
    holder(20, 1000)
    assert layer.rule.bits.numpy() == pytest.approx(CodeLengths.fitted(codes, layer.largest_code).bits, rel=1e-5)


@pytest.mark.parametrize("name", ["head.first", "backbone.block.depthwise.0"])
def test_an_error_costs_what_its_input_and_its_row_do(rounded_once, name):
    model, rounded, statistics = rounded_once
    layer, seen, one = model.get_submodule(name), statistics[name], rounded[name]
    squares = np.diagonal(seen.moments.second, axis1=1, axis2=2) / seen.moments.positions
    blocks = squares if layer.groups > 1 else squares.repeat(len(one.codes), axis=0)
    wanted = blocks * (seen.output_weights / seen.images * one.steps.astype(np.float64) ** 2)[:, None]
    assert layer.rule.worth.flatten(1).numpy() == pytest.approx(wanted, rel=1e-3)
    assert wanted.max() > 0


def test_between_two_looks_nothing_changes(priced):
    holder = SizeHolder(priced[0])
    holder.goal *= 2
    holder(7, 1000)
    assert holder.price == PRICE
    holder(1000, 1000)
    assert holder.price < PRICE


def test_settled_weights_compute_the_same_and_round_to_themselves(priced):
    model, _ = priced
    with torch.no_grad():
        for layer in quantized_layers(model).values():
            layer.weight.mul_(1.1)
        image = images_of(DETECTOR, 1)[0]
        before, codes = model(image), model.head.first.integer_weight()[0]
        settle(model, PRICE)
        after = model(image)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert torch.equal(codes, model.head.first.integer_weight()[0])
    assert all(layer.rule is None for layer in quantized_layers(model).values())
    assert not [name for name in model.state_dict() if "rule" in name]


def drifted(priced_model):
    """Return a copy whose weights moved as far as training may move them without changing an integer."""
    model = copy_of(priced_model)
    torch.manual_seed(1)
    with torch.no_grad():
        for layer in quantized_layers(model).values():
            steps, codes = layer.weight_step.view(-1, 1, 1, 1), layer.quant_weight().int()
            for _ in range(40):
                moved = layer.weight + 0.3 * steps * torch.randn_like(layer.weight)
                before, layer.weight.data = layer.weight.data, moved
                stays = layer.quant_weight().int() == codes
                layer.weight.data = torch.where(stays, moved, before)
    return model


def test_a_file_that_training_made_too_large_computes_about_what_was_trained(rounded_once, monkeypatch):
    """Where a bit is dear, weights wander steps away from their integers: what they became is the network, not they."""
    priced_model, rounded, statistics = rounded_once
    model, image = drifted(priced_model), images_of(DETECTOR, 1)[0]
    with torch.no_grad():
        trained = model(image)
        wandered = copy_of(model)
        for layer in quantized_layers(wandered).values():
            layer.rule = None
        nearest = wandered(image)

    def distance(outputs):
        return sum(float((a - b).square().sum()) for a, b in zip(outputs, trained, strict=True))

    class Sizing:
        def __init__(self, *_, **__):
            pass

        def to(self, *_, **__):
            return Priced(rounded, PRICE, 1000)

        def settle(self, found):
            pass

    monkeypatch.setattr(qat, "SizeRounding", Sizing)
    monkeypatch.setattr(qat, "round_by_price", lambda *_: None)
    monkeypatch.setattr(qat, "weigh_errors", lambda *_, **__: statistics)
    monkeypatch.setattr(qat, "packed_bytes", lambda one, _: int(bits_of(one)))
    wanted = int(0.97 * bits_of(model))
    monkeypatch.setattr(qat, "target_bytes", lambda *_, **__: wanted)
    stage = Qat(rate={"packed_bytes": 1000}, training={"epochs": 1})
    result, facts = qat._train_at_size(model, stage, stage.rate, None, lambda holder: "trained")
    assert result == "trained"
    assert 0.99 * wanted <= facts["expected_packed_bytes"] <= wanted
    assert facts["price"] > PRICE
    with torch.no_grad():
        assert distance(model(image)) < 0.1 * distance(nearest)
