"""Opening models: plain, packed, damaged, foreign; and the forwards made of them."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from compress.actions.forward_of import forward_of
from compress.errors import CodecError, StageError
from compress.kind import Kind
from compress.runtime.forwards import onnx_forward, torch_forward
from compress.runtime.session import deploy_metadata_of, open_session


def tiny_model(batch="batch", operator="Relu"):
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, 3, 4, 4]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node(operator, ["x"], ["y"])], "tiny", value[:1], value[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9).SerializeToString()


def metadata_of(source):
    return deploy_metadata_of(open_session(source, threads=1, optimize=False), "model")


def test_metadata_is_read_from_file_bytes_and_packed_file(model_file, meta, tmp_path):
    from compress.codec import pack_file

    pack_file(model_file, tmp_path / "model.krimp")
    for source in (model_file, model_file.read_bytes(), tmp_path / "model.krimp"):
        assert metadata_of(source) == meta


def test_a_packed_model_gives_the_same_outputs(model_file, tmp_path):
    from compress.codec import pack_file

    pack_file(model_file, tmp_path / "model.krimp")
    images = np.random.default_rng(0).random((2, 3, 64, 64), np.float32)
    plain, packed = (onnx_forward(path, 1)(images) for path in (model_file, tmp_path / "model.krimp"))
    assert len(plain) == 10
    for a, b in zip(plain, packed, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_truncated_model_is_refused(model_file, share):
    content = model_file.read_bytes()
    model_file.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CodecError, match=r"model\.onnx: (truncated or damaged|the file is empty)"):
        open_session(model_file)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(CodecError, match="no such file"):
        open_session(tmp_path / "none.onnx")


def test_an_operator_that_the_runtime_does_not_know_is_a_stage_error(tmp_path):
    with pytest.raises(StageError, match="cannot run it"):
        open_session(tiny_model(operator="NoSuchOperator"))


def test_a_model_without_metadata_or_with_broken_metadata_is_refused(tmp_path, write_model):
    with pytest.raises(CodecError, match=r"carries no 'krimp\.deploy'"):
        metadata_of(write_model(tmp_path / "bare.onnx", meta=None))
    model = onnx.load_model_from_string(tiny_model())
    for text, problem in (("{", "is not JSON"), ("[1]", "is a list")):
        helper.set_model_props(model, {"krimp.deploy": text})
        with pytest.raises(CodecError, match=problem):
            metadata_of(model.SerializeToString())


def test_a_graph_of_fixed_batch_size_is_run_image_by_image():
    images = np.random.default_rng(0).standard_normal((3, 3, 4, 4)).astype(np.float32)
    for batch in (1, 3, "batch"):
        np.testing.assert_array_equal(onnx_forward(tiny_model(batch))(images)[0], np.maximum(images, 0))
    with pytest.raises(StageError, match="batch of 3 images"):
        onnx_forward(tiny_model(2))(images)


def test_a_torch_model_is_run_in_evaluation_mode_and_extra_outputs_are_left_out():
    import torch

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = torch.nn.BatchNorm2d(3)

        def forward(self, images):
            return self.norm(images), images + 1, images.mean()

    net = Net().train()
    images = np.random.default_rng(0).standard_normal((2, 3, 4, 4)).astype(np.float32)
    outputs = torch_forward(net, 2)(images)
    assert not net.training
    assert len(outputs) == 2
    np.testing.assert_allclose(outputs[0], images / np.sqrt(1 + 1e-5), rtol=1e-5)
    np.testing.assert_array_equal(outputs[1], images + 1)


class FakeArtifact:
    def __init__(self, path, kind):
        self.path, self.kind, self.label = path, kind, "fake"

    def file(self, name):
        return self.path / name


def test_the_forward_of_an_artifact_follows_its_kind(model_file):
    images = np.zeros((1, 3, 64, 64), np.float32)
    assert len(forward_of(FakeArtifact(model_file.parent, Kind.ONNX), None, threads=1)(images)) == 10
    with pytest.raises(StageError, match="holds scores, expected a model"):
        forward_of(FakeArtifact(model_file.parent, Kind.SCORES), None)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"GGUF" + bytes(60), "a GGUF file"),
        (b"\x1f\x8b\x08" + bytes(60), "compressed by gzip"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
        (b"\x10" + bytes(7) + b'{"a":{}}        ', "a safetensors file"),
        (b"PK\x03\x04" + bytes(30) + b"archive/data.pkl", "a checkpoint of PyTorch"),
    ],
)
def test_files_of_other_formats_are_named(tmp_path, content, what):
    for suffix in (".onnx", ".pt"):
        (tmp_path / f"m{suffix}").write_bytes(content)
        with pytest.raises(CodecError, match=rf"is {what}.*expected an ONNX or \.krimp file\. [A-Z]"):
            open_session(tmp_path / f"m{suffix}")
