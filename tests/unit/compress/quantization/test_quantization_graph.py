"""Tracing into whole layers, folding batch norms, taps."""

from __future__ import annotations

import pytest
import torch
from quantized_lookalike import Lookalike, images_of
from torch import nn
from torchvision.ops import DeformConv2d

from compress.errors import StageError
from compress.progress import clear_warnings, collected_warnings
from compress.quantization.graph import fold_batch_norms, keep_outputs, outputs_of, trace

torch.set_num_threads(1)


@pytest.fixture
def model():
    return Lookalike().build()


def test_traced_graph_computes_the_same_and_keeps_names(model):
    graph = trace(model)
    x = images_of(Lookalike())[0]
    for a, b in zip(outputs_of(graph, x), outputs_of(model, x), strict=True):
        assert torch.equal(a, b)
    assert dict(graph.named_parameters()).keys() == dict(model.named_parameters()).keys()


def test_deformable_layer_stays_whole(model):
    targets = [n.target for n in trace(model).graph.nodes if n.op == "call_module"]
    assert targets.count("head.deform") == 3
    assert isinstance(trace(model).get_submodule("head.deform"), DeformConv2d)


def test_folding_removes_every_batch_norm_and_changes_no_output(model):
    folded = fold_batch_norms(trace(model))
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    x = images_of(Lookalike())[0]
    for a, b in zip(outputs_of(folded, x), outputs_of(model, x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_folding_keeps_zero_weights_zero(model):
    weight = model.backbone.down[0].weight
    with torch.no_grad():
        weight[weight.abs() < 0.05] = 0
    folded = fold_batch_norms(trace(model)).get_submodule("backbone.down.0").weight
    assert torch.equal(folded == 0, weight == 0)


def test_folding_leaves_the_given_model_alone(model):
    before = {k: v.clone() for k, v in model.state_dict().items()}
    fold_batch_norms(trace(model))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


class SharedConv(nn.Module):
    """One convolution, called twice, followed by the same or by two batch norms."""

    def __init__(self, same: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 1)
        self.first = nn.BatchNorm2d(2)
        self.first.running_mean.fill_(0.5)
        self.second = self.first if same else nn.BatchNorm2d(2)

    def forward(self, x):
        return self.first(self.conv(x)), self.second(self.conv(x * 2))


def test_shared_convolution_is_folded_once():
    model = SharedConv(same=True).eval()
    folded = fold_batch_norms(trace(model))
    x = torch.randn(1, 2, 4, 4)
    for a, b in zip(folded(x), model(x), strict=True):
        torch.testing.assert_close(a, b)


def test_batch_norm_that_cannot_be_folded_stays_and_is_reported():
    clear_warnings()
    model = SharedConv(same=False).eval()
    folded = fold_batch_norms(trace(model))
    x = torch.randn(1, 2, 4, 4)
    for a, b in zip(folded(x), model(x), strict=True):
        torch.testing.assert_close(a, b)
    assert any("follows no convolution of its own" in text for text in collected_warnings())


def test_untraceable_model_is_a_stage_error():
    class Branches(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(StageError, match="cannot be traced"):
        trace(Branches())


@torch.jit.script
def compiled(x):
    return x * torch.sigmoid(x)


class CallsCompiled(nn.Module):
    def forward(self, x):
        return compiled(x)


class CallsStranger(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = [nn.Conv2d(3, 3, 1)]

    def forward(self, x):
        return self.layers[0](x)


@pytest.mark.parametrize(
    ("block", "cure"),
    [(CallsCompiled, "Call the plain function: what `torch.jit.script`"), (CallsStranger, r"own it \(`self\.name")],
)
def test_what_cannot_be_followed_is_told_in_one_line_with_its_own_cure(block, cure):
    with pytest.raises(StageError, match=rf"Sequential, in 1 \({block.__name__}\): the forward pass .*{cure}") as told:
        trace(nn.Sequential(nn.Conv2d(3, 3, 1), block()))
    assert "\n" not in str(told.value)


def test_taps_let_hooks_see_modules_that_were_traced_through(model):
    graph = trace(model, taps=("backbone.block",))
    seen = []
    graph.get_submodule("backbone.block").register_forward_hook(lambda _m, _i, out: seen.append(out))
    x = images_of(Lookalike())[0]
    graph(x)
    with torch.no_grad():
        expected = model.backbone.block(model.backbone.pool(model.backbone.stem(x)))
    torch.testing.assert_close(seen[0], expected)


def test_cutting_outputs_drops_what_only_they_needed(model):
    graph = keep_outputs(trace(model), 1)
    x = images_of(Lookalike())[0]
    assert len(outputs_of(graph, x)) == 1
    assert "head.box" not in [n.target for n in graph.graph.nodes]


@pytest.mark.parametrize("norm", [nn.utils.weight_norm, nn.utils.parametrizations.weight_norm])
@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_a_weight_that_is_computed_at_each_call_is_copied_after_a_call_too(norm):
    model = nn.Sequential(norm(nn.Conv2d(3, 8, 3)), nn.ReLU()).eval()
    x = torch.randn(1, 3, 8, 8)
    expected = model(x).detach()
    assert torch.equal(trace(model)(x), expected)
    assert torch.equal(model(x), expected)
