"""Post-training quantization of a graph: better than rounding to the nearest, and the same network before it."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from quantized_lookalike import Lookalike, images_of
from torch import nn

from compress.errors import StageError
from compress.quantization import QuantizationSettings, quantize
from compress.quantization.calibration import running_in_float
from compress.quantization.checks import quantized_layers
from compress.quantization.graph import outputs_of
from compress.quantization.post_training import kernel_inputs, post_train
from compress.quantization.settings import ONLY_RANGES, PostTraining
from compress.stages.qat import Qat

torch.set_num_threads(1)
DETECTOR = Lookalike()
NOTHING = replace(ONLY_RANGES, ranges="least_error")


def bright_model():
    """Return a network whose channels are flat, far from zero and amplified behind: an easy prey of shifts."""
    model = DETECTOR.build()
    with torch.no_grad():
        expand, depthwise = model.backbone.block.expand, model.backbone.block.depthwise
        expand[1].weight.mul_(torch.logspace(-2, 0, 32))
        expand[1].bias.fill_(1.0)
        depthwise[1].weight.mul_(6)
        depthwise[1].bias.sub_(depthwise[0].weight.sum((1, 2, 3)) * 6)
    return model.eval()


def quantized(model, wanted, bits=7, **settings):
    result = quantize(model, QuantizationSettings(weight_bit_width=bits, **settings), DETECTOR)
    return result, post_train(result, lambda: images_of(DETECTOR), wanted)


def error(model, reference):
    x = torch.cat(images_of(DETECTOR, split="val"))
    pairs = zip(outputs_of(model, x), outputs_of(reference, x), strict=True)
    return sum(float((found - expected).norm() / expected.norm()) for found, expected in pairs)


def test_every_part_makes_the_outputs_truer():
    model = bright_model()
    errors = {"none": error(quantized(model, NOTHING, 4, depthwise_weight_bit_width=4)[0], model)}
    for name, wanted in {
        "bias": replace(NOTHING, correct_bias=True),
        "feedback": replace(NOTHING, rounding="feedback"),
        "all": PostTraining(),
    }.items():
        errors[name] = error(quantized(model, wanted, 4, depthwise_weight_bit_width=4)[0], model)
    assert errors["bias"] < 0.9 * errors["none"]
    assert errors["feedback"] < 0.8 * errors["none"]
    assert errors["all"] < 0.7 * errors["none"]
    assert errors["all"] < min(errors["bias"], errors["feedback"]) * 1.05


@pytest.mark.long
def test_error_falls_as_bits_rise():
    model = bright_model()
    errors = [
        error(quantized(model, PostTraining(), bits, target="vnni", depthwise_weight_bit_width=bits)[0], model)
        for bits in (2, 3, 4, 6, 8)
    ]
    assert errors == sorted(errors, reverse=True)


def test_equalized_network_computes_the_same():
    model = bright_model()
    wanted = replace(ONLY_RANGES, equalize=True)
    plain = quantize(model, QuantizationSettings(), DETECTOR)
    equalized, facts = quantized(model, wanted)
    assert facts["equalized_pairs"] == 3  # expand to depthwise, depthwise to linear, the head's first two
    changed = [
        name
        for name, layer in quantized_layers(equalized).items()
        if not torch.equal(layer.weight, quantized_layers(plain)[name].weight)
    ]
    assert "backbone.block.depthwise.0" in changed
    x = images_of(DETECTOR)[0]
    with running_in_float(plain), running_in_float(equalized):
        for found, expected in zip(outputs_of(equalized, x), outputs_of(plain, x), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_zero_weights_stay_zero_and_scales_stay():
    model = bright_model()
    with torch.no_grad():
        weight = model.backbone.down[0].weight
        weight[weight.abs() < weight.abs().median()] = 0
    zeros = model.backbone.down[0].weight == 0
    before = quantized_layers(quantize(model, QuantizationSettings(), DETECTOR))["backbone.down.0"].integer_weight()
    result, _ = quantized(model, replace(PostTraining(), equalize=False))
    codes, scales = quantized_layers(result)["backbone.down.0"].integer_weight()
    assert (codes[zeros] == 0).all()
    torch.testing.assert_close(scales, before[1])
    assert not torch.equal(codes, before[0])


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("groups", [1, 4])
def test_kernel_inputs_are_what_the_kernel_is_multiplied_by(stride, groups):
    layer = nn.Conv2d(4, 8, 3, stride, padding=2, dilation=2, groups=groups, bias=False)
    x = torch.randn(2, 4, 17, 23)
    patches = kernel_inputs(layer, x)
    parts = patches.view(len(patches), groups, -1)
    weights = layer.weight.flatten(1).view(groups, 8 // groups, -1)
    found = torch.einsum("pgc,gOc->pgO", parts, weights).flatten(1)
    expected = layer(x).permute(0, 2, 3, 1).reshape(-1, 8)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_few_positions_are_taken_from_a_large_image():
    layer = nn.Conv2d(2, 3, 3, padding="same")
    assert 3000 < len(kernel_inputs(layer, torch.randn(1, 2, 500, 700))) <= 4096


def test_no_image_is_an_error():
    model = quantize(DETECTOR.build(), QuantizationSettings(), DETECTOR)
    for wanted in (PostTraining(), ONLY_RANGES):
        with pytest.raises(StageError, match="no image"):
            post_train(model, list, wanted)


def test_only_what_follows_no_training_is_on_by_default():
    trained, untrained = Qat(), Qat(training={"epochs": 0})
    assert trained.chosen() == ONLY_RANGES
    assert untrained.chosen() == PostTraining()
    assert Qat(post_training={"rounding": "feedback"}).chosen() == replace(ONLY_RANGES, rounding="feedback")
    assert Qat(training={"epochs": 0}, post_training={"equalize": False}).chosen() == PostTraining(equalize=False)


def test_key_of_a_trained_stage_is_what_it_was():
    assert "post_training" not in Qat().key_fields()
    assert Qat(training={"epochs": 0}).key_fields()["post_training"]["rounding"] == "feedback"
    copied = copy.deepcopy(Qat(post_training={"equalize": True}).key_fields())
    assert copied["post_training"] == {
        "ranges": "percentile",
        "rounding": "nearest",
        "equalize": True,
        "correct_bias": False,
    }
