"""The element that a tensor has most often, and the tensor without it: zeros of pruned floats above all."""

from __future__ import annotations

import numpy as np

from compress.codec.encoding.repeated_groups import Repeated
from compress.codec.format.ways import MAX_GROUPS, MAX_HEAP_BYTES

_SAMPLE = 1 << 13  # elements that are looked at first
_LEAST = 0.02  # share of the commonest element from which telling where it is saves more than it takes


def without_most_common(data: np.ndarray, element_bytes: int) -> Repeated | None:
    """Return a tensor without the element that it has most often, and a bit for each element: 1 for another one.

    A code of single bytes tells in each byte of an element that it is this one, which order-0 entropy cannot see.

    Args:
        data: (bytes,), uint8, whole elements.
        element_bytes: of an element.

    Returns:
        That element, then the others in their order; None where none is common, or elements are bytes, which codes of
        several values do as well.
    """
    if element_bytes == 1:
        return None
    elements = data.view(f"<u{element_bytes}")
    places = np.linspace(0, len(elements) - 1, min(_SAMPLE, len(elements))).astype(np.int64)
    values, counts = np.unique(elements[places], return_counts=True)
    number = int(np.argmax(counts))
    if counts[number] < _LEAST * len(places):
        return None
    is_other = elements != values[number]
    left = int(np.count_nonzero(is_other)) + 1
    if left > MAX_GROUPS or left * element_bytes > MAX_HEAP_BYTES:
        return None
    others = np.concatenate([values[number : number + 1], elements[is_other]])
    return Repeated(element_bytes, 0, 1, others.view(np.uint8), np.packbits(is_other, bitorder="little"))
