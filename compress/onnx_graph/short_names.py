"""Short names for what an exported graph holds: names were a fifth of what is not weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from string import ascii_lowercase, ascii_uppercase

from onnx import GraphProto

from compress.onnx_graph.graph_view import CONVOLUTIONS


def shorten_names(graph: GraphProto) -> dict[str, str]:
    """Rename constants and values and leave nodes unnamed, in place; inputs and outputs of the graph keep their names.

    A name is a letter and the number of the convolution that it comes before: c017. What does the same in one layer
    and the next differs by that number alone, which packs best. Constants have capitals.

    Returns:
        Short name -> full name, of constants and layers that have one; a layer is called after its first output.
    """
    kept = {value.name for value in (*graph.input, *graph.output)}
    short = _short_names(graph, kept)
    constants = [tensor.name for tensor in graph.initializer if tensor.name in short]
    names = {short[name]: name for name in constants if "." in name}
    names |= {short.get(node.output[0], node.output[0]): node.name for node in graph.node if "/" in node.name}
    for node in graph.node:
        node.name = ""
    _rename(graph, lambda name: short.get(name, name))
    return names


def restore_names(graph: GraphProto, names: Mapping[str, str]) -> None:
    """Give constants and layers their full names back, in place; values between nodes stay short."""
    for node in graph.node:
        node.name = names.get(node.output[0], node.name)
    constants = {tensor.name for tensor in graph.initializer}
    _rename(graph, lambda name: names.get(name, name) if name in constants else name)


def _short_names(graph: GraphProto, kept: set[str]) -> dict[str, str]:
    stored = {tensor.name for tensor in graph.initializer}
    short: dict[str, str] = {}
    taken, layer, letters = set(kept), 0, (_letters(ascii_uppercase), _letters(ascii_lowercase))
    for node in graph.node:
        groups: tuple[Iterable[str], ...] = ((name for name in node.input if name in stored), node.output)
        for source, names in zip(letters, groups, strict=True):
            for name in names:
                if name and name not in kept and name not in short:
                    short[name] = next(one for one in (f"{letter}{layer:03}" for letter in source) if one not in taken)
        if node.op_type in CONVOLUTIONS:
            layer, letters = layer + 1, (_letters(ascii_uppercase), _letters(ascii_lowercase))
    return short


def _letters(alphabet: str) -> Iterable[str]:
    """Yield a, b, ..., z, aa, ab, ...: as many as are asked for."""
    before = [""]
    while True:
        before = [start + letter for start in before for letter in alphabet]
        yield from before


def _rename(graph: GraphProto, renamed: Callable[[str], str]) -> None:
    for node in graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                names[index] = renamed(name)
    for tensor in graph.initializer:
        tensor.name = renamed(tensor.name)
