import importlib.util
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compress import codec
from compress.names_file import write_names
from compress.onnx_graph.short_names import shorten_names

_spec = importlib.util.spec_from_file_location("benchmarks_size", Path(__file__).parents[3] / "benchmarks" / "size.py")
size = sys.modules["benchmarks_size"] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(size)


@pytest.fixture
def network(tmp_path):
    """Return an ONNX file whose weights are named by a number and read by nodes of backbone and head."""
    rng = np.random.default_rng(0)
    nodes, tensors = [], []
    for part, count in (("backbone", 4000), ("bbox_head", 1000)):
        tensors.append(numpy_helper.from_array(rng.binomial(30, 0.5, count).astype(np.int8), f"{part[:2]}.0"))
        tensors.append(numpy_helper.from_array(np.float32(0.1), f"{part[:2]}.scale"))
        nodes.append(helper.make_node("DequantizeLinear", [f"{part[:2]}.0", f"{part[:2]}.scale"], [f"{part[:2]}.w"]))
        nodes.append(helper.make_node("Identity", [f"{part[:2]}.w"], [f"{part[:2]}.y"], name=f"/{part}/conv1/Conv"))
    outputs = [helper.make_tensor_value_info("ba.y", TensorProto.FLOAT, [4000])]
    path = tmp_path / "network.onnx"
    path.write_bytes(helper.make_model(helper.make_graph(nodes, "g", [], outputs, tensors)).SerializeToString())
    return path


def test_bytes_are_attributed_to_the_part_that_reads_them(network):
    found = size.measure(network)
    assert (found.parts["backbone"].elements, found.parts["head"].elements) == (4000, 1000)
    assert found.parts["backbone"].float32_bytes == 16000
    assert found.parts["backbone"].onnx_bytes == 4000


def test_the_parts_add_up_to_the_files(network):
    found = size.measure(network)
    assert sum(part.onnx_bytes for part in found.parts.values()) == found.onnx_bytes == network.stat().st_size
    assert sum(part.packed_bytes for part in found.parts.values()) == found.packed_bytes
    assert found.compression_ratio == pytest.approx(20000 / found.packed_bytes)


def test_short_names_are_told_by_the_table_beside_the_file(network):
    full = size.measure(network)
    model = onnx.load(str(network))
    write_names(network.parent, shorten_names(model.graph))
    onnx.save(model, str(network))
    assert "ba.0" not in {tensor.name for tensor in model.graph.initializer}
    found = size.measure(network)
    assert {name: part.elements for name, part in found.parts.items()} == {
        name: part.elements for name, part in full.parts.items()
    }


def test_a_packed_file_measures_like_its_original(network):
    packed = network.with_suffix(".krimp")
    codec.pack_file(network, packed)
    assert size.measure(packed).parts == size.measure(network).parts


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("backbone.layer1.cls", "backbone"),
        ("/neck/fpn_convs.0", "neck"),
        ("bbox_head.x", "head"),
        ("onnx::Conv_1", None),
    ],
)
def test_names_tell_the_part(name, part):
    assert size.part_of(name) == part


def test_a_packed_file_that_holds_no_network_is_refused(tmp_path, monkeypatch, capsys):
    import json

    header = json.dumps({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
    (tmp_path / "w.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))
    codec.pack_file(tmp_path / "w.safetensors", tmp_path / "w.krimp")
    monkeypatch.setattr(sys, "argv", ["size.py", str(tmp_path / "w.krimp")])
    assert size.main() == 5
    assert "w.krimp: holds no ONNX network" in capsys.readouterr().err


def test_a_bias_that_a_shared_layer_stores_for_each_level_is_one_parameter(tmp_path):
    """Five int32 biases of one layer are one float bias of the network they came from."""
    biases = [np.arange(200, dtype=np.int32) + level for level in range(3)]
    names = ["head.conv.bias", "head.conv.bias_1", "head.conv.bias_2"]
    tensors = [numpy_helper.from_array(value, name) for name, value in zip(names, biases, strict=True)]
    tensors.append(numpy_helper.from_array(np.ones(200, np.float32), "head.conv.weight_scale"))
    nodes = [
        helper.make_node("DequantizeLinear", [name, "head.conv.weight_scale"], [f"{name}.y"], axis=0) for name in names
    ]
    outputs = [helper.make_tensor_value_info(f"{name}.y", TensorProto.FLOAT, [200]) for name in names]
    path = tmp_path / "shared.onnx"
    path.write_bytes(helper.make_model(helper.make_graph(nodes, "g", [], outputs, tensors)).SerializeToString())
    found = size.measure(path).parts["head"]
    assert found.elements == 200
    assert found.onnx_bytes == 3 * 800 + 800
