"""The exported network with either operator for the deformable layers, in ONNX Runtime."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from compress.export.onnx_file import export_onnx
from detectors.dcfl.adapter import Dcfl
from detectors.dcfl.config import DcflConfig


@pytest.fixture(scope="module")
def detector():
    config = DcflConfig(backbone="resnet18", base_channels=8, channels=16, classes=("car", "ship"))
    return Dcfl(config, Dcfl.DATA(image_size=(64, 96)))


@pytest.fixture(scope="module")
def model(detector):
    """A network whose sampling points lie off the grid, some of them outside the map."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = detector.build().eval()
    torch.nn.init.normal_(model.head.conv_offset.weight, std=0.5)
    torch.nn.init.uniform_(model.head.conv_offset.bias, -3, 3)
    return model


@pytest.mark.parametrize("opset", [19, 20])
@pytest.mark.parametrize("form", ["DeformConv", "GridSample"])
def test_both_forms_equal_torch_in_onnx_runtime(detector, model, tmp_path, form, opset):
    path = tmp_path / "model.onnx"
    export_onnx(model, path, detector=detector, opset=opset, deform=form)
    proto = onnx.load(path)
    found = [node.op_type for node in proto.graph.node if node.op_type in ("DeformConv", "GridSample")]
    assert set(found) == {form}
    assert len(found) == 10  # two towers, five levels
    assert {node.domain for node in proto.graph.node} <= {"", "ai.onnx"}
    assert [entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")] == [opset]
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for batch_size in (1, 3):
        images = 2 * detector.example_input(batch_size)
        with torch.no_grad():
            raw = model(images)
        assert float(raw[10].abs().max()) > 2  # cells: the field is no small one
        for mine, theirs in zip(session.run(None, {"images": images.numpy()}), raw[:10], strict=True):
            np.testing.assert_allclose(mine, theirs.numpy(), atol=2e-4 * float(theirs.abs().max()) + 1e-5)
