"""The .krimp codec: quantised networks in a file close to their entropy, back to identical bytes.

Needs NumPy and the standard library; packing also `huffman`; `numba` makes it faster. The
format is described in FORMAT.md.

    >>> from compress import codec
    >>> codec.pack_file("model.onnx", "model.krimp")  # doctest: +SKIP
    >>> session = onnxruntime.InferenceSession(codec.load("model.krimp"))  # doctest: +SKIP
"""

from __future__ import annotations

from pathlib import Path

from compress.codec.inspection import TensorFacts, inspect_file
from compress.codec.layout import MAGIC
from compress.codec.reader import PackedFile, Progress, open_map, unpack_bytes, write_original
from compress.codec.spans import find_spans
from compress.codec.writer import PackFacts, pack_file, whole_file

__all__ = [
    "PackFacts",
    "PackedFile",
    "TensorFacts",
    "inspect_file",
    "is_packed",
    "load",
    "pack_file",
    "unpack_bytes",
    "unpack_file",
    "verify_file",
]


def is_packed(path: Path | str) -> bool:
    """Return True if a file starts like a .krimp file, whatever its name.

    Raises:
        CodecError: the file cannot be read.
    """
    return bytes(open_map(path)[: len(MAGIC)]) == MAGIC


def load(path: Path | str) -> bytes:
    """Return the ONNX bytes of a .krimp or .onnx file, checked for truncation.

    Raises:
        CodecError: the file is missing, damaged, truncated, or of a newer version.
    """
    if Path(path).suffix == ".krimp" or is_packed(path):
        return unpack_bytes(path)
    data = open_map(path)
    find_spans(data, 0, str(path))
    return bytes(data)


def unpack_file(src: Path | str, dst: Path | str, progress: Progress | None = None) -> int:
    """Write the original of a .krimp file, whole or not at all, checked against its hash.

    Args:
        src: the .krimp file.
        dst: file to write; replaced if it exists.
        progress: called with (bytes done, bytes in all).

    Returns:
        Bytes written.

    Raises:
        CodecError: src is not a .krimp file, damaged, truncated, or of a newer version.
    """
    with PackedFile(src) as packed, whole_file(dst) as file:
        write_original(packed, file.write, progress)
        return packed.header.original_bytes


def verify_file(path: Path | str, progress: Progress | None = None) -> None:
    """Prove a .krimp file against the checksums and the hash inside, without writing anything.

    Raises:
        CodecError: it is not a .krimp file, damaged, truncated, or of a newer version.
    """
    with PackedFile(path) as packed:
        write_original(packed, len, progress)
