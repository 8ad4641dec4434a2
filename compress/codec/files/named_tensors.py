"""The tensors of a .krimp file by name, decoded one by one or several at once."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from compress.codec.files.containers import SAFETENSORS, looks_like_safetensors
from compress.codec.files.network_folder import INDEX_SUFFIX, shard_names
from compress.codec.files.network_source import normal_name, side_spans
from compress.codec.files.packed_file import SANE_BYTES, PackedFile, map_in_threads
from compress.codec.files.tensor_places import ExternalTensor, Span, find_tensors
from compress.codec.format.element_planes import to_planes
from compress.codec.format.file_names import refused_name
from compress.codec.format.index_and_skeleton import Placed
from compress.codec.format.layout import HEADER_BYTES, KINDS
from compress.codec.mapped_memory import empty_space, memory_for
from compress.errors import CodecError

_DTYPES = {
    "float32": "<f4", "float64": "<f8", "float16": "<f2", "complex64": "<c8", "complex128": "<c16", "bool": "?",
    "int8": "i1", "uint8": "u1", "int16": "<i2", "uint16": "<u2", "int32": "<i4", "uint32": "<u4", "int64": "<i8",
    "uint64": "<u8", "bfloat16": "<u2",
}  # fmt: skip


def named_spans(packed: PackedFile) -> list[Span]:
    """Return all tensors of the original with names, shapes and places, small ones included.

    Raises:
        CodecError: the original is not what the header says.
    """
    return _named_spans(packed, _without_tensors(packed))


def _without_tensors(packed: PackedFile) -> np.ndarray:
    """Return the original with zeros in place of the coded tensors, which keep all offsets: names lie in the rest."""
    whole = empty_space(packed.header.original_bytes)
    packed.put_skeleton(whole)
    return whole


def _named_spans(packed: PackedFile, whole: np.ndarray) -> list[Span]:
    main = packed.header.original_bytes - sum(file.num_bytes for file in packed.side_files)
    spans, external = find_tensors(whole[:main].data, packed.header.container, packed.name)
    by_file: dict[str, list[ExternalTensor]] = {}
    for tensor in external:
        by_file.setdefault(normal_name(tensor.location), []).append(tensor)
    at = main
    for file in packed.side_files:
        side = whole[at : at + file.num_bytes].data
        if packed.header.container == SAFETENSORS and looks_like_safetensors(side):
            shard, _ = find_tensors(side, SAFETENSORS, packed.name)
            spans += [replace(span, start=span.start + at) for span in shard]
        spans += side_spans(packed.name, side, by_file.get(file.name, []), at)
        at += file.num_bytes
    return spans


def network_name(packed: PackedFile) -> str | None:
    """Return the name that the first of sharded safetensors had, which its index still tells; None of other files."""
    indexes = [file for file in packed.side_files if file.name.endswith(INDEX_SUFFIX)]
    if len(indexes) != 1:
        return None
    at = packed.header.original_bytes
    for file in reversed(packed.side_files):
        at -= file.num_bytes
        if file is indexes[0]:
            break
    try:
        whole = _without_tensors(packed)
        names = shard_names(bytes(whole[at : at + indexes[0].num_bytes]))
    except (ValueError, OSError):  # no index, or no room for the address space of the original
        return None
    missing = [name for name in names if name not in {file.name for file in packed.side_files}]
    return missing[0] if len(missing) == 1 and "/" not in missing[0] and refused_name(missing[0]) is None else None


def load_tensors(
    path: Path | str,
    names: Iterable[str] | None = None,
    *,
    threads: int = 1,
    kernels: str = "auto",
    max_bytes: int = SANE_BYTES,
) -> dict[str, np.ndarray]:
    """Return tensors of a .krimp file; only their bytes are decoded.

    Args:
        path: the .krimp file.
        names: which ones; all that have a name if None.
        threads: how many are decoded at once.
        kernels: 'auto', 'numpy' or 'numba' (same values).
        max_bytes: size of the original from which on it is refused; by default 1 GiB, or 256 times the file.

    Returns:
        Arrays of the original's shape. Types that NumPy lacks: integers of 2 and 4 bits as int8 or uint8,
        bfloat16 as uint16 with the same bits, floats of 8 and 4 bits as uint8 with the same bits.

    Raises:
        CodecError: the file is damaged, or has no such tensor.
    """
    with memory_for(path), PackedFile(path, kernels=kernels, max_bytes=max_bytes) as packed:
        whole = _without_tensors(packed)
        spans = {span.name: span for span in _named_spans(packed, whole) if span.name}
        wanted = list(spans) if names is None else list(names)
        missing = [name for name in wanted if name not in spans]
        if missing:
            raise CodecError(f"{path}: byte 0: no tensor {missing[0]!r}; expected one of {sorted(spans)[:20]}.")
        coded = {tensor.start: tensor for tensor in packed.tensors}

        def load(name: str) -> np.ndarray:
            span = spans[name]
            return _as_array(_tensor_bytes(packed, span, coded.get(span.start), whole), span)

        return dict(zip(wanted, map_in_threads(load, wanted, threads), strict=True))


def _tensor_bytes(packed: PackedFile, span: Span, coded: Placed | None, whole: np.ndarray) -> np.ndarray:
    """Decode a tensor, which may be coded in parts, or take it from the bytes between coded ones."""
    if coded is not None and coded.record.num_bytes == span.num_bytes:
        return packed.decode(coded)
    end = span.start + span.num_bytes
    first = bisect_left(packed.tensors, span.start, key=lambda tensor: tensor.start + tensor.record.num_bytes - 1)
    out = whole[span.start : end].copy()
    for tensor in packed.tensors[first:]:
        at = tensor.start - span.start
        if at >= span.num_bytes:
            break
        if at < 0 or at + tensor.record.num_bytes > span.num_bytes:
            raise CodecError(
                f"{packed.name}: byte {HEADER_BYTES}: byte {span.start} of the original is coded differently."
            )
        packed.decode(tensor, out[at : at + tensor.record.num_bytes])
    return out


def _as_array(data: np.ndarray, span: Span) -> np.ndarray:
    kind = KINDS[span.kind]
    if kind.value_bits < 8:
        (values,) = to_planes(data, kind)
        if kind.is_signed:
            values -= np.uint8(1 << kind.value_bits - 1)  # below zero it goes on at 255, which is -1
            values = values.view(np.int8)
        array = values[: math.prod(span.dims)]  # the last byte can have values to spare
    else:
        dtype = np.dtype(_DTYPES.get(span.data_type, "u1"))
        array = data.view(dtype) if len(data) % dtype.itemsize == 0 else data
    return array.reshape(span.dims) if array.size == math.prod(span.dims) else array
