"""The order of Deep Compression on a trained network: small weights out, the others on a palette, Huffman codes.

Nothing is trained in between, as with every other method of `benchmarks/peers.py` that trains nothing.

Source:
    Han et al. 2016, arXiv 1510.00149: sections 2 (zeros told by their gaps), 3 (k-means from evenly spaced centres), 4.
"""

from __future__ import annotations

import numpy as np

from compress.codec.entropy.prefix_code import code_lengths

LONGEST_GAP = 255  # 8 bits, as the paper has it for convolutions; a longer run holds zeros that are stored
_ITERATIONS = 30


def without_smallest(weights: np.ndarray, sparsity: float) -> np.ndarray:
    """Return weights of which a share of the smallest is zero.

    Args:
        weights: of any shape.
        sparsity: share of zeros, 0..1.
    """
    zeros = round(sparsity * weights.size)
    pruned = weights.copy()
    pruned.reshape(-1)[np.argsort(np.abs(weights), axis=None, kind="stable")[:zeros]] = 0
    return pruned


def on_palette(values: np.ndarray, colors: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a palette (k,) ascending, and each value's place in it, (n,): k-means in one dimension.

    Args:
        values: (n,) float.
        colors: at most so many entries; fewer where there are fewer values.
    """
    different = np.unique(values)
    if len(different) <= colors:
        return different, np.searchsorted(different, values)
    centres = np.linspace(values.min(), values.max(), colors)
    for _ in range(_ITERATIONS):
        places = np.searchsorted((centres[1:] + centres[:-1]) / 2, values)
        sums, counts = np.bincount(places, values, colors), np.bincount(places, minlength=colors)
        centres = np.sort(np.where(counts > 0, sums / np.maximum(counts, 1), centres))
    return centres, np.searchsorted((centres[1:] + centres[:-1]) / 2, values)


def coded_bytes(weights: np.ndarray, places: np.ndarray, colors: int) -> int:
    """Return the bytes of a layer: Huffman codes of palette entries and of gaps, both tables of lengths, the palette.

    Args:
        weights: of the layer, any shape; its zeros are what is not stored.
        places: of the others in the palette, in order.
        colors: entries of the palette, 4 bytes each.
    """
    stored = np.flatnonzero(weights)
    gaps = np.diff(stored, prepend=-1) - 1
    fillers = gaps // (LONGEST_GAP + 1)
    symbols = np.bincount(places, minlength=colors + 1)
    symbols[colors] += fillers.sum()
    runs = np.bincount(gaps % (LONGEST_GAP + 1), minlength=LONGEST_GAP + 1)
    runs[LONGEST_GAP] += fillers.sum()
    tables = (len(symbols) + len(runs)) // 2  # a length in four bits
    return -(-(huffman_bits(symbols) + huffman_bits(runs)) // 8) + tables + 4 * colors


def huffman_bits(counts: np.ndarray) -> int:
    """Return the bits of symbols that occur so often, a bit each where there is one kind."""
    if np.count_nonzero(counts) < 2:
        return int(counts.sum())
    return int(code_lengths(counts.astype(np.int64)) @ counts)


def compressed(weights: np.ndarray, sparsity: float, bits: int) -> tuple[np.ndarray, int]:
    """Return a layer's weights after pruning and palette, and their coded bytes.

    Args:
        weights: of any shape, float32.
        sparsity: share of zeros, 0..1.
        bits: of a palette entry's number.
    """
    pruned = without_smallest(weights, sparsity)
    stored = pruned != 0
    palette, places = on_palette(pruned[stored].astype(np.float64), 2**bits)
    result = np.zeros_like(weights)
    result[stored] = palette[places]
    return result, coded_bytes(pruned, places, len(palette))
