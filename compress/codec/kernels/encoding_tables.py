"""What the two codes write for each symbol, for the tables of a stream's classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from compress.codec.entropy.ans_code import encode_tables
from compress.codec.entropy.prefix_code import canonical_codes
from compress.codec.format.layout import Table


def prefix_codes(tables: Sequence[Table]) -> np.ndarray:
    """Return code bits << 8 | their number of each symbol, (classes, alphabet), int64."""
    return np.stack([canonical_codes(table.entries) << 8 | table.entries for table in tables])


def ans_tables(tables: Sequence[Table]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return states, offsets and thresholds as of `ans_code.encode_tables`, int64, a row a class."""
    states, offsets, thresholds = zip(*(encode_tables(table.entries) for table in tables), strict=True)
    return np.stack(states), np.stack(offsets), np.stack(thresholds)
