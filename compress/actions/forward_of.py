"""The forward of an artifact: one kind of function for every kind of model, so that the same code scores them all."""

from __future__ import annotations

from compress.artifact import Artifact
from compress.detector import Detector, Forward
from compress.devices import device_name
from compress.errors import StageError
from compress.kind import Kind
from compress.model_folder import load_model
from compress.runtime.forwards import MODEL_FILES, onnx_forward, torch_forward


def forward_of(artifact: Artifact, detector: Detector, *, threads: int = 0, device: str = "auto") -> Forward:
    """Return the forward of an artifact that holds a model.

    Args:
        artifact: of kind model, quantized, onnx or packed.
        detector: rebuilds torch models.
        threads: for ONNX Runtime; 0 means one per core.
        device: for torch models; 'auto' takes CUDA where there is one.

    Raises:
        StageError: the artifact holds no model.
    """
    if artifact.kind in MODEL_FILES:
        return onnx_forward(artifact.file(MODEL_FILES[artifact.kind]), threads)
    if artifact.kind not in (Kind.MODEL, Kind.QUANTIZED):
        raise StageError(
            f"{artifact.label}: holds {artifact.kind.value}, expected a model. Name another stage in `from:`."
        )
    model, _ = load_model(artifact.path, detector)
    return torch_forward(model, len(detector.output_names()), device_name(device))
