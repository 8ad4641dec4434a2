"""Elements, or rows of them, of few different values: numbers in their place, and what the numbers mean."""

from __future__ import annotations

import math
from zlib import crc32

import numpy as np

from compress.codec.encoding.plane_encoder import encode_plane
from compress.codec.encoding.scaled_integers import ScaledIntegers, find_scaled
from compress.codec.encoding.table_choice import Tables
from compress.codec.encoding.tensor_encoder import CodedTensor, entropy_bits
from compress.codec.format.element_numbers import widened
from compress.codec.format.element_planes import to_planes
from compress.codec.format.layout import KINDS, RAW, TensorRecord
from compress.codec.format.sections import shrink
from compress.codec.format.ways import ELEMENT_BYTES, LARGEST_LISTED, LISTED, NARROW, Numbered
from compress.codec.kernels.contract import Kernels

_MOST_LISTED = 1 << 12  # different elements
_BLOCK = 1 << 16
_SAMPLE_ROWS, _MOST_ROWS = 1 << 13, 0.6  # in a sample of rows, the share of different ones
_FLOATS = {8: 0, 9: 2, 10: 3}  # kind -> key of `ways.ELEMENTS`


def encode_numbered(
    data: np.ndarray, kind_number: int, data_type: str, dims: tuple[int, ...], tables: Tables, kernels: Kernels,
    *, gap: int, channel: int,
) -> CodedTensor | None:  # fmt: skip
    """Code a tensor by numbers of its elements, None if it has too many different ones.

    Args:
        data: (bytes,), uint8, whole elements.
        kind_number: key of `layout.KINDS`, of elements of several bytes.
        data_type: of the elements, as `tensor_places` calls it.
        dims: shape of the tensor.
        tables: tables of the file; new ones are added.
        kernels: what runs the loops; the bytes are the same.
        gap: bytes of the skeleton between the tensor before and this one.
        channel: elements that share an output channel; 0 if unknown.
    """
    bits = data.view(f"<u{KINDS[kind_number].planes}")
    element = 1 if data_type == "bfloat16" else _FLOATS.get(kind_number)
    if element is not None and (found := _find_scaled(bits, element, dims)):
        return _coded(found.way, found.scales, found.numbers, len(data), tables, kernels, gap, channel)
    values = _few_values(bits, KINDS[kind_number].transform)
    if values is None:
        return None
    numbers = _numbers(bits, values)
    way = Numbered(LISTED, bits.itemsize, len(values), 0, False, 1, False, 0)
    return _coded(way, values, numbers, len(data), tables, kernels, gap, channel)


def _find_scaled(bits: np.ndarray, element: int, dims: tuple[int, ...]) -> ScaledIntegers | None:
    """Return the integers and scales of a tensor, which may have been computed in a type narrower than its own."""
    for stored, narrow in NARROW.items():
        if ELEMENT_BYTES[stored] == bits.itemsize:  # no narrower type has as many bytes
            inside = narrowed(bits, stored)
            if inside is not None and (found := find_scaled(inside, narrow, dims)):
                return found._replace(way=found.way._replace(element=stored))
    return find_scaled(bits, element, dims)


def narrowed(bits: np.ndarray, element: int) -> np.ndarray | None:
    """Return the bits of elements in the type they were computed in; None if they do not come back from it.

    Args:
        bits: (count,), uint32 or uint64, as they are stored.
        element: key of `ways.NARROW`.
    """
    if element == 6:
        narrow = (bits >> np.uint32(16)).astype("<u2")
    else:
        wide, short = ("<f8", "<f4") if element == 4 else ("<f4", "<f2")
        with np.errstate(over="ignore", invalid="ignore"):
            narrow = bits.view(wide).astype(short).view(short.replace("f", "u"))
    return narrow if np.array_equal(widened(narrow, element), bits) else None


def encode_rows(
    data: np.ndarray, element_bytes: int, dims: tuple[int, ...], tables: Tables, kernels: Kernels, *, gap: int
) -> CodedTensor | None:
    """Code a tensor by numbers of its rows, those of an inner dimension; None if too many of them differ.

    Args:
        data: (bytes,), uint8, whole elements.
        element_bytes: of an element.
        dims: shape of the tensor.
        tables: tables of the file; new ones are added.
        kernels: what runs the loops; the bytes are the same.
        gap: bytes of the skeleton between the tensor before and this one.
    """
    if math.prod(dims) * element_bytes != len(data):
        return None
    for size in dict.fromkeys(math.prod(dims[axis:]) * element_bytes for axis in range(1, len(dims))):
        if not max(2, element_bytes) < size <= min(LARGEST_LISTED, len(data) // 16):
            continue
        rows = data.reshape(-1, size).view(f"V{size}")[:, 0]
        sample = rows[np.linspace(0, len(rows) - 1, min(_SAMPLE_ROWS, len(rows))).astype(np.int64)]
        if len(np.unique(sample)) > _MOST_ROWS * len(sample):
            continue
        entries, numbers = np.unique(rows, return_inverse=True)
        if len(entries) <= min(_MOST_LISTED, len(rows) // 3):
            numbers = numbers.reshape(-1).astype(np.uint8 if len(entries) <= 256 else np.uint16)
            way = Numbered(LISTED, size, len(entries), 0, False, 1, False, 0)
            return _coded(way, entries, numbers, len(data), tables, kernels, gap, 0)
    return None


def _few_values(bits: np.ndarray, transform: str) -> np.ndarray | None:
    """Return the different elements in the order of their values; None if they are many."""
    values = np.empty(0, dtype=bits.dtype)
    for start in range(0, len(bits), _BLOCK):
        values = np.union1d(values, bits[start : start + _BLOCK])
        if len(values) > min(_MOST_LISTED, max(len(bits) // 4, 1)):
            return None
    top = bits.dtype.type(1 << 8 * bits.itemsize - 1)
    keys = values
    if transform == "rotate":
        keys = np.where(values & top, ~values, values | top)
    elif transform == "zigzag":
        keys = values ^ top
    return values[np.argsort(keys, kind="stable")]


def _numbers(bits: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the number of each element in the list, uint8 or uint16."""
    order = np.argsort(values, kind="stable")
    ordered, kind = values[order], np.uint8 if len(values) <= 256 else np.uint16
    numbers = np.empty(len(bits), dtype=kind)
    for start in range(0, len(bits), _BLOCK):
        numbers[start : start + _BLOCK] = order[np.searchsorted(ordered, bits[start : start + _BLOCK])]
    return numbers


def _coded(
    way: Numbered, entries: np.ndarray, numbers: np.ndarray, num_bytes: int, tables: Tables, kernels: Kernels,
    gap: int, channel: int,
) -> CodedTensor:  # fmt: skip
    kind_number = 0 if numbers.itemsize == 1 else 16
    packed, is_lzma = shrink(np.ascontiguousarray(entries).tobytes())
    way = way._replace(is_lzma=is_lzma, packed_bytes=len(packed))
    planes, payloads, entropy = [], [np.frombuffer(packed, dtype=np.uint8)], 0.0
    for values in to_planes(numbers.view(np.uint8), KINDS[kind_number]):
        plane, payload, counts = encode_plane(values, 8, tables, kernels, channel)
        planes.append(plane)
        payloads.append(values if plane.method == RAW else payload)
        entropy += entropy_bits(counts)
    payload = np.concatenate(payloads)
    record = TensorRecord(gap, num_bytes, kind_number, tuple(planes), crc32(payload.data), way)
    return CodedTensor(record, payload, entropy)
