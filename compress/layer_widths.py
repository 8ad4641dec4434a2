"""Widths of layers: read them from a network, and cut or grow a network to them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compress.errors import StageError

if TYPE_CHECKING:
    from torch import nn

# Widths by kind of layer. Everything else a layer has (kernel, stride, padding) pruning leaves alone.
_CONVOLUTION_WIDTHS = ("in_channels", "out_channels", "groups")
_LINEAR_WIDTHS = ("in_features", "out_features")
_NORM_WIDTHS = ("num_features",)
_GROUP_NORM_WIDTHS = ("num_channels", "num_groups")
_WIDTH_NAMES = (_CONVOLUTION_WIDTHS, _LINEAR_WIDTHS, _NORM_WIDTHS, _GROUP_NORM_WIDTHS)


def build_layers(model: nn.Module) -> dict[str, dict[str, int]]:
    """Return module name -> widths of every layer that has widths.

    Covers convolutions (every module with in_channels and out_channels), linear layers, batch and
    instance norms (num_features) and group norms.
    """
    layers = {}
    for name, module in model.named_modules():
        if widths := widths_of(module):
            layers[name] = widths
    return layers


def apply_layers(model: nn.Module, layers: dict[str, dict[str, int]]) -> None:
    """Cut or grow every named layer to the given widths, in place; the values become meaningless.

    Args:
        model: float network as the plug-in builds it.
        layers: as `build_layers` returns them; layers with unchanged widths are not touched.

    Raises:
        StageError: a name is not in the model, or the layer has no such width.
    """
    modules = dict(model.named_modules())
    for name, widths in layers.items():
        if name not in modules:
            raise StageError(
                f"build.json: layer {name!r} is not in the detector's network. "
                "Was the detector's configuration changed?"
            )
        module = modules[name]
        now = widths_of(module)
        if now.keys() != widths.keys():
            raise StageError(
                f"build.json: layer {name!r} has the widths {sorted(now)}, and the file names {sorted(widths)}. "
                "Was the detector's configuration changed?"
            )
        if now != widths:
            _resize(module, now, widths)


def widths_of(module: nn.Module) -> dict[str, int]:
    """Return the width attributes of one module, {} if it has none."""
    for names in _WIDTH_NAMES:
        required = names[:2] if names is _CONVOLUTION_WIDTHS else names
        if all(isinstance(getattr(module, name, None), int) for name in required):
            return {name: int(getattr(module, name)) for name in names if hasattr(module, name)}
    return {}


def _resize(module: nn.Module, now: dict[str, int], widths: dict[str, int]) -> None:
    """Give a layer other widths: attributes, own parameters and own buffers."""
    import torch
    from torch import nn

    for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
        shape = _resized_shape(name, tuple(tensor.shape), now, widths, bool(getattr(module, "transposed", False)))
        if shape == tuple(tensor.shape):
            continue
        fresh = torch.zeros(shape, dtype=tensor.dtype, device=tensor.device)
        if isinstance(tensor, nn.Parameter):
            setattr(module, name, nn.Parameter(fresh, requires_grad=tensor.requires_grad))
        else:
            setattr(module, name, fresh)
    for name, value in widths.items():
        setattr(module, name, value)


def _resized_shape(
    name: str, shape: tuple[int, ...], now: dict[str, int], widths: dict[str, int], transposed: bool
) -> tuple[int, ...]:
    """Return the shape of one parameter or buffer after the widths changed.

    Weights of two and more dimensions are (out, in / groups, ...), transposed ones
    (in, out / groups, ...); every one-dimensional tensor runs over the output channels.
    """
    if not shape:
        return shape
    if len(widths) and ("num_features" in widths or "num_channels" in widths):
        return (widths.get("num_features", widths.get("num_channels", 0)),)
    new_in = widths.get("in_channels", widths.get("in_features", 0))
    new_out = widths.get("out_channels", widths.get("out_features", 0))
    if len(shape) == 1:
        old_out = now.get("out_channels", now.get("out_features"))
        return (new_out,) if shape[0] == old_out else shape
    groups = widths.get("groups", 1)
    if name != "weight":
        return shape
    leading = (new_in, new_out // groups) if transposed else (new_out, new_in // groups)
    return (*leading, *shape[2:])
