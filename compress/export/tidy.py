"""Passes over an exported ONNX model: each weight once, no parameters among the inputs, fixed bytes."""

from __future__ import annotations

from collections import Counter

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto

PRODUCER = "krimp"
CONVOLUTIONS = ("Conv", "DeformConv", "ConvTranspose")


def tidy(model: ModelProto) -> ModelProto:
    """Clean a model in place and return it; what it computes does not change but for the scale of biases.

    - constants become initialisers, identical initialisers become one;
    - the scale of an int32 bias becomes input scale times weight scale, which the exporter could not express;
    - initialisers are no graph inputs (else ONNX Runtime warns and folds nothing);
    - Identity nodes, a zero bias of a deformable convolution, unused values and documentation go;
    - producer and names depend on nothing but the model.
    """
    graph = model.graph
    _constants_to_initialisers(graph)
    _remove_identities(graph)
    _scale_biases(graph)
    _name_nodes(graph)
    _drop_zero_deform_bias(graph)
    sweep(graph)
    _strip(model)
    return model


def sweep(graph: GraphProto) -> None:
    """Merge equal initialisers, drop what nothing reads, and name the values anew; in place."""
    _merge_initialisers(graph)
    _remove_unused(graph)
    _name_values(graph)


def _constants_to_initialisers(graph: GraphProto) -> None:
    kept: list[NodeProto] = []
    for node in graph.node:
        value = next((a.t for a in node.attribute if a.name == "value"), None) if node.op_type == "Constant" else None
        if value is None:
            kept.append(node)
            continue
        tensor = TensorProto()
        tensor.CopyFrom(value)
        tensor.name = node.output[0]
        graph.initializer.append(tensor)
    _replace_nodes(graph, kept)


def _remove_identities(graph: GraphProto) -> None:
    """Let the readers of an Identity read its input; one that makes a graph output stays."""
    outputs = {value.name for value in graph.output}
    renamed: dict[str, str] = {}
    kept: list[NodeProto] = []
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = renamed.get(name, name)
        if node.op_type == "Identity" and node.output[0] not in outputs:
            renamed[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    _replace_nodes(graph, kept)


def _scale_biases(graph: GraphProto) -> None:
    """Multiply the scale of each int32 bias by that of its convolution's input.

    A Mul of two constants, which every runtime folds when it loads the file, instead of a stored vector.
    """
    producers = {output: node for node in graph.node for output in node.output}
    integers = {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.INT32}
    products: dict[str, NodeProto] = {}  # output of a bias's DequantizeLinear -> the Mul before it
    for node in graph.node:
        bias = producers.get(node.input[2]) if node.op_type == "Conv" and len(node.input) > 2 else None
        if bias is None or bias.op_type != "DequantizeLinear" or bias.input[0] not in integers:
            continue
        source, weight = (producers[name] for name in node.input[:2])
        name = f"{bias.output[0]}_scale"
        products[bias.output[0]] = onnx.helper.make_node("Mul", [source.input[1], weight.input[1]], [name])
        bias.input[1] = name
    kept: list[NodeProto] = []
    for node in graph.node:
        if node.output[0] in products:
            kept.append(products[node.output[0]])
        kept.append(node)
    _replace_nodes(graph, kept)


def _name_nodes(graph: GraphProto) -> None:
    """Name each convolution after its layer ('backbone.conv1/Conv'), the rest after the operator.

    Must run before weights are merged: the name of the weight tells the layer.
    """
    initialisers = {tensor.name for tensor in graph.initializer}
    producers = {output: node for node in graph.node for output in node.output}
    used: Counter[str] = Counter()
    for node in graph.node:
        weight = node.input[1] if node.op_type in CONVOLUTIONS else ""
        if weight in producers:  # DequantizeLinear
            weight = producers[weight].input[0]
        name = node.op_type
        if weight in initialisers and weight.endswith(".weight"):
            name = f"{weight.removesuffix('.weight')}/{node.op_type}"
        used[name] += 1
        node.name = name if used[name] == 1 else f"{name}_{used[name] - 1}"


def _name_values(graph: GraphProto) -> None:
    """Give the values between nodes short names; inputs, outputs and stored tensors of layers keep theirs."""
    kept = {value.name for value in [*graph.input, *graph.output]} | {""}
    layers = {tensor.name for tensor in graph.initializer if "." in tensor.name}
    names = {name: name for name in [*kept, *layers]}
    for tensor in graph.initializer:
        if tensor.name not in names:
            names[tensor.name] = f"c{len(names)}"
            tensor.name = names[tensor.name]
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = names[name]
        for index, name in enumerate(node.output):
            names.setdefault(name, f"v{len(names)}")
            node.output[index] = names[name]


def _drop_zero_deform_bias(graph: GraphProto) -> None:
    """Leave out the optional bias of DeformConv if it is zero; torchvision always passes one."""
    zero = {t.name for t in graph.initializer if not any(onnx.numpy_helper.to_array(t).ravel().tolist())}
    for node in graph.node:
        if node.op_type == "DeformConv" and len(node.input) > 3 and node.input[3] in zero:
            node.input[3] = ""


def _merge_initialisers(graph: GraphProto) -> None:
    """Keep the first of all initialisers with equal type, shape and bytes."""
    first: dict[tuple[int, tuple[int, ...], bytes], str] = {}
    renamed: dict[str, str] = {}
    kept: list[TensorProto] = []
    for tensor in graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        key = (tensor.data_type, tuple(tensor.dims), array.tobytes())
        if key in first:
            renamed[tensor.name] = first[key]
            continue
        first[key] = tensor.name
        kept.append(onnx.numpy_helper.from_array(array, tensor.name))
    del graph.initializer[:]
    graph.initializer.extend(kept)
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = renamed.get(name, name)


def _remove_unused(graph: GraphProto) -> None:
    """Drop nodes and initialisers that reach no output, and inputs that are initialisers."""
    needed = {value.name for value in graph.output}
    kept: list[NodeProto] = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(node.input)
    _replace_nodes(graph, kept[::-1])
    initialisers = [tensor for tensor in graph.initializer if tensor.name in needed]
    del graph.initializer[:]
    graph.initializer.extend(initialisers)
    constant = {tensor.name for tensor in initialisers}
    inputs = [value for value in graph.input if value.name not in constant and value.name in needed]
    del graph.input[:]
    graph.input.extend(inputs)


def _strip(model: ModelProto) -> None:
    """Fix everything that tells when, where or by which version the file was made."""
    model.producer_name, model.producer_version, model.domain, model.doc_string = PRODUCER, "", "", ""
    model.graph.name, model.graph.doc_string = PRODUCER, ""
    del model.graph.value_info[:]
    del model.metadata_props[:]
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]


def _replace_nodes(graph: GraphProto, nodes: list[NodeProto]) -> None:
    copies = []
    for node in nodes:
        copied = NodeProto()
        copied.CopyFrom(node)
        copies.append(copied)
    del graph.node[:]
    graph.node.extend(copies)
