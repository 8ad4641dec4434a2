"""Operations that change a tensor in place, in a traced graph.

A graph names values, Python names tensors: after `y.relu_()` the name `y` stands for the new values, while in the graph
the node of `y` stands for the old ones, and nobody reads the node of `relu_`. Whatever then removes nodes without
readers, or puts a quantizer behind a node, computes something else. So later readers are given the result.
`y += x` is traced as a sum and marked (`IN_PLACE`), since another name of `y` sees it as well.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

from torch import fx, nn

from compress.errors import StageError

Kind = Callable[[fx.GraphModule, fx.Node], bool]
IN_PLACE = "in_place"  # in the meta of a node that Python wrote as `y += x`
# What returns a part or another form of a tensor, in the same memory.
_VIEWS = {
    "getitem", "chunk", "split", "split_with_sizes", "tensor_split", "unbind", "narrow", "select", "view", "view_as",
    "reshape", "flatten", "unflatten", "transpose", "permute", "movedim", "swapaxes", "squeeze", "unsqueeze", "expand",
    "expand_as", "detach", "contiguous", "t",
}  # fmt: skip


def settle_in_place(graph_module: fx.GraphModule) -> None:
    """Let every node that reads a tensor after it was changed in place read the result, in place.

    Raises:
        StageError: a part of a tensor is changed and the whole is read later, or the other way round.
    """
    order = {node: i for i, node in enumerate(graph_module.graph.nodes)}
    for node in graph_module.graph.nodes:
        changed = _changed_by(graph_module, node)
        if changed is None:
            continue
        aliases = (*_wholes(graph_module, changed, _is_same), *_parts(graph_module, changed, _is_same))
        same = [changed, *(other for other in aliases if order[other] < order[node])]
        later = {
            other: [user for user in other.users if order[user] > order[node]]
            for other in (*_wholes(graph_module, changed, _is_view), *_parts(graph_module, changed, _is_view))
            if other not in same and order[other] < order[node]
        }
        for other, readers in later.items():
            # Another part of the whole, cut off behind the change of this one, is seldom the same values.
            if readers and not (node.users and all(_is_view(graph_module, reader) for reader in readers)):
                raise StageError(
                    f"{_place(node)}: {_name(node)} changes a tensor in place that is read later under another name "
                    f"(`{other.name}`), a part of it or the whole. Write it without changing it in place: "
                    "`torch.cat` of the parts, or the operation that returns a new tensor."
                )
        for other in same:
            for user in [user for user in other.users if order[user] > order[node]]:
                user.replace_input_with(other, node)


def _changed_by(graph_module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """Return the node whose values a node changes, None if it changes none."""
    first = next(iter(node.args), None)
    if not isinstance(first, fx.Node) or not _is_in_place(graph_module, node) or _is_size(first):
        return None
    return first


def _is_in_place(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return bool(getattr(graph_module.get_submodule(str(node.target)), "inplace", False))
    if node.op == "call_method":
        return _ends_as_in_place(str(node.target))
    if node.op != "call_function":
        return False
    if IN_PLACE in node.meta or _ends_as_in_place(_name(node)):
        return True
    return bool(_argument(node, "inplace"))


def _ends_as_in_place(name: str) -> bool:
    return name.endswith("_") and not name.endswith("__")


def _argument(node: fx.Node, name: str) -> Any:
    """Return an argument of a call of a function of torch.nn, None if it has none of that name."""
    if name in node.kwargs:
        return node.kwargs[name]
    if not str(getattr(node.target, "__module__", "")).startswith(nn.__name__) or len(node.args) < 2:
        return None
    try:
        return inspect.signature(node.target).bind(*node.args, **node.kwargs).arguments.get(name)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None


def _wholes(graph_module: fx.GraphModule, node: fx.Node, kind: Kind) -> Iterator[fx.Node]:
    """Yield the tensors that a node is a part or another form of."""
    while kind(graph_module, node) and isinstance(node.args[0], fx.Node):
        node = node.args[0]
        yield node


def _parts(graph_module: fx.GraphModule, node: fx.Node, kind: Kind) -> Iterator[fx.Node]:
    """Yield what is a part or another form of a node."""
    for user in node.users:
        if kind(graph_module, user) and user.args[0] is node:
            yield user
            yield from _parts(graph_module, user, kind)


def _is_same(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    """Return whether a node returns the very tensor that it gets."""
    if node.op != "call_module" or not node.args:
        return False
    return isinstance(graph_module.get_submodule(str(node.target)), nn.Identity | nn.modules.dropout._DropoutNd)


def _is_view(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    """Return whether a node may return a tensor in the memory of the one that it gets."""
    calls = node.op in ("call_function", "call_method") and _name(node) in _VIEWS and bool(node.args)
    return calls or _is_same(graph_module, node)


def _is_size(node: fx.Node) -> bool:
    """Return whether a node is a number made of sizes: numbers are never changed in place."""
    name = _name(node)
    if name in ("size", "dim", "numel") or (name == "getattr" and node.args[1] in ("shape", "ndim")):
        return True
    return node.op == "call_function" and bool(node.all_input_nodes) and all(map(_is_size, node.all_input_nodes))


def _name(node: fx.Node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))


def _place(node: fx.Node) -> str:
    """Return the module in whose forward pass a node was made."""
    stack = node.meta.get("nn_module_stack") or {}
    names = [entry[0] for entry in stack.values() if isinstance(entry, tuple)]
    return next((name for name in reversed(names) if name), "the network")
