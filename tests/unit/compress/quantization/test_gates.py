"""SiLU, hard swish, sigmoids and products: their quantizers, and that ONNX Runtime computes them in integers."""

from __future__ import annotations

from collections import Counter

import onnxruntime as ort
import pytest
import torch
from torch import nn

from compress.export.onnx_file import export_onnx
from compress.model_folder import Build, load_model, save_model
from compress.onnx_graph.fusion import optimized_graph
from compress.quantization import QuantizationSettings, calibrate, quantize
from compress.quantization.integer_arithmetic import hard_sigmoid, multiply

torch.set_num_threads(1)


class Excited(nn.Module):
    """A residual block behind SiLU with a gate for each channel, and scores that leave through a sigmoid."""

    def __init__(self, activation: nn.Module, gate: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), activation)
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1, groups=8), activation, nn.Conv2d(8, 8, 1), activation)
        self.pool, self.fc, self.gate = nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1), gate
        self.score = nn.Conv2d(8, 4, 1)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.body(x)
        x = x * self.gate(self.fc(self.pool(x)))
        return torch.sigmoid(self.score(x))


class OneNet:
    """As much of a plug-in as quantization and export ask for."""

    NAME = "one"
    data = None

    def __init__(self, activation=nn.SiLU, gate=nn.Sigmoid):
        self.parts = activation, gate

    def build(self):
        torch.manual_seed(3)
        activation, gate = self.parts
        return Excited(activation(), gate()).eval()

    def example_input(self, number):
        return torch.zeros(number, 3, 32, 48)

    def output_names(self):
        return ("scores",)

    def metadata(self):
        return {}

    def not_quantizable(self, model):
        return {}

    def distill_points(self, model):
        return ()


IMAGES = torch.randn(4, 3, 32, 48, generator=torch.Generator().manual_seed(1)).clamp(-2.5, 2.5)


def quantized(detector, **how):
    model = quantize(detector.build(), QuantizationSettings(), detector, **how)
    calibrate(model, [IMAGES])
    return model


def outputs_of_file(path, images):
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


@pytest.mark.parametrize(
    ("activation", "gate"),
    [
        (nn.SiLU, nn.Sigmoid),
        pytest.param(nn.Hardswish, nn.Hardsigmoid, marks=pytest.mark.long),
        pytest.param(nn.Sigmoid, nn.Hardsigmoid, marks=pytest.mark.long),
    ],
)
def test_gates_run_in_integers_and_equal_torch(activation, gate, tmp_path):
    detector = OneNet(activation, gate)
    model = quantized(detector)
    export_onnx(model, tmp_path / "m.onnx", detector=detector)
    run = Counter(node.op_type for node in optimized_graph(tmp_path / "m.onnx").graph.node)
    float_gates = {"Mul": 0, "Conv": 0, "FusedConv": 0, "GlobalAveragePool": 0, "Add": 0, "HardSigmoid": 0}
    assert {name: run[name] for name in float_gates} == float_gates
    assert run["Sigmoid"] == 1  # the scores, which are read in float
    assert run["QLinearMul"] == 1 + 3 * (activation is not nn.Sigmoid)
    with torch.no_grad():
        expected = model(IMAGES)
    torch.testing.assert_close(outputs_of_file(tmp_path / "m.onnx", IMAGES), expected, atol=1e-5, rtol=0)


def test_quantized_gates_compute_what_the_float_network_does(tmp_path):
    detector = OneNet()
    with torch.no_grad():
        expected, found = detector.build()(IMAGES), quantized(detector)(IMAGES)
    assert (found - expected).abs().max() < 0.02


@pytest.mark.parametrize("integer_gates", [True, False])
def test_a_stored_model_comes_back_with_the_quantizers_that_it_was_trained_with(integer_gates, tmp_path):
    detector = OneNet()
    model = quantized(detector, integer_gates=integer_gates)
    settings = QuantizationSettings().model_dump(mode="json")
    save_model(tmp_path, model, Build(quantization=settings))
    if not integer_gates:  # as it was written before gates had quantizers
        text = (tmp_path / "build.json").read_text()
        (tmp_path / "build.json").write_text(text.replace('"integer_gates": true', '"integer_gates": false'))
    again, _ = load_model(tmp_path, detector)
    with torch.no_grad():
        assert torch.equal(again(IMAGES), model(IMAGES))


def test_a_product_is_that_of_integers():
    a, b = torch.tensor([-3.0, 0.5, 2.0]), torch.tensor([0.25, 0.5, 1.0])
    grids = (torch.tensor(0.5), 100), (torch.tensor(0.25), 0), (torch.tensor(0.2), 128)
    expected = [-0.8, 0.2, 2.0]  # -0.75, 0.25 and 2.0 in steps of 0.2
    assert multiply(a, b, *grids).tolist() == pytest.approx(expected)


def test_a_hard_sigmoid_is_a_sum_that_saturates():
    x = torch.tensor([-4.0, -3.0, -1.5, 0.0, 2.0, 3.5])
    found = hard_sigmoid(x, (torch.tensor(0.5), 100), (torch.tensor(1 / 255), 0))
    torch.testing.assert_close(found, torch.nn.functional.hardsigmoid(x), atol=0.501 / 255, rtol=0)


def test_a_factor_that_is_no_tensor_of_integers_leaves_the_product_in_float():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)
            self.gamma = nn.Parameter(torch.full((4, 1, 1), 0.5))

        def forward(self, x):
            return self.last(self.first(x) * self.gamma)

    detector = OneNet()
    model = quantize(Scaled(), QuantizationSettings(), detector)
    calibrate(model, [IMAGES])
    with torch.no_grad():
        assert model(IMAGES).shape == (4, 2, 32, 48)
