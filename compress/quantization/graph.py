"""A float model as an FX graph of whole layers, with its batch norms folded.

Quantization and export both start here, so both see the same graph. A layer is kept whole when it
is of torch.nn or has a four-dimensional `weight` with in_channels / out_channels: that covers
deformable layers, whose inside cannot be traced.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from compress.errors import StageError
from compress.model_copy import copy_of
from compress.progress import silenced, warn
from compress.quantization.in_place import settle_in_place
from compress.quantization.standard_layers import takes_factors
from compress.quantization.tracing import LayerTracer

SAME = 0.01  # relative L2 error of an output; rounding stays far below, fresh weights or trained


class Tap(nn.Module):
    """Stands where a traced module returned its value, under that module's name, so that hooks see it."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the value unchanged."""
        return x


def trace(model: nn.Module, taps: Iterable[str] = ()) -> fx.GraphModule:
    """Return a deep copy of a model as a graph, in evaluation mode; modules it never calls are gone.

    Args:
        model: tensor in, tensors out; module names survive. A GraphModule is only copied.
        taps: names of modules whose results forward hooks shall still see (distillation).

    Raises:
        StageError: the forward pass depends on values or does something that FX cannot follow.
    """
    model = copy_of(model).eval()
    if isinstance(model, fx.GraphModule):
        return model
    _compute_weights(model)
    tracer = LayerTracer(model)
    try:
        graph = tracer.trace(model)
    except Exception as error:
        raise StageError(tracer.words(error)) from error
    graph_module = fx.GraphModule(model, graph, class_name=type(model).__name__)
    for name in taps:
        _insert_tap(graph_module, name, tracer.results.get(name, []))
    settle_in_place(graph_module)
    graph_module.recompile()
    return graph_module.eval()


def check_followed(model: nn.Module, example: Tensor) -> None:
    """Compare a float model with its graph, batch norms folded: both must compute the same.

    Args:
        model: float; left in evaluation mode.
        example: (N, 3, H, W).

    Raises:
        StageError: the graph computes something else, or the model cannot be followed.
    """
    with silenced():  # what is to be said of the folding is said when it counts
        graph_module = fold_batch_norms(trace(model))
    for number, (expected, found) in enumerate(
        zip(outputs_of(model.eval(), example), outputs_of(graph_module, example), strict=True)
    ):
        size = float(expected.double().norm())
        if math.isfinite(size) and not float((found - expected).double().norm()) <= SAME * size + 1e-6:
            raise StageError(
                f"{type(model).__name__}: output {number} of the traced network differs from that of the network "
                f"itself by more than {SAME:.0%}. Look for hooks, for operations in place and for layers that "
                "compute their weight at each call, and write them as plain operations on new tensors."
            )


def _compute_weights(model: nn.Module) -> None:
    """Replace weights that are computed at each call (weight norm, spectral norm, masks) by their values, in place."""
    for module in model.modules():
        if parametrize.is_parametrized(module):
            # Torch takes the property out of the class, which a deep copy shares with its original.
            shared = type(module)
            own = {key: value for key, value in vars(shared).items() if key not in ("__dict__", "__weakref__")}
            module.__class__ = type(shared.__name__, shared.__bases__, own)
            for name in list(module.parametrizations):  # type: ignore[arg-type]
                parametrize.remove_parametrizations(module, name, leave_parametrized=True)
        for key, hook in list(module._forward_pre_hooks.items()):
            if isinstance(hook, (WeightNorm, SpectralNorm, BasePruningMethod)):  # from before parametrizations
                hook.remove(module)
                del module._forward_pre_hooks[key]


def _insert_tap(graph_module: fx.GraphModule, name: str, results: list[fx.Node]) -> None:
    if not results:
        return
    tap = Tap()
    for child, module in graph_module.get_submodule(name).named_children():
        tap.add_module(child, module)
    graph_module.add_submodule(name, tap)
    for node in results:
        with graph_module.graph.inserting_after(node):
            new = graph_module.graph.call_module(name, (node,))
        node.replace_all_uses_with(new, delete_user_cb=lambda user, new=new: user is not new)  # type: ignore[misc]


def remove_taps(graph_module: fx.GraphModule) -> fx.GraphModule:
    """Remove the taps, in place."""
    for node in list(graph_module.graph.nodes):
        if isinstance(module_of(graph_module, node), Tap):
            node.replace_all_uses_with(node.args[0])
            graph_module.graph.erase_node(node)
    return graph_module


