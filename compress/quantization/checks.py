"""What must hold for a quantized model, and what the report says of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from compress.errors import StageError
from compress.layer_names import unknown_names
from compress.quantization.layers import QuantizedConv2d, QuantizedLayer
from compress.quantization.settings import QuantizationSettings


def quantized_layers(model: nn.Module) -> dict[str, QuantizedConv2d]:
    """Return module name -> layer with integer weights, shared ones once."""
    return {name: module for name, module in model.named_modules() if isinstance(module, QuantizedConv2d)}


def check_bit_width_names(model: nn.Module, settings: QuantizationSettings) -> None:
    """Check that every name in `layer_bit_widths` is one of a layer whose weights are quantized.

    It is no part of `quantize`: models that were stored with such names are read as before.

    Args:
        model: quantized.
        settings: that it was quantized with.

    Raises:
        StageError: a name or pattern fits no such layer.
    """
    names = [name for name, module in model.named_modules() if isinstance(module, QuantizedConv2d | QuantizedLayer)]
    what = "layer with quantized weights"
    if (
        wrong := unknown_names("layer_bit_widths", settings.layer_bit_widths, names, what=what, patterns=True)
    ) is not None:
        raise StageError(wrong)


def check_zeros(model: nn.Module, masks: Mapping[str, Tensor], *, label: str) -> None:
    """Check that every weight that was zero before is the integer zero.

    Args:
        model: quantized.
        masks: module name -> bool, true where a weight may be non-zero.
        label: of the stage, for the message.

    Raises:
        StageError: some are not.
    """
    layers = quantized_layers(model)
    for name, mask in masks.items():
        if name not in layers:
            continue
        codes, _ = layers[name].integer_weight()
        wrong = int(torch.count_nonzero(codes[~mask.to(codes.device)]))
        if wrong:
            raise StageError(
                f"stage {label}: {wrong} pruned weights of {name} are no longer zero. Expected all to stay zero."
            )


def quantization_facts(model: nn.Module) -> dict[str, Any]:
    """Return sparsity (of the integers), weight_bit_widths (bits -> weights) and float_island_layers."""
    zeros = total = 0
    bits: dict[str, int] = {}
    floating = []
    for name, layer in quantized_layers(model).items():
        codes, _ = layer.integer_weight()
        zeros += int((codes == 0).sum())
        total += codes.numel()
        key = str(layer.weight_bit_width)
        bits[key] = bits.get(key, 0) + codes.numel()
        if not layer.integer:
            floating.append(name)
    return {
        "sparsity": zeros / total if total else 0.0,
        "weight_bit_widths": dict(sorted(bits.items())),
        "float_island_layers": floating,
    }
