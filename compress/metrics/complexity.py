"""Counts of a torch model: parameters, multiply-accumulates, share of zero weights.

MACs come from forward hooks, so they are those of the layers that really ran, a shared head
counted once per call, deformable layers and fake-quantized layers included.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class LayerCost:
    """Cost of one module that owns a weight.

    Attributes:
        macs: multiply-accumulates of one image, all calls together (1 MAC = 2 FLOP).
        params: elements of its own parameters.
        calls: how often the module ran in one forward pass.
    """

    macs: int
    params: int
    calls: int


@dataclass(frozen=True)
class Complexity:
    """Cost of one model for one image.

    Attributes:
        macs: multiply-accumulates of convolution-like and linear layers.
        params: elements of all parameters, quantizers left out.
        layers: module name -> cost, in the order of the model's modules; only modules with MACs.
    """

    macs: int
    params: int
    layers: dict[str, LayerCost]


def is_quantizer_name(name: str) -> bool:
    """Return whether a name lies inside a quantizer (Brevitas: `..._quant`) or is that of fixed steps."""
    return any(part.endswith("_quant") or part in ("weight_step", "bias_unit") for part in name.split("."))


def has_convolution_weight(module: nn.Module) -> bool:
    """Return whether a module convolves: a 4-dimensional `weight` and in_channels / out_channels.

    True for `Conv2d`, `ConvTranspose2d`, Brevitas' layers and every deformable layer that names
    its widths the way torch does.
    """
    import torch

    weight = getattr(module, "weight", None)
    return (
        isinstance(weight, torch.Tensor)
        and weight.dim() == 4
        and hasattr(module, "in_channels")
        and hasattr(module, "out_channels")
    )


def first_tensor(value: Any) -> Tensor:
    """Return the first tensor in the output of a module (tensor, tuple, or quantized tensor).

    Raises:
        TypeError: there is none.
    """
    import torch

    if isinstance(value, torch.Tensor):
        return value
    if isinstance(inner := getattr(value, "value", None), torch.Tensor):
        return inner
    if isinstance(value, list | tuple) and value:
        return first_tensor(value[0])
    raise TypeError(f"a module returned {type(value).__name__}, which holds no tensor")


def measure_complexity(model: nn.Module, example_input: Tensor) -> Complexity:
    """Count parameters and MACs of one image with a forward pass.

    Args:
        model: any torch model, fx graph modules and Brevitas layers included; unchanged.
        example_input: (N, C, H, W); MACs are divided by N.

    Returns:
        The counts.

    Source:
        Convolution: out_h * out_w * in_channels / groups * out_channels * kernel area, which is
        out_h * out_w * weight elements; transposed: the same with the input's height and width.
    """
    import torch

    macs: dict[nn.Module, int] = {}
    calls: dict[nn.Module, int] = {}
    batch_size = example_input.shape[0]

    def count(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        weight = module.weight
        assert isinstance(weight, torch.Tensor)
        if weight.dim() == 2:
            positions = first_tensor(output).numel() // weight.shape[0]
        else:
            map_ = first_tensor(inputs if getattr(module, "transposed", False) else output)
            positions = map_.shape[0] * map_.shape[-2] * map_.shape[-1]
        macs[module] = macs.get(module, 0) + positions * weight.numel()
        calls[module] = calls.get(module, 0) + 1

    counted = [m for m in model.modules() if has_convolution_weight(m) or _is_linear(m)]
    training = {module: module.training for module in model.modules()}
    hooks = [module.register_forward_hook(count) for module in counted]
    try:
        model.eval()
        with torch.no_grad():
            model(example_input)
    finally:
        for hook in hooks:
            hook.remove()
        for module, was_training in training.items():
            module.training = was_training

    layers = {
        name: LayerCost(macs[module] // batch_size, _own_parameters(module), calls[module])
        for name, module in model.named_modules()
        if module in macs
    }
    return Complexity(sum(cost.macs for cost in layers.values()), count_parameters(model), layers)


def count_parameters(model: nn.Module) -> int:
    """Return the number of elements of all parameters, shared ones once, quantizers left out."""
    return sum(p.numel() for name, p in model.named_parameters() if not is_quantizer_name(name))


def prunable_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return module name -> weight of every convolution-like and linear layer, shared ones once."""
    return {
        name: module.weight
        for name, module in model.named_modules()
        if not is_quantizer_name(name) and (has_convolution_weight(module) or _is_linear(module))
    }


def sparsity_of(model: nn.Module) -> float:
    """Return the share of zeros among all convolution and linear weights, 0..1 (0 without weights)."""
    weights = prunable_weights(model).values()
    total = sum(weight.numel() for weight in weights)
    zeros = sum(int((weight == 0).sum()) for weight in weights)
    return zeros / total if total else 0.0


def _is_linear(module: nn.Module) -> bool:
    from torch import nn

    return isinstance(module, nn.Linear)


def _own_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters(recurse=False))
