"""Follows a forward pass down to whole layers; what it cannot follow it names, with the module and a cure."""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Callable
from typing import Any, cast

from torch import fx, nn

from compress.layer_widths import widths_of
from compress.metrics.complexity import has_convolution_weight
from compress.quantization.in_place import IN_PLACE

_BRANCHES = "Branches on tensor values or shapes must move out of it, or into a layer with its own `weight`"
_CURES = {
    "item assignment": "Make the new tensor with `torch.cat`, `torch.where` or a product instead of assigning into one",
    "not installed as a submodule": "Let the module that calls it own it (`self.name = ...`, `nn.ModuleList`)",
    "instead found type '_Value'": "Call the plain function: what `torch.jit.script` compiled cannot be followed",
    "iterated": "Write the sizes one by one (`x.shape[2], x.shape[3]`), or unpack them (`n, c, h, w = x.shape`)",
}
# Modules and operators that leave the number of dimensions as it is, enough of them for `*x.shape[2:]` in blocks.
_SAME_RANK_MODULES = (
    nn.modules.batchnorm._NormBase, nn.modules.pooling._MaxPoolNd, nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd, nn.GroupNorm, nn.LayerNorm, nn.ReLU, nn.ReLU6, nn.SiLU, nn.GELU,
    nn.Hardswish, nn.LeakyReLU, nn.PReLU, nn.Sigmoid, nn.Mish, nn.Identity, nn.Dropout, nn.Dropout2d, nn.Upsample,
)  # fmt: skip
_SAME_RANK = {
    "add", "sub", "mul", "truediv", "div", "neg", "iadd", "imul", "cat", "concat", "relu", "relu_", "relu6", "silu",
    "gelu", "hardswish", "leaky_relu", "mish", "sigmoid", "interpolate", "max_pool2d", "avg_pool2d", "contiguous",
    "clone", "adaptive_avg_pool2d",
}  # fmt: skip
_PIECES = ("chunk", "split", "split_with_sizes", "tensor_split")


class _Counted:
    """Knows how many pieces or sizes it stands for, which `list`, `tuple` and `*` ask for."""

    def __len__(self) -> int:
        number = _length(self.tracer, self.node)  # type: ignore[attr-defined]
        return super().__len__() if number is None else number  # type: ignore[misc]


class _Attribute(_Counted, fx.proxy.Attribute):
    """`x.shape` while tracing."""


class _Value(_Counted, fx.Proxy):
    """A value while tracing; it marks sums written as `y += x`."""

    def __getattr__(self, k: str) -> _Attribute:
        return _Attribute(self, k)

    def _changed(self, function: Callable[..., Any], other: Any) -> fx.Proxy:
        """Return what stands for the value after `y += other`, under the name of the plain sum."""
        changed = self.tracer.create_proxy("call_function", function, (self, other), {})
        changed.node.meta[IN_PLACE] = True
        return cast(fx.Proxy, changed)

    def __iadd__(self, other: Any) -> fx.Proxy:
        return self._changed(operator.add, other)

    def __isub__(self, other: Any) -> fx.Proxy:
        return self._changed(operator.sub, other)

    def __imul__(self, other: Any) -> fx.Proxy:
        return self._changed(operator.mul, other)

    def __itruediv__(self, other: Any) -> fx.Proxy:
        return self._changed(operator.truediv, other)


