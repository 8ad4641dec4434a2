"""The operators of the export, one at a time, against torch."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir
import onnxruntime as ort
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.ops import DeformConv2d

from compress.export.onnx_file import first_cause
from compress.export.operators import translations
from compress.onnx_graph.tidy import tidy

torch.set_num_threads(1)


def exported(module: nn.Module, inputs: tuple[torch.Tensor, ...], form="DeformConv", opset=19):
    names = [f"in{i}" for i in range(len(inputs))]
    program = torch.onnx.export(
        module.eval(),
        inputs,
        dynamo=True,
        opset_version=opset,
        input_names=names,
        custom_translation_table=translations(form, opset),
        optimize=False,
        verbose=False,
    )
    tidy(program.model)
    proto = onnx_ir.to_proto(program.model)
    onnx.checker.check_model(proto, full_check=True)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return proto, session.run(None, {name: x.numpy() for name, x in zip(names, inputs, strict=True)})


class Deform(nn.Module):
    def __init__(self, use_mask: bool, **geometry) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = DeformConv2d(4, 6, 3, **geometry)
        nn.init.normal_(self.layer.bias)
        self.use_mask = use_mask

    def forward(self, x, offset, mask):
        return self.layer(x, offset, mask if self.use_mask else None) + 0 * mask.sum()


@pytest.mark.parametrize("form", ["DeformConv", "GridSample"])
@pytest.mark.parametrize("use_mask", [True, False])
@pytest.mark.parametrize(
    "geometry", [{"padding": 1}, {"padding": (2, 1), "dilation": (2, 1)}, {"padding": 1, "stride": (2, 1)}]
)
def test_both_forms_of_the_deformable_convolution_equal_torch(form, use_mask, geometry):
    module = Deform(use_mask, **geometry)
    torch.manual_seed(1)
    x = torch.randn(2, 4, 9, 12)
    height, width = F.conv2d(x, module.layer.weight, **geometry).shape[2:]
    inputs = (x, torch.randn(2, 18, height, width) * 2, torch.rand(2, 9, height, width))
    proto, (found,) = exported(module, inputs, form)
    assert any(node.op_type == form for node in proto.graph.node)
    np.testing.assert_allclose(found, module(*inputs).detach().numpy(), rtol=1e-4, atol=1e-4)


def test_grid_sample_form_refuses_groups():
    module = Deform(True, padding=1, groups=2)
    inputs = (torch.randn(1, 4, 6, 6), torch.zeros(1, 18, 6, 6), torch.ones(1, 9, 6, 6))
    with pytest.raises(torch.onnx.OnnxExporterError) as caught:
        exported(module, inputs, "GridSample")
    assert str(first_cause(caught.value)) == "GridSample form: 2 groups, 1 offset groups. Expected one of each."


def test_a_convolution_without_bias_gets_none():
    proto, (found,) = exported(nn.Conv2d(2, 3, 3, stride=(2, 1), padding=(1, 2), bias=False), (torch.ones(2, 2, 6, 6),))
    (node,) = proto.graph.node
    assert (node.op_type, len(node.input)) == ("Conv", 2)
    assert found.shape == (2, 3, 3, 8)


@pytest.mark.parametrize(("wanted", "operator"), [(1, "GlobalAveragePool"), ((3, 2), "AveragePool")])
def test_adaptive_pooling_to_even_windows_is_the_pooling_that_the_runtime_has_for_integers(wanted, operator):
    pool, x = nn.AdaptiveAvgPool2d(wanted), torch.randn(2, 4, 6, 8)
    proto, (found,) = exported(pool, (x,))
    assert [node.op_type for node in proto.graph.node] == [operator]
    np.testing.assert_allclose(found, pool(x).numpy(), atol=1e-6)


def test_adaptive_pooling_to_uneven_windows_is_refused_with_both_sizes():
    with pytest.raises(torch.onnx.OnnxExporterError) as caught:
        exported(nn.AdaptiveAvgPool2d((4, 2)), (torch.randn(2, 4, 6, 8),))
    assert str(first_cause(caught.value)) == "average pooling of [6, 8] to [4, 2]: ONNX has no uneven windows."


def test_a_lower_limit_is_a_clip_and_a_factor_of_one_is_nothing():
    class Limited(nn.Module):
        def forward(self, x):
            return (x * 1).clamp(min=0.5)

    x = torch.randn(2, 3, 4, 5)
    proto, (found,) = exported(Limited(), (x,))
    assert [node.op_type for node in proto.graph.node] == ["Clip"]
    np.testing.assert_array_equal(found, x.clamp(min=0.5).numpy())


def test_our_operators_tell_their_shape_and_type_without_being_run():
    krimp = torch.ops.krimp
    x, codes = torch.randn(2, 3, 4, 5), torch.ones(6, 3, 1, 1, dtype=torch.int8)
    calls = (
        (krimp.round_activation, (x, 0.1, 3)),
        (krimp.dequantize_weight, (codes, torch.rand(6))),
        (krimp.dequantize_bias, (torch.ones(6, dtype=torch.int32), 0.1, torch.rand(6))),
        (krimp.resize_nearest, (x, 8, 15)),
    )
    for operator, values in calls:
        real = operator(*values)
        told = operator(*(value.to("meta") if isinstance(value, torch.Tensor) else value for value in values))
        assert (told.shape, told.dtype, told.device.type) == (real.shape, real.dtype, "meta")


@pytest.mark.parametrize("wanted", [(10, 14), (15, 7), (11, 13), (6, 10), (5, 7)])
def test_nearest_resizing_equals_torch_at_any_ratio(wanted):
    class Resize(nn.Module):
        def forward(self, x):
            return torch.ops.krimp.resize_nearest(x, *wanted)

    x = torch.randn(1, 2, 5, 7)
    _, (found,) = exported(Resize(), (x,))
    np.testing.assert_array_equal(found, F.interpolate(x, size=wanted, mode="nearest").numpy())


def test_rounding_of_activations_equals_onnx_runtime_at_every_level():
    class Round(nn.Module):
        def forward(self, x):
            return torch.ops.krimp.round_activation(x, 0.03, 101)

    x = torch.linspace(-5, 7, 4001).view(1, 1, -1, 1)
    _, (found,) = exported(Round(), (x,))
    np.testing.assert_allclose(found, torch.ops.krimp.round_activation(x, 0.03, 101).numpy(), atol=1e-6)
    assert len(np.unique(found)) == 256
