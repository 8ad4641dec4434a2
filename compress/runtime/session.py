"""Open a model in ONNX Runtime from a plain ONNX file, a packed file or bytes."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.errors import CodecError, CompressError, StageError
from compress.json_text import parse_json

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, SessionOptions


METADATA_KEY = "krimp.deploy"
PACKED_SUFFIX = ".krimp"
_NUMBA_AT_ONCE = 1 << 30  # bytes of a model beside which numba's memory does not count
_CANNOT_RUN = ("Fail", "InvalidGraph", "NotImplemented", "InvalidArgument", "RuntimeException", "EPFail")


def open_session(
    source: str | Path | bytes,
    *,
    threads: int = 0,
    optimize: bool = True,
    check_hash: bool = True,
    providers: Sequence[Any] | None = None,
    options: SessionOptions | None = None,
    max_bytes: int | None = None,
) -> InferenceSession:
    """Open a model.

    A `.krimp` file is decoded into a temporary folder, its large weights into a file of their own, which ONNX Runtime
    maps; the folder is gone when the session is open, and its providers cannot be changed afterwards. Where ONNX
    Runtime does not take a model in that form (it reads the values of some initializers while it checks shapes), the
    whole file is unpacked and opened instead.

    Args:
        source: an ONNX file, a `.krimp` file, or the bytes of an ONNX model.
        threads: threads inside an operator; 0 means one per core.
        optimize: all graph optimizations, else none.
        check_hash: compare the SHA-256 inside a `.krimp` file; without it the checksums of its tensors are compared.
        providers: execution providers as ONNX Runtime takes them; the CPU by default.
        options: session options instead of `threads` and `optimize`; left as they are.
        max_bytes: size of the original of a `.krimp` file from which on it is refused; by default 1 GiB, or 256 times
            the file.

    Raises:
        CodecError: the file is missing, damaged, truncated or no ONNX model.
        StageError: ONNX Runtime cannot run the model (unknown operator or opset, wrong types).
        ValueError: `options` come with `threads` or `optimize`, which are settings of theirs.
    """
    if options is not None and (threads or not optimize):
        raise ValueError("open_session: options come with threads or optimize. Set those in the options.")
    source = Path(source) if isinstance(source, str) else source
    open_model = _Opener(threads, optimize, tuple(providers or ("CPUExecutionProvider",)), options)
    try:
        if isinstance(source, Path) and _is_packed(source):
            return _packed_session(source, open_model, max_bytes, check_hash=check_hash)
        return open_model.open(_readable(source))
    except Exception as error:
        explained = _explained(error, source)
        if explained is None:
            raise
        raise explained from error


@dataclass(frozen=True)
class _Opener:
    """Opens sessions with the settings of a caller.

    Attributes:
        threads, optimize, options: see `open_session`.
        providers: execution providers, by name or with options.
    """

    threads: int
    optimize: bool
    providers: tuple[Any, ...]
    options: SessionOptions | None

    def open(self, model: str | bytes) -> InferenceSession:
        """Open a file or bytes as ONNX Runtime does."""
        import onnxruntime as ort

        return self._as(ort.InferenceSession, model)

    def open_temporary(self, model: Path) -> InferenceSession:
        """Open a file that will be gone."""
        return self._as(_session_of_gone_file(), str(model))

    def _as(self, kind: type[InferenceSession], model: str | bytes) -> InferenceSession:
        options = self._new_options() if self.options is None else self.options
        return kind(model, options, providers=list(self.providers))

    def _new_options(self) -> SessionOptions:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        level = ort.GraphOptimizationLevel
        options.graph_optimization_level = level.ORT_ENABLE_ALL if self.optimize else level.ORT_DISABLE_ALL
        if self.threads == 1:
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return options


def _packed_session(path: Path, open_model: _Opener, max_bytes: int | None, *, check_hash: bool) -> InferenceSession:
    """Open a `.krimp` file, with its weights apart where that is possible."""
    from compress.codec import PackedFile, unpack_file, write_apart
    from compress.codec.files.packed_file import SANE_BYTES
    from compress.codec.mapped_memory import memory_for

    limit = SANE_BYTES if max_bytes is None else max_bytes
    with ExitStack() as stack:
        stack.enter_context(memory_for(path))
        try:
            made = tempfile.TemporaryDirectory(prefix="krimp-", ignore_cleanup_errors=True)
            folder = Path(stack.enter_context(made))
            kernels = _kernels(path)
            with PackedFile(path, kernels=kernels, max_bytes=limit) as packed:
                packed.refuse_other_than_onnx()
                if not packed.side_files:
                    model = write_apart(packed, folder, check_hash=check_hash)
            if not packed.side_files:
                with suppress(*_refusals()):
                    return open_model.open_temporary(model)
            # ONNX Runtime looks into the file: at weights in files beside it, or at those that it wants inside.
            unpack_file(path, folder / "whole.onnx", kernels=kernels, max_bytes=limit)
            return open_model.open_temporary(folder / "whole.onnx")
        except OSError as error:
            raise CodecError(
                f"{path}: cannot be unpacked into a temporary folder: {error.strerror}. Expected room there (TMPDIR)."
            ) from error


_decoded_bytes = 0  # by NumPy, for sessions of this process


def _kernels(path: Path) -> str:
    """Return which kernels decode for a session.

    Numba takes 120 MB and nearly a second to import, so a process that opens a file or two decodes them by NumPy
    sooner and in less memory; one that goes on, or opens a file beside which this does not count, has numba.
    """
    global _decoded_bytes
    from compress.codec.files.packed_file import original_bytes
    from compress.codec.kernels.choice import NUMBA_FROM, is_loaded

    num_bytes = original_bytes(path)
    if is_loaded() or _decoded_bytes >= NUMBA_FROM or num_bytes >= _NUMBA_AT_ONCE:
        return "auto"
    _decoded_bytes += num_bytes
    return "numpy"


@cache
def _refusals() -> tuple[type[Exception], ...]:
    """Return the errors by which ONNX Runtime refuses a model; what it raises for the whole file is what is told."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    names = [*_CANNOT_RUN, "InvalidProtobuf", "ModelLoaded", "NoModel", "EngineError"]
    return (RuntimeError, *(getattr(state, name) for name in names if hasattr(state, name)))


