"""A session opened from a .krimp file is the session of the unpacked ONNX file."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from compress import codec
from compress.errors import CodecError, StageError
from compress.runtime.session import open_session

SIZE = 160  # 160 x 160 int8 and more are large initializers
rng = np.random.default_rng(0)


def value(name, shape=(1, SIZE)):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def quantized(name):
    """Return int8 weights with their scales, and the node that makes floats of them."""
    weights = np.round(rng.laplace(0, 9, (SIZE, SIZE))).clip(-127, 127).astype(np.int8)
    scales = rng.uniform(0.001, 0.01, SIZE).astype(np.float32)
    node = helper.make_node("DequantizeLinear", [f"{name}_q", f"{name}_s"], [name], axis=0)
    return [numpy_helper.from_array(weights, f"{name}_q"), numpy_helper.from_array(scales, f"{name}_s")], node


def branch(name, values):
    """Return a subgraph with a large initializer and a large constant of its own."""
    constant = numpy_helper.from_array(values[::-1].copy(), "")
    nodes = [
        helper.make_node("Constant", [], [f"{name}_c"], value=constant),
        helper.make_node("MatMul", ["h", f"{name}_w"], [f"{name}_1"]),
        helper.make_node("MatMul", [f"{name}_1", f"{name}_c"], [f"{name}_o"]),
    ]
    initializers = [numpy_helper.from_array(values, f"{name}_w")]
    return helper.make_graph(nodes, name, [], [value(f"{name}_o")], initializers)


def model():
    """Return a model with large weights in every place: int8, float, float16, in branches, constants, sparse."""
    weights, dequantize = quantized("w")
    floats = (0.1 * rng.standard_normal((SIZE, SIZE))).astype(np.float32)
    halves = numpy_helper.from_array(floats.T.astype(np.float16), "halves")
    typed = helper.make_tensor("typed", TensorProto.FLOAT, [SIZE, SIZE], floats.reshape(-1) + 1)
    nodes = [
        dequantize,
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Cast", ["halves"], ["halves_f"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["a", "halves_f"], ["b"]),
        helper.make_node("MatMul", ["b", "typed"], ["h"]),
        helper.make_node("If", ["flag"], ["y"], then_branch=branch("t", floats), else_branch=branch("e", floats * 2)),
    ]
    inputs = [value("x"), helper.make_tensor_value_info("flag", TensorProto.BOOL, [])]
    graph = helper.make_graph(nodes, "g", inputs, [value("y")], [*weights, halves, typed])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def outputs(session):
    x = np.random.default_rng(1).standard_normal((1, SIZE)).astype(np.float32)
    return [session.run(None, {"x": x, "flag": np.array(flag)})[0] for flag in (False, True)]


@pytest.mark.parametrize("optimize", [True, False])
def test_outputs_are_those_of_the_unpacked_file(tmp_path, optimize):
    (tmp_path / "m.onnx").write_bytes(model().SerializeToString())
    codec.pack_file(tmp_path / "m.onnx", tmp_path / "m.krimp")
    expected = outputs(open_session(tmp_path / "m.onnx", threads=1, optimize=optimize))
    for check_hash in (True, False):
        session = open_session(tmp_path / "m.krimp", threads=1, optimize=optimize, check_hash=check_hash)
        np.random.default_rng(2).bytes(1 << 22)  # memory that was freed by mistake would be used again
        for found, wanted in zip(outputs(session), expected, strict=True):
            assert np.array_equal(found, wanted)


def test_large_initializers_of_the_main_graph_alone_are_apart(tmp_path):
    original = model()
    (tmp_path / "m.onnx").write_bytes(original.SerializeToString())
    codec.pack_file(tmp_path / "m.onnx", tmp_path / "m.krimp")
    (tmp_path / "inside").mkdir()
    (tmp_path / "apart").mkdir()
    with codec.PackedFile(tmp_path / "m.krimp") as packed:
        inside = codec.write_apart(packed, tmp_path / "inside", least_bytes=1 << 30)
        apart = codec.write_apart(packed, tmp_path / "apart")
    assert inside.read_bytes() == (tmp_path / "m.onnx").read_bytes()
    light = onnx.load(str(apart), load_external_data=False)
    assert light.graph.node == original.graph.node
    outside = {}
    for found, wanted in zip(light.graph.initializer, original.graph.initializer, strict=True):
        assert (found.name, found.dims, found.data_type) == (wanted.name, wanted.dims, wanted.data_type)
        if found.data_location == TensorProto.EXTERNAL:
            outside[found.name] = {entry.key: entry.value for entry in found.external_data}
        else:
            assert found == wanted
    assert set(outside) == {"w_q", "halves"}
    assert all(int(place["offset"]) % 64 == 0 for place in outside.values())
    whole = onnx.load(str(apart))
    for found, wanted in zip(whole.graph.initializer, original.graph.initializer, strict=True):
        assert np.array_equal(numpy_helper.to_array(found), numpy_helper.to_array(wanted))


def test_weights_in_other_files_work_too(tmp_path):
    onnx.save_model(model(), str(tmp_path / "plain.onnx"))
    onnx.save_model(
        model(), str(tmp_path / "m.onnx"), save_as_external_data=True, location="w.bin", convert_attribute=True
    )
    codec.pack_file(tmp_path / "m.onnx", tmp_path / "m.krimp")
    expected = outputs(open_session(tmp_path / "m.onnx", threads=1))
    folder = tmp_path / "alone"
    folder.mkdir()
    (tmp_path / "m.krimp").rename(folder / "m.krimp")
    for found, wanted in zip(outputs(open_session(folder / "m.krimp", threads=1)), expected, strict=True):
        assert np.array_equal(found, wanted)
    assert [path.name for path in folder.iterdir()] == ["m.krimp"]


def test_two_initializers_of_one_name_are_left_to_the_runtime(tmp_path):
    twice = model()
    twice.graph.initializer.append(twice.graph.initializer[0])
    (tmp_path / "m.onnx").write_bytes(twice.SerializeToString())
    codec.pack_file(tmp_path / "m.onnx", tmp_path / "m.krimp")
    with codec.PackedFile(tmp_path / "m.krimp") as packed:
        assert codec.write_apart(packed, tmp_path).read_bytes() == (tmp_path / "m.onnx").read_bytes()


def weights_alone():
    """Return a model of nothing but int8 weights, which are coded one by one."""
    weights, dequantize = quantized("w")
    nodes = [dequantize, helper.make_node("MatMul", ["x", "w"], ["y"])]
    graph = helper.make_graph(nodes, "g", [value("x")], [value("y")], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.mark.parametrize("check_hash", [True, False])
def test_a_damaged_weight_is_refused_with_its_place(tmp_path, check_hash):
    (tmp_path / "m.onnx").write_bytes(weights_alone().SerializeToString())
    codec.pack_file(tmp_path / "m.onnx", tmp_path / "m.krimp")
    data = bytearray((tmp_path / "m.krimp").read_bytes())
    data[5000] ^= 16
    (tmp_path / "m.krimp").write_bytes(data)
    with pytest.raises(CodecError, match=r"byte 108: checksum of this tensor"):
        open_session(tmp_path / "m.krimp", check_hash=check_hash)


def test_a_packed_file_that_is_no_onnx_model_is_refused(tmp_path):
    header = b'{"w":{"dtype":"I8","shape":[200],"data_offsets":[0,200]}}'
    (tmp_path / "w.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(200))
    codec.pack_file(tmp_path / "w.safetensors", tmp_path / "w.krimp")
    with pytest.raises(CodecError, match=r"w\.krimp: byte 10: .*'safetensors'; expected an ONNX model"):
        open_session(tmp_path / "w.krimp")


@pytest.mark.parametrize("optimize", [True, False])
def test_the_temporary_folder_is_gone_once_the_session_is_open(tmp_path, monkeypatch, optimize):
    (tmp_path / "m.onnx").write_bytes(model().SerializeToString())
    codec.pack_file(tmp_path / "m.onnx", tmp_path / "m.krimp")
    expected = outputs(open_session(tmp_path / "m.onnx", threads=1, optimize=optimize))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    session = open_session(tmp_path / "m.krimp", threads=1, optimize=optimize)
    assert isinstance(session, ort.InferenceSession)
    assert not list((tmp_path / "temporary").iterdir())
    assert all(np.array_equal(a, b) for a, b in zip(outputs(session), expected, strict=True))
    with pytest.raises(StageError, match="Open the file again"):
        session.set_providers(["CPUExecutionProvider"])
    assert all(np.array_equal(a, b) for a, b in zip(outputs(session), expected, strict=True))


def test_a_temporary_folder_that_cannot_be_made_is_told(tmp_path, monkeypatch):
    (tmp_path / "m.onnx").write_bytes(model().SerializeToString())
    codec.pack_file(tmp_path / "m.onnx", tmp_path / "m.krimp")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    with pytest.raises(CodecError, match=r"m\.krimp: cannot be unpacked into a temporary folder: .*TMPDIR"):
        open_session(tmp_path / "m.krimp")


def read_while_opening():
    """Yield (name, model) of models with large initializers that ONNX Runtime reads, or that nothing reads."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2048])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    table = numpy_helper.from_array(np.arange(4096) % 2048, "table")
    one = numpy_helper.from_array(np.array([1]), "one")
    floats = numpy_helper.from_array(np.ones(16384, dtype=np.float32), "unused")
    parts = [f"p{i}" for i in range(2048)]
    cases = {
        "read by no node": ([helper.make_node("Identity", ["x"], ["y"])], [floats]),
        "sizes of a Split": (
            [helper.make_node("Split", ["x", "sizes"], parts, axis=0), helper.make_node("Sum", parts[:2], ["y"])],
            [numpy_helper.from_array(np.ones(2048, dtype=np.int64), "sizes")],
        ),
        "shape of an Expand": (
            [
                helper.make_node("Shape", ["table"], ["length"]),
                helper.make_node("Expand", ["one_f", "length"], ["y"]),
            ],
            [table, numpy_helper.from_array(np.array(1, dtype=np.float32), "one_f")],
        ),
        "a slice of it is a shape": (
            [
                helper.make_node("Slice", ["pads", "one", "two"], ["shape"]),
                helper.make_node("Reshape", ["x", "shape"], ["y"]),
            ],
            [
                numpy_helper.from_array(np.where(np.arange(4096) == 1, -1, 1), "pads"),
                one,
                numpy_helper.from_array(np.array([2]), "two"),
            ],
        ),
        "indices": ([helper.make_node("Gather", ["x", "table"], ["y"])], [table]),
    }
    for name, (nodes, initializers) in cases.items():
        graph = helper.make_graph(nodes, "g", [x], [y], initializers)
        yield name, helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.mark.parametrize("network", [pytest.param(net, id=name) for name, net in read_while_opening()])
