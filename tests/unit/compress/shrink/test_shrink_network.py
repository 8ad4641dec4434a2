"""Strangers' files as they are worked on, and what is seen of them."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
from small_nets import SIDE, write_net

from compress.errors import CodecError
from compress.shrink.network import attribute, open_network
from compress.shrink.observe import columns_at, observe, pads_of, session_of

IMAGE = {"images": np.random.default_rng(0).standard_normal((1, 3, SIDE, SIDE)).astype(np.float32)}


@pytest.mark.parametrize("opset", [9, 11, 13, 15, 17, 19, 21, 22])
def test_files_of_any_age_compute_what_they_did(tmp_path, opset):
    path = write_net(tmp_path / "net.onnx", opset=opset)
    before = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, IMAGE)
    network = open_network(path)
    after = session_of(network.model).run(network.outputs, IMAGE)
    for one, other in zip(before, after, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)
    assert {linear.op for linear in network.linears.values()} == {"Conv"}
    assert len(network.linears) == 6
    assert not [node for node in network.model.graph.node if node.op_type == "BatchNormalization"]


def test_weights_in_other_files_are_read(tmp_path):
    model = onnx.load(write_net(tmp_path / "net.onnx"))
    onnx.save(model, tmp_path / "outside.onnx", save_as_external_data=True, location="outside.bin", size_threshold=64)
    assert len(open_network(tmp_path / "outside.onnx").linears) == 6
    (tmp_path / "outside.bin").unlink()
    with pytest.raises(CodecError, match=r"outside\.onnx: .*files of its weights are missing"):
        open_network(tmp_path / "outside.onnx")


def test_half_floats_become_floats(tmp_path):
    whole, half = (write_net(tmp_path / f"{kind.__name__}.onnx", kind=kind) for kind in (np.float32, np.float16))
    network = open_network(half)
    expected = session_of(open_network(whole).model).run(None, IMAGE)
    for one, other in zip(session_of(network.model).run(None, IMAGE), expected, strict=True):
        np.testing.assert_allclose(one, other, atol=0.05)
        assert one.dtype == np.float32
    assert len(network.linears) == 6


def test_free_sizes_stay_free(tmp_path):
    network = open_network(write_net(tmp_path / "net.onnx", size=(1, 3, "h", "w")))
    assert network.inputs == {"images": [1, 3, None, None]}
    for side in (32, 64):
        image = {"images": np.zeros((1, 3, side, side), np.float32)}
        assert session_of(network.model).run(["scores.out"], image)[0].shape == (1, 4, side // 2, side // 2)


class _Reader(CalibrationDataReader):
    def __init__(self):
        self.left = [IMAGE]

    def get_next(self):
        return self.left.pop() if self.left else None


@pytest.mark.parametrize("form", [QuantFormat.QDQ, QuantFormat.QOperator])
def test_a_quantized_file_is_no_float_network(tmp_path, form):
    quantize_static(write_net(tmp_path / "net.onnx"), tmp_path / "int8.onnx", _Reader(), quant_format=form)
    with pytest.raises(CodecError, match=r"quantized already .*expected a float network"):
        open_network(tmp_path / "int8.onnx")


@pytest.mark.parametrize("content", [b"", b"no model", b"\x08\x07"])
def test_what_is_no_model_is_refused(tmp_path, content):
    (tmp_path / "odd.onnx").write_bytes(content)
    with pytest.raises(CodecError, match=r"odd\.onnx"):
        open_network(tmp_path / "odd.onnx")


def test_a_network_without_weights_is_refused(tmp_path):
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", value[:1], value[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "g.onnx")
    with pytest.raises(CodecError, match="nothing to make small"):
        open_network(tmp_path / "g.onnx")


@pytest.mark.parametrize(
    "how",
    [{"pads": [1, 1, 1, 1]}, {"strides": [2, 2], "pads": [0, 1, 1, 0]}, {"dilations": [2, 2], "pads": [2, 2, 2, 2]},
     {"group": 3}, {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, {"auto_pad": "SAME_LOWER", "strides": [2, 2]},
     {"auto_pad": "VALID"}],
    ids=str,
)  # fmt: skip
def test_columns_times_weights_are_what_the_layer_computes(tmp_path, how):
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((6, 6 // how.get("group", 1), 3, 3)).astype(np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="conv", **how)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 6, 9, 10])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "c.onnx")
    network = open_network(tmp_path / "c.onnx")
    (linear,) = network.linears.values()
    x = rng.standard_normal((2, 6, 9, 10)).astype(np.float32)
    columns = columns_at(network, linear, linear.nodes[0], x, rng)
    matrix, groups = network.matrix(linear), linear.groups
    computed = np.einsum(
        "gok,gkp->gop", matrix.reshape(groups, -1, matrix.shape[1]), columns.reshape(groups, matrix.shape[1], -1)
    ).reshape(len(matrix), -1)
    (expected,) = session_of(network.model).run(None, {"x": x})
    np.testing.assert_allclose(computed, expected.transpose(1, 0, 2, 3).reshape(len(matrix), -1), atol=1e-4)
    assert attribute(network.nodes[linear.nodes[0]], "group", 1) == groups
    if "auto_pad" not in how:
        before, after = pads_of(node, (9, 10), (3, 3), (1, 1), (1, 1))
        assert [*before, *after] == how.get("pads", [0] * 4)


def test_what_is_seen_does_not_depend_on_how_many_pictures_are_kept(tmp_path):
    network = open_network(write_net(tmp_path / "net.onnx"))
    rng = np.random.default_rng(0)
    images = [rng.standard_normal((1, 3, SIDE, SIDE)).astype(np.float32) for _ in range(3)]
    seen = observe(network, lambda: ({"images": image} for image in images))
    assert seen.images == 3
    stem = next(weight for weight in network.linears if network.tensors[weight].shape == (32, 3, 3, 3))
    moments = seen.moments[stem]
    assert moments.positions == 3 * (SIDE // 2) ** 2  # fewer than are drawn at most: all of them
    taps = np.concatenate([np.pad(image[0], [(0, 0), (1, 1), (1, 1)])[None] for image in images])
    centre = taps[:, 0, 1:-1:2, 1:-1:2]  # channel 0 at the middle tap of every output
    assert moments.second[0, 4, 4] == pytest.approx(float((centre.astype(np.float64) ** 2).sum()), rel=1e-4)
    low, high = seen.histograms["images"].low, seen.histograms["images"].high
    assert (low, high) == (min(float(one.min()) for one in images), max(float(one.max()) for one in images))
