"""The .krimp codec: quantized networks in a file close to their entropy, back to identical bytes.

Needs NumPy and the standard library; packing also `huffman`; `numba` makes it faster. The
format is described in FORMAT.md.

    >>> from compress import codec
    >>> codec.pack_file("model.onnx", "model.krimp")  # doctest: +SKIP
    >>> weights = codec.load_tensors("model.krimp", ["conv1.weight"])  # doctest: +SKIP
    >>> session = onnxruntime.InferenceSession(codec.load("model.krimp"))  # doctest: +SKIP

`compress.runtime.session.open_session` opens a session sooner, without the ONNX file in between.
"""

from __future__ import annotations

from pathlib import Path

from compress.codec.files.inspection import TensorFacts, inspect_file
from compress.codec.files.named_tensors import load_tensors
from compress.codec.files.pack_facts import PackFacts
from compress.codec.files.packed_file import SANE_BYTES, PackedFile, Progress
from compress.codec.files.packing import pack_file
from compress.codec.files.separate_weights import write_apart
from compress.codec.files.tensor_places import find_spans
from compress.codec.files.unpacking import unpack_bytes, unpack_file, verify_file
from compress.codec.format.layout import MAGIC
from compress.codec.mapped_memory import fill, open_map, open_parts

__all__ = [
    "SANE_BYTES",
    "PackFacts",
    "PackedFile",
    "TensorFacts",
    "inspect_file",
    "is_packed",
    "load",
    "load_tensors",
    "pack_file",
    "unpack_bytes",
    "unpack_file",
    "verify_file",
    "write_apart",
]


def is_packed(path: Path | str) -> bool:
    """Return True if a file starts like a .krimp file, whatever its name.

    Raises:
        CodecError: the file cannot be read.
    """
    return fill(open_parts(path)[: len(MAGIC)]).tobytes() == MAGIC


def load(
    path: Path | str,
    *,
    threads: int = 1,
    check_hash: bool = True,
    kernels: str = "auto",
    progress: Progress | None = None,
    max_bytes: int = SANE_BYTES,
) -> bytes:
    """Return the ONNX bytes of a .krimp or .onnx file, checked for truncation.

    Args:
        path: the file.
        threads: how many tensors of a .krimp file are decoded at once; without numba each takes up to 30 MB more.
        check_hash: compare the SHA-256 of a .krimp file's original; else the checksums of its tensors.
        kernels: 'auto', 'numpy' or 'numba' (same bytes).
        progress: called with (bytes done, bytes in all).
        max_bytes: size of the original of a .krimp file from which on it is refused; by default 1 GiB, or 256 times
            the file.

    Raises:
        CodecError: the file is missing, damaged, truncated, of a newer version, or keeps weights in other files.
    """
    if Path(path).suffix == ".krimp" or is_packed(path):
        return unpack_bytes(
            path, threads=threads, check_hash=check_hash, kernels=kernels, progress=progress, max_bytes=max_bytes
        )
    data = open_map(path)
    find_spans(data, 0, str(path))
    return bytes(data)
