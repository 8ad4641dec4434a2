"""Alignment of features to boxes (S2A-Net): a deformable convolution whose offsets are computed from box deltas.

One leaf layer with a 4-dimensional weight: it is pruned by a rule of its own, its weight is quantized, and an
exported graph holds the arithmetic of the offsets and one DeformConv a level.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torchvision  # noqa: F401 - registers torch.ops.torchvision.deform_conv2d
from mmrotate.models.utils import ORConv2d
from torch import Tensor, nn

from compress.errors import DetectorError

TAPS = 9
SIZE_CLIP = abs(math.log(16 / 1000))  # largest |log| by which a box may differ from its anchor
ANGLE_START = {"le135": -math.pi / 4, "le90": -math.pi / 2}  # angles are wrapped into [start, start + pi)


class AlignedConv(nn.Module):
    """3x3 convolution that samples on the grid of the box that each cell has predicted.

    Attributes:
        in_channels, out_channels: widths; a pruner that cuts `weight` sets them too.
        weight: (out_channels, in_channels, 3, 3).
        strides: px between cells, a level.
        anchors: (cx, cy, w, h, angle_rad) of the one anchor of the first cell, a level.
        coders: how the deltas of each stage change a box.

    Source:
        Han et al. 2021, arXiv 2008.09397, section III-B (alignment convolution).
    """

    def __init__(self, layer: Any, priors: Any, coders: Sequence[Any]) -> None:
        super().__init__()
        self.in_channels = layer.in_channels
        self.out_channels = layer.out_channels
        self.kernel_size = (3, 3)
        self.weight = nn.Parameter(layer.weight.detach().clone())
        self.strides = tuple(int(stride[0]) for stride in priors.strides)
        self.anchors = _anchors(priors)
        self.coders = tuple(coders)

    def forward(self, x: Tensor, level: int, *deltas: Tensor) -> Tensor:
        """Return (N, out, H, W).

        Args:
            x: (N, in, H, W).
            level: of the feature pyramid.
            deltas: (N, 5, H, W) of each earlier stage, first stage first; no gradient flows through them.
        """
        offsets = self.offsets(level, [one.detach() for one in deltas])
        mask = offsets.new_zeros((x.shape[0], 1))  # not used: these layers have offsets only
        bias = self.weight.new_zeros(self.weight.shape[0])
        convolve: Callable[..., Tensor] = torch.ops.torchvision.deform_conv2d
        return convolve(x, self.weight, offsets, mask, bias, 1, 1, 1, 1, 1, 1, 1, 1, False)

    def offsets(self, level: int, deltas: Sequence[Tensor]) -> Tensor:
        """Return where the nine taps lie, (N, 18, H, W) in cells: dy0, dx0, dy1, dx1, ..."""
        height, width = deltas[0].shape[-2:]
        stride = self.strides[level]
        device, dtype = deltas[0].device, deltas[0].dtype
        rows = torch.arange(height, device=device, dtype=dtype).view(1, height, 1)
        columns = torch.arange(width, device=device, dtype=dtype).view(1, 1, width)
        box: list[Any] = list(self.anchors[level])
        box[:2] = columns * stride + box[0], rows * stride + box[1]
        for coder, delta in zip(self.coders, deltas, strict=True):
            box = _move(box, delta, coder)
        x, y, w, h, angle = box
        cos, sin = torch.cos(angle), torch.sin(angle)
        parts = []
        for tap in range(TAPS):
            right, down = float(tap % 3 - 1), float(tap // 3 - 1)
            across, along = w * (right / (3 * stride)), h * (down / (3 * stride))
            parts.append(sin * across + cos * along + y / stride - (rows + down))
            parts.append(cos * across - sin * along + x / stride - (columns + right))
        return torch.stack(parts, dim=1)

    def extra_repr(self) -> str:
        """Return the widths for printing."""
        return f"{self.in_channels}, {self.out_channels}, kernel_size=(3, 3), stride=1, padding=1, bias=False"


def _anchors(priors: Any) -> tuple[tuple[float, ...], ...]:
    """Return the box of the first cell of each level.

    Raises:
        DetectorError: there are several a cell, or the cells differ in more than their place: single precision has
            rounded some square anchors to wide ones and some to tall ones, which MMRotate turns by a quarter.
    """
    shape = (64, 64)
    boxes = [getattr(level, "tensor", level) for level in priors.grid_priors([shape] * priors.num_levels, device="cpu")]
    for level in boxes:
        if len(level) != shape[0] * shape[1] or (level[:, 2:] != level[:1, 2:]).any():
            raise DetectorError("detector.config: aligned convolutions need one anchor a cell, the same in every cell.")
    return tuple(tuple(level[0].tolist()) for level in boxes)


def _move(box: Sequence[Any], deltas: Tensor, coder: Any) -> list[Any]:
    """Apply the deltas (N, 5, H, W) of a `DeltaXYWHTRBBoxCoder` to one box a cell."""
    x, y, w, h, angle = box
    dx, dy, dw, dh, turn = (
        deltas[:, i] * std + mean for i, (mean, std) in enumerate(zip(coder.means, coder.stds, strict=True))
    )
    if coder.norm_factor:
        turn = turn * (coder.norm_factor * math.pi)
    if coder.proj_xy:
        cos, sin = (
            f(angle) if isinstance(angle, Tensor) else g(angle)
            for f, g in ((torch.cos, math.cos), (torch.sin, math.sin))
        )
        x, y = x + dx * w * cos - dy * h * sin, y + dx * w * sin + dy * h * cos
    else:
        x, y = x + dx * w, y + dy * h
    w = w * torch.exp(torch.clamp(dw, -SIZE_CLIP, SIZE_CLIP))
    h = h * torch.exp(torch.clamp(dh, -SIZE_CLIP, SIZE_CLIP))
    angle = _wrap(angle + turn, coder.angle_version)
    if coder.edge_swap:
        wide = w > h
        turned = _wrap(angle + math.pi / 2, coder.angle_version)
        w, h, angle = torch.where(wide, w, h), torch.where(wide, h, w), torch.where(wide, angle, turned)
    return [x, y, w, h, angle]


def _wrap(angle: Tensor, version: str) -> Tensor:
    if version not in ANGLE_START:
        return angle
    start = ANGLE_START[version]
    turns = torch.floor((angle - start) * (1 / math.pi))
    return angle - turns * math.pi


def oriented_to_plain(layer: ORConv2d) -> nn.Conv2d:
    """Return the plain convolution that computes what an oriented one does, its eight rotated filters written out.

    The outputs are equal and run in integers; training no longer ties the rotations of a filter.
    """
    outputs, has_bias = layer.out_channels * layer.nRotation, layer.bias is not None
    plain = nn.Conv2d(layer.in_channels, outputs, layer.kernel_size, padding=layer.padding, bias=has_bias)
    with torch.no_grad():
        plain.weight.copy_(layer.rotate_arf())
        if plain.bias is not None:
            plain.bias.copy_(layer.bias)
    return plain
