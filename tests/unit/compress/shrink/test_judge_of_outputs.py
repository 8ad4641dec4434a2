"""The judge of any network, what it keeps, and how far it says outputs are apart."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compress.errors import DataError
from compress.shrink.judge import make_judge, metadata_of
from compress.shrink.judge.distances import Distances
from compress.shrink.judge.kept import Kept
from compress.shrink.network import open_network
from compress.shrink.pictures import find_inputs


def test_relative_errors_and_cosines_are_of_all_pictures_together():
    rng = np.random.default_rng(0)
    found, expected = rng.standard_normal((2, 3, 2, 4, 5)).astype(np.float32)
    distances = Distances(["a", "b"])
    for one, other in zip(found, expected, strict=True):
        distances.add(list(one), list(other))
    for number, name in enumerate("ab"):
        a, b = found[:, number].ravel().astype(np.float64), expected[:, number].ravel().astype(np.float64)
        assert distances.relative_errors[name] == pytest.approx(np.linalg.norm(a - b) / np.linalg.norm(b))
        assert distances.cosines[name] == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.parametrize(
    ("found", "expected", "error", "cosine"),
    [
        ([0, 0], [0, 0], 0, 1),
        ([1, 0], [0, 0], 1, 0),
        ([0, 0], [3, 4], 1, 0),
        ([np.nan, 4], [3, 4], np.inf, 0),
        ([-np.inf, 4], [-np.inf, 4], 0, 1),  # as masks are
        ([3, 4, 5], [3, 4], np.sqrt(50 + 25) / 5, 0),  # as many boxes as were found: another number here
    ],
)
def test_odd_outputs(found, expected, error, cosine):
    distances = Distances(["a"])
    distances.add([np.array(found, np.float32)], [np.array(expected, np.float32)])
    assert distances.relative_errors["a"] == pytest.approx(error)
    assert distances.cosines["a"] == pytest.approx(cosine)


def test_what_is_kept_comes_back_from_memory_and_from_the_file():
    rng = np.random.default_rng(0)
    lists = [
        [rng.standard_normal((n, 3)).astype(np.float32), rng.integers(0, 9, n), np.zeros((0, 4))] for n in range(1, 9)
    ]
    kept = Kept(memory_bytes=50)
    for one in lists:
        kept.add(one)
        for array, wanted in zip(kept[len(kept) // 2], lists[len(kept) // 2], strict=True):  # reading moves no end
            np.testing.assert_array_equal(array, wanted)
    assert 0 < kept._held <= 50
    assert kept._file is not None
    for number in (7, 0, 3, 3, 6):
        for array, wanted in zip(kept[number], lists[number], strict=True):
            assert array.dtype == wanted.dtype
            np.testing.assert_array_equal(array, wanted)


def two_inputs(path):
    """Write a network of two inputs and two outputs: a + b and a times 2, as a matrix."""
    nodes = [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("MatMul", ["a", "two"], ["double"])]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in ("a", "b", "sum", "double")]
    graph = helper.make_graph(
        nodes, "g", values[:2], values[2:], [numpy_helper.from_array(2 * np.eye(4, dtype=np.float32), "two")]
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def test_arrays_are_judged_by_their_outputs(tmp_path):
    path = two_inputs(tmp_path / "model.onnx")
    network = open_network(path)
    rng = np.random.default_rng(0)
    for number in range(3):
        np.savez(tmp_path / f"{number}.npz", **{name: rng.standard_normal((1, 4), np.float32) for name in "ab"})
    judging = find_inputs(network, tmp_path, None, None)
    judge = make_judge(network, judging, model_path=path)
    assert judge.kind == "outputs"
    assert "Relative error of 2 outputs against the float network on 3 inputs" in judge.told
    assert metadata_of(judge) == {}
    same = judge(network.model)
    assert (same.loss, same.low, same.high, same.metrics) == (0, None, None, {})
    other = onnx.ModelProto()
    other.CopyFrom(network.model)
    for one in other.graph.initializer:
        one.CopyFrom(numpy_helper.from_array(2.5 * np.eye(4, dtype=np.float32), one.name))
    verdict = judge(other)
    assert verdict.relative_errors == {"sum": 0, "double": pytest.approx(0.25)}
    assert verdict.loss == pytest.approx(100 * 0.125)
    with pytest.raises(DataError, match="labels and heads are of pictures"):
        make_judge(network, judging, model_path=path, head="yolov8")
    with pytest.raises(DataError, match="nothing to judge by"):
        make_judge(network, judging.some([]), model_path=path)
