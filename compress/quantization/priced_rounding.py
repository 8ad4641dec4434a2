"""Training at a size: integers by error and bits together in every forward, the price of a bit held by the size."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from compress.quantization.checks import quantized_layers
from compress.quantization.layers import QuantizedConv2d
from compress.rate_rounding.code_lengths import CodeLengths, entropy_bits
from compress.rate_rounding.layer import Rounded
from compress.rate_rounding.statistics import LayerStatistics

_EVERY = 20  # steps between two looks at the size
_PULL = 2.0  # of the logarithm of the price, by that of the size over its goal; the size falls as about price^-0.2
_MOST = math.log(1.5)  # that the price changes at once


class PricedRounding(nn.Module):
    """Chooses the integers of a layer: those that lose least, bits included.

    Attributes:
        worth: shape of the weight, by how much the loss grows with a squared error of one step.
        bits: (2 * largest + 1,) of each integer.
        price: scalar, loss that a bit is worth.
    """

    worth: Tensor
    bits: Tensor
    price: Tensor

    def __init__(self, worth: Tensor, lengths: CodeLengths, price: float) -> None:
        super().__init__()
        self.register_buffer("worth", worth.float(), persistent=False)  # does not change, and is as large as a weight
        self.register_buffer("bits", torch.from_numpy(lengths.bits).float())
        self.register_buffer("price", torch.tensor(price, dtype=torch.float64))

    def forward(self, in_steps: Tensor) -> Tensor:
        """Return the integers as floats, same shape: the nearest, the one nearer to zero, or zero.

        Args:
            in_steps: weights in steps.
        """
        largest = len(self.bits) // 2
        best = torch.round(in_steps).clamp_(-largest, largest)
        worth = self.worth / self.price.to(self.worth)
        cost = self._cost(best, in_steps, worth)
        for tried in (best - torch.sign(best), torch.zeros_like(best)):
            other = self._cost(tried, in_steps, worth)
            better = other < cost
            best, cost = torch.where(better, tried, best), torch.where(better, other, cost)
        return best

    def _cost(self, codes: Tensor, in_steps: Tensor, worth: Tensor) -> Tensor:
        return worth * (codes - in_steps).square() + self.bits[codes.long() + len(self.bits) // 2]


def round_by_price(
    model: nn.Module, rounded: Mapping[str, Rounded], statistics: Mapping[str, LayerStatistics], price: float
) -> None:
    """Let the layers of a model choose their integers by price from now on.

    Args:
        model: with the weights and steps of `rounded`; see `set_rounded`.
        rounded: layer name -> what it is.
        statistics: layer name -> what its weights are multiplied by.
        price: loss that a bit is worth at first.
    """
    for name, layer in quantized_layers(model).items():
        one = rounded[name]
        squares = np.diagonal(statistics[name].spread(centered=False), axis1=1, axis2=2)
        worth = _by_weight(squares, one.codes.shape) * (statistics[name].importance * one.steps**2)[:, None]
        lengths = CodeLengths.fitted(one.codes, layer.largest_code)
        rule = PricedRounding(torch.from_numpy(worth).view(layer.weight.shape), lengths, price)
        layer.rule = rule.to(layer.weight.device)


def _by_weight(squares: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return the mean square of the input of each weight, (out, columns), from that of each block's columns."""
    rows, columns = shape
    groups = len(squares) // (columns // squares.shape[1])
    by_group = squares.reshape(groups, columns)
    return np.repeat(by_group, rows // groups, axis=0)


class SizeHolder:
    """Keeps the size of the weights while they are trained, by the price of a bit; for `fit(after_step=...)`.

    Attributes:
        goal: bits of all integers by an ideal code, as they were rounded before.
    """

    def __init__(self, model: nn.Module) -> None:
        self._layers = _priced_layers(model)
        self.goal = sum(entropy_bits(_nearest(layer)) for layer, _ in self._layers)

    def __call__(self, step: int, total_steps: int) -> None:
        """Fit the code lengths to the integers as they are, and the price to the size, every so many steps."""
        if step % _EVERY and step != total_steps:
            return
        total = 0.0
        with torch.no_grad():
            for layer, rule in self._layers:
                codes = layer.quant_weight().int().cpu().numpy()
                total += entropy_bits(codes)
                rule.bits.copy_(torch.from_numpy(CodeLengths.fitted(codes, layer.largest_code).bits))
            change = _PULL * math.log(max(total, 1.0) / self.goal)
            for _, rule in self._layers:
                rule.price.mul_(math.exp(min(max(change, -_MOST), _MOST)))

    @property
    def price(self) -> float:
        """Return what a bit is worth now."""
        return float(self._layers[0][1].price)


def settle(model: nn.Module, price: float) -> nn.Module:
    """Give the layers the weights that they compute with at a price of a bit, and let them round to the nearest again.

    In place; return the model.

    Args:
        model: whose layers choose by price. What they learnt says which weights change first at another price.
        price: loss that a bit is worth.
    """
    for layer, rule in _priced_layers(model):
        rule.price.fill_(price)
        with torch.no_grad():
            layer.weight.copy_(layer.quant_weight().value)
        layer.rule = None
    return model


def _priced_layers(model: nn.Module) -> list[tuple[QuantizedConv2d, PricedRounding]]:
    """Return the layers that choose their integers by price, and how."""
    layers = quantized_layers(model).values()
    return [(layer, layer.rule) for layer in layers if isinstance(layer.rule, PricedRounding)]


def _nearest(layer: QuantizedConv2d) -> np.ndarray:
    """Return the integers of a layer without its rule."""
    found: np.ndarray = torch.round(layer.weight.detach() / layer.weight_step.view(-1, 1, 1, 1)).cpu().numpy()
    return found
