"""What a layer's weights are multiplied by, where the outputs of the network matter: one pass back an image."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.errors import StageError
from compress.quantization.checks import quantized_layers
from compress.quantization.layers import ActivationQuantizer, QuantizedConv2d, QuantizedLayer
from compress.rate_rounding.statistics import LayerStatistics

POSITIONS = 2048  # of a call, drawn as often as they matter

Distance = Callable[[tuple[Tensor, ...], tuple[Tensor, ...]], Tensor]


def gather_statistics(
    model: nn.Module, batches: Iterable[tuple[Tensor, Distance]], *, num_outputs: int, seed: int
) -> dict[str, LayerStatistics]:
    """Run images through a quantized model and back, and sum up what its layers see.

    The loss of a network whose weights are a little off grows by half of J^T M J, M being how the distance to its own
    outputs bends and J the slope of the outputs. Noise of the size of the root of M, sent back through the network,
    gives the diagonal at every layer and position.

    Args:
        model: from `quantize`, calibrated; left in evaluation mode.
        batches: images (1, 3, H, W), and the distance that outputs from them have, given (student, teacher).
        num_outputs: how many outputs are deployed, the first ones.
        seed: of the noise and of the positions.

    Returns:
        Layer name -> statistics. A layer that no output depends on has an importance of zero.

    Raises:
        StageError: there was no image.

    Source:
        Martens and Grosse 2015, arXiv 1503.05671 (K-FAC); Botev et al. 2017, arXiv 1706.03662 (Gauss-Newton).
    """
    layers = quantized_layers(model)
    found = {name: _empty(layer) for name, layer in layers.items()}
    generator = torch.Generator().manual_seed(seed)
    images = 0
    with _rounding_with_gradients(model):
        hooks = [layers[name].register_forward_hook(_Watcher(found[name], generator)) for name in layers]
        try:
            for image, distance in batches:
                outputs = _as_tuple(model(image.requires_grad_()))[:num_outputs]
                bends = output_bends(outputs, distance, generator)
                noise = [_noise(output, generator) * bend.sqrt() for output, bend in zip(outputs, bends, strict=True)]
                total = torch.stack([(a * b).sum() for a, b in zip(outputs, noise, strict=True)]).sum()
                torch.autograd.grad(total, image)  # the hooks on the way take what they need
                images += 1
        finally:
            for hook in hooks:
                hook.remove()
    if images == 0:
        raise StageError("no image was seen, so nothing is known of what the weights are multiplied by.")
    for one in found.values():
        one.images = images
    return found


def output_bends(outputs: tuple[Tensor, ...], distance: Distance, generator: torch.Generator) -> list[Tensor]:
    """Return the second derivative of a distance at zero, by each output value, not below zero, shapes of the outputs.

    Args:
        outputs: of the network.
        distance: takes (student, teacher); a sum of terms of one value each, or nearly so.
        generator: of the signs; what they do where values depend on each other averages out.

    Source:
        Bekas et al. 2007, "An estimator for the diagonal of a matrix".
    """
    teacher = tuple(output.detach() for output in outputs)
    student = tuple(output.clone().requires_grad_() for output in teacher)
    slopes = torch.autograd.grad(distance(student, teacher), student, create_graph=True)
    signs = [_noise(output, generator).sign() for output in teacher]
    pulled = torch.stack([(slope * sign).sum() for slope, sign in zip(slopes, signs, strict=True)]).sum()
    bends = torch.autograd.grad(pulled, student)
    return [(bend * sign).clamp_min(0).detach() for bend, sign in zip(bends, signs, strict=True)]


def inputs_at(layer: QuantizedConv2d, inputs: tuple[Any, ...], positions: Tensor) -> Tensor:
    """Return what the weights of an output are multiplied by, (in_channels * kernel height * kernel width, positions).

    Args:
        layer: any layer that is linear in its weight.
        inputs: of its call with one image.
        positions: (n,) int64, flat, of the output.
    """
    if isinstance(layer, QuantizedLayer):
        size = layer.weight[0].numel()
        unit = torch.eye(size, device=layer.weight.device).view(size, *layer.weight.shape[1:])
        columns = layer.call_with(unit, *inputs, with_bias=False)  # each output is one of the inputs
        return columns[0].flatten(1)[:, positions]
    x = F.pad(inputs[0], layer._reversed_padding_repeated_twice)[0]
    (kh, kw), (sh, sw), (dh, dw) = layer.kernel_size, layer.stride, layer.dilation
    width = (x.shape[2] - dw * (kw - 1) - 1) // sw + 1
    rows, columns = positions // width * sh, positions % width * sw
    taps = [x[:, rows + i * dh, columns + j * dw] for i in range(kh) for j in range(kw)]
    return torch.stack(taps, dim=1).flatten(0, 1)


class _Watcher:
    """A forward hook that adds up, on the way back, what a call contributes."""

    def __init__(self, found: LayerStatistics, generator: torch.Generator) -> None:
        self.found = found
        self.generator = generator

    def __call__(self, layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        assert isinstance(layer, QuantizedConv2d)
        if output.requires_grad:
            kept = tuple(value.detach() for value in inputs if isinstance(value, Tensor))
            output.register_hook(lambda slope: self._add(layer, kept, slope))

    def _add(self, layer: QuantizedConv2d, inputs: tuple[Tensor, ...], slope: Tensor) -> None:
        slopes = slope[0].detach().flatten(1).double()
        matters = slopes.square()
        self.found.output_weights += matters.sum(dim=1).cpu().numpy()
        self.found.bias_weights += slopes.sum(dim=1).square().cpu().numpy()
        by_position = matters.sum(dim=0).cpu()
        total = float(by_position.sum())
        if total <= 0:
            return
        positions, weights = torch.arange(len(by_position)), by_position
        if len(by_position) > POSITIONS:
            positions = torch.multinomial(by_position, POSITIONS, replacement=True, generator=self.generator)
            weights = torch.full((POSITIONS,), total / POSITIONS)
        moments = self.found.moments
        with torch.no_grad():
            seen = inputs_at(layer, inputs, positions.to(slope.device)).view(*moments.first.shape, -1)
            weighted = seen * weights.to(seen)
            moments.first += weighted.double().sum(dim=2).cpu().numpy()
            moments.second += (weighted @ seen.transpose(1, 2)).cpu().numpy()
        moments.positions += total


def _empty(layer: QuantizedConv2d) -> LayerStatistics:
    groups = 1 if isinstance(layer, QuantizedLayer) else layer.groups
    return LayerStatistics.empty(groups, layer.weight[0].numel(), layer.weight.shape[0])


def _as_tuple(outputs: Any) -> tuple[Tensor, ...]:
    return tuple(outputs) if isinstance(outputs, list | tuple) else (outputs,)


def _noise(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator).to(like)


@contextmanager
def _rounding_with_gradients(model: nn.Module) -> Iterator[None]:
    """Round as in training, where gradients pass, and leave all else (norms) as deployed."""
    model.eval()
    for module in model.modules():
        if isinstance(module, ActivationQuantizer | QuantizedConv2d):
            module.train()
    try:
        yield
    finally:
        model.eval()
