"""From the bytes of a tensor to its record and its codes; `decoding.tensor_decoder` is the other way round."""

from __future__ import annotations

from typing import NamedTuple
from zlib import crc32

import numpy as np

from compress.codec.encoding.plane_encoder import encode_plane
from compress.codec.encoding.table_choice import Tables
from compress.codec.format.element_planes import to_planes
from compress.codec.format.layout import KINDS, RAW, TensorRecord
from compress.codec.kernels.contract import Kernels


class CodedTensor(NamedTuple):
    """A tensor that has been coded.

    Attributes:
        record: how.
        payload: (bytes,), uint8: its codes.
        entropy_bits: its order-0 entropy, plane by plane.
    """

    record: TensorRecord
    payload: np.ndarray
    entropy_bits: float


def encode_tensor(
    data: np.ndarray, kind_number: int, tables: Tables, kernels: Kernels, *, gap: int = 0, channel: int = 0
) -> CodedTensor:
    """Code a tensor, each of its planes in the smallest way found.

    Args:
        data: (bytes,), uint8, whole elements.
        kind_number: key of `layout.KINDS`.
        tables: tables of the file; new ones are added.
        kernels: what runs the loops; the bytes are the same.
        gap: bytes of the skeleton between the tensor before and this one.
        channel: values that share an output channel; 0 if unknown.
    """
    kind = KINDS[kind_number]
    planes, payloads, entropy = [], [], 0.0
    for values in to_planes(data, kind):
        plane, payload, counts = encode_plane(values, kind.value_bits, tables, kernels, channel)
        if plane.method == RAW:
            payload = data if kind.planes == 1 else values
        planes.append(plane)
        payloads.append(payload)
        entropy += entropy_bits(counts)
    payload = payloads[0] if len(payloads) == 1 else np.concatenate(payloads)
    return CodedTensor(TensorRecord(gap, len(data), kind_number, tuple(planes), crc32(payload.data)), payload, entropy)


def entropy_bits(counts: np.ndarray) -> float:
    """Return the order-0 entropy of counted values: bits for all of them together.

    Source:
        Shannon 1948: -sum n log2(n / N).
    """
    used = counts[counts > 0].astype(np.float64)
    return float(used.sum() * np.log2(used.sum()) - (used * np.log2(used)).sum()) if len(used) > 1 else 0.0
