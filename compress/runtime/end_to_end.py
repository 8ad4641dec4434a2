"""One whole detection, picture to boxes, as a function to be timed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from compress.errors import StageError
from compress.runtime.forwards import session_forward

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


def end_to_end_call(
    session: InferenceSession, deploy: ModuleType, meta: Mapping[str, Any], image: np.ndarray
) -> Callable[[], list[Any]]:
    """Return a function that runs pre-processing, network and post-processing on one picture.

    Args:
        session: the model.
        deploy: the plug-in's torch-free part.
        meta: the model's `krimp.deploy`.
        image: (H, W, 3) uint8, BGR, of the size that the network takes.

    Raises:
        StageError: the network does not accept a picture of that size.
    """
    forward = session_forward(session)
    size = (image.shape[0], image.shape[1])

    def call() -> list[Any]:
        return deploy.postprocess(forward(deploy.preprocess(image, meta)), meta, image_size=size)

    wanted = session.get_inputs()[0].shape[2:]
    given = deploy.preprocess(image, meta).shape[2:]
    if any(isinstance(want, int) and want != have for want, have in zip(wanted, given, strict=True)):
        raise StageError(
            f"picture of {size} px: the network gets {given} px, it takes {wanted}. Give one of that size."
        )
    return call


def picture_of(image: np.ndarray, meta: Mapping[str, Any]) -> np.ndarray:
    """Undo the normalisation of one image.

    Args:
        image: (3, H, W) float32, RGB, normalised.
        meta: reads `mean` and `std` (RGB, 0..255).

    Returns:
        (H, W, 3) uint8, BGR.

    Raises:
        StageError: the metadata has no mean and std.
    """
    if "mean" not in meta or "std" not in meta:
        raise StageError(
            "krimp.deploy: no mean and std, so no picture can be made from a loader. Set end_to_end: false."
        )
    mean, std = (np.asarray(meta[key], np.float32).reshape(3, 1, 1) for key in ("mean", "std"))
    pixels = np.clip(np.round(image * std + mean), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(pixels[::-1].transpose(1, 2, 0))
