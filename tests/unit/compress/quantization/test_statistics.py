"""What layers see and how much it matters, against direct computation."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from quantized_lookalike import Lookalike, images_of
from torch import nn
from torch.nn import functional as F
from torchvision.ops import DeformConv2d

from compress.errors import StageError
from compress.quantization import QuantizationSettings, calibrate, quantize
from compress.quantization.checks import quantized_layers
from compress.quantization.graph import outputs_of
from compress.quantization.layers import QuantizedConv2d, QuantizedLayer
from compress.quantization.rate_rounding import layer_choosers, set_rounded
from compress.quantization.statistics import gather_statistics, inputs_at, output_bends
from compress.rate_rounding.code_lengths import entropy_bits
from compress.rate_rounding.search import round_network
from compress.training.distillation import output_loss

torch.set_num_threads(1)
DETECTOR = Lookalike()
OUTPUTS = len(DETECTOR.output_names())


def half_squares(student, teacher):
    return torch.stack([(a - b).square().sum() / 2 for a, b in zip(student, teacher, strict=True)]).sum()


@pytest.fixture(scope="module")
def model():
    quantized = quantize(DETECTOR.build(), QuantizationSettings(weight_bit_width=8, target="vnni"), DETECTOR)
    calibrate(quantized, images_of(DETECTOR))
    return quantized


def pairs(distance, count=4):
    return [(image, distance) for image in images_of(DETECTOR)[:count]]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("groups", [1, 4])
def test_inputs_are_what_the_kernel_is_multiplied_by(stride, groups):
    layer = QuantizedConv2d(nn.Conv2d(4, 8, 3, stride, 2, dilation=2, groups=groups), bit_width=8, integer=True)
    x = torch.randn(1, 4, 11, 9)
    positions = torch.tensor([0, 7, 11, 3])
    seen = inputs_at(layer, (x,), positions).view(groups, -1, 4)
    weight = layer.weight.view(groups, 8 // groups, -1)
    expected = F.conv2d(x, layer.weight, None, stride, 2, 2, groups)[0].flatten(1)[:, positions]
    assert torch.allclose((weight @ seen).flatten(0, 1), expected, atol=1e-5)


def test_inputs_of_a_layer_whose_inside_is_unknown():
    layer = QuantizedLayer(DeformConv2d(4, 6, 3, padding=1), bit_width=8)
    x, offset = torch.randn(1, 4, 7, 5), torch.randn(1, 18, 7, 5)
    positions = torch.arange(35)
    seen = inputs_at(layer, (x, offset), positions)
    expected = layer.call_with(layer.weight, x, offset)[0].flatten(1)
    found = layer.weight.flatten(1) @ seen + layer.bias[:, None]
    assert torch.allclose(found, expected, atol=1e-4)


def test_the_bend_of_squares_is_one_and_that_of_the_plug_ins_own_measure_is_its_second_derivative():
    outputs = (torch.randn(1, 3, 4, 4), torch.randn(1, 2, 2, 2))
    generator = torch.Generator().manual_seed(0)
    for bend in output_bends(outputs, half_squares, generator):
        assert torch.allclose(bend, torch.ones_like(bend))

    def scores(student, teacher):
        return F.binary_cross_entropy_with_logits(student[0], teacher[0].sigmoid(), reduction="sum")

    (bend,) = output_bends(outputs[:1], scores, generator)
    probability = outputs[0].sigmoid()
    assert torch.allclose(bend, probability * (1 - probability), atol=1e-6)


@pytest.mark.long
def test_importance_times_errors_foretells_what_the_outputs_lose(model):
    """The loss that the statistics expect of noise on the weights is the one that is measured."""
    statistics = gather_statistics(model, pairs(half_squares), num_outputs=OUTPUTS, seed=0)
    rng = np.random.default_rng(0)
    ratios = []
    for name, layer in quantized_layers(model).items():
        one = statistics[name]
        foretold = measured = 0.0
        for _ in range(3):
            noise = rng.normal(size=layer.weight.shape) * float(layer.weight.detach().std()) * 0.3
            chooser = layer_choosers(model, statistics)[name]
            spread = one.spread(centered=False)
            blocks = chooser.layer.to_blocks(noise.reshape(len(noise), -1))
            squares = ((blocks @ spread) * blocks).sum(axis=2)
            foretold += float((squares * chooser.layer.rows_to_blocks(one.importance)).sum()) / 2
            measured += _measured(model, layer, torch.from_numpy(noise).float())
        ratios.append(foretold / measured)
    assert 0.8 < np.median(ratios) < 1.25
    assert min(ratios) > 0.25  # small changes in the middle drown in flips of the activations' rounding
    assert max(ratios) < 2


def _measured(model, layer, noise):
    images = images_of(DETECTOR)[:4]
    for module in model.modules():
        if hasattr(module, "weight_quant"):
            module.train()
    layer.weight_quant.disable_quant = True
    before = [outputs_of(model, x)[:OUTPUTS] for x in images]
    with torch.no_grad():
        layer.weight.add_(noise)
        after = [outputs_of(model, x)[:OUTPUTS] for x in images]
        layer.weight.sub_(noise)
        layer.weight_quant.disable_quant = False
    model.eval()
    return float(sum(half_squares(a, b) for a, b in zip(after, before, strict=True))) / len(images)


def test_statistics_are_the_same_again_and_other_seeds_are_close(model):
    first, again, other = (
        gather_statistics(model, pairs(output_loss), num_outputs=OUTPUTS, seed=seed) for seed in (0, 0, 1)
    )
    for name, one in first.items():
        assert np.array_equal(one.moments.second, again[name].moments.second)
        assert np.array_equal(one.output_weights, again[name].output_weights)
        assert one.images == 4
    sums = [sum(float(one.output_weights.sum()) for one in found.values()) for found in (first, other)]
    assert sums[1] == pytest.approx(sums[0], rel=0.5)


def test_no_image_is_refused(model):
    with pytest.raises(StageError, match="no image was seen"):
        gather_statistics(model, [], num_outputs=OUTPUTS, seed=0)


@pytest.mark.long
def test_a_rounded_model_loses_less_than_nearest_integers_of_as_many_bits(model):
    statistics = gather_statistics(model, pairs(output_loss), num_outputs=OUTPUTS, seed=0)
    layers = round_network(layer_choosers(model, statistics), 1e-6)
    rounded = set_rounded(copy.deepcopy(model), layers, statistics)
    bits = sum(entropy_bits(one.codes) for one in layers.values())
    reference = [outputs_of(model, x)[:OUTPUTS] for x in images_of(DETECTOR, split="val")]

    def error(candidate):
        found = [outputs_of(candidate, x)[:OUTPUTS] for x in images_of(DETECTOR, split="val")]
        return sum(float(output_loss(tuple(a), tuple(b))) for a, b in zip(found, reference, strict=True))

    for width in (8, 7, 6, 5, 4, 3, 2):
        plain = quantize(
            DETECTOR.build(),
            QuantizationSettings(weight_bit_width=width, depthwise_weight_bit_width=width, target="vnni"),
            DETECTOR,
        )
        calibrate(plain, images_of(DETECTOR))
        if sum(entropy_bits(layer.integer_weight()[0].numpy()) for layer in quantized_layers(plain).values()) < bits:
            break
    assert error(rounded) < 0.7 * error(plain)
    for name, layer in quantized_layers(rounded).items():
        codes, steps = layer.integer_weight()
        assert np.array_equal(codes.flatten(1).numpy(), layers[name].codes)
        assert np.array_equal(steps.numpy(), layers[name].steps)
