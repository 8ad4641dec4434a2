"""Writing .krimp files."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from compress.codec.files.coded_file import write_packed
from compress.codec.files.network_source import Source, open_source
from compress.codec.files.pack_facts import PackFacts
from compress.codec.files.packed_file import PackedFile, Progress
from compress.codec.files.whole_file import whole_file
from compress.codec.kernels.choice import choose
from compress.codec.kernels.contract import Kernels
from compress.codec.mapped_memory import memory_for
from compress.errors import CodecError


def pack_file(
    src: Path | str, dst: Path | str, progress: Progress | None = None, *, kernels: str = "auto"
) -> PackFacts:
    """Pack an ONNX (with the files of its external data) or safetensors file and prove that it unpacks identically.

    The same input gives the same bytes. The output appears whole or not at all.

    Args:
        src: file to pack; .safetensors by its name, ONNX otherwise.
        dst: .krimp file to write; replaced if it exists.
        progress: called with (bytes done, bytes in all).
        kernels: 'auto', 'numpy' or 'numba' (same bytes).

    Raises:
        CodecError: src is missing, truncated or not such a file, or a file that it names is missing, truncated,
            outside its folder or dst itself.
    """
    with memory_for(src):
        return _pack(src, dst, progress, kernels)


def _pack(src: Path | str, dst: Path | str, progress: Progress | None, kernels: str) -> PackFacts:
    started = time.monotonic()
    source = open_source(src)
    _refuse_own_file(source, Path(dst))
    chosen = choose(kernels, source.num_bytes)
    with whole_file(dst) as file:
        facts = write_packed(source, file, progress, chosen)
        file.flush()
        written = time.monotonic()
        _verify(Path(file.name), source, chosen)
        verified = time.monotonic()
    return replace(facts, verify_seconds=verified - written, seconds=time.monotonic() - started)


def _refuse_own_file(source: Source, dst: Path) -> None:
    if any(dst.exists() and dst.samefile(path) for path in source.paths):
        raise CodecError(f"{dst}: keeps weights of {source.paths[0]}, which would be lost. Choose another name.")


def _verify(path: Path, source: Source, kernels: Kernels) -> None:
    with PackedFile(path, kernels=kernels) as packed:
        at = 0
        for piece in packed.pieces():
            if source.copy(at, at + len(piece)) != piece:
                raise CodecError(
                    f"{path}: byte {at} of the original does not come back. This is a bug: please report it."
                )
            at += len(piece)
        if at != source.num_bytes:
            raise CodecError(f"{path}: {at} of {source.num_bytes} bytes come back. This is a bug: please report it.")
