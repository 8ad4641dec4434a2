import copy

import pytest
import torch
from lookalike import CUSTOM, PROTECTED, seeded_lookalike
from torch import nn

from compress.errors import StageError
from compress.metrics.complexity import measure_complexity
from compress.pruning.cost_model import CostModel, measure_cost
from compress.pruning.coupling import trace_coupling
from compress.pruning.settings import PruningRules, PruningSettings
from compress.pruning.side_widths import SideWidths
from compress.pruning.structured import prune_step, step_targets
from compress.pruning.width_plan import channels_to_remove
from compress.pruning.widths import step_width

torch.set_num_threads(1)
RULES = PruningRules(PROTECTED, CUSTOM)
IMAGES = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def _loss(model):
    return lambda: sum(output.square().mean() for output in model(IMAGES))


@pytest.mark.parametrize("metric", ["macs", "params"])
@pytest.mark.parametrize("share", [0.8, 0.6, 0.4])
def test_the_target_is_hit_within_one_percent(metric, share):
    model = seeded_lookalike()
    full = measure_cost(model, IMAGES, metric)
    settings = PruningSettings(round_to=1)
    result = prune_step(model, IMAGES, {metric: round(full * share)}, rules=RULES, settings=settings)
    assert result.before[metric] == full
    assert result.after[metric] == measure_cost(model, IMAGES, metric)
    assert result.after[metric] / full == pytest.approx(share, rel=0.01)


@pytest.mark.parametrize("importance", ["magnitude", "group_taylor", "bn_scale", "random"])
def test_every_importance_keeps_output_shapes_and_multiples_of_eight(importance):
    model = seeded_lookalike()
    shapes = [output.shape for output in model(IMAGES)]
    full = measure_cost(model, IMAGES, "macs")
    settings = PruningSettings(importance=importance, round_to=8)
    result = prune_step(
        model, IMAGES, {"macs": round(full * 0.85)}, rules=RULES, settings=settings, losses=[_loss(model)]
    )
    assert [output.shape for output in model(IMAGES)] == shapes
    assert all(group.after % 8 == 0 for group in result.groups.values())
    assert result.after["macs"] < full


