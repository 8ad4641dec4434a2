"""Priors: one square box per cell, and their shift by the learned sampling offsets."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

ANCHOR_SCALE = 4  # side of a prior in strides


def level_shapes(image_size: tuple[int, int], strides: Sequence[int]) -> list[tuple[int, int]]:
    """Return (rows, columns) of every level for an image of (height, width) px."""
    return [(math.ceil(image_size[0] / stride), math.ceil(image_size[1] / stride)) for stride in strides]


def grid_priors(
    shapes: Sequence[tuple[int, int]], strides: Sequence[int], device: torch.device | None = None
) -> Tensor:
    """Return the priors of all levels, row by row.

    Args:
        shapes: (rows, columns) of each level.
        strides: px between cells of each level.
        device: of the result.

    Returns:
        (P, 5) float32 cx, cy, w, h, angle_rad. The centre is the cell's top-left corner
        (j * stride, i * stride), side 4 strides, angle 0.
    """
    levels = []
    for (rows, columns), stride in zip(shapes, strides, strict=True):
        y, x = torch.meshgrid(
            torch.arange(rows, dtype=torch.float32, device=device) * stride,
            torch.arange(columns, dtype=torch.float32, device=device) * stride,
            indexing="ij",
        )
        side = torch.full_like(x, float(ANCHOR_SCALE * stride))
        levels.append(torch.stack((x, y, side, side, torch.zeros_like(x)), dim=-1).reshape(-1, 5))
    return torch.cat(levels)


def prior_shift(offsets: Sequence[Tensor], strides: Sequence[int], image_height: int | None = None) -> Tensor:
    """Return how far each prior moves.

    Args:
        offsets: sampling offsets of each level, (N, 18, h, w) in cells (dy, dx interleaved).
        strides: px between cells of each level.
        image_height: if given, the published factor height / 256 * 2^level is used in place of
            stride / 2 (the two agree for a height of 1024).

    Returns:
        (N, P, 2) px, dx before dy, detached.

    Source:
        Xu et al. 2023, arXiv 2304.08876 (dynamic prior); detectors/dcfl/README.md, sections 2 and 7 (row 11).
    """
    shifts = []
    for level, (offset, stride) in enumerate(zip(offsets, strides, strict=True)):
        factor = stride / 2 if image_height is None else image_height / 256 * 2**level
        mean = offset.detach().unflatten(1, (-1, 2)).mean(dim=1)  # (N, 2, h, w), dy before dx
        shifts.append(mean.flip(1).flatten(2).transpose(1, 2) * factor)
    return torch.cat(shifts, dim=1)


def move_priors(priors: Tensor, shift: Tensor) -> Tensor:
    """Return priors (P, 5) with their centres moved by shift (P, 2) px."""
    return torch.cat((priors[:, :2] + shift, priors[:, 2:]), dim=1)