class LayerTracer(fx.Tracer):
    """Traces down to layers; see the module text for what counts as one.

    Attributes:
        layers: modules with the weight of a convolution.
        results: module name -> nodes that hold what it returned, for modules that were traced through.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        # Asked now: while tracing, a module's `weight` is a proxy and has no dimensions.
        self.layers = {module for module in model.modules() if has_convolution_weight(module)}
        self.results: dict[str, list[fx.Node]] = defaultdict(list)
        self._model = model
        self._stopped_in = ""

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        """Trace a module and remember where its value is."""
        name = self.path_of_module(m)
        try:
            result = super().call_module(m, forward, args, kwargs)
        except Exception:
            self._stopped_in = self._stopped_in or name
            raise
        if isinstance(result, fx.Proxy) and not self.is_leaf_module(m, name):
            self.results[name].append(result.node)
        return result

    def words(self, error: Exception) -> str:
        """Return why the forward pass could not be followed: where, what, and what to do."""
        where = type(self._model).__name__
        if self._stopped_in:
            where += f", in {self._stopped_in} ({type(self._model.get_submodule(self._stopped_in)).__name__})"
        text = " ".join(str(error).split())
        cure = next((cure for word, cure in _CURES.items() if word in text), _BRANCHES)
        return f"{where}: the forward pass cannot be traced: {text.split('. ')[0].rstrip('.')[:300]}. {cure}."

    def iter(self, obj: fx.Proxy) -> Any:
        """Return the pieces of a chunk or split whose number the call tells, as in `list(x.chunk(2, 1))`.

        Sizes are taken apart in the same way, as in `y.view(n, -1, *x.shape[2:])`.
        """
        if (number := _length(self, obj.node)) is None:
            return super().iter(obj)
        return iter([obj[i] for i in range(number)])  # type: ignore[index]

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """Return what stands for a node's value while tracing."""
        return _Value(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Return whether a module becomes one node."""
        return super().is_leaf_module(m, module_qualified_name) or m in self.layers


def _length(tracer: LayerTracer, node: fx.Node) -> int | None:
    """Return how many pieces or sizes a value is, None if it is neither or does not tell."""
    number = _number_of_pieces(tracer.root, node)
    return _number_of_sizes(tracer, node) if number is None else number


def _number_of_pieces(root: Any, node: fx.Node) -> int | None:
    """Return into how many pieces a call cuts its tensor, None if it does not tell."""
    name = _name(node)
    if name not in _PIECES:
        return None
    keys = ("chunks", "split_size_or_sections", "split_size", "split_sizes", "indices_or_sections")
    given = node.args[1] if len(node.args) > 1 else next((node.kwargs[key] for key in keys if key in node.kwargs), None)
    dim = node.args[2] if len(node.args) > 2 else node.kwargs.get("dim", 0)
    if isinstance(given, list | tuple):
        return len(given) + (name == "tensor_split")
    if not isinstance(given, int) or name != "split":
        return given if isinstance(given, int) else None
    width = _channels_of(root, node.args[0])
    return None if width is None or dim != 1 else -(-width // given)


def _number_of_sizes(tracer: LayerTracer, node: fx.Node) -> int | None:
    """Return how many numbers a shape or a slice of it has, None if that cannot be told."""
    part = slice(None)
    if _name(node) == "getitem" and isinstance(node.args[1], slice):
        node, part = node.args[0], node.args[1]  # type: ignore[assignment]
    of_shape = (_name(node) == "getattr" and node.args[1] == "shape") or (_name(node) == "size" and len(node.args) == 1)
    if not of_shape or not all(value is None or isinstance(value, int) for value in (part.start, part.stop, part.step)):
        return None
    if part.start is not None and part.start < 0 and part.stop is None and part.step is None:
        return int(-part.start)
    rank = _rank(tracer, node.args[0])
    return None if rank is None else len(range(*part.indices(rank)))


def _rank(tracer: LayerTracer, node: Any) -> int | None:
    """Return how many dimensions a value has, None if what makes it does not tell."""
    while isinstance(node, fx.Node):
        if node.op == "placeholder":
            return 4
        if node.op == "call_module":
            module = tracer.root.get_submodule(str(node.target))
            if module in tracer.layers:
                return 4
            if not isinstance(module, _SAME_RANK_MODULES):
                return None
        elif _name(node) == "getitem":
            if not isinstance(node.args[1], int) or _name(node.args[0]) not in _PIECES:
                return None
            node = node.args[0]  # the pieces
        elif _name(node) not in _SAME_RANK:
            return None
        first = node.args[0] if node.args else None
        node = first[0] if isinstance(first, list | tuple) and first else first
    return None


def _name(node: Any) -> str:
    target = node.target if isinstance(node, fx.Node) else ""
    return target if isinstance(target, str) else getattr(target, "__name__", "")


def _channels_of(root: Any, node: Any) -> int | None:
    """Return how many channels the layers before a node make; activations are looked through."""
    while isinstance(node, fx.Node) and node.op == "call_module":
        widths = widths_of(root.get_submodule(str(node.target)))
        if made := next(
            (widths[key] for key in ("out_channels", "num_features", "num_channels") if key in widths), None
        ):
            return made
        node = node.args[0]
    return None
