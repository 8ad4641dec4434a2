"""Rounding of one layer, as the quantized network does it: weights by channel, activations by tensor."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from compress.rate_rounding.code_lengths import entropy_bits

CODED_BITS = 8  # that the bytes of a network are counted with before a step


def nearest_codes(weight: Tensor, bits: int, *, dim: int = 0) -> tuple[Tensor, Tensor]:
    """Return the integers nearest to a weight and their steps, one for each output channel.

    Folding a batch norm into the layer scales whole output channels, so it changes steps and no integer.

    Args:
        weight: (out, ...), or the output channels in another dimension.
        bits: >= 2; the largest weight of a channel becomes 2^(bits - 1) - 1.
        dim: of the output channels.

    Returns:
        Integers as floats, shape of weight, and steps that broadcast with it; 1 for channels of zeros.
    """
    largest = 2 ** (bits - 1) - 1
    others = [d for d in range(weight.dim()) if d != dim]
    top = weight.abs().amax(others, keepdim=True)
    steps = torch.where(top > 0, top / largest, torch.ones_like(top))
    return torch.round(weight / steps).clamp_(-largest, largest), steps


def rounded_weight(layer: nn.Module, bits: int) -> Tensor:
    """Return what a layer's weight becomes, same shape; zeros stay zero."""
    codes, steps = nearest_codes(_weight(layer), bits, dim=output_dim(layer))
    return codes * steps


def coded_bits(layer: nn.Module, bits: int = CODED_BITS) -> float:
    """Return what the integers of a layer take in an ideal code, without its table."""
    codes, _ = nearest_codes(_weight(layer), bits, dim=output_dim(layer))
    return entropy_bits(codes.to(torch.int16).cpu().numpy())


def output_dim(layer: nn.Module) -> int:
    """Return the dimension of a weight in which the output channels lie: 1 of transposed layers without groups."""
    return int(bool(getattr(layer, "transposed", False)) and getattr(layer, "groups", 1) == 1)


def _weight(layer: nn.Module) -> Tensor:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight.detach()


def rounded_activation(values: Tensor, low: float, high: float, bits: int) -> Tensor:
    """Return a tensor on evenly spaced levels, one of them zero; what lies outside the range moves to its ends.

    Args:
        values: any shape, floating.
        low: least value of the range, which is widened to hold zero.
        high: greatest value.
        bits: there are 2^bits levels.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    levels = 2**bits - 1
    scale = max((high - low) / levels, float(np.finfo(np.float32).tiny) * 2**24)
    return torch.fake_quantize_per_tensor_affine(values, scale, round(-low / scale), 0, levels)
