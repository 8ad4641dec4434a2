"""The real network: backbone, FPN, and the head with deformable layers that five levels share."""

import pytest
import torch

from compress.metrics.complexity import measure_complexity
from compress.pruning.cost_model import measure_cost
from compress.pruning.coupling import remove_channels, trace_coupling
from compress.pruning.settings import PruningRules, PruningSettings
from compress.pruning.structured import prune_step, step_targets
from detectors.dcfl.network import DcflNetwork

torch.set_num_threads(1)

IMAGES = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
PROTECTED = {
    "head.conv_offset": "sampling field",
    "head.retina_cls": "class scores",
    "head.retina_reg": "box deltas",
}


def _network(backbone, **settings):
    torch.manual_seed(0)
    model = DcflNetwork(backbone, 3, channels=32, **settings).eval()
    torch.nn.init.normal_(model.head.conv_offset.weight, std=0.05)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.3, 0.3)
    return model


def _custom():
    from detectors.dcfl.deform import ModulatedDeformConv
    from detectors.weights.pruning import KernelPruner

    return {ModulatedDeformConv: KernelPruner()}


@pytest.mark.parametrize(("backbone", "settings"), [("mobilenet_v2", {}), ("resnet18", {"base_channels": 16})])
def test_removing_dead_channels_of_every_group_changes_none_of_the_fifteen_outputs(backbone, settings):
    model = _network(backbone, **settings)
    coupling = trace_coupling(model, IMAGES, protected=PROTECTED, custom_pruners=_custom())
    dead = {group.root: [0, 3, group.width - 2] for group in coupling.groups}
    with torch.no_grad():
        for group in coupling.groups:
            for member in group.members:
                layer = model.get_submodule(member.name)
                for tensor in (layer.weight, getattr(layer, "bias", None), getattr(layer, "running_mean", None)):
                    if member.side == "out" and tensor is not None:
                        tensor[dead[group.root]] = 0
    with torch.no_grad():
        expected = model(IMAGES)
        remove_channels(coupling, model, dead)
        actual = model(IMAGES)
    assert len(actual) == 15
    for before, after in zip(expected, actual, strict=True):
        torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-4)
    assert set(coupling.not_prunable) == set(PROTECTED)


def test_mobilenet_dcfl_reaches_its_mac_target_in_steps_with_widths_of_eight():
    model = _network("mobilenet_v2")
    shapes = [output.shape for output in model(IMAGES)]
    full, original = measure_cost(model, IMAGES, "macs"), None
    rules = PruningRules(PROTECTED, _custom())
    for target in step_targets(full, 0.6 * full, 2):
        result = prune_step(
            model, IMAGES, {"macs": target}, rules=rules, settings=PruningSettings(), original_widths=original
        )
        original = original or {root: group.before for root, group in result.groups.items()}
        assert result.after["macs"] == pytest.approx(target, rel=0.01)
    assert all(group.after % 8 == 0 for group in result.groups.values())
    assert [output.shape for output in model(IMAGES)] == shapes
    assert measure_complexity(model, IMAGES).layers["head.cls_convs.3"].calls == 5
