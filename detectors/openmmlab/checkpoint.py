"""Reading weights: Krimp's own, an MMRotate checkpoint, or a pretrained backbone. Strict, no pickle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from compress.errors import DetectorError

State = dict[str, Tensor]
MAX_LISTED = 8
COUNTER = "num_batches_tracked"  # of BatchNorm; old files lack it and inference never reads it
# Tensors that a detector has no place for: classifiers of torchvision, the unused last layer of mmdet's MobileNetV2,
# and statistics of the preprocessor, which are part of the configuration.
UNUSED = ("classifier.", "features.18.", "fc.", "backbone.conv2.", "conv2.", "data_preprocessor.")


def read_tensors(path: Path) -> State:
    """Read the tensors of a safetensors or torch file.

    Torch files are read with weights_only=True; a table under 'state_dict' is unwrapped.

    Raises:
        DetectorError: missing, damaged, or holding anything but tensors.
    """
    try:
        if path.suffix == ".safetensors":
            found: Any = load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, UnpicklingError, SafetensorError) as error:
        # The library's own text is left out: it advises to switch the protection off.
        raise DetectorError(
            f"{path}: no readable weights: missing, damaged, or holding Python objects ({type(error).__name__}). "
            "Expected a file of tensors only; save its 'state_dict' alone."
        ) from error
    if isinstance(found, Mapping) and isinstance(found.get("state_dict"), Mapping):
        found = found["state_dict"]
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        raise DetectorError(f"{path}: holds no plain table of tensors. Expected name -> tensor.")
    return dict(found)


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Load a state in place.

    Raises:
        DetectorError: a tensor is missing, unexpected or of another shape.
    """
    own = module.state_dict()
    known = {name: value for name, value in state.items() if name in own or not name.startswith(UNUSED)}
    problems = [f"missing {name}" for name in own if name not in known and not name.endswith(COUNTER)]
    problems += [f"unexpected {name}" for name in known if name not in own]
    problems += [
        f"{name} is {tuple(known[name].shape)}, expected {tuple(own[name].shape)}"
        for name in own
        if name in known and known[name].shape != own[name].shape
    ]
    if problems:
        listed = "".join(f"\n  {problem}" for problem in problems[:MAX_LISTED])
        more = f"\n  ... and {len(problems) - MAX_LISTED} more" if len(problems) > MAX_LISTED else ""
        raise DetectorError(
            f"{where}: {len(problems)} tensors do not fit the model. Check detector.config, cfg_options, backbone, "
            f"channels and the number of classes.{listed}{more}"
        )
    module.load_state_dict({**own, **known})


def load_backbone(backbone: nn.Module, path: Path) -> None:
    """Load pretrained weights into a backbone in place.

    Names are the backbone's own, torchvision's ResNet names (the same), or torchvision's MobileNetV2 names: both
    networks list the same layers in the same order, so these are matched by position.

    Raises:
        DetectorError: nothing to read, or any tensor of the backbone would stay unloaded.
    """
    state = read_tensors(path)
    where = f"detector.backbone_weights {path}"
    own = backbone.state_dict()
    prefix = "backbone."
    if all(name.startswith((prefix, *UNUSED)) for name in state) and any(name.startswith(prefix) for name in state):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    if any(name.startswith("features.") for name in state):
        state = _by_position(state, list(own))
    load_strictly(backbone, state, where)


def _by_position(state: State, wanted: list[str]) -> State:
    """Return a state under the names of another network that has the same layers in the same order."""
    layers: dict[str, State] = {}
    for name, value in state.items():
        if not name.startswith(UNUSED):
            layer, _, part = name.rpartition(".")
            layers.setdefault(layer, {})[part] = value
    places = list(dict.fromkeys(name.rpartition(".")[0] for name in wanted))
    ordered = sorted(layers, key=lambda layer: [int(part) if part.isdigit() else part for part in layer.split(".")])
    if len(places) != len(ordered):
        return state
    return {
        f"{place}.{part}": value
        for place, layer in zip(places, ordered, strict=True)
        for part, value in layers[layer].items()
    }
