"""Open a model in ONNX Runtime from a plain ONNX file, a packed file or bytes."""

from __future__ import annotations

import json
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.errors import CodecError, CompressError, StageError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, SessionOptions

METADATA_KEY = "krimp.deploy"
PACKED_SUFFIX = ".krimp"


def open_session(
    source: str | Path | bytes, *, threads: int = 0, optimize: bool = True, check_hash: bool = True
) -> InferenceSession:
    """Open a model on the CPU.

    The session copies the large weights of a `.krimp` file from where they were decoded; no ONNX file is made. Its
    providers cannot be changed afterwards: the decoded weights are gone.

    Args:
        source: an ONNX file, a `.krimp` file, or the bytes of an ONNX model.
        threads: threads inside an operator; 0 means one per core.
        optimize: all graph optimizations, else none.
        check_hash: compare the SHA-256 inside a `.krimp` file; without it the checksums of its tensors are compared.

    Raises:
        CodecError: the file is missing, damaged, truncated or no ONNX model.
        StageError: ONNX Runtime cannot run the model (unknown operator or opset, wrong types).
    """
    source = Path(source) if isinstance(source, str) else source
    options = _options(threads, optimize)
    try:
        if isinstance(source, Path) and _is_packed(source):
            return _packed_session(source, options, check_hash=check_hash)
        return _plain_session(_readable(source), options)
    except Exception as error:
        explained = _explained(error, source)
        if explained is None:
            raise
        raise explained from error


def _options(threads: int, optimize: bool) -> SessionOptions:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimize else level.ORT_DISABLE_ALL
    if threads == 1:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _plain_session(model: str | bytes, options: SessionOptions) -> InferenceSession:
    import onnxruntime as ort

    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _packed_session(path: Path, options: SessionOptions, *, check_hash: bool) -> InferenceSession:
    """Open a `.krimp` file; ONNX Runtime copies the large weights, as `AddExternalInitializers` promises."""
    import onnxruntime as ort

    from compress.codec import PackedFile, read_apart, unpack_file
    from compress.codec.mapped_memory import memory_for

    with memory_for(path), PackedFile(path) as packed:
        if not packed.side_files:
            apart = read_apart(packed, check_hash=check_hash)
            values = [ort.OrtValue.ortvalue_from_numpy(array) for array in apart.tensors.values()]
            options.add_external_initializers(list(apart.tensors), values)
            return _session_of_copies()(apart.model, options, providers=["CPUExecutionProvider"])
    with tempfile.TemporaryDirectory(prefix="krimp-") as folder:  # weights in other files belong beside the model
        unpack_file(path, Path(folder) / "model.onnx")
        return _plain_session(str(Path(folder) / "model.onnx"), options)


@cache
def _session_of_copies() -> type[InferenceSession]:
    import onnxruntime as ort

    class SessionOfCopies(ort.InferenceSession):  # type: ignore[misc]
        """A session whose options point to memory that it has copied, and that may be gone by now."""

        def set_providers(self, *_: Any) -> None:
            """Refuse: the session would be made again from these options."""
            raise StageError("the providers of a session from a .krimp file cannot be changed. Open the file again.")

    return SessionOfCopies


def deploy_metadata_of(session: InferenceSession, name: str) -> dict[str, Any]:
    """Return the parsed `krimp.deploy` of an open session.

    Args:
        session: the model.
        name: how errors call it.

    Raises:
        CodecError: there is none, or it is not a JSON object.
    """
    try:
        text = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    except UnicodeDecodeError as error:
        raise CodecError(f"{name}: its metadata is not UTF-8: {error}. Export the model again.") from error
    if text is None:
        raise CodecError(
            f"{name}: the model carries no {METADATA_KEY!r} metadata, which says what its outputs mean. "
            "`krimp detect` and `krimp.Predictor` take models of the stage export_onnx; any other ONNX file works with "
            "`krimp pack`, `krimp inspect` and `krimp.open_session`."
        )
    try:
        meta = json.loads(text)
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits and brackets without end, too
        raise CodecError(f"{name}: metadata {METADATA_KEY!r} is not JSON: {error}. Export the model again.") from error
    if not isinstance(meta, dict):
        raise CodecError(f"{name}: metadata {METADATA_KEY!r} is a {type(meta).__name__}, expected an object.")
    return meta


def name_of(source: Path | bytes) -> str:
    """Return how messages call a source."""
    return f"ONNX model of {len(source)} bytes" if isinstance(source, bytes) else str(source)


def _is_packed(source: Path) -> bool:
    from compress.codec import is_packed

    return source.is_file() and (source.suffix == PACKED_SUFFIX or is_packed(source))


def _readable(source: Path | bytes) -> str | bytes:
    """Return what ONNX Runtime accepts: bytes, or a path where external data may lie beside the file."""
    if isinstance(source, bytes):
        return source
    if not source.is_file():
        raise CodecError(f"{source}: no such file. Give an ONNX or {PACKED_SUFFIX} file.")
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
