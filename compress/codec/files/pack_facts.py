"""What packing a network did, in numbers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PackFacts:
    """What packing did.

    Attributes:
        original_bytes, packed_bytes: the two files.
        tensor_bytes, payload_bytes: coded tensors before and after.
        skeleton_bytes, skeleton_packed_bytes: everything else, before and after.
        index_packed_bytes: tables and tensor records.
        num_tensors, num_tables: how many; large tensors are several.
        format_version: of the file.
        weights: elements of at most 8 bits in the coded tensors.
        bits_per_weight: coded bits of those, tables not counted.
        entropy_bits_per_weight: their order-0 entropy, each tensor by itself.
        encode_seconds: time that coding the tensors took, choices included.
        verify_seconds: time that unpacking and comparing took.
        seconds: time all of it took.
    """

    original_bytes: int
    packed_bytes: int
    tensor_bytes: int
    payload_bytes: int
    skeleton_bytes: int
    skeleton_packed_bytes: int
    index_packed_bytes: int
    num_tensors: int
    num_tables: int
    format_version: int
    weights: int
    bits_per_weight: float
    entropy_bits_per_weight: float
    encode_seconds: float
    verify_seconds: float = 0.0
    seconds: float = 0.0

    @property
    def compression_ratio(self) -> float:
        """Return original bytes / packed bytes."""
        return self.original_bytes / self.packed_bytes
