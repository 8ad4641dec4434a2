import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from compress.errors import StageError
from compress.pruning.unstructured import (
    MaskKeeper,
    cubic_sparsity,
    element_importance,
    magnitude_masks,
    sparse_layer_names,
)

torch.set_num_threads(1)


def _model(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 5, 3), nn.Flatten(), nn.Linear(20, 7)
    )


def _train(model, keeper, steps, optimizer=None, first=0, total=None):
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    for step in range(first, first + steps):
        generator = torch.Generator().manual_seed(step)
        loss = model(torch.randn(4, 3, 6, 6, generator=generator)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        keeper.after_step(step + 1, total or steps)
    return optimizer


def test_cubic_schedule_starts_ends_and_never_falls():
    values = [cubic_sparsity(step, 100, initial=0.1, final=0.8) for step in range(120)]
    assert values[0] == pytest.approx(0.1)
    assert values[50] == pytest.approx(0.8 - 0.7 * 0.125)
    assert values[100:] == [0.8] * 20
    assert values == sorted(values)


@settings(max_examples=40, deadline=None)
@given(sparsity=st.floats(0, 0.95), seed=st.integers(0, 5), scope=st.sampled_from(["global", "per_layer"]))
def test_masks_have_the_sparsity_asked_for_to_the_element(sparsity, seed, scope):
    generator = torch.Generator().manual_seed(seed)
    weights = {name: torch.randn(size, generator=generator) for name, size in (("a", 37), ("b", 500), ("c", 3))}
    masks = magnitude_masks(weights, sparsity, scope=scope, max_sparsity_per_layer=1.0)
    if scope == "global":
        assert sum(int((~mask).sum()) for mask in masks.values()) == round(sparsity * 540)
    else:
        assert all(int((~masks[name]).sum()) == round(sparsity * weights[name].numel()) for name in weights)


def test_equal_weights_do_not_go_all_at_once():
    masks = magnitude_masks({"a": torch.ones(100)}, 0.3)
    assert int((~masks["a"]).sum()) == 30


def test_global_masks_drop_the_smallest_weights_as_a_plain_sort_does():
    weights = {"a": torch.randn(5, 4), "b": torch.randn(30)}
    masks = magnitude_masks(weights, 0.5, max_sparsity_per_layer=1.0)
    limit = torch.cat([w.flatten() for w in weights.values()]).abs().sort().values[25]
    assert all(torch.equal(masks[name], weights[name].abs() >= limit) for name in weights)


def test_a_small_layer_is_not_emptied():
    weights = {"small": torch.randn(20) * 1e-3, "large": torch.randn(1000)}
    masks = magnitude_masks(weights, 0.5, max_sparsity_per_layer=0.9)
    assert int(masks["small"].sum()) == 2
    assert sum(int((~mask).sum()) for mask in masks.values()) == 510


def test_scaled_magnitude_ignores_the_scale_of_a_layer():
    weight = torch.randn(50)
    torch.testing.assert_close(
        element_importance(weight, "scaled_magnitude"), element_importance(weight * 100, "scaled_magnitude")
    )


def test_too_much_sparsity_is_refused():
    with pytest.raises(StageError, match="max_sparsity_per_layer"):
        magnitude_masks({"a": torch.randn(10)}, 0.99)


def test_biases_and_batch_norms_are_never_listed_and_patterns_skip():
    assert sparse_layer_names(_model()) == ("0", "3", "5")
    assert sparse_layer_names(_model(), skip=["[35]"]) == ("0",)
    with pytest.raises(StageError, match="nothing_like_it"):
        sparse_layer_names(_model(), skip=["nothing_like_it"])


@pytest.mark.parametrize("schedule", ["cubic", "one_shot"])
def test_the_final_sparsity_is_exact_and_holds_during_training(schedule):
    model = _model()
    keeper = MaskKeeper(model, ("0", "3", "5"), sparsity=0.7, schedule=schedule, update_every=3, ramp_share=0.5)
    keeper.start()
    _train(model, keeper, 30)
    reached = keeper.finish()
    weights = [model[0].weight, model[3].weight, model[5].weight]
    total = sum(w.numel() for w in weights)
    assert sum(int((w == 0).sum()) for w in weights) == round(0.7 * total)
    assert reached == pytest.approx(0.7, abs=1 / total)
    assert not bool((model[1].weight == 0).any())


def test_masks_are_frozen_after_the_ramp():
    model = _model()
    keeper = MaskKeeper(model, ("0", "5"), sparsity=0.6, update_every=2, ramp_share=0.5)
    keeper.start()
    optimizer = _train(model, keeper, 10, total=20)
    frozen = {name: mask.clone() for name, mask in keeper.masks.items()}
    _train(model, keeper, 10, optimizer, first=10, total=20)
    assert all(torch.equal(model.get_submodule(name).weight != 0, mask) for name, mask in frozen.items())


def test_weights_that_were_zero_at_the_start_stay_zero():
    model = _model()
    with torch.no_grad():
        model[0].weight[:4] = 0
    keeper = MaskKeeper(model, ("0", "3", "5"), sparsity=0.8, update_every=2)
    keeper.start()
    _train(model, keeper, 6, total=40)
    assert bool((model[0].weight[:4] == 0).all())


@pytest.mark.parametrize("interrupted_after", [7, 15])
def test_a_resumed_training_ends_with_the_same_weights(interrupted_after):
    def keeper_of(model):
        return MaskKeeper(model, ("0", "3", "5"), sparsity=0.7, update_every=3, ramp_share=0.5)

    whole = _model()
    keeper = keeper_of(whole)
    keeper.start()
    _train(whole, keeper, 20)
    keeper.finish()

    first = _model()
    keeper = keeper_of(first)
    keeper.start()
    optimizer = _train(first, keeper, interrupted_after, total=20)

    second = _model()
    keeper = keeper_of(second)  # as the stage does: made from the source model, then the checkpoint is loaded
    keeper.start()
    second.load_state_dict(first.state_dict())
    fresh = torch.optim.SGD(second.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    fresh.load_state_dict(optimizer.state_dict())
    _train(second, keeper, 20 - interrupted_after, fresh, first=interrupted_after, total=20)
    keeper.finish()
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), second.parameters(), strict=True))


def test_without_training_the_target_is_reached_at_the_end():
    model = _model()
    keeper = MaskKeeper(model, ("0",), sparsity=0.5)
    keeper.start()
    assert keeper.finish() == pytest.approx(0.5, abs=1 / 216)
