"""Does ONNX Runtime compute what the torch model computes? Asked on real images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from compress.errors import StageError
from compress.metrics.output_error import relative_error
from compress.quantization.graph import outputs_of
from compress.runtime.session import open_session

NUDGE = 1e-6  # share of an image's magnitude: what another order of summation in float32 may change


def check_parity(
    model: nn.Module, path: Path, images: Iterable[Tensor], *, names: Sequence[str], limit: float, label: str = "parity"
) -> dict[str, float]:
    """Compare an ONNX file in ONNX Runtime, all optimizations on, with the torch model it came from.

    Args:
        model: float or fake-quantized; left in evaluation mode.
        path: ONNX file.
        images: batches, (N, 3, H, W), normalized.
        names: of the exported outputs, in order.
        limit: largest relative L2 error of each output over all images.
        label: of the stage, for the message.

    Returns:
        Output name -> relative error over all images together.

    Raises:
        StageError: no image, or an output is beyond the limit.
    """
    images = list(images)
    session = open_session(path, threads=1)
    feed = session.get_inputs()[0].name
    found: dict[str, list[np.ndarray]] = {name: [] for name in names}
    expected: dict[str, list[np.ndarray]] = {name: [] for name in names}
    model.eval()
    for batch in images:
        results = session.run(list(names), {feed: batch.numpy()})
        truths = outputs_of(model, batch)[: len(names)]
        for name, result, truth in zip(names, results, truths, strict=True):
            if np.shape(result) != tuple(truth.shape):
                raise StageError(
                    f"stage {label}: output {name!r} has shape {np.shape(result)}, torch {tuple(truth.shape)}."
                )
            found[name].append(np.asarray(result))
            expected[name].append(truth.cpu().numpy())
    if not found[names[0]]:
        raise StageError(f"stage {label}: the parity check got no image. Set parity_images to at least 1.")
    pairs = {name: (np.concatenate(found[name]), np.concatenate(expected[name])) for name in names}
    errors = {name: relative_error(*pair) for name, pair in pairs.items()}
    worst = max(errors, key=lambda name: errors[name])
    if not errors[worst] <= limit:  # also catches NaN
        own = sensitivity(model, images)[list(names).index(worst)]
        raise StageError(_beyond_limit(label, worst, errors[worst], limit, own, *pairs[worst]))
    return errors


def sensitivity(model: nn.Module, images: Iterable[Tensor]) -> list[float]:
    """Return how far each output moves when the images move by a rounding error, as a relative error.

    A quantized network answers a small change with whole steps, and a deep one without trained weights makes a
    difference larger from layer to layer. Where this comes near the limit of a comparison, no two runtimes, nor one
    on two CPUs, can be expected to agree.

    Args:
        model: in evaluation mode.
        images: batches, (N, 3, H, W), normalized.
    """
    generator = torch.Generator().manual_seed(0)
    pairs: list[list[tuple[np.ndarray, np.ndarray]]] = []
    for batch in images:
        noise = torch.randn(batch.shape, generator=generator, dtype=batch.dtype).to(batch.device)
        moved = batch + NUDGE * batch.abs().mean() * noise
        both = zip(outputs_of(model, moved), outputs_of(model, batch), strict=True)
        pairs.append([(a.cpu().numpy(), b.cpu().numpy()) for a, b in both])
    columns = [tuple(np.concatenate(side) for side in zip(*output, strict=True)) for output in zip(*pairs, strict=True)]
    return [relative_error(moved, still) for moved, still in columns]


def _beyond_limit(
    label: str, name: str, error: float, limit: float, own: float, found: np.ndarray, expected: np.ndarray
) -> str:
    difference = np.abs(found.astype(np.float64) - expected)
    index = tuple(int(i) for i in np.unravel_index(int(np.nanargmax(difference)), difference.shape))
    advice = "Lower the bits of the weights if this CPU saturates, or calibrate on more images."
    if own > limit / 2:
        advice = (
            f"Torch's own output moves by {own:.2%} when the images move by a millionth: "
            "train the network before it is quantized, or give its layers more bits."
        )
    return (
        f"stage {label}: output {name!r} of ONNX Runtime differs from torch by {error:.2%} (limit {limit:.2%}), "
        f"most at index {index}: {found[index]:.6g} instead of {expected[index]:.6g}. {advice}"
    )
