"""The exported network with either operator for the deformable layers, in ONNX Runtime."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from compress.export.onnx_file import export_onnx
from detectors.data.formats.dota import DotaData, DotaDataset
from detectors.dcfl.adapter import Dcfl
from detectors.dcfl.config import DcflConfig


@pytest.fixture(scope="module")
def detector():
    config = DcflConfig(backbone="resnet18", base_channels=8, channels=16, classes=("car", "ship"))
    return Dcfl(config, DotaDataset(DotaData(image_size=(64, 96)), config.classes))


@pytest.fixture(scope="module")
def model(detector):
    """A network with signals on every level, whose sampling points lie off the grid and in part outside the map."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = detector.build().eval()
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        elif isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.2, 0.6)
    with torch.no_grad():
        spread = torch.cat([offset.flatten() for offset in model(2 * detector.example_input())[10:]]).std()
        model.head.conv_offset.weight *= 2 / spread
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
        assert float(raw[10].abs().max()) > 4  # cells: the field is no small one
        assert all(float(value.abs().max()) > 1e-4 for value in raw[:10])
        for mine, theirs in zip(session.run(None, {"images": images.numpy()}), raw[:10], strict=True):
            np.testing.assert_allclose(mine, theirs.numpy(), rtol=0, atol=1e-4 * float(theirs.abs().max()))
