"""Modules of torch between two convolutions: the channels that go through them can be pruned."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compress.pruning.settings import PruningRules
from compress.pruning.structured import tried_coupling

torch.set_num_threads(1)

ACTIVATIONS = (
    nn.CELU, nn.ELU, nn.GELU, nn.Hardshrink, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh, nn.LeakyReLU, nn.LogSigmoid,
    nn.Mish, nn.PReLU, nn.ReLU, nn.ReLU6, nn.RReLU, nn.SELU, nn.SiLU, nn.Sigmoid, nn.Softplus, nn.Softshrink,
    nn.Softsign, nn.Tanh, nn.Tanhshrink, nn.Dropout, nn.Dropout2d, nn.AlphaDropout,
)  # fmt: skip
FUNCTIONS = {
    "ones_like": lambda x: x + torch.ones_like(x),
    "full_like": lambda x: x * torch.full_like(x, 0.5),
    "rot90": lambda x: x.rot90(1, (2, 3)),
    "average pooling": lambda x: F.avg_pool2d(x, 3, 1, 1),
    "area": lambda x: F.interpolate(x, size=8, mode="area"),
    "bicubic": lambda x: F.interpolate(x, scale_factor=2.0, mode="bicubic"),
    "reflection": lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"),
    "where": lambda x: torch.where(x > 0, x, 0.1 * x),
    "fill": lambda x: x.masked_fill_(x < 0, 0.0),
    "abs": lambda x: x.abs_(),
}
IN_PLACE = (
    nn.CELU, nn.ELU, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh, nn.LeakyReLU, nn.Mish, nn.ReLU, nn.ReLU6, nn.RReLU,
    nn.SELU, nn.SiLU, nn.Dropout,
)  # fmt: skip


class Between(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.a, self.function = nn.Conv2d(3, 16, 3, padding=1), function
        self.b, self.head = nn.Conv2d(16, 8, 1), nn.Conv2d(8, 4, 1)

    def forward(self, images):
        return (self.head(self.b(self.function(self.a(images)))),)


@pytest.mark.parametrize(
    "function",
    [
        *(pytest.param(kind(), id=kind.__name__) for kind in ACTIVATIONS),
        *(pytest.param(kind(inplace=True), id=f"{kind.__name__} in place") for kind in IN_PLACE),
        *(pytest.param(function, id=name) for name, function in FUNCTIONS.items()),
    ],
)
def test_channels_are_followed_through(function):
    coupling = tried_coupling(Between(function).eval(), torch.rand(1, 3, 16, 16), PruningRules())
    assert set(coupling.not_prunable) == {"head"}
    assert {group.root for group in coupling.groups} == {"a", "b"}
