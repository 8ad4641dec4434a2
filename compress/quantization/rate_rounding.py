"""Weights of a quantized model as layers to be rounded at a price, and back."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from compress.post_training.correction import bias_shift
from compress.quantization.checks import quantized_layers
from compress.quantization.layers import QuantizedConv2d
from compress.rate_rounding.choice import LayerChooser
from compress.rate_rounding.layer import Layer, Rounded
from compress.rate_rounding.statistics import LayerStatistics


def layer_choosers(model: nn.Module, statistics: Mapping[str, LayerStatistics]) -> dict[str, LayerChooser]:
    """Return layer name -> what rounds it at any price."""
    return {name: LayerChooser(_layer(layer, statistics[name])) for name, layer in quantized_layers(model).items()}


def _layer(layer: QuantizedConv2d, statistics: LayerStatistics) -> Layer:
    _, steps = layer.integer_weight()
    return Layer(
        weights=layer.weight.detach().cpu().double().flatten(1).numpy(),
        steps=steps.cpu().double().numpy(),
        largest_code=layer.largest_code,
        importance=statistics.importance,
        spread=statistics.spread(centered=layer.bias is not None),
    )


def set_rounded(
    model: nn.Module, rounded: Mapping[str, Rounded], statistics: Mapping[str, LayerStatistics]
) -> nn.Module:
    """Give the layers of a model their new weights, steps and biases, in place; return it.

    A bias takes up what the new weights add to the mean of its output, and is as coarse as a bit is worth it.
    """
    for name, layer in quantized_layers(model).items():
        one = rounded[name]
        before = layer.weight.detach().cpu().double().flatten(1).numpy()
        with torch.no_grad():
            if layer.bias is not None:
                shift = torch.from_numpy(bias_shift(before, one.weights, statistics[name].moments))
                layer.bias.add_(shift.to(layer.bias).view_as(layer.bias))
            layer.weight.copy_(torch.from_numpy(one.weights).view_as(layer.weight))
        layer.fix_steps(torch.from_numpy(one.steps))
        if layer.bias is not None and (unit := bias_unit(statistics[name].bias_importance, one)) > 0:
            layer.coarsen_bias(torch.tensor(unit))
    return model


def bias_unit(importance: np.ndarray, rounded: Rounded) -> float:
    """Return how coarse the biases of a layer may be, in units of its input; 0 if nothing is known of them.

    One number for a layer, so that its integers are multiples of one power of two.

    Args:
        importance: (out,) what an error of one in each bias costs.
        rounded: its weights, and the price that they were rounded at.

    Source:
        High-rate theory, as for the steps of weights: an error of unit^2 / 12, a bit for halving it.
    """
    bends = float(np.mean(importance * rounded.steps.astype(np.float64) ** 2))
    return float(np.sqrt(6 * rounded.price / np.log(2) / bends)) if bends > 0 else 0.0
