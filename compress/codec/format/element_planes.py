"""Bytes of a tensor to planes of small unsigned values, and back."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from compress.codec.format.layout import Kind

JoinPlanes = Callable[[np.ndarray, bool, bool, np.ndarray], None]  # arguments as of `join_planes`


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


def from_planes(planes: np.ndarray, kind: Kind, out: np.ndarray, join: JoinPlanes) -> None:
    """Write a tensor's elements.

    Args:
        planes: (kind.planes, count), uint8, as of `to_planes`; with one plane its values are already those of the
            original, sign bit and all.
        kind: how to write them.
        out: (bytes,), uint8: the tensor, or the part of it with these elements.
        join: what joins several planes: `join_planes`, or another one with the same result.
    """
    if kind.planes > 1:
        join(planes, kind.transform == "rotate", kind.transform == "zigzag", out)
    else:
        out[:] = planes[0] if kind.value_bits == 8 else _pack(planes[0], kind.value_bits)


def join_planes(planes: np.ndarray, is_rotated: bool, is_zigzag: bool, out: np.ndarray) -> None:
    """Write elements of several bytes.

    Args:
        planes: (n, count), uint8, least significant byte first.
        is_rotated: the sign bit is the lowest one.
        is_zigzag: numbers below zero are the odd ones.
        out: (n * count,), uint8.
    """
    columns = np.empty((planes.shape[1], len(planes)), dtype=np.uint8)
    for number, plane in enumerate(planes):
        columns[:, number] = plane
    elements = columns.view(f"<u{len(planes)}")[:, 0]
    one, top = _shifts(len(planes))
    if is_rotated:
        elements = elements >> one | elements << top
    elif is_zigzag:
        elements = elements >> one ^ (~(elements & one) + one)
    out[:] = elements.view(np.uint8)


@cache
def _shifts(planes: int) -> tuple[np.unsignedinteger[Any], np.unsignedinteger[Any]]:
    """Return 1 and the number of the highest bit, in the type of an element."""
    one, top = np.array([1, 8 * planes - 1], dtype=f"<u{planes}")
    return one, top


def _unpack(data: np.ndarray, bits: int) -> np.ndarray:
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    values = data[:, None] >> shifts
    values &= np.uint8((1 << bits) - 1)
    return values.reshape(-1)


def _pack(values: np.ndarray, bits: int) -> np.ndarray:
    columns = values.reshape(-1, 8 // bits)
    packed = columns[:, 0].copy()
    for i in range(1, columns.shape[1]):
        packed |= columns[:, i] << np.uint8(i * bits)
    return packed
