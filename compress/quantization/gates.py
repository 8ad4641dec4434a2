"""Gates in integers: SiLU, hard swish, sigmoids and products, as the operators that ONNX Runtime fuses.

SiLU is x times sigmoid(x), and hard swish x times hard sigmoid(x). ONNX Runtime has integer kernels for sigmoids (a
table of 256 entries), products and global means, and none for SiLU: with a quantizer on each of the parts nothing
runs in float but the hard sigmoids.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from compress.quantization import integer_arithmetic as arithmetic
from compress.quantization.graph import module_of
from compress.quantization.layers import ActivationQuantizer

_SIGMOIDS: tuple[Any, ...] = (torch.sigmoid, F.sigmoid, F.hardsigmoid)
_SIGMOID_MODULES = (nn.Sigmoid, nn.Hardsigmoid)
_PRODUCTS: tuple[Any, ...] = (operator.mul, operator.imul, torch.mul, torch.multiply)
_MEANS: tuple[Any, ...] = (F.adaptive_avg_pool2d,)


def split_gates(graph_module: fx.GraphModule) -> None:
    """Replace every SiLU and hard swish by a sigmoid and a product, in place; what is computed stays the same."""
    graph = graph_module.graph
    for node in list(graph.nodes):
        gate = _gate_of(graph_module, node)
        if gate is None:
            continue
        source = node.all_input_nodes[0]
        with graph.inserting_before(node):
            gates = graph.call_function(gate, (source,))
            product = graph.call_function(operator.mul, (source, gates))
        node.replace_all_uses_with(product)
        graph.erase_node(node)
    graph_module.delete_all_unused_submodules()
    graph_module.recompile()


def _gate_of(graph_module: fx.GraphModule, node: fx.Node) -> Any:
    """Return the function whose product with its input a node computes, or None."""
    module = module_of(graph_module, node)
    if isinstance(module, nn.SiLU) or (node.op == "call_function" and node.target is F.silu):
        return torch.sigmoid
    if isinstance(module, nn.Hardswish) or (node.op == "call_function" and node.target is F.hardswish):
        return F.hardsigmoid
    return None


def is_sigmoid(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    """Return whether the values of a node lie between 0 and 1: sigmoids and hard sigmoids."""
    if node.op == "call_module":
        return isinstance(module_of(graph_module, node), _SIGMOID_MODULES)
    if node.op == "call_method":
        return node.target in ("sigmoid", "sigmoid_")
    return node.op == "call_function" and any(node.target is function for function in _SIGMOIDS)


def is_global_mean(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    """Return whether a node averages each channel to one value and keeps four dimensions."""
    module = module_of(graph_module, node)
    if isinstance(module, nn.AdaptiveAvgPool2d):
        return module.output_size in (1, (1, 1))
    size = node.args[1] if len(node.args) > 1 else node.kwargs.get("output_size")
    return node.op == "call_function" and any(node.target is mean for mean in _MEANS) and size in (1, (1, 1), [1, 1])


def is_product(node: fx.Node) -> bool:
    """Return whether a node multiplies two tensors of the graph."""
    names = node.op == "call_method" and node.target in ("mul", "mul_", "multiply")
    if not names and not (node.op == "call_function" and any(node.target is product for product in _PRODUCTS)):
        return False
    return len(node.args) == 2 and all(isinstance(value, fx.Node) for value in node.args) and not node.kwargs


def multiply(a: Tensor, b: Tensor, *quantizers: ActivationQuantizer) -> Tensor:
    """Multiply two tensors; the quantizers are those of a, of b and of the product."""
    if quantizers[2].training or not all(quantizer.is_active for quantizer in quantizers):
        return a * b
    return arithmetic.multiply(a, b, *(quantizer.levels() for quantizer in quantizers))


def has_gates(model: nn.Module) -> bool:
    """Return whether a quantized model has anything that `split_gates` and the quantizers of gates concern."""
    return isinstance(model, fx.GraphModule) and any(
        node.target is multiply or is_product(node) or is_sigmoid(model, node) or is_global_mean(model, node)
        for node in model.graph.nodes
    )
