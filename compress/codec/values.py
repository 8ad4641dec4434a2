"""Bytes of a tensor to planes of small unsigned values, and back."""

from __future__ import annotations

import numpy as np

from compress.codec.layout import Kind


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


def from_planes(planes: list[np.ndarray], kind: Kind, out: np.ndarray) -> None:
    """Undo `to_planes`, writing the bytes into `out`.

    Args:
        planes: as `to_planes` returns them.
        kind: how to write them.
        out: (bytes,), uint8, written whole.
    """
    if kind.planes == 1:
        values = planes[0]
        packed = values if kind.value_bits == 8 else _pack(values, kind.value_bits)
        if kind.is_signed:
            np.bitwise_xor(packed, np.uint8({8: 0x80, 4: 0x88, 2: 0xAA}[kind.value_bits]), out=out)
        else:
            out[:] = packed
        return
    columns = np.empty((len(planes[0]), kind.planes), dtype=np.uint8)
    for i, plane in enumerate(planes):
        columns[:, i] = plane
    elements = columns.reshape(-1).view(f"<u{kind.planes}")
    one, top = elements.dtype.type(1), elements.dtype.type(8 * kind.planes - 1)
    if kind.transform == "rotate":
        elements = elements >> one | elements << top
    elif kind.transform == "zigzag":
        elements = elements >> one ^ (~(elements & one) + one)
    out[:] = elements.view(np.uint8)


def _unpack(data: np.ndarray, bits: int) -> np.ndarray:
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    return (data[:, None] >> shifts & np.uint8((1 << bits) - 1)).reshape(-1)


def _pack(values: np.ndarray, bits: int) -> np.ndarray:
    columns = values.reshape(-1, 8 // bits)
    packed = columns[:, 0].copy()
    for i in range(1, columns.shape[1]):
        packed |= columns[:, i] << np.uint8(i * bits)
    return packed
