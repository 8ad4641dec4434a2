"""Open a model in ONNX Runtime from a plain ONNX file, a packed file or bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.errors import CodecError, CompressError, StageError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

METADATA_KEY = "krimp.deploy"
PACKED_SUFFIX = ".krimp"


def open_session(source: Path | bytes, *, threads: int = 0, optimise: bool = True) -> InferenceSession:
    """Open a model on the CPU.

    Args:
        source: an ONNX file, a `.krimp` file, or the bytes of an ONNX model.
        threads: threads inside an operator; 0 means one per core.
        optimise: all graph optimisations, else none.

    Raises:
        CodecError: the file is missing, truncated or no ONNX model.
        StageError: ONNX Runtime cannot run the model (unknown operator or opset, wrong types).
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimise else level.ORT_DISABLE_ALL
    if threads == 1:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return ort.InferenceSession(_readable(source), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        explained = _explained(error, source)
        if explained is None:
            raise
        raise explained from error


def read_deploy_metadata(source: Path | bytes) -> dict[str, Any]:
    """Return what a model carries for its deployment.

    Args:
        source: an ONNX file, a `.krimp` file, or the bytes of an ONNX model.

    Raises:
        CodecError: the file is damaged or carries no `krimp.deploy`.
    """
    return deploy_metadata_of(open_session(source, threads=1, optimise=False), name_of(source))


def deploy_metadata_of(session: InferenceSession, name: str) -> dict[str, Any]:
    """Return the parsed `krimp.deploy` of an open session.

    Args:
        session: the model.
        name: how errors call it.

    Raises:
        CodecError: there is none, or it is not a JSON object.
    """
    text = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    if text is None:
        raise CodecError(
            f"{name}: the model carries no {METADATA_KEY!r} metadata. Export it with the stage export_onnx of Krimp."
        )
    try:
        meta = json.loads(text)
    except json.JSONDecodeError as error:
        raise CodecError(f"{name}: metadata {METADATA_KEY!r} is not JSON: {error}. Export the model again.") from error
    if not isinstance(meta, dict):
        raise CodecError(f"{name}: metadata {METADATA_KEY!r} is a {type(meta).__name__}, expected an object.")
    return meta


def name_of(source: Path | bytes) -> str:
    """Return how messages call a source."""
    return f"ONNX model of {len(source)} bytes" if isinstance(source, bytes) else str(source)


def _readable(source: Path | bytes) -> str | bytes:
    """Return what ONNX Runtime accepts: bytes, or a path where external data may lie beside the file."""
    if isinstance(source, bytes):
        return source
    if not source.is_file():
        raise CodecError(f"{source}: no such file. Give an ONNX or {PACKED_SUFFIX} file.")
    if source.suffix == PACKED_SUFFIX:
        from compress.codec import load

        return load(source)
    if source.stat().st_size == 0:
        raise CodecError(f"{source}: the file is empty; expected an ONNX model.")
    return str(source)


def _explained(error: Exception, source: Path | bytes) -> CompressError | None:
    """Return an error of ONNX Runtime about the model as one of ours, None for any other error."""
    kind, text = type(error).__name__, " ".join(str(error).split())
    if kind in ("InvalidProtobuf", "NoSuchFile") or "Protobuf parsing failed" in text:
        size = len(source) if isinstance(source, bytes) else source.stat().st_size
        return CodecError(
            f"{name_of(source)}: truncated or damaged, its {size} bytes are no ONNX model. Copy or export it again."
        )
    if kind in ("Fail", "InvalidGraph", "NotImplemented", "InvalidArgument", "RuntimeException", "EPFail"):
        return StageError(f"{name_of(source)}: ONNX Runtime cannot run it: {text[:400]}")
    return None
