"""Similarity of boxes and priors as two-dimensional Gaussians."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

SIZE_LIMITS = (1e-7, 1e7)  # px; sides are clamped to them
MAX_RUNS = 64  # of equal priors; more are handled pair by pair
# Box-prior pairs held at once, and computed at once. On a CPU the latter must fit its cache, yet hide the calls.
CHUNK_PAIRS = {"cpu": (2**20, 2**16)}
CHUNK_PAIRS_ELSEWHERE = (2**24, 2**22)


def gaussians(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the covariance entries (xx, xy, yy) of boxes (n, 5), each (n,) px^2.

    Source:
        R diag((w/2)^2, (h/2)^2) R': detectors/dcfl/README.md, section 4, step 1.
    """
    half = (boxes[:, 2:4].clamp(*SIZE_LIMITS) / 2) ** 2
    cos, sin = torch.cos(boxes[:, 4]), torch.sin(boxes[:, 4])
    xx = half[:, 0] * cos**2 + half[:, 1] * sin**2
    yy = half[:, 0] * sin**2 + half[:, 1] * cos**2
    return xx, (half[:, 0] - half[:, 1]) * cos * sin, yy


def _root_determinant(boxes: Tensor) -> Tensor:
    """Return the square root of the determinant of each covariance, (n,) px^2; exact for any angle."""
    return boxes[:, 2:4].clamp(*SIZE_LIMITS).prod(dim=1) / 4


def _pair_constants(boxes: Tensor, shapes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return a, b, c, e (G, S) with distance = a dx^2 + b dx dy + c dy^2 + e for boxes (G, 5), prior shapes (S, 5)."""
    xx1, xy1, yy1 = (entry[:, None] for entry in gaussians(boxes))
    xx2, xy2, yy2 = (entry[None] for entry in gaussians(shapes))
    xx, xy, yy = (xx1 + xx2) / 2, (xy1 + xy2) / 2, (yy1 + yy2) / 2
    determinant = xx * yy - xy**2
    volume = determinant / (_root_determinant(boxes)[:, None] * _root_determinant(shapes)[None])
    scale = 8 * determinant
    return yy / scale, -2 * xy / scale, xx / scale, 0.5 * torch.log(volume)


def gaussian_distance(boxes: Tensor, priors: Tensor) -> Tensor:
    """Return the Jensen-Shannon divergence of two Gaussians (alpha 1/2, dual form), all pairs.

    That is the Bhattacharyya distance; computed on coordinate differences it keeps its digits in float32.

    Args:
        boxes: (G, 5) cx, cy, w, h, angle_rad.
        priors: (P, 5).

    Returns:
        (G, P), >= 0.

    Source:
        Nielsen 2019, arXiv 1904.04017; detectors/dcfl/README.md, section 4, step 2.
    """
    xx, xy, yy, constant = _pair_constants(boxes, priors)
    dx = boxes[:, None, 0] - priors[None, :, 0]
    dy = boxes[:, None, 1] - priors[None, :, 1]
    return xx * dx * dx + xy * dx * dy + yy * dy * dy + constant


def similarity(boxes: Tensor, priors: Tensor) -> Tensor:
    """Return 1 / (1 + distance), (G, P), 0..1; arguments as `gaussian_distance`."""
    return 1 / (1 + gaussian_distance(boxes, priors))


def similarity_chunks(boxes: Tensor, priors: Tensor, *, num_pairs: int | None = None) -> Iterator[tuple[int, Tensor]]:
    """Yield the similarity of all pairs, some boxes at a time, so that memory stays bounded.

    Computed in float64 and rounded to float32: priors that mirror each other about a box are then exactly
    equal, on every device. Priors of a level differ by their place only, so everything but a quadratic form
    and a reciprocal is computed once per box and level.

    Args:
        boxes: (G, 5).
        priors: (P, 5), P >= 1; fast where priors of equal width, height and angle follow each other.
        num_pairs: pairs at a time; default: what suits the device.

    Yields:
        Number of the first box, and (g, P) float32 similarities. The buffer is used again for the next part.
    """
    limit, block = CHUNK_PAIRS.get(priors.device.type, CHUNK_PAIRS_ELSEWHERE)
    rows = max(1, min((num_pairs or limit) // len(priors), len(boxes)))
    runs = _equal_runs(priors)
    boxes, priors = boxes.double(), priors.double()
    if len(runs) > MAX_RUNS:
        rows = max(1, rows // 8)  # this form holds eight temporaries
        for start in range(0, len(boxes), rows):
            yield start, similarity(boxes[start : start + rows], priors).float()
        return
    *quadratic, constant = _pair_constants(boxes, priors[[low for low, _ in runs]])
    constants = [*quadratic, constant + 1]
    places = priors[:, :2].T.contiguous()
    result = torch.empty(rows, len(priors), device=priors.device)
    buffers = priors.new_empty(3, max(block, *(high - low for low, high in runs)))
    for start in range(0, len(boxes), rows):
        stop = min(start + rows, len(boxes))
        for run, (low, high) in enumerate(runs):
            step = buffers.shape[1] // (high - low)
            for first in range(start, stop, step):
                part = slice(first, min(first + step, stop))
                numbers = [entry[part, run : run + 1] for entry in constants]
                target = result[first - start : part.stop - start, low:high]
                _similarity_of_run(boxes[part, :2], places[:, low:high], numbers, buffers, target)
        yield start, result[: stop - start]


def _similarity_of_run(
    centres: Tensor, places: Tensor, constants: list[Tensor], buffers: Tensor, target: Tensor
) -> None:
    """Write 1 / (1 + distance) of boxes (g, 2) and equal priors at places (2, p) into target (g, p)."""
    a, b, c, constant = constants
    dx, dy, out = buffers[:, : target.numel()].view(3, *target.shape)
    torch.sub(centres[:, 0:1], places[0], out=dx)
    torch.sub(centres[:, 1:2], places[1], out=dy)
    torch.mul(dy, b, out=out)
    out.addcmul_(dx, a).mul_(dx)
    out.addcmul_(dy.mul_(dy), c).add_(constant).reciprocal_()
    target.copy_(out)


def _equal_runs(priors: Tensor) -> list[tuple[int, int]]:
    """Return where runs of priors with equal width, height and angle begin and end."""
    changes = (priors[1:, 2:] != priors[:-1, 2:]).any(dim=1).nonzero().squeeze(1) + 1
    edges = [0, *changes.tolist(), len(priors)]
    return list(pairwise(edges))


def squared_mahalanobis(points: Tensor, centres: Tensor, boxes: Tensor) -> Tensor:
    """Return the squared Mahalanobis distance of points (n, 2) to centres (n, 2) by the boxes' covariance, (n,).

    Args:
        points: (n, 2) px.
        centres: (n, 2) px.
        boxes: (n, 5); their centres are not read.
    """
    xx, xy, yy = gaussians(boxes)
    dx, dy = (points - centres).unbind(dim=1)
    return (yy * dx**2 - 2 * xy * dx * dy + xx * dy**2) / _root_determinant(boxes) ** 2
