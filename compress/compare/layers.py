"""Networks layer by layer: bits, zeros, bytes and widths of each, and which of them changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from compress import codec
from compress.codec import TensorFacts
from compress.layer_names import layer_of, layers_of
from compress.names_file import names_beside

REST = "graph, small tensors and tables"
_WEIGHT = ".weight"


@dataclass(frozen=True)
class Layer:
    """One layer of a file.

    Attributes:
        name: full, where `names.json` lies beside the file.
        dims: of its weight.
        bit_width: of its weight.
        zeros: share of zeros in its weight, 0..1.
        entropy_bits: of an element of its weight: where that alone differs, the values changed.
        num_bytes: of all its tensors in the file.
    """

    name: str
    dims: tuple[int, ...]
    bit_width: int
    zeros: float
    entropy_bits: float
    num_bytes: int


@dataclass(frozen=True)
class LayerChange:
    """A layer that two files do not have alike; None: the file has none of that name."""

    name: str
    reference: Layer | None
    other: Layer | None

    @property
    def num_bytes(self) -> int:
        """Return bytes more in the other file."""
        return (self.other.num_bytes if self.other else 0) - (self.reference.num_bytes if self.reference else 0)

    @property
    def told(self) -> str:
        """Return what changed, in words."""
        one, two = self.reference, self.other
        if one is None or two is None:
            return "is new" if one is None else "is gone"
        parts = []
        if one.dims != two.dims:
            parts.append(f"shape {_shape(one.dims)} -> {_shape(two.dims)}")
        if one.bit_width != two.bit_width:
            parts.append(f"bits {one.bit_width} -> {two.bit_width}")
        if f"{one.zeros:.1%}" != f"{two.zeros:.1%}":
            parts.append(f"zeros {one.zeros:.1%} -> {two.zeros:.1%}")
        return ", ".join(parts) or ("size" if one.entropy_bits == two.entropy_bits else "values")


def read_layers(file: Path) -> list[Layer]:
    """Return the layers of an ONNX or `.krimp` file, in its order, and what belongs to none (`REST`)."""
    names = names_beside(file)
    facts = codec.inspect_file(file)
    return group_layers(facts, names, file.stat().st_size)


def group_layers(facts: Sequence[TensorFacts], names: Mapping[str, str], total_bytes: int) -> list[Layer]:
    """Return the layers that tensors belong to: those that share what stands before `.weight`.

    A tensor without such a name is a layer of its own; scales and biases are counted with their weight.

    Args:
        facts: of the tensors.
        names: short name -> full name.
        total_bytes: of the file.
    """
    full = [names.get(one.name, one.name) for one in facts]
    bases = layers_of(full)
    grouped: dict[str, list[TensorFacts]] = {}
    for name, one in zip(full, facts, strict=True):
        base = layer_of(name, bases) or name
        members = grouped.setdefault(base, [])
        members.insert(0 if name == base + _WEIGHT else len(members), one)
    layers = [
        Layer(
            name,
            tuple(members[0].dims),
            members[0].bit_width,
            members[0].zeros,
            members[0].entropy_bits_per_weight,
            sum(one.packed_bytes for one in members),
        )
        for name, members in grouped.items()
    ]
    rest = total_bytes - sum(layer.num_bytes for layer in layers)
    return [*layers, Layer(REST, (), 0, 0.0, 0.0, rest)]


def share_names(one: Sequence[Layer], two: Sequence[Layer]) -> bool:
    """Return whether two files name their layers alike: a quarter of those of the smaller one are in both."""
    names, others = ({layer.name for layer in layers} - {REST} for layers in (one, two))
    return 4 * len(names & others) >= min(len(names), len(others))


def layer_changes(reference: Sequence[Layer], other: Sequence[Layer]) -> list[LayerChange]:
    """Return the layers that differ in anything, those first whose bytes changed most."""
    before, after = ({layer.name: layer for layer in layers} for layers in (reference, other))
    names = [*before, *(name for name in after if name not in before)]
    changes = [LayerChange(name, before.get(name), after.get(name)) for name in names]
    return sorted((one for one in changes if one.reference != one.other), key=lambda one: -abs(one.num_bytes))


def _shape(dims: Sequence[int]) -> str:
    return "x".join(map(str, dims)) or "scalar"
