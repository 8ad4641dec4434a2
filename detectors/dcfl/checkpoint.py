"""Reading weights: whole models (ours or the published names) and torchvision backbones. Strict, no pickle."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from compress.errors import DetectorError
from detectors.dcfl.names import State, from_published_names, is_published, mobilenet_names

MAX_LISTED = 8
COUNTER = "num_batches_tracked"  # of BatchNorm; old files lack it and inference never reads it
# Tensors of a torchvision classifier that a detector has no place for.
UNUSED_IN_CLASSIFIER = {"mobilenet_v2": ("classifier.", "features.18."), "resnet": ("fc.",)}
FORBIDDEN = re.compile(r"GLOBAL ([\w.]+)")  # in the message with which torch refuses an object


def read_tensors(path: Path) -> State:
    """Read the tensors of a safetensors or torch file; errors as in `read_file`."""
    return read_file(path)[0]


def read_file(path: Path) -> tuple[State, Mapping[str, Any]]:
    """Read the tensors of a safetensors or torch file, and what the file says about itself.

    Torch files are read with weights_only=True; a dict under 'state_dict' or 'model' is unwrapped.

    Returns:
        Name -> tensor, and the table 'meta' that mmcv stores beside them ({} without).

    Raises:
        DetectorError: missing, damaged, or holding anything but tensors.
    """
    if not path.is_file():
        raise DetectorError(f"{path}: no such file, expected weights (.safetensors or .pth). Correct the path.")
    try:
        if path.suffix == ".safetensors":
            found: Any = load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, UnpicklingError, SafetensorError) as error:
        # The library's own text is left out: it advises to switch the protection off.
        refused = FORBIDDEN.search(str(error))
        what = f"it wants to run {refused[1]}, which is not loaded" if refused else f"damaged ({type(error).__name__})"
        raise DetectorError(
            f"{path}: no readable weights: {what}. Expected a file of tensors only; copy it again, or save its "
            "state dict alone."
        ) from error
    meta = found.get("meta") if isinstance(found, Mapping) else None
    for key in ("state_dict", "model"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        raise DetectorError(f"{path}: holds no plain table of tensors. Expected name -> tensor.")
    return dict(found), meta if isinstance(meta, Mapping) else {}


def load_whole(model: nn.Module, path: Path) -> None:
    """Load all weights of a detector in place.

    Raises:
        DetectorError: the file cannot be read, or a tensor is missing, unexpected or of another shape.
    """
    state = read_tensors(path)
    if is_published(state):
        state = from_published_names(state)
    _load_strictly(model, state, str(path))


def load_backbone(backbone: nn.Module, name: str, source: str) -> None:
    """Load pretrained weights into a backbone in place.

    Args:
        backbone: of `DcflNetwork`.
        name: 'mobilenet_v2', 'resnet18', 'resnet50' or 'resnet101'.
        source: 'imagenet' for torchvision's weights (downloaded once), else a file with torchvision's names.

    Raises:
        DetectorError: nothing to read, or any tensor of the backbone would stay unloaded.
    """
    state = _download(name) if source == "imagenet" else read_tensors(Path(source).expanduser())
    family = "mobilenet_v2" if name == "mobilenet_v2" else "resnet"
    kept = {key: value for key, value in state.items() if not key.startswith(UNUSED_IN_CLASSIFIER[family])}
    if family == "mobilenet_v2":
        kept = mobilenet_names(kept)
    _load_strictly(backbone, kept, f"backbone weights {source}")


def _download(name: str) -> State:
    from torchvision.models import get_model_weights

    try:
        return dict(get_model_weights(name)["IMAGENET1K_V1"].get_state_dict(progress=True, check_hash=True))
    except (OSError, RuntimeError) as error:
        raise DetectorError(
            f"detector.backbone_weights: 'imagenet' weights of {name} cannot be downloaded: {error}. "
            "Give the path of a local file with torchvision's names."
        ) from error


def _load_strictly(module: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    own = module.state_dict()
    problems = [f"missing {name}" for name in own if name not in state and not name.endswith(COUNTER)]
    problems += [f"unexpected {name}" for name in state if name not in own]
    problems += [
        f"{name} is {tuple(state[name].shape)}, expected {tuple(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    if problems:
        listed = "".join(f"\n  {problem}" for problem in problems[:MAX_LISTED])
        more = f"\n  ... and {len(problems) - MAX_LISTED} more" if len(problems) > MAX_LISTED else ""
        raise DetectorError(
            f"{where}: {len(problems)} tensors do not fit the model{_class_hint(own, state)}. "
            f"Check detector.backbone, channels and classes.{listed}{more}"
        )
    module.load_state_dict({**own, **state})


def _class_hint(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    name = "head.retina_cls.bias"
    if name not in own or name not in state or own[name].shape == state[name].shape:
        return ""
    return f" (the file was trained for {len(state[name])} classes, detector.classes lists {len(own[name])})"