@pytest.mark.parametrize("mode", [{"isomorphic": True}, {"global_pruning": False}, {"cost_aware": True}])
def test_other_ranking_scopes_reach_the_target_too(mode):
    model = seeded_lookalike()
    full = measure_cost(model, IMAGES, "macs")
    settings = PruningSettings(round_to=1, **mode)
    result = prune_step(model, IMAGES, {"macs": full // 2}, rules=RULES, settings=settings)
    assert result.after["macs"] == pytest.approx(full / 2, rel=0.01)


def test_a_target_of_everything_changes_nothing():
    model = seeded_lookalike()
    state = copy.deepcopy(model.state_dict())
    full = measure_cost(model, IMAGES, "macs")
    result = prune_step(model, IMAGES, {"macs": full}, rules=RULES, settings=PruningSettings())
    assert result.after["macs"] == full
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_protected_layers_keep_their_width_and_reasons_are_told():
    model = seeded_lookalike()
    result = prune_step(
        model, IMAGES, {"macs": measure_cost(model, IMAGES, "macs") // 2}, rules=RULES, settings=PruningSettings()
    )
    assert model.head.conv_offset.out_channels == 27
    assert model.head.cls.out_channels == 3
    assert result.not_prunable == PROTECTED


def test_the_shared_head_is_cut_once_and_consistently():
    model = seeded_lookalike()
    settings = PruningSettings(round_to=1)
    prune_step(model, IMAGES, {"macs": measure_cost(model, IMAGES, "macs") // 2}, rules=RULES, settings=settings)
    head = model.head
    assert head.field.in_channels == head.tower2.out_channels == head.conv_offset.in_channels
    assert head.field.weight.shape[:2] == (head.cls.in_channels, head.tower2.out_channels)
    assert model.out1.out_channels == model.out2.out_channels == head.tower1.in_channels


def test_no_layer_loses_more_than_the_limit_over_all_steps():
    model = seeded_lookalike()
    full = measure_cost(model, IMAGES, "macs")
    settings, original = PruningSettings(round_to=1, max_pruning_ratio=0.5), None
    for target in step_targets(full, 0.45 * full, 3):
        result = prune_step(model, IMAGES, {"macs": target}, rules=RULES, settings=settings, original_widths=original)
        original = original or {root: group.before for root, group in result.groups.items()}
    assert all(group.after >= original[root] / 2 for root, group in result.groups.items())
    assert result.after["macs"] == pytest.approx(0.45 * full, rel=0.01)


def test_an_unreachable_target_says_how_far_it_gets():
    model = seeded_lookalike()
    settings = PruningSettings(max_pruning_ratio=0.25)
    with pytest.raises(StageError, match=r"max_pruning_ratio 0\.25"):
        prune_step(model, IMAGES, {"macs": 1000}, rules=RULES, settings=settings)


def test_round_to_that_does_not_divide_a_width_names_the_layer_and_a_way_out():
    with pytest.raises(
        StageError, match=r"round_to: 16 does not divide 40 channels of block3.*Use 8, or protect the layer"
    ):
        prune_step(seeded_lookalike(), IMAGES, {"macs": 10**6}, rules=RULES, settings=PruningSettings(round_to=16))


def test_planned_cost_is_the_measured_cost_for_any_widths():
    images = torch.randn(1, 3, 16, 16)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3),
        nn.GroupNorm(4, 16),
        nn.Conv2d(16, 32, 3, groups=2),
        nn.ReLU(),
        nn.ConvTranspose2d(32, 8, 3, stride=2),
        nn.Conv2d(8, 4, 1),
    ).eval()
    rules = PruningRules()
    for metric in ("macs", "params"):
        pruned = copy.deepcopy(model)
        full = measure_cost(pruned, images, metric)
        settings = PruningSettings(round_to=4, max_pruning_ratio=0.9)
        result = prune_step(pruned, images, {metric: full // 2}, rules=rules, settings=settings)
        assert result.after[metric] == measure_cost(pruned, images, metric) < full


def test_concatenated_branches_are_planned_exactly():
    class Concatenated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 16, 1), nn.Conv2d(24, 8, 1)
            self.d = nn.Conv2d(8, 2, 1)

        def forward(self, x):
            return (self.d(self.c(torch.cat([self.a(x), self.b(x)], 1))),)

    model, images = Concatenated(), torch.randn(1, 3, 8, 8)
    coupling = trace_coupling(model, images, protected={}, custom_pruners={})
    cost = CostModel(model, measure_complexity(model, images), SideWidths(coupling.groups), "macs")
    kept = {"a": 4, "b": 10, "c": 3}
    assert cost.cost(kept) == 64 * (3 * 4 + 3 * 10 + 14 * 3 + 3 * 2)
    settings = PruningSettings(round_to=1)
    assert (
        prune_step(model, images, {"macs": cost.cost(kept)}, rules=PruningRules(), settings=settings).after["macs"] > 0
    )


def test_the_least_important_channels_go_and_equal_parts_lose_the_same_positions():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1, groups=2))
    group = trace_coupling(model, torch.randn(1, 3, 4, 4), protected={}, custom_pruners={}).groups[0]
    score = torch.tensor([5.0, 1, 5, 5, 5, 1, 5, 2], dtype=torch.float64)
    assert channels_to_remove(group, score, 6) == [1, 5]


def test_pruning_is_deterministic():
    widths = []
    for _ in range(2):
        model = seeded_lookalike()
        settings = PruningSettings(importance="group_taylor", round_to=1)
        target = measure_cost(model, IMAGES, "macs") // 2
        prune_step(model, IMAGES, {"macs": target}, rules=RULES, settings=settings, losses=[_loss(model)])
        widths.append([tuple(parameter.shape) for parameter in model.parameters()])
    assert widths[0] == widths[1]


def test_steps_shrink_by_equal_factors_and_end_on_the_target():
    assert step_targets(1000, 250, 2) == [500, 250]


def test_a_given_width_is_kept_and_the_others_meet_the_target():
    model = seeded_lookalike()
    full = measure_cost(model, IMAGES, "macs")
    free = prune_step(
        seeded_lookalike(), IMAGES, {"macs": round(full * 0.7)}, rules=RULES, settings=PruningSettings(round_to=1)
    ).groups
    root, width = next((name, group.before) for name, group in free.items() if group.before >= 8)
    for wanted in (width, width // 2):
        model = seeded_lookalike()
        result = prune_step(
            model,
            IMAGES,
            {"macs": round(full * 0.7)},
            rules=RULES,
            settings=PruningSettings(round_to=1),
            widths={root: wanted},
        )
        assert result.groups[root].after == wanted
        assert model.get_submodule(root).weight.shape[0] == wanted
        assert result.after["macs"] / full == pytest.approx(0.7, rel=0.01)


def test_a_given_width_is_cut_even_if_the_target_is_everything():
    model = seeded_lookalike()
    full = measure_cost(model, IMAGES, "macs")
    groups = prune_step(seeded_lookalike(), IMAGES, {"macs": full}, rules=RULES, settings=PruningSettings()).groups
    root, width = next((name, group.before) for name, group in groups.items() if group.before >= 16)
    result = prune_step(
        model, IMAGES, {"macs": full}, rules=RULES, settings=PruningSettings(), widths={root: width - 8}
    )
    assert {name for name, group in result.groups.items() if group.after != group.before} == {root}
    assert result.after["macs"] < full


@pytest.mark.parametrize(
    ("widths", "text"),
    [({"head.nothing": 8}, "is called 'head.nothing'"), ({"ROOT": 7}, "Give a multiple of 8, at most")],
)
def test_a_given_width_that_cannot_be_is_refused(widths, text):
    model = seeded_lookalike()
    full = measure_cost(model, IMAGES, "macs")
    root = next(iter(prune_step(model, IMAGES, {"macs": full}, rules=RULES, settings=PruningSettings()).groups))
    widths = {root if name == "ROOT" else name: value for name, value in widths.items()}
    with pytest.raises(StageError, match=text):
        prune_step(model, IMAGES, {"macs": full}, rules=RULES, settings=PruningSettings(), widths=widths)


def test_given_widths_are_reached_in_equal_factors():
    assert [step_width(64, 32, step=k, steps=3, round_to=8) for k in (1, 2, 3)] == [56, 48, 32]
    assert step_width(64, 64, step=1, steps=3, round_to=8) == 64
