"""Biases that are as coarse as a bit is worth it: in arithmetic, file and folder, and what they cost."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from quantized_lookalike import Lookalike, images_of

from compress.export import check_parity, export_onnx
from compress.layer_widths import build_layers
from compress.model_folder import Build, load_model, save_model
from compress.quantization import QuantizationSettings, calibrate, quantize
from compress.quantization import integer_arithmetic as arithmetic
from compress.quantization.checks import quantized_layers
from compress.quantization.graph import outputs_of
from compress.quantization.rate_rounding import bias_unit, layer_choosers, set_rounded
from compress.quantization.statistics import gather_statistics
from compress.rate_rounding.layer import Rounded
from compress.rate_rounding.search import round_network

torch.set_num_threads(1)
DETECTOR = Lookalike()
OUTPUTS = len(DETECTOR.output_names())
SETTINGS = QuantizationSettings(weight_bit_width=7)


def half_squares(student, teacher):
    return torch.stack([(a - b).square().sum() / 2 for a, b in zip(student, teacher, strict=True)]).sum()


@pytest.fixture(scope="module")
def model():
    quantized = quantize(DETECTOR.build(), SETTINGS, DETECTOR)
    calibrate(quantized, images_of(DETECTOR))
    return quantized


@pytest.fixture(scope="module")
def statistics(model):
    pairs = [(image, half_squares) for image in images_of(DETECTOR)[:8]]
    return gather_statistics(model, pairs, num_outputs=OUTPUTS, seed=0)


@pytest.fixture(scope="module")
def coarse(model, statistics):
    layers = round_network(layer_choosers(model, statistics), 1e-6)
    return set_rounded(copy.deepcopy(model), layers, statistics)


def stored_biases(path):
    tensors = (t for t in onnx.load(str(path)).graph.initializer if t.data_type == onnx.TensorProto.INT32)
    return {t.name: numpy_helper.to_array(t) for t in tensors}


@pytest.mark.parametrize(("unit", "factor"), [(None, 1), (0.01, 1), (0.125, 8), (0.17, 8), (0.19, 16)])
def test_a_bias_becomes_a_multiple_of_the_nearest_power_of_two(unit, factor):
    bias, scale = torch.tensor([1.0, -0.33, 0.0001]), torch.tensor([2.0**-7, 2.0**-9, 2.0**-7])
    found = arithmetic.bias_codes(bias, torch.tensor(2.0**-6), scale, None if unit is None else torch.tensor(unit))
    exact = bias.double() / (2.0**-6 * scale.double())
    assert found.tolist() == (torch.round(exact / factor) * factor).tolist()


def test_the_coarseness_is_where_the_last_bit_wins_the_price():
    rounded = Rounded(np.zeros((2, 3), np.int8), np.array([-16, -12]), 0.0, price=1e-6)
    importance = np.array([3.0, 5.0])
    unit = bias_unit(importance, rounded)
    loss = lambda u: float((importance * (rounded.steps.astype(float) * u) ** 2 / 12).sum())  # noqa: E731
    slope = (loss(unit * 1.001) - loss(unit)) / np.log2(1.001)  # of the loss over bits that two biases save together
    assert slope == pytest.approx(2 * 1e-6, rel=0.01)
    assert bias_unit(np.zeros(2), rounded) == 0.0


@pytest.mark.long
def test_a_file_of_rounded_weights_has_biases_of_few_values_and_torch_computes_with_them(model, coarse, tmp_path):
    for name, one in (("fine", model), ("coarse", coarse)):
        export_onnx(one, tmp_path / f"{name}.onnx", detector=DETECTOR)
    fine, few = stored_biases(tmp_path / "fine.onnx"), stored_biases(tmp_path / "coarse.onnx")
    bits = [
        sum(np.log2(np.ptp(b) / max(np.gcd.reduce(b), 1) + 1) * b.size for b in biases.values())
        for biases in (fine, few)
    ]
    assert bits[1] < 0.8 * bits[0]
    factors = {name: int(np.gcd.reduce(b)) for name, b in few.items() if b.any()}
    assert sum(factor > 1 for factor in factors.values()) > len(factors) / 2
    errors = check_parity(
        coarse, tmp_path / "coarse.onnx", images_of(DETECTOR)[:2], names=DETECTOR.output_names(), limit=1e-4, label="x"
    )
    assert max(errors.values()) < 1e-5


@pytest.mark.long
def test_coarse_biases_survive_a_folder(coarse, tmp_path):
    save_model(
        tmp_path, coarse, Build(layers=build_layers(DETECTOR.build()), quantization=SETTINGS.model_dump(mode="json"))
    )
    again, _ = load_model(tmp_path, DETECTOR)
    (image,) = images_of(DETECTOR)[:1]
    for a, b in zip(outputs_of(coarse, image), outputs_of(again, image), strict=True):
        assert torch.equal(a, b)
    assert again.neck.smooth.bias_unit == coarse.neck.smooth.bias_unit > 0


@pytest.mark.long
def test_statistics_foretell_what_a_shift_of_biases_costs(model, statistics):
    """A shift moves all positions at once: the sum of the slopes counts, not the sum of their squares."""
    ratios = []
    for name in ("backbone.stem.0", "neck.laterals.0", "neck.smooth", "head.first", "head.score", "head.box"):
        layer = quantized_layers(model)[name]
        generator = torch.Generator().manual_seed(0)
        foretold = measured = 0.0
        before = [outputs_of(model, x)[:OUTPUTS] for x in images_of(DETECTOR)[:4]]
        for _ in range(4):
            noise = 0.3 * layer.bias.detach().abs().mean() * torch.randn(layer.bias.shape, generator=generator)
            foretold += float((statistics[name].bias_importance * noise.numpy() ** 2).sum() / 2)
            with torch.no_grad():
                layer.bias.add_(noise)
                after = [outputs_of(model, x)[:OUTPUTS] for x in images_of(DETECTOR)[:4]]
                layer.bias.sub_(noise)
            measured += float(sum(half_squares(a, b) for a, b in zip(after, before, strict=True))) / 4
        ratios.append(foretold / measured)
    assert all(0.4 < ratio < 2.5 for ratio in ratios), ratios