@cache
def _session_of_gone_file() -> type[InferenceSession]:
    import onnxruntime as ort

    class SessionOfGoneFile(ort.InferenceSession):  # type: ignore[misc]
        """A session of a file that is gone once it is open."""

        def set_providers(self, *_: Any) -> None:
            """Refuse: the session would be made again from the file."""
            raise StageError("the providers of a session from a .krimp file cannot be changed. Open the file again.")

    return SessionOfGoneFile


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
            "`krimp detect` and `krimp.Predictor` take models of the stage export_onnx, or whose metadata names a "
            "head (detectors/heads/README.md); any other ONNX file works with "
            "`krimp pack`, `krimp inspect` and `krimp.open_session`."
        )
    try:
        meta = parse_json(text)
    except ValueError as error:
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


def _known_format(source: Path) -> tuple[str, str] | None:
    """Return what a file is that is no ONNX model, and what to do, None if nobody knows."""
    from compress.codec.files.containers import foreign_kind, looks_like_safetensors
    from compress.codec.mapped_memory import open_map

    data = open_map(source)
    if looks_like_safetensors(data):
        return "a safetensors file, weights without a network", "Export the network to ONNX"
    return foreign_kind(data)


def _explained(error: Exception, source: Path | bytes) -> CompressError | None:
    """Return an error of ONNX Runtime about the model as one of ours, None for any other error."""
    kind, text = type(error).__name__, " ".join(str(error).split())
    if kind in ("InvalidProtobuf", "NoSuchFile") or "Protobuf parsing failed" in text:
        size = len(source) if isinstance(source, bytes) else source.stat().st_size
        if isinstance(source, Path) and (known := _known_format(source)) is not None:
            what, cure = known
            return CodecError(f"{source}: is {what}, expected an ONNX or {PACKED_SUFFIX} file. {cure}.")
        return CodecError(
            f"{name_of(source)}: truncated or damaged, its {size} bytes are no ONNX model. Copy or export it again."
        )
    if kind in _CANNOT_RUN:
        return StageError(f"{name_of(source)}: ONNX Runtime cannot run it: {text[:400]}")
    return None
