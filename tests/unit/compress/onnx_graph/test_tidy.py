"""The clean-up of an exported model."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir
from onnx import TensorProto, helper, numpy_helper

from compress.onnx_graph.tidy import sweep, tidy


def convolution(name: str, source: str, weight: str, bias: str, output: str):
    return helper.make_node("Conv", [source, weight, bias], [output], name=name, doc_string="stack trace")


def messy() -> onnx.ModelProto:
    """Return a model with everything that tidy removes."""
    weight = np.ones((2, 2, 1, 1), np.float32)
    tensors = {
        "head.conv.weight": weight,
        "copy": weight,
        "unused": np.zeros(3, np.float32),
        "b": np.zeros(2, np.float32),
    }
    nodes = [
        helper.make_node("Identity", ["b"], ["bias_again"]),
        convolution("x", "images", "head.conv.weight", "b", "a"),
        convolution("y", "a", "head.conv.weight", "bias_again", "c"),
        convolution("z", "c", "copy", "bias_again", "d"),
        helper.make_node("Constant", [], ["two"], value=numpy_helper.from_array(np.array(2, np.float32))),
        helper.make_node("Mul", ["d", "two"], ["out"]),
        helper.make_node("Relu", ["d"], ["dead"]),
    ]
    shape = ["batch", 2, 4, 4]
    inputs = [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)]
    inputs += [helper.make_tensor_value_info(n, TensorProto.FLOAT, list(t.shape)) for n, t in tensors.items()]
    outputs = [helper.make_tensor_value_info("out", TensorProto.FLOAT, shape)]
    stored = [numpy_helper.from_array(t, n) for n, t in tensors.items()]
    graph = helper.make_graph(nodes, "main_graph", inputs, outputs, stored, doc_string="made today")
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], producer_name="pytorch")
    model.producer_version = "2.10"
    return model


def tidied(model: onnx.ModelProto) -> onnx.ModelProto:
    cleaned = onnx_ir.from_proto(model)
    tidy(cleaned)
    return onnx_ir.to_proto(cleaned)


def test_tidy_model_computes_the_same():
    from onnx.reference import ReferenceEvaluator

    x = {"images": np.random.default_rng(0).normal(size=(1, 2, 4, 4)).astype(np.float32)}
    tensors = {t.name: numpy_helper.to_array(t) for t in messy().graph.initializer}
    before = ReferenceEvaluator(messy()).run(None, x | tensors)[0]
    np.testing.assert_array_equal(ReferenceEvaluator(tidied(messy())).run(None, x)[0], before)


def test_equal_weights_are_stored_once():
    names = [t.name for t in tidied(messy()).graph.initializer]
    assert "head.conv.weight" in names
    assert len(names) == 3


def test_parameters_are_no_inputs():
    assert [value.name for value in tidied(messy()).graph.input] == ["images"]


def test_dead_nodes_identities_and_constants_are_gone():
    assert [node.op_type for node in tidied(messy()).graph.node] == ["Conv", "Conv", "Conv", "Mul"]


def test_convolutions_are_named_after_their_layer():
    names = [node.name for node in tidied(messy()).graph.node]
    assert names == ["head.conv/Conv", "head.conv/Conv_1", "Conv", "Mul"]


def test_nothing_tells_who_made_it_or_when():
    model = tidied(messy())
    assert (model.producer_name, model.producer_version, model.graph.doc_string) == ("krimp", "", "")
    assert not any(node.doc_string for node in model.graph.node)


def test_zero_bias_of_a_deformable_convolution_is_left_out():
    tensors = {
        "w": np.ones((1, 1, 1, 1), np.float32),
        "zero": np.zeros(1, np.float32),
        "o": np.zeros((1, 2, 2, 2), np.float32),
    }
    node = helper.make_node("DeformConv", ["x", "w", "o", "zero"], ["y"])
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 1, 2, 2]) for n in ("x", "y")]
    stored = [numpy_helper.from_array(t, n) for n, t in tensors.items()]
    model = helper.make_model(helper.make_graph([node], "g", infos[:1], infos[1:], stored))
    graph = tidied(model).graph
    assert list(graph.node[0].input)[3:] in ([], [""])
    assert len(graph.initializer) == 2


def test_attributes_that_say_what_is_meant_without_them_are_left_out():
    given = {"group": 1, "auto_pad": "NOTSET", "strides": [1, 1], "pads": [1, 1, 1, 1]}
    node = helper.make_node("Conv", ["x", "w", ""], ["y"], **given)
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 1, 2, 2]) for n in ("x", "y")]
    stored = [numpy_helper.from_array(np.ones((1, 1, 3, 3), np.float32), "w")]
    model = helper.make_model(helper.make_graph([node], "g", infos[:1], infos[1:], stored))
    (node,) = tidied(model).graph.node
    assert sorted(attribute.name for attribute in node.attribute) == ["pads", "strides"]
    assert len(node.input) == 2


def test_what_depends_on_constants_alone_is_computed_but_no_integers_and_no_scale_of_a_bias():
    tensors = {
        "head.bias": np.array([3, -4], np.int32),
        "step": np.array(0.5, np.float32),
        "scale": np.array([2, 4], np.float32),
        "one": np.ones(2, np.float32),
    }
    nodes = [
        helper.make_node("Mul", ["step", "scale"], ["product"]),
        helper.make_node("DequantizeLinear", ["head.bias", "product"], ["bias"], axis=0),
        helper.make_node("Add", ["one", "scale"], ["three_five"]),
        helper.make_node("Add", ["bias", "three_five"], ["sum"]),
        helper.make_node("Add", ["x", "sum"], ["y"]),
    ]
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in ("x", "y")]
    stored = [numpy_helper.from_array(t, n) for n, t in tensors.items()]
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:], stored)
    cleaned = tidied(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)])).graph
    assert [node.op_type for node in cleaned.node] == ["Mul", "DequantizeLinear", "Add", "Add"]
    assert sorted(t.tolist() for t in map(numpy_helper.to_array, cleaned.initializer) if t.ndim) == [
        [2.0, 4.0], [3, -4], [3.0, 5.0],
    ]  # fmt: skip


def test_the_file_asks_for_no_newer_runtime_than_its_operators_do():
    assert (messy().ir_version, tidied(messy()).ir_version) == (onnx.IR_VERSION, 9)


def test_values_are_named_anew_where_a_stored_tensor_has_joined_them():
    tensors = {"c2": np.ones(2, np.float32), "c3": np.zeros(2, np.float32), "head.scale": np.array([2, 3], np.float32)}
    nodes = [helper.make_node("Sum", ["x", *tensors], ["v4"]), helper.make_node("Relu", ["v4"], ["y"])]
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in ("x", "y")]
    stored = [numpy_helper.from_array(t, n) for n, t in tensors.items()]
    model = onnx_ir.from_proto(helper.make_model(helper.make_graph(nodes, "g", infos[:1], infos[1:], stored)))
    sweep(model)
    graph = onnx_ir.to_proto(model).graph
    assert {t.name: numpy_helper.to_array(t).tolist() for t in graph.initializer} == {
        "c3": [1, 1],
        "c4": [0, 0],
        "head.scale": [2, 3],
    }
    assert [list(node.input) for node in graph.node] == [["x", "c3", "c4", "head.scale"], ["v5"]]
