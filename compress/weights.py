"""A model in a folder: `model.safetensors` and `build.json`, and the way back without pickle.

A pruned model is rebuilt directly: the plug-in builds the unpruned network, every layer is cut to
the widths that `build.json` records, a quantised one gets its quantisers, then the state is loaded.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from compress.artifact import write_whole
from compress.errors import StageError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from compress.detector import Detector

WEIGHTS_FILE = "model.safetensors"
BUILD_FILE = "build.json"

# Widths by kind of layer. Everything else a layer has (kernel, stride, padding) pruning leaves alone.
_CONVOLUTION_WIDTHS = ("in_channels", "out_channels", "groups")
_LINEAR_WIDTHS = ("in_features", "out_features")
_NORM_WIDTHS = ("num_features",)
_GROUP_NORM_WIDTHS = ("num_channels", "num_groups")
_WIDTH_NAMES = (_CONVOLUTION_WIDTHS, _LINEAR_WIDTHS, _NORM_WIDTHS, _GROUP_NORM_WIDTHS)


class Build(BaseModel):
    """What is needed beside the weights to rebuild a model.

    Attributes:
        layers: module name -> final widths, e.g. {"in_channels": 24, "out_channels": 64, "groups": 1}.
        sparse_layers: names of modules whose zero weights must stay zero.
        quantisation: fields of `QuantisationSettings`, or None for a float model.
        provenance: what was done, oldest first; for people and the report, never replayed.
    """

    model_config = ConfigDict(extra="forbid")

    layers: dict[str, dict[str, int]] = Field(default_factory=dict)
    sparse_layers: tuple[str, ...] = ()
    quantisation: dict[str, Any] | None = None
    provenance: list[Any] = Field(default_factory=list)


def save_model(folder: Path, model: nn.Module, build: Build) -> None:
    """Write a model into a folder; each file appears whole or not at all.

    Args:
        folder: must exist.
        model: float or fake-quantised; its state must hold tensors only.
        build: its `layers` are replaced by the widths that the model has now (a quantised model
            keeps those given, because they describe the float network underneath).
    """
    from safetensors.torch import save

    if build.quantisation is None or not build.layers:
        build = build.model_copy(update={"layers": build_layers(model)})
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in _state_once(model).items()}
    write_whole(folder / WEIGHTS_FILE, save(state))
    text = json.dumps(build.model_dump(mode="json"), indent=1, sort_keys=True)
    write_whole(folder / BUILD_FILE, text)


def load_model(folder: Path, detector: Detector) -> tuple[nn.Module, Build]:
    """Rebuild the model of a folder on the CPU, in evaluation mode.

    Raises:
        StageError: a file is missing or damaged, a layer that `build.json` names does not exist,
            or a weight is missing, unexpected or of another shape.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    build = read_build(folder)
    model = detector.build()
    apply_layers(model, build.layers)
    if build.quantisation is not None:
        from compress.quantization import QuantisationSettings, quantise

        model = quantise(model, QuantisationSettings(**build.quantisation), detector)
    path = folder / WEIGHTS_FILE
    try:
        state = load(path.read_bytes())
    except (OSError, SafetensorError) as error:
        raise StageError(f"{path}: cannot be read: {error}. Delete the folder; the stage rebuilds it.") from error
    _load_state_strictly(model, state, path)
    return model.eval(), build


def read_build(folder: Path) -> Build:
    """Read `build.json` of a folder without touching the weights.

    Raises:
        StageError: it is missing or damaged.
    """
    path = folder / BUILD_FILE
    try:
        return Build.model_validate_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise StageError(f"{path}: cannot be read: {error}. Delete the folder; the stage rebuilds it.") from error


