"""Names of parameters: torchvision's MobileNetV2 and the published DCFL code on the one side, ours on the other."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from detectors.weights.reading import State

MOBILENET_BLOCKS = (1, 2, 3, 4, 3, 3, 1)  # inverted residuals of the network's layer1..layer7
MOBILENET_STEPS = ("expand_conv", "depthwise_conv", "linear_conv")
TOPS = ("backbone", "neck", "head", "bbox_head")  # first parts of names, ours and the published ones
PUBLISHED_HEAD = "bbox_head."
# The offset predictor belongs to layer 4 of the box tower there; files of mmcv before 1.0 write it with an underscore.
OFFSET_NAMES = (f"{PUBLISHED_HEAD}reg_convs.3.conv_offset.", f"{PUBLISHED_HEAD}reg_convs.3_offset.")
WRAPPER = "module."  # of files saved by a data-parallel wrapper


def is_published(state: Mapping[str, Tensor]) -> bool:
    """Return whether the names are those of the published code."""
    return any(name.removeprefix(WRAPPER).startswith(PUBLISHED_HEAD) for name in state)


def from_published_names(state: Mapping[str, Tensor]) -> State:
    """Rename the parameters of the published code to ours; other names stay."""
    renamed = {}
    for name, value in state.items():
        ours = name.removeprefix(WRAPPER)
        for prefix in OFFSET_NAMES:
            ours = ours.replace(prefix, "head.conv_offset.")
        renamed[f"head.{ours.removeprefix(PUBLISHED_HEAD)}" if ours.startswith(PUBLISHED_HEAD) else ours] = value
    return renamed


def mobilenet_names(state: Mapping[str, Tensor]) -> State:
    """Rename torchvision's MobileNetV2 parameters to ours.

    `features.0` is the stem, `features.1` .. `features.17` are the inverted residuals in order. A
    block is a chain of (convolution, norm, activation) triples and a last bare convolution and norm.
    """
    place = [f"layer{layer}.{i}" for layer, count in enumerate(MOBILENET_BLOCKS, 1) for i in range(count)]
    parts = ("conv", "bn")
    renamed = {}
    for name, value in state.items():
        new = name
        if match := re.fullmatch(r"features\.0\.([01])\.(\w+)", name):
            new = f"conv1.{parts[int(match[1])]}.{match[2]}"
        elif match := re.fullmatch(r"features\.(\d+)\.conv\.(.+)\.(\w+)", name):
            # The first block does not expand; the positions are conv.0.0, conv.0.1, ..., conv.N, conv.N+1.
            steps = ("depthwise_conv", "linear_conv") if match[1] == "1" else MOBILENET_STEPS
            step, _, part = match[2].partition(".")
            number, kind = (int(step), int(part)) if part else (len(steps) - 1, int(step) - len(steps) + 1)
            new = f"{place[int(match[1]) - 1]}.{steps[number]}.{parts[kind]}.{match[3]}"
        renamed[new] = value
    return renamed
