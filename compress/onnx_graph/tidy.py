"""Passes over an exported ONNX model: each weight once, no parameters among the inputs, fixed bytes."""

from __future__ import annotations

import sys
from collections import Counter

import onnx
import onnx_ir
from onnx_ir import Model, Node, Value
from onnx_ir.passes import Sequential
from onnx_ir.passes.common import (
    ClearMetadataAndDocStringPass,
    CommonSubexpressionEliminationPass,
    DeduplicateInitializersPass,
    IdentityEliminationPass,
    InlinePass,
    LiftConstantsToInitializersPass,
    RemoveInitializersFromInputsPass,
    RemoveUnusedFunctionsPass,
    RemoveUnusedNodesPass,
    RemoveUnusedOpsetsPass,
)
from onnxscript.optimizer import fold_constants
from onnxscript.rewriter import RewritePass
from onnxscript.rewriter.rules.common import collapse_slice_rule, mul_by_1_rule

from compress.onnx_graph.graph_view import CONVOLUTIONS

PRODUCER = "krimp"
QUANTIZATION = ("QuantizeLinear", "DequantizeLinear")
EVERY_SIZE = sys.maxsize


def tidy(model: Model) -> None:
    """Clean a model in place; what it computes does not change.

    - what depends on constants alone is computed, but for stored integers and the scales of their biases;
    - constants become initializers, identical initializers and identical nodes become one;
    - initializers are no graph inputs (else ONNX Runtime warns and folds nothing);
    - Identity nodes, a zero bias of a deformable convolution, unused values and documentation go;
    - producer and names depend on nothing but the model.
    """
    Sequential(InlinePass(), RemoveInitializersFromInputsPass())(model)
    _fold(model)
    Sequential(
        RewritePass([collapse_slice_rule, mul_by_1_rule]),
        LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        IdentityEliminationPass(),
    )(model)
    _name_convolutions(model)
    _drop_zero_deform_bias(model)
    _drop_defaults(model)
    sweep(model)
    _strip(model)


def sweep(model: Model) -> None:
    """Merge equal initializers and nodes, drop what nothing reads, and number what is no layer's; in place."""
    Sequential(
        DeduplicateInitializersPass(size_limit=EVERY_SIZE),
        CommonSubexpressionEliminationPass(),
        RemoveUnusedNodesPass(),
        RemoveUnusedFunctionsPass(),
        RemoveUnusedOpsetsPass(),
    )(model)
    _name_values(model)
    _name_others(model)


def _fold(model: Model) -> None:
    """Compute what depends on constants alone; the scale of a bias is a product that costs less than its value."""
    bias_scales = {id(_producer(node, 1)) for node in model.graph if node.op_type == "DequantizeLinear"}
    fold_constants(
        model,
        onnx_shape_inference=True,
        input_size_limit=EVERY_SIZE,
        output_size_limit=EVERY_SIZE,
        should_fold=lambda node: node.op_type not in QUANTIZATION and id(node) not in bias_scales,
    )


def _producer(node: Node, index: int) -> Node | None:
    """Return the node that makes an input, None for one that is stored, given to the graph or left out."""
    value = node.inputs[index] if index < len(node.inputs) else None
    return value.producer() if value is not None else None


def _name_convolutions(model: Model) -> None:
    """Name each convolution after its layer ('backbone.conv1/Conv').

    Must run before weights are merged: the name of the weight tells the layer.
    """
    used: Counter[str] = Counter()
    for node in model.graph:
        layer = _layer(node) if node.op_type in CONVOLUTIONS else ""
        node.name = _numbered(f"{layer}/{node.op_type}", used) if layer else None


def _name_others(model: Model) -> None:
    """Name the nodes that are no layers after their operators."""
    used: Counter[str] = Counter()
    for node in model.graph:
        if not node.name or "/" not in node.name:
            node.name = _numbered(node.op_type, used)


def _numbered(name: str, used: Counter[str]) -> str:
    """Return a name that was not used yet: name, name_1, name_2, ..."""
    used[name] += 1
    return name if used[name] == 1 else f"{name}_{used[name] - 1}"


def _layer(node: Node) -> str:
    """Return the module whose stored weight a convolution reads, '' if it has none of its own."""
    dequantize = _producer(node, 1)
    weight: Value | None = node.inputs[1] if dequantize is None else dequantize.inputs[0]
    is_own = weight is not None and weight.is_initializer() and str(weight.name).endswith(".weight")
    return str(weight.name).removesuffix(".weight") if is_own and weight is not None else ""


def _name_values(model: Model) -> None:
    """Give the values between nodes short names; inputs, outputs and stored tensors of layers keep theirs."""
    graph = model.graph
    kept = {value.name for value in [*graph.inputs, *graph.outputs]}
    kept |= {name for name in graph.initializers if "." in name}
    stored = [value for value in graph.initializers.values() if value.name not in kept]
    between = [value for node in graph for value in node.outputs if value.name not in kept]
    for number, value in enumerate(stored):
        value.name = f"free {number}"  # no two may have one name at any time
    for number, value in enumerate([*stored, *between], start=len(kept)):
        value.name = f"{'c' if value.is_initializer() else 'v'}{number}"


def _drop_zero_deform_bias(model: Model) -> None:
    """Leave out the optional bias of DeformConv if it is zero; torchvision always passes one."""
    for node in model.graph:
        bias = node.inputs[3] if node.op_type == "DeformConv" and len(node.inputs) > 3 else None
        if bias is not None and bias.const_value is not None and not bias.const_value.numpy().any():
            node.replace_input_with(3, None)


def _drop_defaults(model: Model) -> None:
    """Leave out attributes that say what their absence says."""
    for node in model.graph:
        schema = onnx.defs.get_schema(node.op_type, model.opset_imports[node.domain], node.domain)
        for name, attribute in list(node.attributes.items()):
            default = schema.attributes[name].default_value
            if default.name and onnx_ir.serde.deserialize_attribute(default).value == attribute.value:
                del node.attributes[name]


def _strip(model: Model) -> None:
    """Fix everything that tells when, where or by which version the file was made."""
    ClearMetadataAndDocStringPass()(model)
    model.ir_version = onnx.helper.find_min_ir_version_for(
        [onnx.helper.make_opsetid(domain, version) for domain, version in model.opset_imports.items()]
    )
    model.producer_name, model.producer_version, model.domain, model.doc_string = PRODUCER, "", "", ""
    model.graph.name, model.graph.doc_string = PRODUCER, ""
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    for value in [*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()]:
        value.metadata_props.clear()
        value.doc_string = None
