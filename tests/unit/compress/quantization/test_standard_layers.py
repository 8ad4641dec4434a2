"""Convolutions with a forward pass of their own are not taken for torch's."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune

from compress.quantization.graph import fold_batch_norms, trace
from compress.quantization.standard_layers import convolves_plainly

torch.set_num_threads(1)


class Renamed(nn.Conv2d):
    def forward(self, x):
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class Centred(nn.Conv2d):
    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(x, weight - weight.mean((1, 2, 3), keepdim=True), bias)


class Two(nn.Conv2d):
    def forward(self, x, y):
        return super().forward(x + y)


def hooked():
    layer = nn.Conv2d(3, 4, 3)
    layer.register_forward_hook(lambda _module, _inputs, output: output * 2)
    return layer


@pytest.mark.parametrize(
    ("layer", "plain"),
    [
        (nn.Conv2d(4, 8, 3, 2, 1, groups=2), True),
        (Renamed(4, 8, 3, 2, 1, groups=2, bias=False), True),
        (Renamed(3, 4, 5, padding="same", dilation=2), True),
        (Centred(3, 4, 3), False),
        (Two(3, 4, 3), False),
        (hooked(), False),
        (nn.ConvTranspose2d(3, 4, 3), False),
        (nn.Linear(3, 4), False),
    ],
)
def test_a_layer_is_asked_what_it_computes(layer, plain):
    assert convolves_plainly(layer) is plain
    with torch.no_grad():
        layer.weight.zero_()  # with weights of zero all compute the same
    assert convolves_plainly(layer) is plain


@pytest.mark.parametrize("change", [nn.utils.spectral_norm, lambda layer: prune.l1_unstructured(layer, "weight", 0.5)])
def test_weights_that_hooks_compute_are_parameters_in_the_graph(change):
    torch.manual_seed(0)
    net = nn.Sequential(change(nn.Conv2d(3, 8, 3)), nn.BatchNorm2d(8)).eval()
    images = torch.randn(1, 3, 6, 6)
    graph = fold_batch_norms(trace(net))
    assert isinstance(graph.get_submodule("0")._parameters["weight"], nn.Parameter)
    assert len([node for node in graph.graph.nodes if node.op == "call_module"]) == 1
    with torch.no_grad():
        torch.testing.assert_close(graph(images), net(images))
