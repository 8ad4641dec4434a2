"""Reading weights: whole detectors (ours or torchvision's) and torchvision's classifiers. Strict, no pickle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn
from torchvision.models import get_model_weights

from compress.errors import DetectorError
from compress.progress import say
from detectors.torchvision.config import ModelSpec
from detectors.weights.reading import COUNTER, State, load_strictly, read_tensors

CLASSIFIER = ("fc.", "classifier.")  # of torchvision's classifiers; a detector has no place for it
CLASS_LAYERS = "head.classification_head."  # names of the layers whose channels are classes start so
BACKGROUND = "__background__"


def load_whole(model: nn.Module, path: Path) -> None:
    """Load all weights of a detector in place.

    Raises:
        DetectorError: the file cannot be read, or a tensor is missing, unexpected or of another shape.
    """
    _load_strictly(model, read_tensors(path), str(path))


def start_from(model: nn.Module, spec: ModelSpec, name: str, source: str, classes: Sequence[str]) -> None:
    """Load pretrained weights into a fresh detector in place.

    A whole detector of torchvision gives everything; the channels of its class layers are picked by class name, and
    classes it does not know keep fresh ones. A classifier gives the backbone.

    Args:
        model: of `build_network`.
        spec: architecture and backbone.
        name: of the model, for torchvision.
        source: 'COCO_V1', 'IMAGENET1K_V1', 'IMAGENET1K_V2', or a file of either kind with torchvision's names.
        classes: of the detector.

    Raises:
        DetectorError: nothing to read, or a tensor is missing, unexpected or of another shape.
    """
    where = f"detector.weights {source}"
    if source == "COCO_V1":
        state, known = _download(name, source)
    elif source.startswith("IMAGENET"):
        state, known = _download(spec.backbone, source)
    else:
        state, known = read_tensors(Path(source).expanduser()), coco_categories()
    if any(key.startswith("backbone.") for key in state):
        _load_strictly(model, pick_classes(model, state, known, classes), where)
        return
    state = {key: value for key, value in state.items() if not key.startswith(CLASSIFIER)}
    if spec.architecture == "ssdlite":
        features = {key.removeprefix("features."): value for key, value in state.items()}
        _load_strictly(model.get_submodule("backbone.features"), ssdlite_names(features, spec.backbone), where)
    else:
        body = model.get_submodule("backbone.body")
        _load_strictly(body, {key.removeprefix("features."): value for key, value in state.items()}, where)


def ssdlite_names(state: Mapping[str, Tensor], backbone: str) -> State:
    """Rename the blocks of a MobileNetV3 to their place in SSDlite, which cuts one block in two after its expansion."""
    from detectors.torchvision.network import SSD_EXPANDED

    cut = SSD_EXPANDED[backbone]
    renamed = {}
    for name, value in state.items():
        index, _, rest = name.partition(".")
        number = int(index)
        if number < cut:
            new = f"0.{number}.{rest}"
        elif number > cut:
            new = f"1.{number - cut}.{rest}"
        elif rest.startswith("block.0."):
            new = f"0.{cut}.{rest.removeprefix('block.0.')}"
        else:  # the rest of the block is a slice of its Sequential, which keeps the numbers
            new = f"1.0.{rest.removeprefix('block.')}"
        renamed[new] = value
    return renamed


def coco_categories() -> list[str]:
    """Return the 91 names of torchvision's detectors; the first is background, some are 'N/A'."""
    from torchvision.models.detection import RetinaNet_ResNet50_FPN_Weights

    return list(RetinaNet_ResNet50_FPN_Weights.COCO_V1.meta["categories"])


def pick_classes(model: nn.Module, state: State, known: Sequence[str], classes: Sequence[str]) -> State:
    """Return a detector's state with its class layers cut to our classes; others keep what the model has.

    torchvision counts background as class 0 everywhere. SSD has a score for it, RetinaNet and FCOS do not use theirs.
    """
    own = model.state_dict()
    wanted = [BACKGROUND, *classes] if any(f"{CLASS_LAYERS}module_list" in name for name in own) else list(classes)
    found = [name for name in classes if name in known]
    result = dict(state)
    for name, value in state.items():
        ours = own.get(name)
        if not _counts_classes(name) or ours is None or len(value) % len(known) or len(ours) % len(wanted):
            continue
        boxes = len(value) // len(known)
        if len(ours) != boxes * len(wanted):
            continue
        new = ours.clone().view(boxes, len(wanted), *ours.shape[1:])
        old = value.view(boxes, len(known), *value.shape[1:])
        if old.shape[2:] != new.shape[2:]:
            continue
        for index, label in enumerate(wanted):
            if label in known:
                new[:, index] = old[:, list(known).index(label)]
        result[name] = new.reshape(ours.shape)
    say(f"detector.weights: {len(found)} of {len(classes)} classes have trained scores ({', '.join(found) or 'none'})")
    return result


def _counts_classes(name: str) -> bool:
    if not name.startswith(CLASS_LAYERS):
        return False
    rest = name.removeprefix(CLASS_LAYERS)
    # A block of SSDlite is [depthwise convolution with norm, 1x1 convolution]: the second one counts classes.
    return rest.startswith("cls_logits.") or (rest.startswith("module_list.") and rest.split(".")[2] == "1")


def _download(name: str, entry: str) -> tuple[State, list[str]]:
    """Return the tensors and class names of an entry of torchvision, from its cache or the network."""
    try:
        weights = get_model_weights(name)[entry]
    except (KeyError, ValueError) as error:
        try:
            names = ", ".join(get_model_weights(name).__members__)
        except ValueError:
            names = "none"
        raise DetectorError(
            f"detector.weights: torchvision has no {entry!r} for {name}, but {names}. Choose one, or give a file."
        ) from error
    try:
        return dict(weights.get_state_dict(progress=True, check_hash=True)), list(weights.meta["categories"])
    except (OSError, RuntimeError) as error:
        raise DetectorError(
            f"detector.weights: {entry} of {name} cannot be downloaded: {error}. Give the path of a local file."
        ) from error


def _load_strictly(module: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    check = "detector.model, channels, anchors and classes"
    load_strictly(module, state, where=where, check=check, unused=lambda name: name.endswith(COUNTER))
