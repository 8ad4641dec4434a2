"""The layers of the final network in a report: whose bytes are whose, what no layer owns, how far outputs moved."""

import numpy as np
import pytest
import torch
from torch import nn

from compress.actions.layer_table import output_errors
from compress.codec.files.inspection import TensorFacts
from compress.layer_names import layers_of
from compress.metrics.output_error import ChannelErrors
from compress.report.forecast import LayerForecast
from compress.report.layers import BETWEEN, LayerFacts, bytes_by_layer, layer_rows


def tensor(name, packed_bytes):
    return TensorFacts(name, (1,), "int8", 10, 6, 0.5, 3.0, 3.1, 40, packed_bytes, 0.1, "huffman")


def test_bytes_go_to_the_layer_of_a_tensor_by_its_full_name_and_the_rest_to_none():
    names = {"A1": "head.cls.weight", "A2": "head.cls.bias", "B": "stem.weight", "C": "anchors"}
    found = bytes_by_layer(
        [tensor(name, size) for name, size in (("A1", 70), ("A2", 5), ("B", 10), ("C", 3))],
        names,
        layers_of(names.values()),
        100,
    )
    assert found == {"head.cls": 75, "stem": 10, BETWEEN: 15}


def test_a_row_gathers_what_is_known_and_what_is_not_is_null():
    facts = LayerFacts({"stem": 10, "head": 20}, {"stem": 1, "head": 2}, {"stem": 6, "head": 32},
                       {"stem": True, "head": False}, {"stem": 0.5, "head": 0.0}, {"stem": 0.1})  # fmt: skip
    said = [LayerForecast(name="stem", params=1, macs=10, packed_bytes=None, latency_ms=0.7)]
    stem, head, between = layer_rows(
        facts, packed_bytes={"stem": 7, BETWEEN: 3}, seconds={"stem": 0.002}, forecast=said, reasons={"head": "output"}
    )
    assert (stem.latency_ms, stem.forecast_ms, stem.forecast_bytes, stem.float_reason) == (2.0, 0.7, None, None)
    assert (head.packed_bytes, head.latency_ms, head.error, head.float_reason) == (0, 0.0, None, "output")
    assert (between.name, between.packed_bytes, between.integer, between.macs) == (BETWEEN, 3, None, None)
    (alone,) = layer_rows(LayerFacts({"a": 1}, {"a": 1}), packed_bytes={}, seconds={}, forecast=[], reasons={})
    assert (alone.packed_bytes, alone.latency_ms) == (None, None)


def test_an_error_is_what_no_gain_of_a_channel_makes_good():
    rng = np.random.default_rng(0)
    expected = rng.normal(size=(2, 3, 4, 4))
    scaled = expected * np.array([2.0, 0.1, 5.0])[None, :, None, None]
    errors = ChannelErrors()
    errors.add(scaled, expected)
    assert errors.error == pytest.approx(0, abs=1e-6)
    noise = rng.normal(size=expected.shape) * 0.3
    errors = ChannelErrors()
    errors.add(scaled[:1] + noise[:1], expected[:1])
    errors.add(scaled[1:] + noise[1:], expected[1:])
    left = 0.0
    for channel in range(3):
        one, other = (scaled + noise)[:, channel].ravel(), expected[:, channel].ravel()
        gain = (one @ other) / (one @ one)
        left += ((gain * one - other) ** 2).sum()
    assert errors.error == pytest.approx(np.sqrt(left / (expected**2).sum()))


def test_outputs_of_layers_are_compared_call_by_call_and_those_of_one_network_left_out():
    torch.manual_seed(0)
    shared = nn.Conv2d(3, 3, 3, padding=1)
    one, other = nn.Sequential(shared, nn.ReLU(), shared), nn.Sequential(nn.Conv2d(3, 3, 3, padding=1))
    with torch.no_grad():
        other[0].weight.copy_(shared.weight)
        other[0].bias.copy_(shared.bias)
    images = [torch.randn(1, 3, 8, 8)]
    assert output_errors(one, one, images, ["0"]) == {"0": pytest.approx(0, abs=1e-3)}
    assert output_errors(one, other, images, ["0"]) == {}  # called twice in the one, once in the other
    assert not any(module._forward_hooks for module in one.modules())
