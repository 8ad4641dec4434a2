"""Reading weights: Krimp's own, an MMRotate checkpoint, or a pretrained backbone. Strict, no pickle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from detectors.weights import reading
from detectors.weights.reading import State, read_tensors

# Tensors that a detector has no place for: classifiers of torchvision, the unused last layer of mmdet's MobileNetV2,
# and statistics of the preprocessor, which are part of the configuration.
UNUSED = ("classifier.", "features.18.", "fc.", "backbone.conv2.", "conv2.", "data_preprocessor.")


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Load a state in place.

    Raises:
        DetectorError: a tensor is missing, unexpected or of another shape.
    """
    check = "detector.config, cfg_options, backbone, channels and the number of classes"
    reading.load_strictly(module, state, where=where, check=check, unused=lambda name: name.startswith(UNUSED))


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
