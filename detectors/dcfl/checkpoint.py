"""Reading weights: whole models (ours or the published names) and torchvision backbones. Strict, no pickle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from compress.errors import DetectorError
from detectors.dcfl.names import TOPS, from_published_names, is_published, mobilenet_names
from detectors.weights.reading import State, below_wrapper, load_strictly, read_tensors

# Tensors of a torchvision classifier that a detector has no place for.
UNUSED_IN_CLASSIFIER = {"mobilenet_v2": ("classifier.", "features.18."), "resnet": ("fc.",)}


def load_whole(model: nn.Module, path: Path) -> None:
    """Load all weights of a detector in place.

    Raises:
        DetectorError: the file cannot be read, or a tensor is missing, unexpected or of another shape.
    """
    state = below_wrapper(read_tensors(path), TOPS)
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
    hint = _class_hint(module.state_dict(), state)
    load_strictly(module, state, where=where, check="detector.backbone, channels and classes", hint=hint)


def _class_hint(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    name = "head.retina_cls.bias"
    if name not in own or name not in state or own[name].shape == state[name].shape:
        return ""
    return f" (the file was trained for {len(state[name])} classes, detector.classes lists {len(own[name])})"
