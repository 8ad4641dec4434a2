"""One kind of forward for every kind of model, so that the same code scores them all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from compress.detector import Forward
from compress.errors import StageError
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
        StageError: the graph has another number of inputs.
    """
    inputs = session.get_inputs()
    if len(inputs) != 1:
        raise StageError(f"ONNX model: {len(inputs)} inputs ({', '.join(i.name for i in inputs)}), expected one.")
    name, fixed = inputs[0].name, inputs[0].shape[0]

    def forward(images: np.ndarray) -> list[np.ndarray]:
        images = np.ascontiguousarray(images, np.float32)
        if not isinstance(fixed, int) or fixed == len(images):
            outputs: list[np.ndarray] = session.run(None, {name: images})
            return outputs
        if len(images) % fixed:
            raise StageError(f"ONNX model: batch of {len(images)} images; its batch size is fixed to {fixed}.")
        parts = [session.run(None, {name: images[i : i + fixed]}) for i in range(0, len(images), fixed)]
        return [np.concatenate(column) for column in zip(*parts, strict=True)]

    return forward


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
