"""Bytes of a model's parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compress.layer_widths import widths_of
from compress.metrics.complexity import is_quantizer_name

if TYPE_CHECKING:
    from torch import Tensor, nn


def parameters_bytes(model: nn.Module, *, fold_batch_norm: bool = True) -> int:
    """Return the bytes of a float32 safetensors file that a float deployment of the model needs.

    Folded (the default, and the smaller, so the honest "original size"): a batch norm costs one
    bias vector, and nothing where the convolution before it already has a bias. Not folded: its
    weight, bias, running mean and running variance. `num_batches_tracked`, integer buffers,
    quantizer parameters and the second name of a shared tensor never count.

    Args:
        model: float or fake-quantized model.
        fold_batch_norm: count batch norms as folded into the layer before them.

    Returns:
        Payload, header and 8 bytes of header length, exactly as the safetensors library writes it.
    """
    import torch
    from safetensors.torch import save
    from torch import nn

    tensors = {
        name: tensor.detach()
        for name, tensor in state_once(model).items()
        if tensor.is_floating_point() and not is_quantizer_name(name)
    }
    if fold_batch_norm:
        previous: nn.Module | None = None
        for name, module in model.named_modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                for own in ("weight", "bias", "running_mean", "running_var"):
                    tensors.pop(f"{name}.{own}", None)
                if getattr(previous, "bias", None) is None:
                    tensors[f"{name}.bias"] = torch.zeros(module.num_features)
            if widths_of(module):
                previous = module
    zeros = {name: torch.zeros(tensor.shape, dtype=torch.float32) for name, tensor in tensors.items()}
    return len(save(zeros))


def state_once(model: nn.Module) -> dict[str, Tensor]:
    """Return the state with each shared parameter or buffer under its first name only."""
    seen: set[int] = set()
    state = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            state[name] = tensor
    return state
