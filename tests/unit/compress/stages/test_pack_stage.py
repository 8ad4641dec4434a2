from types import SimpleNamespace

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from compress import codec
from compress.errors import CodecError, StageError
from compress.stages.pack import Pack


@pytest.fixture
def context(tmp_path):
    """Return what the stage reads of its context, with an ONNX artifact in place."""
    weights = numpy_helper.from_array(np.random.default_rng(0).binomial(9, 0.5, 900).astype(np.int8), "w")
    graph = helper.make_graph([], "graph", [], [helper.make_tensor_value_info("w", TensorProto.INT8, [900])], [weights])
    source, folder = tmp_path / "source", tmp_path / "folder"
    source.mkdir()
    folder.mkdir()
    (source / "model.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    return SimpleNamespace(source=SimpleNamespace(facts={"params": 7}, file=lambda name: source / name), folder=folder)


def test_the_packed_file_gives_the_onnx_file_back(context):
    facts = Pack().run(context)
    original = context.source.file("model.onnx").read_bytes()
    assert codec.load(context.folder / "model.krimp") == original
    assert facts["onnx_bytes"] == len(original)
    assert facts["packed_bytes"] == (context.folder / "model.krimp").stat().st_size
    assert facts["coder"]["entropy_bits_per_weight"] <= facts["coder"]["bits_per_weight"]


def test_a_file_that_comes_back_different_fails_the_stage(context, monkeypatch):
    monkeypatch.setattr(codec, "unpack_bytes", lambda path: b"other")
    with pytest.raises(StageError, match="does not unpack"):
        Pack().run(context)


def test_a_truncated_onnx_file_is_refused(context):
    path = context.source.file("model.onnx")
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(CodecError, match="truncated"):
        Pack().run(context)
