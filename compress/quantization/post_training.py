"""Post-training quantization of a Brevitas graph: torch gathers statistics, arrays decide, the graph takes the result.

Two passes over the calibration images, both in float. The first sees how large each channel gets, and evens the
channels out. The second gathers histograms and moments, from which ranges, integers and biases follow.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from compress.post_training.correction import bias_shift
from compress.post_training.equalization import equalizing_factors, scale_input_channels
from compress.post_training.moments import InputMoments, blocks_of
from compress.post_training.ranges import ValueHistogram, least_error_range
from compress.post_training.rounding import round_with_feedback
from compress.quantization.calibration import activation_quantizers, calibrate, observe
from compress.quantization.checks import quantized_layers
from compress.quantization.graph import module_of
from compress.quantization.insertion import is_relu, relu_limit
from compress.quantization.layers import ActivationQuantizer, QuantizedConv2d, QuantizedLayer
from compress.quantization.settings import PostTraining

POSITIONS = 4096  # of an image, evenly spread, that a layer's moments are taken from

Images = Callable[[], Iterable[Tensor]]


def post_train(model: fx.GraphModule, images: Images, wanted: PostTraining) -> dict[str, int]:
    """Equalize, set ranges, choose integers and correct biases, in place.

    Args:
        model: from `quantize`; left in evaluation mode.
        images: gives the calibration images anew at each call: batches (N, 3, H, W), normalized.
        wanted: which of it.

    Returns:
        calibration_images, and how many pairs were equalized, layers rounded with feedback and biases corrected.

    Raises:
        StageError: there was no image, or a part of the model was never reached.
    """
    facts = {"equalized_pairs": 0, "rounded_with_feedback": 0, "corrected_biases": 0}
    least_error = wanted.ranges == "least_error"
    extremes = {name: _ChannelExtremes() for name in activation_quantizers(model)}
    if wanted.equalize or least_error:
        facts["calibration_images"] = observe(model, images(), extremes)
    if wanted.equalize:
        facts["equalized_pairs"] = _equalize(model, extremes)
    if not least_error:
        facts["calibration_images"] = calibrate(model, images())
    histograms = {name: _Histogram(*one.ends) for name, one in extremes.items()} if least_error else {}
    settles = wanted.rounding == "feedback" or wanted.correct_bias
    moments = {name: _Moments(layer) for name, layer in _convolutions(model).items()} if settles else {}
    if histograms or moments:
        observe(model, images(), {**histograms, **moments})
    for name, histogram in histograms.items():
        activation_quantizers(model)[name].set_range(*least_error_range(histogram.values))
    for name, one in moments.items():
        layer = _convolutions(model)[name]
        _settle(layer, one.moments, wanted)
        facts["rounded_with_feedback"] += wanted.rounding == "feedback"
        facts["corrected_biases"] += wanted.correct_bias and layer.bias is not None
    return facts


def _convolutions(model: nn.Module) -> dict[str, QuantizedConv2d]:
    """Return the layers whose products are known here: plain convolutions, not those that deform."""
    return {name: layer for name, layer in quantized_layers(model).items() if not isinstance(layer, QuantizedLayer)}


class _ChannelExtremes:
    """Least and greatest value of each channel of one tensor, zero included."""

    def __init__(self) -> None:
        self.low, self.high = np.zeros(1), np.zeros(1)

    def __call__(self, _module: nn.Module, inputs: tuple[Any, ...]) -> None:
        by_channel = inputs[0].detach().transpose(0, 1).flatten(1)
        self.low = np.minimum(self.low, by_channel.amin(1).cpu().numpy())
        self.high = np.maximum(self.high, by_channel.amax(1).cpu().numpy())

    @property
    def ends(self) -> tuple[float, float]:
        """Return those of the whole tensor."""
        return float(self.low.min()), float(self.high.max())

    @property
    def largest(self) -> np.ndarray:
        """Return the greatest magnitude of each channel."""
        return np.maximum(-self.low, self.high)

    def scale(self, factors: np.ndarray) -> None:
        """Follow a change of the channels' size."""
        self.low, self.high = self.low * factors, self.high * factors


