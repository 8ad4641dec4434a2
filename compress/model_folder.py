"""A model in a folder: `model.safetensors` and `build.json`, and the way back without pickle.

A pruned model is rebuilt directly: the plug-in builds the unpruned network, every layer is cut to
the widths that `build.json` records, a quantized one gets its quantizers, then the state is loaded.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from compress.errors import StageError
from compress.layer_widths import apply_layers, build_layers
from compress.metrics.size import state_once
from compress.whole_file import write_whole

if TYPE_CHECKING:
    from torch import Tensor, nn

    from compress.detector import Detector

WEIGHTS_FILE = "model.safetensors"
BUILD_FILE = "build.json"
_GATES = "integer_gates"  # beside the settings where sigmoids and products have quantizers of their own
_OLD_NAME = ("activation_quantisers", "activation_quantizers")  # artifacts made before 2026-11-28


class Build(BaseModel):
    """What is needed beside the weights to rebuild a model.

    Attributes:
        layers: module name -> final widths, e.g. {"in_channels": 24, "out_channels": 64, "groups": 1}.
        sparse_layers: names of modules whose zero weights must stay zero.
        quantization: fields of `QuantizationSettings`, or None for a float model.
        provenance: what was done, oldest first; for people and the report, never replayed.
    """

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    layers: dict[str, dict[str, int]] = Field(default_factory=dict)
    sparse_layers: tuple[str, ...] = ()
    quantization: dict[str, Any] | None = Field(None, validation_alias=AliasChoices("quantization", "quantisation"))
    provenance: list[Any] = Field(default_factory=list)


def save_model(folder: Path, model: nn.Module, build: Build) -> None:
    """Write a model into a folder; each file appears whole or not at all.

    Args:
        folder: must exist.
        model: float or fake-quantized; its state must hold tensors only.
        build: its `layers` are replaced by the widths that the model has now (a quantized model
            keeps those given, because they describe the float network underneath).

    Raises:
        StageError: a part of the model is compiled, so that no stage can change it.
    """
    from safetensors.torch import save

    _refuse_compiled(model)
    if build.quantization is None or not build.layers:
        build = build.model_copy(update={"layers": build_layers(model)})
    if build.quantization is not None:
        from compress.quantization.gates import has_gates

        marked = {**build.quantization, **({_GATES: True} if has_gates(model) else {})}
        build = build.model_copy(update={"quantization": marked})
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in state_once(model).items()}
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
    if build.quantization is not None:
        from compress.quantization import QuantizationSettings, quantize

        settings = {name: value for name, value in build.quantization.items() if name != _GATES}
        gates = bool(build.quantization.get(_GATES))
        model = quantize(model, QuantizationSettings(**settings), detector, integer_gates=gates)
    path = folder / WEIGHTS_FILE
    try:
        state = {name.replace(*_OLD_NAME): tensor for name, tensor in load(path.read_bytes()).items()}
    except (OSError, SafetensorError) as error:
        raise StageError(f"{path}: cannot be read: {error}. Delete the folder; the stage rebuilds it.") from error
    _fix_steps(model, state)
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


def _refuse_compiled(model: nn.Module) -> None:
    """Refuse modules of `torch.jit`: they can be neither looked into nor changed.

    Raises:
        StageError: there is one.
    """
    import torch

    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            owner = model.get_submodule(name.rpartition(".")[0])
            raise StageError(
                f"{name or type(model).__name__} (in {type(owner).__name__}) was compiled by `torch.jit`: its layers "
                "cannot be pruned or quantized. Build it of plain modules."
            )


def _fix_steps(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give the layers their steps and the coarseness of their biases, where these were chosen."""
    for name, module in model.named_modules():
        if (steps := state.get(f"{name}.weight_step")) is not None and hasattr(module, "fix_steps"):
            module.fix_steps(steps)
        if (unit := state.get(f"{name}.bias_unit")) is not None and hasattr(module, "coarsen_bias"):
            module.coarsen_bias(unit)


def _load_state_strictly(model: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    aliases = model.state_dict(keep_vars=True).keys() - state_once(model).keys()
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
