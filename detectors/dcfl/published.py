"""Checkpoints of the published DCFL code (MMRotate 0.3) and of forks with its head: their form, their import."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compress.errors import DetectorError
from compress.progress import say
from detectors.dcfl.names import TOPS, from_published_names
from detectors.weights.reading import COUNTER, State, below_wrapper, misfit, read_file

RESNETS = {(2, False): "resnet18", (6, True): "resnet50", (23, True): "resnet101"}  # (blocks of layer3, bottlenecks)
DILATION = re.compile(r"dilation_rate\s*=\s*(\d+)")  # in the configuration that mmcv stores as text
COMMON_DILATION = 3


@dataclass(frozen=True)
class Architecture:
    """What the shapes of the weights say about their network.

    Attributes:
        backbone: as in `detector.backbone`.
        base_channels: width of the first ResNet stage.
        channels: of FPN and head.
        num_classes: without background.
    """

    backbone: str
    base_channels: int
    channels: int
    num_classes: int


def architecture_of(state: Mapping[str, Tensor]) -> Architecture:
    """Read the network's form off its weights.

    Args:
        state: our names.

    Raises:
        DetectorError: no DCFL network, or a backbone that the plug-in does not know.
    """
    needed = ("head.retina_cls.bias", "head.conv_offset.weight", "head.cls_convs.0.conv.weight")
    missing = [name for name in needed if name not in state]
    if missing:
        raise DetectorError(f"no DCFL head, expected {', '.join(missing)}. The file holds:{listing(state)}")
    channels, classes = len(state["head.cls_convs.0.conv.weight"]), len(state["head.retina_cls.bias"])
    if "backbone.conv1.conv.weight" in state:
        return Architecture("mobilenet_v2", 64, channels, classes)
    blocks = {match[1] for name in state if (match := re.match(r"backbone\.layer3\.(\d+)\.", name))}
    bottlenecks = "backbone.layer1.0.conv3.weight" in state
    stem = state.get("backbone.conv1.weight")
    backbone = RESNETS.get((len(blocks), bottlenecks))
    if backbone is None or stem is None:
        raise DetectorError(
            f"the backbone has {len(blocks)} blocks in layer3 and {'' if bottlenecks else 'no '}bottlenecks, expected "
            f"{', '.join(RESNETS.values())} or mobilenet_v2. The file holds:{listing(state)}"
        )
    return Architecture(backbone, len(stem), channels, classes)


def import_published(path: Path) -> State:
    """Return the weights of a checkpoint under our names, checked to be a whole network.

    Says which `detector:` part of a recipe fits.

    Raises:
        DetectorError: unreadable, with Python objects inside, or not exactly the tensors of a DCFL network.
    """
    found, meta = read_file(path)
    state = from_published_names(below_wrapper(found, TOPS))
    try:
        form = architecture_of(state)
    except DetectorError as error:
        raise DetectorError(f"{path}: {error}") from error
    expected = _expected(form)
    wrong = misfit(expected, state)
    if wrong:
        parts = (
            ("missing", listing(wrong.missing)),
            ("unexpected", listing(wrong.unexpected)),
            ("of another shape", _lines(wrong.shapes)),
        )
        told = "".join(f"\n{title}:{text}" for title, text in parts if text)
        raise DetectorError(
            f"{path}: {len(wrong)} tensors do not fit a DCFL {form.backbone} with "
            f"{form.channels} channels and {form.num_classes} classes. Expected exactly its weights.{told}"
        )
    _say_what_fits(form, meta)
    counters = {name: torch.zeros((), dtype=torch.int64) for name in expected if name.endswith(COUNTER)}
    return {
        name: value.float().contiguous() if value.is_floating_point() else value.contiguous()
        for name, value in {**counters, **state}.items()
    }


def _expected(form: Architecture) -> State:
    """Return the state of such a network, without memory for the values."""
    from detectors.dcfl.network import DcflNetwork

    with torch.device("meta"):
        model = DcflNetwork(form.backbone, form.num_classes, form.channels, base_channels=form.base_channels)
    return model.state_dict()


def _say_what_fits(form: Architecture, meta: Mapping[str, Any]) -> None:
    """Print the part of a recipe that builds this network. The dilation leaves no trace in the weights."""
    match = DILATION.search(str(meta.get("config", "")))
    names = meta.get("CLASSES")
    fields = {key: value for key, value in asdict(form).items() if key != "num_classes"}
    if form.base_channels == 64:
        del fields["base_channels"]
    fields["dilation"] = int(match[1]) if match else COMMON_DILATION
    if isinstance(names, list | tuple) and len(names) == form.num_classes:
        fields["classes"] = f"[{', '.join(map(str, names))}]"
    else:
        fields["classes"] = f"[{form.num_classes} names]"
    text = ", ".join(f"{key}: {value}" for key, value in fields.items())
    note = "" if match else "  (dilation is not stored in this file: 4 for DOTA-v1.0 and STAR, else 3)"
    say(f"detector: {{plugin: dcfl, {text}}}{note}")


def listing(names: Iterable[str]) -> str:
    """Return all names, one line per module: `name.{bias, weight}`."""
    modules: dict[str, list[str]] = {}
    for name in names:
        module, _, leaf = name.rpartition(".")
        modules.setdefault(module, []).append(leaf)
    return _lines(
        f"{module}{'.' if module else ''}{leaves[0] if len(leaves) == 1 else '{' + ', '.join(sorted(leaves)) + '}'}"
        for module, leaves in modules.items()
    )


def _lines(entries: Iterable[str]) -> str:
    return "".join(f"\n  {entry}" for entry in entries)
