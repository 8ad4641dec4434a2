"""Box coder: raw deltas relative to a prior <-> oriented box (le135)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

MAX_LOG_RATIO = math.log(1000 / 16)  # limit of |dw| and |dh|
ANGLE_FACTOR = math.pi  # radians per unit of the raw angle delta


def wrap_angle(angle: Tensor) -> Tensor:
    """Return the angle in radians modulo pi, in [-pi/4, 3pi/4) (angle version le135)."""
    return torch.remainder(angle + math.pi / 4, math.pi) - math.pi / 4


def decode(
    priors: Tensor,
    deltas: Tensor,
    *,
    image_size: tuple[int, int] | None = None,
    angle_factor: float = ANGLE_FACTOR,
    wrap: bool = True,
) -> Tensor:
    """Turn deltas into boxes.

    Args:
        priors: (..., 5) cx, cy, w, h, angle_rad.
        deltas: (..., 5) dx, dy, dw, dh, da; dx and dy run along the prior's axes.
        image_size: (height, width) px; if given, centres are clamped to [0, W-1] x [0, H-1].
        angle_factor: radians per unit of da.
        wrap: bring the angle into [-pi/4, 3pi/4).

    Returns:
        (..., 5) boxes in px and radians; w < h may occur.

    Source:
        detectors/dcfl/README.md, section 3.
    """
    px, py, pw, ph, pa = priors.unbind(-1)
    dx, dy, dw, dh, da = deltas.unbind(-1)
    cos, sin = torch.cos(pa), torch.sin(pa)
    x = px + pw * dx * cos - ph * dy * sin
    y = py + pw * dx * sin + ph * dy * cos
    if image_size is not None:
        x = x.clamp(0, image_size[1] - 1)
        y = y.clamp(0, image_size[0] - 1)
    width = pw * dw.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    height = ph * dh.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    angle = pa + angle_factor * da
    return torch.stack((x, y, width, height, wrap_angle(angle) if wrap else angle), dim=-1)


def encode(priors: Tensor, boxes: Tensor) -> Tensor:
    """Turn boxes into deltas: the inverse of `decode` for sizes inside its limits.

    Args:
        priors: (..., 5) cx, cy, w, h, angle_rad.
        boxes: (..., 5).

    Returns:
        (..., 5) dx, dy, dw, dh, da.
    """
    px, py, pw, ph, pa = priors.unbind(-1)
    x, y, width, height, angle = boxes.unbind(-1)
    cos, sin = torch.cos(pa), torch.sin(pa)
    dx = (cos * (x - px) + sin * (y - py)) / pw
    dy = (-sin * (x - px) + cos * (y - py)) / ph
    da = wrap_angle(angle - pa) / ANGLE_FACTOR
    return torch.stack((dx, dy, torch.log(width / pw), torch.log(height / ph), da), dim=-1)
