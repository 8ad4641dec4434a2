import pytest
import torch
import torch_pruning as tp
from lookalike import CUSTOM, PROTECTED, seeded_lookalike
from torch import nn

from compress.errors import StageError
from compress.pruning.coupling import trace_coupling
from compress.pruning.importance import (
    batch_norm_scores,
    channel_sums,
    magnitude_scores,
    random_scores,
    taylor_scores,
)

torch.set_num_threads(1)
IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def _traced(model):
    return trace_coupling(model, IMAGES[:1], protected=PROTECTED, custom_pruners=CUSTOM)


def _library_scores(model, importance, name):
    graph = tp.DependencyGraph().build_dependency(model, IMAGES[:1].clone(), customized_pruners=CUSTOM, verbose=False)
    layer = model.get_submodule(name)
    rule = graph.get_pruner_of_module(layer)
    return importance(graph.get_pruning_group(layer, rule.prune_out_channels, list(range(layer.out_channels))))


@pytest.mark.parametrize("name", ["out2", "head.tower1", "lateral1"])
def test_magnitude_equals_the_library_where_the_library_counts_all_layers(name):
    model = seeded_lookalike()
    coupling = _traced(model)
    root = next(g.root for g in coupling.groups if name in g.producers)
    theirs = _library_scores(model, tp.importance.GroupMagnitudeImportance(p=2, normalizer=None), root)
    torch.testing.assert_close(magnitude_scores(model, coupling.groups)[root].float(), theirs, rtol=1e-5, atol=1e-6)


def test_batch_norm_scale_equals_the_library():
    model = seeded_lookalike()
    coupling = _traced(model)
    root = next(g.root for g in coupling.groups if "block2.project" in g.producers)
    theirs = _library_scores(model, tp.importance.BNScaleImportance(normalizer=None), root)
    torch.testing.assert_close(batch_norm_scores(model, coupling.groups)[root].float(), theirs, rtol=1e-5, atol=1e-6)


def test_groups_without_batch_norm_get_no_batch_norm_score():
    model = seeded_lookalike()
    coupling = _traced(model)
    scores = batch_norm_scores(model, coupling.groups)
    assert next(g.root for g in coupling.groups if "out1" in g.producers) not in scores


def test_random_scores_depend_on_the_seed_alone():
    groups = _traced(seeded_lookalike()).groups
    first, second, other = random_scores(groups, 1), random_scores(groups, 1), random_scores(groups, 2)
    assert all(torch.equal(first[root], second[root]) for root in first)
    assert not torch.equal(first[groups[0].root], other[groups[0].root])


def test_taylor_score_of_one_layer_is_the_squared_derivative_by_its_gate():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 1)).eval()
    images = torch.randn(2, 3, 16, 16)
    groups = trace_coupling(model, images, protected={}, custom_pruners={}).groups
    scores, count = taylor_scores(model, groups, [lambda: model(images).square().mean()])
    gate = torch.ones(8, requires_grad=True)
    hidden = model[1](model[0](images) * gate.view(1, -1, 1, 1))
    model[2](hidden).square().mean().backward()
    assert count == 1
    torch.testing.assert_close(scores["0"].float(), gate.grad.square(), rtol=1e-4, atol=1e-8)


def test_taylor_adds_up_over_batches_and_clears_gradients():
    model = seeded_lookalike()
    groups = _traced(model).groups

    def loss():
        return sum(output.square().mean() for output in model(IMAGES))

    once, _ = taylor_scores(model, groups, [loss])
    twice, count = taylor_scores(model, groups, [loss, loss])
    root = groups[0].root
    assert count == 2
    torch.testing.assert_close(twice[root], 2 * once[root])
    assert all(parameter.grad is None for parameter in model.parameters())


def test_taylor_refuses_a_loss_that_is_not_finite():
    model = seeded_lookalike()
    with pytest.raises(StageError, match="nan"):
        taylor_scores(model, _traced(model).groups, [lambda: model(IMAGES)[0].sum() * float("nan")])


def test_taylor_without_batches_is_an_error():
    model = seeded_lookalike()
    with pytest.raises(StageError, match="at least one"):
        taylor_scores(model, _traced(model).groups, [])


@pytest.mark.parametrize("transposed", [False, True])
def test_channel_sums_of_grouped_convolutions_match_a_loop(transposed):
    make = nn.ConvTranspose2d if transposed else nn.Conv2d
    layer = make(8, 12, 3, groups=4, bias=False)
    dense_out, dense_in = torch.zeros(12), torch.zeros(8)
    weight = layer.weight.detach()
    for group in range(4):
        for o in range(3):
            for i in range(2):
                part = weight[group * 2 + i, o] if transposed else weight[group * 3 + o, i]
                dense_out[group * 3 + o] += part.sum()
                dense_in[group * 2 + i] += part.sum()
    torch.testing.assert_close(channel_sums(layer, "out", weight), dense_out)
    torch.testing.assert_close(channel_sums(layer, "in", weight), dense_in)