class _Histogram:
    def __init__(self, low: float, high: float) -> None:
        self.values = ValueHistogram(low, high)

    def __call__(self, _module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self.values.add(inputs[0].detach().cpu().numpy())


class _Moments:
    """Sums up what the weights of one convolution are multiplied by, wherever it is called."""

    def __init__(self, layer: QuantizedConv2d) -> None:
        self.columns = math.prod(layer.weight.shape[1:])
        self.moments = InputMoments.empty(layer.groups, self.columns)

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        assert isinstance(module, QuantizedConv2d)
        blocks, width = blocks_of(module.groups, self.columns)
        patches = kernel_inputs(module, inputs[0].detach())
        patches = patches.reshape(-1, blocks, width).transpose(0, 1)
        self.moments.first += patches.double().sum(1).cpu().numpy()
        self.moments.second += (patches.transpose(1, 2) @ patches).cpu().numpy()
        self.moments.positions += patches.shape[1]


def kernel_inputs(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """Return what a kernel sees, (positions, in_channels * kernel height * kernel width), at most POSITIONS an image.

    Args:
        layer: zero padded.
        x: (N, in_channels, H, W).
    """
    x = F.pad(x, layer._reversed_padding_repeated_twice)
    (kh, kw), (sh, sw), (dh, dw) = layer.kernel_size, layer.stride, layer.dilation
    rows = (x.shape[2] - dh * (kh - 1) - 1) // sh + 1
    columns = (x.shape[3] - dw * (kw - 1) - 1) // sw + 1
    step = math.ceil(math.sqrt(max(rows * columns / POSITIONS, 1)))
    taps = [
        x[:, :, i * dh : i * dh + (rows - 1) * sh + 1 : sh * step, j * dw : j * dw + (columns - 1) * sw + 1 : sw * step]
        for i in range(kh)
        for j in range(kw)
    ]
    return torch.stack(taps, dim=2).permute(0, 3, 4, 1, 2).flatten(3).flatten(0, 2)


@dataclass(frozen=True)
class _Pair:
    """Two convolutions with at most a ReLU between them, at every place where they are called."""

    first: str
    second: str
    limit: float | None


def _equalize(model: fx.GraphModule, extremes: dict[str, _ChannelExtremes]) -> int:
    """Even out the channels between pairs of convolutions, in place; return how many pairs."""
    pairs = _pairs(model)
    for pair, between in pairs.items():
        largest = np.max([extremes[name].largest for name in between], axis=0)
        factors = equalizing_factors(largest, limit=pair.limit)
        first, second = _convolutions(model)[pair.first], _convolutions(model)[pair.second]
        with torch.no_grad():
            up = torch.from_numpy(factors).to(first.weight)
            first.weight.mul_(up.view(-1, 1, 1, 1))
            if first.bias is not None:
                first.bias.mul_(up)
            scaled = scale_input_channels(second.weight.cpu().numpy(), factors, second.groups)
            second.weight.copy_(torch.from_numpy(scaled))
        for name in between:
            extremes[name].scale(factors)
    return len(pairs)


def _pairs(model: fx.GraphModule) -> dict[_Pair, list[str]]:
    """Return the pairs, each with the names of the quantizers between its two layers."""
    calls: dict[str, int] = defaultdict(int)
    found: dict[_Pair, list[str]] = defaultdict(list)
    plain = set(_convolutions(model))
    for node in model.graph.nodes:
        if not isinstance(module_of(model, node), QuantizedConv2d):
            continue
        calls[str(node.target)] += 1
        if (pair := _pair_before(model, node)) is not None:
            found[pair[0]].append(pair[1])
    return {
        pair: between
        for pair, between in found.items()
        if len(between) == calls[pair.first] == calls[pair.second] and {pair.first, pair.second} <= plain
    }


def _pair_before(model: fx.GraphModule, node: fx.Node) -> tuple[_Pair, str] | None:
    """Return the pair that ends at this call of a convolution and the quantizer in it, if there is one."""
    quantizer = node.args[0]
    if not isinstance(module_of(model, quantizer), ActivationQuantizer):
        return None
    assert isinstance(quantizer, fx.Node)
    source = quantizer.args[0]
    assert isinstance(source, fx.Node)
    path, limit = [quantizer, source], None
    if is_relu(model, source):
        limit = relu_limit(model, source)
        source = source.all_input_nodes[0]
        path.append(source)
    if not isinstance(module_of(model, source), QuantizedConv2d) or any(len(one.users) != 1 for one in path):
        return None
    return _Pair(str(source.target), str(node.target), limit), str(quantizer.target)


def _settle(layer: QuantizedConv2d, moments: InputMoments, wanted: PostTraining) -> None:
    """Choose a layer's integers and correct its bias, in place."""
    nearest, scales = layer.integer_weight()
    weights = layer.weight.detach().cpu().double().flatten(1).numpy()
    steps = scales.cpu().double().numpy()
    codes = nearest.cpu().flatten(1).numpy()
    if wanted.rounding == "feedback":
        codes = round_with_feedback(weights, steps, moments, 2 ** (layer.weight_bit_width - 1) - 1)
    rounded = codes * steps[:, None]
    with torch.no_grad():
        if wanted.rounding == "feedback":
            layer.weight.copy_(torch.from_numpy(rounded).view_as(layer.weight))
        if wanted.correct_bias and layer.bias is not None:
            layer.bias.add_(torch.from_numpy(bias_shift(weights, rounded, moments)).to(layer.bias))
