import torch
from torch import nn

from detectors.weights.pruning import KernelPruner


class KernelOnly(nn.Module):
    def __init__(self):
        super().__init__()
        self.out_channels, self.in_channels = 4, 3
        self.weight = nn.Parameter(torch.arange(4 * 3 * 9.0).reshape(4, 3, 3, 3))


def test_a_kernel_loses_the_named_channels_and_keeps_the_others_with_their_gradients():
    layer = KernelOnly()
    layer.weight.square().sum().backward()
    before, gradient = layer.weight.detach().clone(), layer.weight.grad.clone()
    rule = KernelPruner()
    rule(layer, [1, 3], to_output=True)
    rule(layer, [0], to_output=False)
    assert (layer.out_channels, layer.in_channels) == (2, 2)
    assert (rule.get_out_channels(layer), rule.get_in_channels(layer)) == (2, 2)
    assert torch.equal(layer.weight, before[[0, 2]][:, [1, 2]])
    assert torch.equal(layer.weight.grad, gradient[[0, 2]][:, [1, 2]])
