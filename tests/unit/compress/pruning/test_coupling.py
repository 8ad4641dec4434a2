import pytest
import torch
from lookalike import CUSTOM, PROTECTED, seeded_lookalike
from torch import nn

from compress.errors import StageError
from compress.pruning.coupling import remove_channels, trace_coupling

torch.set_num_threads(1)


def _trace(model, images=None):
    images = torch.randn(1, 3, 64, 64) if images is None else images
    return trace_coupling(model, images, protected=PROTECTED, custom_pruners=CUSTOM)


def _group_of(coupling, name):
    return next(group for group in coupling.groups if name in group.producers)


def test_layers_that_are_added_lose_the_same_channels():
    coupling = _trace(seeded_lookalike())
    assert "lateral2" in _group_of(coupling, "lateral1").producers
    assert "block1.project" in _group_of(coupling, "block2.project").producers


def test_a_depthwise_convolution_goes_with_its_producer():
    producers = _group_of(_trace(seeded_lookalike()), "block1.depth").producers
    assert {"block1.expand", "block1.expand_bn", "block1.depth", "block1.depth_bn"} == set(producers)


def test_a_shared_head_ties_all_levels():
    group = _group_of(_trace(seeded_lookalike()), "out1")
    assert "out2" in group.producers
    assert {m.name for m in group.members if m.side == "in"} == {"head.tower1"}


def test_the_features_of_a_custom_layer_are_not_tied_to_its_field():
    group = _group_of(_trace(seeded_lookalike()), "head.tower2")
    assert {m.name for m in group.members if m.side == "in"} == {"head.field", "head.conv_offset"}


def test_a_custom_layer_is_prunable_itself():
    assert _group_of(_trace(seeded_lookalike()), "head.field").width == 32


def test_raw_outputs_and_side_inputs_are_protected_without_being_named():
    coupling = trace_coupling(seeded_lookalike(), torch.randn(1, 3, 64, 64), protected={}, custom_pruners=CUSTOM)
    assert set(coupling.not_prunable) == {"head.cls", "head.conv_offset"}


def test_an_unknown_protected_layer_is_an_error():
    with pytest.raises(StageError, match="nowhere"):
        trace_coupling(seeded_lookalike(), torch.randn(1, 3, 64, 64), protected={"nowhere": "x"}, custom_pruners=CUSTOM)


def test_tracing_leaves_the_model_as_it_was():
    model = seeded_lookalike()
    model.train()
    model.stem_bn.eval()
    model.stem.weight.requires_grad_(False)
    _trace(model)
    assert model.training
    assert not model.stem_bn.training
    assert not model.stem.weight.requires_grad
    assert "forward" not in vars(model.head.field)


def test_frozen_layers_are_pruned_like_others():
    model = seeded_lookalike()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    assert {g.root for g in _trace(model).groups} == {g.root for g in _trace(seeded_lookalike()).groups}


@pytest.mark.parametrize(
    "root_layer", ["block2.project", "block1.depth", "out1", "lateral1", "head.tower2", "head.field"]
)
def test_removing_dead_channels_changes_no_output(root_layer):
    """Channels that are zero wherever they are produced carry nothing, so the network is the same without them."""
    model, images = seeded_lookalike(), torch.randn(2, 3, 64, 64)
    coupling = _trace(model, images)
    group = _group_of(coupling, root_layer)
    dead = [1, 5, group.width - 1]
    with torch.no_grad():
        for member in group.members:
            module = model.get_submodule(member.name)
            if member.side == "out":
                for tensor in (module.weight, getattr(module, "bias", None), getattr(module, "running_mean", None)):
                    if tensor is not None:
                        tensor[dead] = 0
    expected = model(images)
    remove_channels(coupling, model, {group.root: dead})
    for before, after in zip(expected, model(images), strict=True):
        torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)


def test_grouped_convolutions_lose_equal_parts_and_group_norms_whole_groups():
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.GroupNorm(4, 16), nn.Conv2d(16, 32, 3), nn.Conv2d(32, 4, 1, groups=2))
    coupling = trace_coupling(model.eval(), torch.randn(1, 3, 16, 16), protected={}, custom_pruners={})
    assert {group.root: group.channel_groups for group in coupling.groups} == {"0": 4, "2": 2}
    size = 32 // 2
    remove_channels(coupling, model, {"0": [1, 5, 9, 13], "2": [3, 3 + size]})
    assert (model[1].num_groups, model[1].num_channels) == (3, 12)
    assert model(torch.randn(1, 3, 16, 16)).shape == (1, 4, 12, 12)