def module_of(graph_module: fx.GraphModule, node: Any) -> nn.Module | None:
    """Return the module that a node calls, None for every other node."""
    if isinstance(node, fx.Node) and node.op == "call_module":
        return graph_module.get_submodule(str(node.target))
    return None


def fold_batch_norms(graph_module: fx.GraphModule) -> fx.GraphModule:
    """Fold every batch norm that directly follows a convolution into it, in place.

    A convolution called at several places is folded once, if the same batch norm follows all of
    them. Zero weights stay zero. Batch norms that cannot be folded stay and are warned about.

    Source:
        Jacob et al. 2018, arXiv 1712.05877, section 3.2, equation 14, with fixed statistics.
    """
    calls: dict[str, list[fx.Node]] = defaultdict(list)
    for node in graph_module.graph.nodes:
        if node.op == "call_module":
            calls[str(node.target)].append(node)
    for name, nodes in calls.items():
        norm = graph_module.get_submodule(name)
        if not isinstance(norm, nn.modules.batchnorm._BatchNorm):
            continue
        conv_name = _foldable_into(graph_module, nodes, calls)
        if conv_name is None:
            warn(f"batch norm {name} follows no convolution of its own and stays in the graph as float arithmetic.")
            continue
        _fold(graph_module.get_submodule(conv_name), norm, name)
        for node in nodes:
            node.replace_all_uses_with(node.args[0])  # type: ignore[arg-type]
            graph_module.graph.erase_node(node)
    _clean(graph_module)
    return graph_module


def _foldable_into(graph_module: fx.GraphModule, norms: list[fx.Node], calls: dict[str, list[fx.Node]]) -> str | None:
    """Return the name of the one convolution that feeds these batch norm calls and nothing else."""
    names = set()
    for node in norms:
        source = node.args[0]
        conv = module_of(graph_module, source)
        if not isinstance(conv, nn.Conv2d) or not isinstance(source, fx.Node) or len(source.users) != 1:
            return None
        if not takes_factors(conv):
            return None
        names.add(str(source.target))
    if len(names) != 1 or len(calls[name := names.pop()]) != len(norms):
        return None
    return name


def _fold(conv: nn.Module, norm: nn.modules.batchnorm._BatchNorm, name: str) -> None:
    weight, bias = conv.weight, conv.bias
    assert isinstance(weight, nn.Parameter)
    mean, variance = norm.running_mean, norm.running_var
    if mean is None or variance is None:
        raise StageError(
            f"{name}: the batch norm keeps no running statistics, so it has no fixed factor. Build it with "
            "`track_running_stats=True` and train it so."
        )
    with torch.no_grad():
        factor = (variance.double() + norm.eps).rsqrt()
        if norm.weight is not None:
            factor = factor * norm.weight.double()
        shift = -mean.double() if bias is None else bias.double() - mean.double()  # type: ignore[operator]
        new_bias = shift * factor
        if norm.bias is not None:
            new_bias = new_bias + norm.bias.double()
        folded = weight.double() * factor.view(-1, *[1] * (weight.dim() - 1))
        weight.copy_(folded.to(weight.dtype))
        trainable = weight.requires_grad if bias is None else bias.requires_grad
        conv.bias = nn.Parameter(new_bias.to(weight.dtype), requires_grad=bool(trainable))


def _clean(graph_module: fx.GraphModule) -> None:
    graph_module.graph.eliminate_dead_code()
    graph_module.delete_all_unused_submodules()
    graph_module.graph.lint()
    graph_module.recompile()


def keep_outputs(graph_module: fx.GraphModule, number: int) -> fx.GraphModule:
    """Cut a graph to its first outputs, in place, and drop what only the others needed."""
    output = next(node for node in graph_module.graph.nodes if node.op == "output")
    values = output.args[0]
    if not isinstance(values, list | tuple):
        values = (values,)
    if len(values) < number:
        raise StageError(f"the model returns {len(values)} outputs, and the plug-in names {number} to be exported.")
    output.args = (tuple(values[:number]),)
    _clean(graph_module)
    return graph_module


def outputs_of(model: nn.Module, images: Tensor) -> list[Tensor]:
    """Run a model without gradients and return its outputs as a list."""
    with torch.no_grad():
        result = model(images)
    return list(result) if isinstance(result, list | tuple) else [result]
