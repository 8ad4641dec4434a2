"""ONNX files of many shapes: subgraphs, sparse initializers, functions, custom domains, old and new operator sets."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compress import codec

rng = np.random.default_rng(0)


def weights(count=600):
    return np.round(rng.laplace(0, 4, count)).clip(-127, 127).astype(np.int8)


def tensor(name, count=600):
    return numpy_helper.from_array(weights(count), name)


def floats(name, shape):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def packed_names(folder, model, onnx_check=True):
    """Pack a model, check that it comes back, and return the names of its coded tensors in file order."""
    if onnx_check:
        onnx.checker.check_model(model)
    data = model.SerializeToString()
    (folder / "m.onnx").write_bytes(data)
    codec.pack_file(folder / "m.onnx", folder / "m.krimp")
    assert codec.load(folder / "m.krimp") == data
    codec.unpack_file(folder / "m.krimp", folder / "back.onnx")
    assert (folder / "back.onnx").read_bytes() == data
    return [fact.name for fact in codec.inspect_file(folder / "m.krimp")]


def model(nodes, initializers=(), inputs=(), outputs=(), opset=19, **kwargs):
    graph = helper.make_graph(nodes, "g", list(inputs), list(outputs), list(initializers), **kwargs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def constant(name, count=600):
    return helper.make_node("Constant", [], [name], value=tensor("", count))


def test_weights_in_both_branches_of_if_and_in_if_inside_if(tmp_path):
    def branch(name, inner=()):
        nodes = [*inner, helper.make_node("Cast", [f"{name}_w"], [f"{name}_o"], to=TensorProto.FLOAT)]
        return helper.make_graph(nodes, name, [], [floats(f"{name}_o", [600])], [tensor(f"{name}_w")])

    deep = helper.make_node("If", ["c"], ["deep"], then_branch=branch("dt"), else_branch=branch("de"))
    node = helper.make_node("If", ["c"], ["y"], then_branch=branch("t", [deep]), else_branch=branch("e"))
    condition = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    names = packed_names(tmp_path, model([node], [tensor("main")], [condition], [floats("y", [600])]))
    assert sorted(names) == ["de_w", "dt_w", "e_w", "main", "t_w"]
    found = codec.load_tensors(tmp_path / "m.krimp", ["dt_w", "main"])
    assert {array.dtype for array in found.values()} == {np.dtype(np.int8)}


def test_weights_in_the_body_of_loop_and_scan(tmp_path):
    body = helper.make_graph(
        [constant("k"), helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Identity", ["k"], ["v"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.INT8, [600]),
        ],
        [tensor("body_w")],
    )
    loop = helper.make_node("Loop", ["n", ""], ["y"], body=body)
    inputs = [helper.make_tensor_value_info("n", TensorProto.INT64, [])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.INT8, ["n", 600])]
    assert packed_names(tmp_path, model([loop], [], inputs, outputs)) == ["k", "body_w"]


def test_sparse_initializers_and_sparse_constants(tmp_path):
    places = np.sort(rng.choice(10_000, 600, replace=False)).astype(np.int64)
    sparse = helper.make_sparse_tensor(tensor("s"), numpy_helper.from_array(places, "s_places"), [10_000])
    node = helper.make_node("Constant", [], ["c"], sparse_value=sparse)
    names = packed_names(tmp_path, model([node], sparse_initializer=[sparse]), onnx_check=False)
    assert sorted(names) == ["s", "s", "s_places", "s_places"]


def test_custom_domains_their_tensor_attributes_and_functions(tmp_path):
    more = [tensor("b"), tensor("c")]
    custom = helper.make_node("Mine", ["x"], ["y"], domain="my.ops", weights=tensor("a"), more=more)
    call = helper.make_node("Ours", ["y"], ["z"], domain="my.functions")
    graph = helper.make_graph([custom, call], "g", [floats("x", [1])], [floats("z", [1])])
    function = helper.make_function(
        "my.functions", "Ours", ["p"], ["q"], [constant("f"), helper.make_node("Identity", ["p"], ["q"])],
        [helper.make_opsetid("", 19)],
    )  # fmt: skip
    imports = [helper.make_opsetid("", 19), helper.make_opsetid("my.ops", 3), helper.make_opsetid("my.functions", 1)]
    whole = helper.make_model(graph, opset_imports=imports, functions=[function], ir_version=9)
    assert sorted(packed_names(tmp_path, whole, onnx_check=False)) == ["a", "b", "c", "f"]


@pytest.mark.parametrize(("opset", "ir_version"), [(7, 3), (9, 4), (13, 7), (17, 8), (21, 10), (23, 11)])
def test_several_operator_sets(tmp_path, opset, ir_version):
    node = helper.make_node("Add", ["x", "w"], ["y"])
    values = numpy_helper.from_array(rng.standard_normal(300).astype(np.float32), "w")
    inputs = [floats("x", [300])] + ([floats("w", [300])] if ir_version < 4 else [])
    whole = model([node], [values], inputs, [floats("y", [300])], opset)
    whole.ir_version = ir_version
    assert packed_names(tmp_path, whole) == ["w"]


def test_weights_of_training_graphs_and_defaults_of_functions_wherever_they_lie(tmp_path):
    outside = TensorProto(name="o", data_type=TensorProto.INT8, dims=[600], data_location=TensorProto.EXTERNAL)
    outside.external_data.add(key="location", value="weights.bin")
    (tmp_path / "weights.bin").write_bytes(weights().tobytes())
    whole = model([helper.make_node("Identity", ["x"], ["y"])], [tensor("w")], [floats("x", [1])], [floats("y", [1])])
    training = whole.training_info.add()
    training.initialization.CopyFrom(helper.make_graph([constant("i")], "i", [], []))
    training.algorithm.CopyFrom(helper.make_graph([], "a", [], [], [outside]))
    function = helper.make_function("my.functions", "Ours", ["p"], ["q"], [], [helper.make_opsetid("", 19)])
    function.attribute_proto.append(helper.make_attribute("default", tensor("d")))
    whole.functions.append(function)
    (tmp_path / "m.onnx").write_bytes(whole.SerializeToString())
    codec.pack_file(tmp_path / "m.onnx", tmp_path / "m.krimp")
    assert sorted(fact.name for fact in codec.inspect_file(tmp_path / "m.krimp")) == ["d", "i", "o", "w"]
    (tmp_path / "new").mkdir()
    codec.unpack_file(tmp_path / "m.krimp", tmp_path / "new" / "m.onnx")
    for name in ("m.onnx", "weights.bin"):
        assert (tmp_path / "new" / name).read_bytes() == (tmp_path / name).read_bytes()