def build_layers(model: nn.Module) -> dict[str, dict[str, int]]:
    """Return module name -> widths of every layer that has widths.

    Covers convolutions (every module with in_channels and out_channels), linear layers, batch and
    instance norms (num_features) and group norms.
    """
    layers = {}
    for name, module in model.named_modules():
        if widths := _widths(module):
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
        now = _widths(module)
        if now.keys() != widths.keys():
            raise StageError(
                f"build.json: layer {name!r} has the widths {sorted(now)}, and the file names {sorted(widths)}. "
                "Was the detector's configuration changed?"
            )
        if now != widths:
            _resize(module, now, widths)


def masks_of(model: nn.Module, build: Build) -> dict[str, Tensor]:
    """Return module name -> bool tensor of the weights that may be non-zero, per sparse layer.

    Raises:
        StageError: a sparse layer of the build is not in the model.
    """
    modules = dict(model.named_modules())
    masks = {}
    for name in build.sparse_layers:
        if name not in modules:
            raise StageError(f"sparse layer {name!r} of build.json is not in the model.")
        masks[name] = modules[name].weight.detach() != 0
    return masks


def keep_zeros(model: nn.Module, masks: Mapping[str, Tensor]) -> Callable[[int, int], None]:
    """Return a function for `fit(after_step=...)` that sets the masked weights to zero again.

    Args:
        model: its parameters must stay the same objects.
        masks: module name -> bool tensor, False = zero; see `masks_of`.
    """
    import torch

    weights: dict[str, Any] = {name: model.get_submodule(name).weight for name in masks}

    def after_step(_step: int, _total_steps: int) -> None:
        with torch.no_grad():
            for name, weight in weights.items():
                weight.mul_(masks[name].to(weight.device))

    return after_step


def parameters_bytes(model: nn.Module, *, fold_batch_norm: bool = True) -> int:
    """Return the bytes of a float32 safetensors file that a float deployment of the model needs.

    Folded (the default, and the smaller, so the honest "original size"): a batch norm costs one
    bias vector, and nothing where the convolution before it already has a bias. Not folded: its
    weight, bias, running mean and running variance. `num_batches_tracked`, integer buffers,
    quantiser parameters and the second name of a shared tensor never count.

    Args:
        model: float or fake-quantised model.
        fold_batch_norm: count batch norms as folded into the layer before them.

    Returns:
        Payload, header and 8 bytes of header length, exactly as the safetensors library writes it.
    """
    import torch
    from safetensors.torch import save
    from torch import nn

    from compress.metrics.complexity import is_quantiser_name

    tensors = {
        name: tensor.detach()
        for name, tensor in _state_once(model).items()
        if tensor.is_floating_point() and not is_quantiser_name(name)
    }
    if fold_batch_norm:
        previous: nn.Module | None = None
        for name, module in model.named_modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                for own in ("weight", "bias", "running_mean", "running_var"):
                    tensors.pop(f"{name}.{own}", None)
                if getattr(previous, "bias", None) is None:
                    tensors[f"{name}.bias"] = torch.zeros(module.num_features)
            if _widths(module):
                previous = module
    zeros = {name: torch.zeros(tensor.shape, dtype=torch.float32) for name, tensor in tensors.items()}
    return len(save(zeros))


def _state_once(model: nn.Module) -> dict[str, Tensor]:
    """Return the state with each shared parameter or buffer under its first name only."""
    seen: set[int] = set()
    state = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            state[name] = tensor
    return state


def _load_state_strictly(model: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    aliases = model.state_dict(keep_vars=True).keys() - _state_once(model).keys()
    try:
        result = model.load_state_dict(state, strict=False)
    except RuntimeError as error:  # torch reports wrong shapes so
        raise StageError(f"{path}: does not fit the model that build.json describes: {error}") from error
    missing = sorted(set(result.missing_keys) - aliases)
    if missing or result.unexpected_keys:
        raise StageError(
            f"{path}: does not fit the model that build.json describes: missing {missing}, "
            f"unexpected {sorted(result.unexpected_keys)}."
        )


def _widths(module: nn.Module) -> dict[str, int]:
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
