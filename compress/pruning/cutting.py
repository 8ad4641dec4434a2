"""Takes channels out of layers, tables of values and integers that count channels."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from compress.errors import StageError
from compress.layer_widths import mark_size, set_size, size_at, widths_of

Side = Literal["out", "in", "table", "size"]


def cut_layer(module: nn.Module, out: set[int], into: set[int], custom: Mapping[type, Any]) -> None:
    """Take output and input channels out of one layer, in place.

    Args:
        module: a convolution, linear layer, norm or PReLU, or of a class with a rule.
        out: positions of the channels that it makes, or passes one by one.
        into: positions of the channels that it reads.
        custom: class -> Torch-Pruning rule.
    """
    if (rule := custom.get(type(module))) is not None:
        if out:
            rule.prune_out_channels(module, sorted(out))
        if into:
            rule.prune_in_channels(module, sorted(into))
        return
    now = widths_of(module)
    if "in_channels" not in now and "in_features" not in now:
        _cut_vector_layer(module, now, out)
        return
    out_name, in_name = ("out_channels", "in_channels") if "in_channels" in now else ("out_features", "in_features")
    width, groups = now[out_name], now.get("groups", 1)
    depthwise = groups > 1 and groups == now[in_name]
    dims = _dim_of(module, "out"), _dim_of(module, "in")
    for side, gone, dim in (("out", out, dims[0]), ("in", into, dims[1])):
        if gone:
            _cut_weight(module, now[out_name if side == "out" else in_name], gone, dim)
    bias = getattr(module, "bias", None)
    if out and isinstance(bias, Tensor):
        _replace(module, "bias", bias, _kept(width, out), 0)
    setattr(module, out_name, width - len(out))
    setattr(module, in_name, now[in_name] - len(into))
    if depthwise:
        module.groups = groups - len(out) * groups // width  # type: ignore[assignment]
        setattr(module, in_name, module.groups)


def _cut_weight(module: nn.Module, width: int, gone: set[int], dim: int) -> None:
    weight = module.weight
    if not isinstance(weight, Tensor):
        raise StageError(f"{type(module).__name__} has no weight to cut. Protect it or give its class a rule.")
    # Of a layer with groups, one part's channels are stored, and all parts lose the same positions.
    kept = [position for position in _kept(width, gone) if position < weight.shape[dim]]
    _replace(module, "weight", weight, kept, dim)


def _cut_vector_layer(module: nn.Module, now: dict[str, int], gone: set[int]) -> None:
    """Cut a norm or a PReLU: one value a channel."""
    width_name = "num_channels" if "num_groups" in now else next(iter(now))
    width = now[width_name]
    for key, tensor in _own(module):
        if tensor.dim() == 1 and len(tensor) == width:
            _replace(module, key, tensor, _kept(width, gone), 0)
    if "num_groups" in now:
        module.num_groups = now["num_groups"] * (width - len(gone)) // width  # type: ignore[assignment]
    setattr(module, width_name, width - len(gone))


def cut_size(model: nn.Module, place: str, number: int) -> None:
    """Lower an integer that counts channels, in place; see `layer_widths.size_at`."""
    set_size(model, place, size_at(model, place) - number)
    mark_size(model, place)


def cut_table(model: nn.Module, name: str, dim: int, positions: Collection[int]) -> None:
    """Take positions out of a parameter or buffer along a dimension, in place."""
    owner, _, key = name.rpartition(".")
    module = model.get_submodule(owner)
    tensor = getattr(module, key)
    _replace(module, key, tensor, _kept(tensor.shape[dim], set(positions)), dim)
    mark_size(model, f"{name}:{dim}")


def zero_positions(module: nn.Module, side: Side, positions: list[int]) -> None:
    """Set the values of some channels of a layer to zero, in place; see `cut_layer`."""
    now, index = widths_of(module), torch.tensor(positions)
    if "in_channels" not in now and "in_features" not in now:
        for _, tensor in _own(module):
            if tensor.dim() == 1 and len(tensor) > int(index.max()):
                tensor.index_fill_(0, index, 0)
        return
    weight = module.weight
    assert isinstance(weight, Tensor)
    dim = _dim_of(module, side)
    index_there = index[index < weight.shape[dim]]
    weight.index_fill_(dim, index_there, 0)
    bias = getattr(module, "bias", None)
    if side == "out" and isinstance(bias, Tensor):
        bias.index_fill_(0, index, 0)


def _dim_of(module: nn.Module, side: Side) -> int:
    """Return the dimension of a layer's weight that one side's channels lie in."""
    now, transposed = widths_of(module), bool(getattr(module, "transposed", False))
    groups = now.get("groups", 1)
    depthwise = groups > 1 and groups == now.get("in_channels")
    return 0 if (side == "out") == (not transposed or depthwise) else 1


def _kept(size: int, gone: set[int]) -> list[int]:
    return [position for position in range(size) if position not in gone]


def _own(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]


def _replace(module: nn.Module, key: str, tensor: Tensor, kept: list[int], dim: int) -> None:
    index = torch.tensor(kept, device=tensor.device)
    fewer = tensor.detach().index_select(dim, index).clone()
    if isinstance(tensor, nn.Parameter):
        module._parameters[key] = nn.Parameter(fewer, requires_grad=tensor.requires_grad)
    else:
        module._buffers[key] = fewer