def test_what_onnx_runtime_opens_as_a_plain_file_opens_packed(tmp_path, network):
    (tmp_path / "m.onnx").write_bytes(network.SerializeToString())
    codec.pack_file(tmp_path / "m.onnx", tmp_path / "m.krimp")
    x = np.arange(2048, dtype=np.float32)
    expected = open_session(tmp_path / "m.onnx").run(None, {"x": x})
    assert np.array_equal(open_session(tmp_path / "m.krimp").run(None, {"x": x})[0], expected[0])


def test_the_callers_providers_and_options_reach_onnx_runtime(tmp_path, capsys):
    (tmp_path / "m.onnx").write_bytes(model().SerializeToString())
    codec.pack_file(tmp_path / "m.onnx", tmp_path / "m.krimp")
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    for suffix in ("onnx", "krimp"):
        options.optimized_model_filepath = str(tmp_path / f"optimized_{suffix}.onnx")
        session = open_session(
            tmp_path / f"m.{suffix}", options=options, providers=[("CPUExecutionProvider", {"use_arena": "0"})]
        )
        assert session.get_providers() == ["CPUExecutionProvider"]
        assert session.get_session_options().intra_op_num_threads == 1
        assert (tmp_path / f"optimized_{suffix}.onnx").exists()
    with pytest.raises(ValueError, match="Set those in the options"):
        open_session(tmp_path / "m.onnx", options=options, threads=1)
    capsys.readouterr()
    open_session(tmp_path / "m.krimp", providers=["NoSuchProvider"])  # ONNX Runtime complains and takes the CPU
    assert "NoSuchProvider" in capsys.readouterr().out
