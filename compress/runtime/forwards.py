"""One kind of forward for every kind of model, so that the same code scores them all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from compress.detector import Forward
from compress.errors import StageError, printable, shortened
from compress.kind import Kind
from compress.runtime.session import open_session

if TYPE_CHECKING:
    from onnxruntime import InferenceSession
    from torch import nn


MODEL_FILES = {Kind.ONNX: "model.onnx", Kind.PACKED: "model.krimp"}


def onnx_forward(source: Path | bytes, threads: int = 0) -> Forward:
    """Return the forward of an ONNX model.

    Args:
        source: an ONNX file, a `.krimp` file, or the bytes of an ONNX model.
        threads: 0 means one per core.

    Returns:
        Function from (N, 3, H, W) float32 to all outputs of the graph; a graph of fixed batch
        size is run as often as needed.
    """
    return session_forward(open_session(source, threads=threads))


def session_forward(session: InferenceSession) -> Forward:
    """Return the forward of an open session with one input; see `onnx_forward`.

    Raises:
        StageError: the graph has another number of inputs, or its input is not (N, 3, H, W) float32. The forward raises
            one if ONNX Runtime cannot compute the outputs.
    """
    inputs = session.get_inputs()
    if len(inputs) != 1:
        names = ", ".join(printable(each.name) for each in inputs)
        raise StageError(f"ONNX model: {len(inputs)} inputs ({names}), expected one.")
    name, shape = inputs[0].name, inputs[0].shape
    if len(shape) != 4 or inputs[0].type != "tensor(float)" or not _fits(shape):
        raise StageError(
            f"ONNX model: its input {printable(name)} is {inputs[0].type} {shortened(shape)}, expected tensor(float) "
            "(N, 3, height, width). Export it with the stage export_onnx."
        )
    fixed = shape[0]

    def forward(images: np.ndarray) -> list[np.ndarray]:
        images = np.ascontiguousarray(images, np.float32)
        if not isinstance(fixed, int) or fixed == len(images):
            return _run(session, {name: images})
        if len(images) % fixed:
            raise StageError(f"ONNX model: batch of {len(images)} images; its batch size is fixed to {fixed}.")
        parts = [_run(session, {name: images[i : i + fixed]}) for i in range(0, len(images), fixed)]
        return [np.concatenate(column) for column in zip(*parts, strict=True)]

    return forward


def _fits(shape: Sequence[Any]) -> bool:
    """Return whether an input of four dimensions, numbers or names, takes batches of color pictures."""
    fixed = [size for size in shape if isinstance(size, int)]
    return min(fixed, default=1) >= 1 and (not isinstance(shape[1], int) or shape[1] == 3)


def _run(session: InferenceSession, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Return all outputs.

    Raises:
        StageError: ONNX Runtime cannot compute them.
    """
    try:
        outputs: list[np.ndarray] = session.run(None, feed)
    except Exception as error:
        if not type(error).__module__.startswith("onnxruntime"):
            raise
        sizes = ", ".join(str(array.shape) for array in feed.values())
        text = " ".join(str(error).split())[:400]
        raise StageError(f"ONNX model: ONNX Runtime cannot run it on an input of {sizes}: {text}") from error
    return outputs


def torch_forward(model: nn.Module, num_outputs: int, device: Any = "cpu") -> Forward:
    """Return the forward of a torch model, float or fake-quantized.

    Args:
        model: put in evaluation mode and on `device` by this call.
        num_outputs: the first so many raw outputs are returned; later ones are for the loss.
        device: where to run.

    Returns:
        Function from (N, 3, H, W) float32 to `num_outputs` float32 arrays.
    """
    import torch

    model.eval().to(device)

    def forward(images: np.ndarray) -> list[np.ndarray]:
        batch = torch.from_numpy(np.ascontiguousarray(images, np.float32))
        batch = batch.to(device=device, memory_format=torch.channels_last)
        with torch.inference_mode():
            raw = model(batch)
        raw = raw if isinstance(raw, list | tuple) else (raw,)
        return [output.float().cpu().contiguous().numpy() for output in raw[:num_outputs]]

    return forward
