"""Quantized weights for benchmarks/codec.py: of trained networks, of files given by path, and synthetic ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
ZOO = ROOT / "detectors" / "dcfl" / "zoo"
SHARED_WEIGHTS = ROOT.parent / "shared" / "weights"

REAL_BITS = (8, 6, 4)
REAL_ZEROS = (0.0, 0.5, 0.8, 0.9)
SYNTHETIC_BITS = (2, 3, 4, 5, 6, 7, 8)
SYNTHETIC_ZEROS = (0.0, 0.5, 0.8, 0.9, 0.95)
_FEWEST_WEIGHTS = 128  # smaller tensors are not coded one by one by anybody


@dataclass(frozen=True)
class Weights:
    """Tensors that are coded together.

    Attributes:
        name: network, or 'synthetic'.
        bit_width: bits of the quantizer, range -(2^(b-1)-1) .. 2^(b-1)-1.
        zeros: share of zeros that pruning was asked for; 0 keeps what rounding gives.
        tensors: int8, (output channels, rest).
    """

    name: str
    bit_width: int
    zeros: float
    tensors: tuple[np.ndarray, ...]

    @property
    def count(self) -> int:
        """Return the number of weights."""
        return sum(tensor.size for tensor in self.tensors)


def trained_networks(files: list[Path]) -> dict[str, dict[str, np.ndarray]]:
    """Return name -> {tensor: float32 weights (out, rest)} of the zoo's float network and of the given files.

    Args:
        files: .safetensors, or .pth state dictionaries (needs torch).

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: it holds no weights.
    """
    found = {}
    for path in [*sorted(ZOO.glob("*.safetensors")), *files]:
        state = _state(path)
        matrices = {
            name: value.reshape(len(value), -1).astype(np.float32)
            for name, value in state.items()
            if value.ndim >= 2 and value.dtype.kind == "f" and value.size >= _FEWEST_WEIGHTS
        }
        if not matrices:
            raise ValueError(f"{path}: no weight of two dimensions; expected a network's state. Name another file.")
        found[path.stem] = matrices
    return found


def default_files() -> list[Path]:
    """Return the weights that lie beside the checkout, if they do."""
    return sorted(SHARED_WEIGHTS.glob("*.pth"))


def real_weights(
    networks: dict[str, dict[str, np.ndarray]], bits: tuple[int, ...], zeros: tuple[float, ...]
) -> Iterator[Weights]:
    """Yield every network at every bit width and share of zeros, quantized here."""
    for name, matrices in networks.items():
        for share in zeros:
            pruned = prune(list(matrices.values()), share)
            for bit_width in bits:
                yield Weights(name, bit_width, share, tuple(quantize(matrix, bit_width) for matrix in pruned))


def prune(matrices: list[np.ndarray], share: float) -> list[np.ndarray]:
    """Set the smallest weights of the whole network to zero, measured against each channel's own largest.

    Args:
        matrices: (out, rest), float32.
        share: of zeros to reach, 0..1.
    """
    if share == 0:
        return matrices
    sizes = [np.abs(matrix) / _channel_max(matrix) for matrix in matrices]
    threshold = np.quantile(np.concatenate([size.reshape(-1) for size in sizes]), share)
    return [np.where(size <= threshold, 0, matrix) for matrix, size in zip(matrices, sizes, strict=True)]


def quantize(matrix: np.ndarray, bit_width: int) -> np.ndarray:
    """Return symmetric narrow-range integers with a scale for each output channel (largest value -> largest integer).

    Args:
        matrix: (out, rest), float32.
        bit_width: 2 to 8.

    Returns:
        Same shape, int8.
    """
    top = 2 ** (bit_width - 1) - 1
    quantized: np.ndarray = np.round(matrix / _channel_max(matrix) * top).astype(np.int8)
    return quantized


def synthetic(bit_width: int, zeros: float, count: int, seed: int = 0) -> Weights:
    """Return Laplace-distributed weights that are quantized to a bit width and pruned by magnitude.

    The scale puts the largest integer at six times the mean magnitude, as in trained layers.

    Args:
        bit_width: 2 to 8.
        zeros: share of zeros to reach at least.
        count: number of weights, a multiple of 256.
        seed: of the random numbers.
    """
    rng = np.random.default_rng([seed, bit_width, round(100 * zeros), count])
    top = 2 ** (bit_width - 1) - 1
    floats = rng.laplace(0, max(top / 6, 0.6), count)
    values = np.clip(np.round(floats), -top, top).astype(np.int8)
    if zeros:
        values[np.abs(floats) <= np.quantile(np.abs(floats), zeros)] = 0
    return Weights("synthetic", bit_width, zeros, (values.reshape(256, -1),))


def _channel_max(matrix: np.ndarray) -> np.ndarray:
    largest: np.ndarray = np.maximum(np.abs(matrix).max(axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return largest


def _state(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not found. Give the path of a .safetensors or .pth file.")
    if path.suffix == ".safetensors":
        from safetensors.numpy import load_file

        return load_file(path)
    import torch

    state = torch.load(path, map_location="cpu", weights_only=True)
    state = state.get("state_dict", state)
    return {name: value.numpy() for name, value in state.items() if isinstance(value, torch.Tensor)}


def large_tensors(count: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yield Gaussian weights as one tensor of several types, each with a name."""
    weights = np.random.default_rng(0).standard_normal(count, dtype=np.float32)
    yield "float32", weights
    yield "float16", weights.astype(np.float16)
    int8 = (40 * weights).clip(-127, 127).astype(np.int8)
    int8[np.abs(weights) < 0.674] = 0
    yield "int8, 50% zeros", int8
