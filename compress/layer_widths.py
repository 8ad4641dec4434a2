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
_PRELU_WIDTHS = ("num_parameters",)
_WIDTH_NAMES = (_CONVOLUTION_WIDTHS, _LINEAR_WIDTHS, _NORM_WIDTHS, _GROUP_NORM_WIDTHS, _PRELU_WIDTHS)
_CUT_SIZES = "krimp_cut_sizes"  # attribute of a module: names of its integers and tables that pruning has changed


def build_layers(model: nn.Module) -> dict[str, dict[str, int]]:
    """Return module name -> widths of every layer that has widths.

    Covers convolutions (every module with in_channels and out_channels), linear layers, batch and
    instance norms (num_features), group norms and PReLU. What pruning has cut elsewhere is added: integers of a
    module ('c', 'sizes.0') and sizes of its parameters and buffers ('gamma:0': dimension 0 of `gamma`).
    """
    layers = {}
    for name, module in model.named_modules():
        sizes = {key: size_at(module, key) for key in getattr(module, _CUT_SIZES, ())}
        if widths := widths_of(module) | sizes:
            layers[name] = widths
    return layers


def size_at(model: nn.Module, place: str) -> int:
    """Return an integer ('block.c', 'block.sizes.0') or a size of a table ('block.gamma:0').

    Raises:
        KeyError, IndexError, AttributeError: there is none.
    """
    module, key, item = _placed(model, place)
    if item.startswith(":"):
        return int(getattr(module, key).shape[int(item[1:])])
    value = vars(module)[key]
    return int(value[int(item)] if item else value)


def set_size(model: nn.Module, place: str, size: int) -> None:
    """Set what `size_at` returns; a table becomes one of zeros."""
    import torch
    from torch import nn

    module, key, item = _placed(model, place)
    if item.startswith(":"):
        table, dim = getattr(module, key), int(item[1:])
        fresh = torch.zeros([size if d == dim else n for d, n in enumerate(table.shape)], dtype=table.dtype)
        if isinstance(table, nn.Parameter):
            module._parameters[key] = nn.Parameter(fresh, requires_grad=table.requires_grad)
        else:
            module._buffers[key] = fresh
        return
    old = vars(module)[key]
    setattr(module, key, type(old)(size if i == int(item) else n for i, n in enumerate(old)) if item else size)


def mark_size(model: nn.Module, place: str) -> None:
    """Remember that pruning changed a size, so that `build_layers` tells it."""
    module, key, item = _placed(model, place)
    own = key + (item if item.startswith(":") else f".{item}" if item else "")
    module.__dict__[_CUT_SIZES] = tuple(sorted({*getattr(module, _CUT_SIZES, ()), own}))


def _placed(model: nn.Module, place: str) -> tuple[nn.Module, str, str]:
    """Return the module of a place, the name of the attribute there, and what of it is meant: '', '0' or ':0'."""
    path, colon, dim = place.partition(":")
    names = path.split(".")
    item = names.pop() if not colon and len(names) > 1 and names[-1].isdecimal() else ""
    *owner, key = names
    return model.get_submodule(".".join(owner)), key, colon + dim if colon else item


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
        _apply_sizes(module, name, {key: size for key, size in widths.items() if key not in now and _is_own(key)})
        widths = {key: size for key, size in widths.items() if key in now or not _is_own(key)}
        if now.keys() != widths.keys():
            raise StageError(
                f"build.json: layer {name!r} has the widths {sorted(now)}, and the file names {sorted(widths)}. "
                "Was the detector's configuration changed?"
            )
        if now != widths:
            _resize(module, now, widths)


def _is_own(key: str) -> bool:
    """Return whether a key of build.json names something of the module and no width of a kind of layer."""
    return not any(key in names for names in _WIDTH_NAMES)


def _apply_sizes(module: nn.Module, name: str, sizes: dict[str, int]) -> None:
    for place, size in sizes.items():
        try:
            if size_at(module, place) != size:
                set_size(module, place, size)
        except (KeyError, IndexError, AttributeError) as error:
            raise StageError(
                f"build.json: {name!r} has no {place!r} of which the file tells the size. "
                "Was the detector's configuration changed?"
            ) from error
        mark_size(module, place)


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
    if "num_parameters" in widths:
        return (widths["num_parameters"],)
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
