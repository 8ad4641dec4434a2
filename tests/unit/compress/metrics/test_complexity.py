import pytest
import torch
from torch import fx, nn

from compress.metrics.complexity import count_parameters, measure_complexity, prunable_weights, sparsity_of

torch.set_num_threads(1)


class Deformable(nn.Module):
    """A layer the counter has never heard of; it only names its widths as torch does."""

    def __init__(self) -> None:
        super().__init__()
        self.in_channels, self.out_channels = 4, 6
        self.weight = nn.Parameter(torch.randn(6, 4, 3, 3))

    def forward(self, x, field):
        return nn.functional.conv2d(x + field, self.weight, padding=1)


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.deformable = nn.Conv2d(3, 4, 3, padding=1), Deformable()

    def forward(self, x):
        small = x[:, :, ::2, ::2]
        return tuple(self.deformable(y, 0.5) for y in (self.conv(x), self.conv(small)))


@pytest.mark.parametrize(
    ("layer", "macs"),
    [
        (nn.Conv2d(4, 8, 3, padding=1), 8 * 8 * 4 * 8 * 9),
        (nn.Conv2d(4, 8, 3, stride=2, padding=1), 4 * 4 * 4 * 8 * 9),
        (nn.Conv2d(4, 8, 3, padding=1, groups=4), 8 * 8 * 8 * 9),
        (nn.ConvTranspose2d(4, 8, 2, stride=2), 8 * 8 * 4 * 8 * 4),
        (nn.Sequential(nn.Flatten(), nn.Linear(256, 10)), 2560),
    ],
)
def test_macs_of_single_layers(layer, macs):
    assert measure_complexity(layer, torch.randn(1, 4, 8, 8)).macs == macs


def test_macs_do_not_depend_on_the_batch_size():
    layer = nn.Conv2d(4, 8, 3)
    assert measure_complexity(layer, torch.randn(1, 4, 8, 8)) == measure_complexity(layer, torch.randn(3, 4, 8, 8))


def test_shared_modules_count_once_per_call_and_unknown_layers_by_their_weight():
    cost = measure_complexity(Shared(), torch.randn(1, 3, 8, 8))
    positions = 8 * 8 + 4 * 4
    assert cost.layers["conv"].macs == positions * 3 * 4 * 9
    assert cost.layers["deformable"].macs == positions * 4 * 6 * 9
    assert cost.layers["conv"].calls == 2
    assert cost.params == 3 * 4 * 9 + 4 + 4 * 6 * 9


def test_a_traced_graph_counts_like_its_model():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))
    images = torch.randn(1, 3, 8, 8)
    assert measure_complexity(fx.symbolic_trace(model), images) == measure_complexity(model, images)


def test_fake_quantized_layers_count_like_float_ones_without_their_scales():
    import brevitas.nn as brevitas

    quantized = brevitas.QuantConv2d(4, 8, 3, padding=1)
    cost = measure_complexity(quantized, torch.randn(1, 4, 8, 8))
    assert (cost.macs, cost.params) == (8 * 8 * 4 * 8 * 9, 4 * 8 * 9 + 8)


def test_counting_leaves_modes_and_hooks_as_they_were():
    model = Shared().train()
    model.conv.eval()
    measure_complexity(model, torch.randn(1, 3, 8, 8))
    assert model.training
    assert not model.conv.training
    assert not model.conv._forward_hooks


def test_sparsity_is_the_share_of_zeros_among_weights_without_biases_and_norms():
    model = nn.Sequential(nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 3))
    with torch.no_grad():
        nn.init.zeros_(model[0].bias)
        nn.init.zeros_(model[1].bias)
        model[3].weight[0] = 0
    assert set(prunable_weights(model)) == {"0", "3"}
    assert sparsity_of(model) == pytest.approx(4 / 20)
    assert sparsity_of(nn.ReLU()) == 0


def test_shared_parameters_count_once():
    layer = nn.Conv2d(2, 2, 1)
    assert count_parameters(nn.ModuleList([layer, layer])) == 6
