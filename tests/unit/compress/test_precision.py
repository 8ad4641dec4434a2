"""Mixed precision: which layers compute in bfloat16, and that every gradient is a number."""

import pytest
import torch
from torch import nn

from compress.training.precision import autocast, dilated_layers_in_float32

CPU = torch.device("cpu")
torch.set_num_threads(1)


def _dtype_of(layer, x):
    with autocast(CPU, "bfloat16"):
        return layer(x).dtype


def test_dilated_convolutions_stay_float32_while_the_context_lasts():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, dilation=2))
    x, y = torch.randn(1, 3, 16, 16), torch.randn(1, 4, 16, 16).bfloat16()
    with dilated_layers_in_float32(model, CPU):
        assert (_dtype_of(model[0], x), _dtype_of(model[1], y)) == (torch.bfloat16, torch.float32)
    assert _dtype_of(model[1], y) == torch.bfloat16


def test_a_failing_layer_leaves_no_context_behind():
    model = nn.Conv2d(4, 4, 3, dilation=2)
    with dilated_layers_in_float32(model, CPU), autocast(CPU, "bfloat16"):
        with pytest.raises(RuntimeError):
            model(torch.randn(1, 3, 16, 16))
        assert torch.is_autocast_enabled("cpu")


def test_float32_changes_nothing():
    with autocast(CPU, "float32"):
        assert nn.Conv2d(3, 4, 3)(torch.randn(1, 3, 8, 8)).dtype == torch.float32


@pytest.mark.parametrize(("channels", "width"), [(24, 32), (40, 32), (56, 40), (64, 64)])
def test_gradients_of_dilated_layers_are_those_of_float32(channels, width):
    torch.manual_seed(0)
    model = nn.Conv2d(channels, width, 3, padding=3, dilation=3, bias=False).to(memory_format=torch.channels_last)
    x = torch.randn(4, channels, 40, 40).contiguous(memory_format=torch.channels_last)
    model(x).square().mean().backward()
    expected, model.weight.grad = model.weight.grad, None
    with dilated_layers_in_float32(model, CPU):
        with autocast(CPU, "bfloat16"):
            y = model(x)
        y.square().mean().backward()
    torch.testing.assert_close(model.weight.grad, expected)
