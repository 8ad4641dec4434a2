"""Bytes of a tensor to planes of small unsigned values, and back."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from compress.codec.layout import Kind

_BLOCK = 1 << 18  # elements at a time: bounds the memory


def to_planes(data: np.ndarray, kind: Kind) -> list[np.ndarray]:
    """Return the planes of a tensor, least significant byte first.

    Args:
        data: (bytes,), uint8.
        kind: how to read them.

    Returns:
        kind.planes arrays, uint8, values 0 .. 2 ** kind.value_bits - 1.
    """
    if kind.planes == 1:
        values = data if kind.value_bits == 8 else _unpack(data, kind.value_bits)
        return [values ^ np.uint8(1 << kind.value_bits - 1) if kind.is_signed else values]
    elements = data.view(f"<u{kind.planes}")
    bits = 8 * kind.planes
    one, top = elements.dtype.type(1), elements.dtype.type(bits - 1)
    if kind.transform == "rotate":
        elements = elements << one | elements >> top
    elif kind.transform == "zigzag":
        elements = elements << one ^ (elements.view(f"<i{kind.planes}") >> (bits - 1)).view(elements.dtype)
    columns = elements.view(np.uint8).reshape(-1, kind.planes)
    return [np.ascontiguousarray(columns[:, i]) for i in range(kind.planes)]


def put_plane(values: np.ndarray, kind: Kind, number: int, out: np.ndarray) -> None:
    """Write one plane to its place.

    Args:
        values: (count,), uint8; for kinds with one plane those of the original, not of the transform.
        kind: how to write them.
        number: which plane.
        out: (bytes,), uint8: the tensor.
    """
    if kind.planes > 1:
        out[number :: kind.planes] = values
    else:
        out[:] = values if kind.value_bits == 8 else _pack(values, kind.value_bits)


def undo_transform(out: np.ndarray, kind: Kind) -> None:
    """Undo the transform of `to_planes` in place, once all planes have been put.

    Args:
        out: (bytes,), uint8: the tensor.
        kind: how to read it; with more than one plane.
    """
    one, top = _shifts(kind.planes)
    step = _BLOCK * kind.planes
    for start in range(0, len(out) if kind.transform else 0, step):
        elements = out[start : start + step].copy().view(f"<u{kind.planes}")  # may begin anywhere in a file
        if kind.transform == "rotate":
            elements = elements >> one | elements << top
        else:
            elements = elements >> one ^ (~(elements & one) + one)
        out[start : start + step] = elements.view(np.uint8)


@cache
def _shifts(planes: int) -> tuple[np.unsignedinteger[Any], np.unsignedinteger[Any]]:
    """Return 1 and the number of the highest bit, in the type of an element."""
    one, top = np.array([1, 8 * planes - 1], dtype=f"<u{planes}")
    return one, top


def _unpack(data: np.ndarray, bits: int) -> np.ndarray:
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    return (data[:, None] >> shifts & np.uint8((1 << bits) - 1)).reshape(-1)


def _pack(values: np.ndarray, bits: int) -> np.ndarray:
    columns = values.reshape(-1, 8 // bits)
    packed = columns[:, 0].copy()
    for i in range(1, columns.shape[1]):
        packed |= columns[:, i] << np.uint8(i * bits)
    return packed
