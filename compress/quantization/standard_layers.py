"""Does a layer convolve as torch's own does? One with a forward pass of its own may not, whatever class it is of.

A class of weight standardization is a `Conv2d` too: taken for one it would be quantized to a plain convolution, and a
batch norm behind it folded into a weight that forgets the factor.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from compress.model_copy import copy_of

TOLERANCE = 1e-4  # of the largest output; float32 sums in another order stay far below


def convolves_plainly(layer: nn.Module) -> bool:
    """Return whether a `Conv2d` computes the convolution of its input with its weight, and nothing else.

    Torch's own forward pass does. Others are asked: noise goes through the layer and through the convolution.
    """
    if not isinstance(layer, nn.Conv2d):
        return False
    own = type(layer)
    hooks = layer._forward_pre_hooks or layer._forward_hooks
    if own.forward is nn.Conv2d.forward and own._conv_forward is nn.Conv2d._conv_forward and not hooks:
        return True
    if layer.padding_mode != "zeros" or not isinstance(layer._parameters.get("weight"), nn.Parameter):
        return False
    layer = copy_of(layer).eval()
    random = torch.Generator().manual_seed(0)
    sides = [2 + dilation * (size - 1) for size, dilation in zip(layer.kernel_size, layer.dilation, strict=True)]
    noise = torch.randn(1, layer.in_channels, *sides, generator=random).to(layer.weight)
    geometry = (layer.stride, layer.padding, layer.dilation, layer.groups)
    with torch.no_grad():
        # Fresh weights: the answer must not depend on those that a model has when it is trained and when it is read.
        layer.weight.copy_(torch.randn(layer.weight.shape, generator=random) + 0.5)
        expected = F.conv2d(noise, layer.weight, layer.bias, *geometry)  # type: ignore[arg-type]
        try:
            found = layer(noise)
        except (RuntimeError, TypeError, ValueError):  # it wants more than one tensor, or another
            return False
    if not isinstance(found, torch.Tensor) or found.shape != expected.shape:
        return False
    return bool((found - expected).abs().max() <= TOLERANCE * expected.abs().max() + 1e-12)


def takes_factors(layer: nn.Module) -> bool:
    """Return whether factors of the output channels can go into a layer's weight and bias.

    Args:
        layer: a `Conv2d`, or a quantized layer that keeps another one whole in `layer.layer`.
    """
    inner = getattr(layer, "layer", None)
    if isinstance(inner, nn.Module):
        return not isinstance(inner, nn.Conv2d)  # deformable: linear in its weight
    return convolves_plainly(layer)
