"""RTMDet-s, -m and -l as they are shipped: pruned as with channels at zero, and every addition of integers is wired."""

import copy

import pytest
import torch
from small_detectors import CLASSES, enliven, smooth_images

from compress.pruning.coupling import remove_channels, zero_channels
from compress.pruning.importance import magnitude_scores
from compress.pruning.settings import PruningRules
from compress.pruning.structured import tried_coupling
from compress.pruning.width_plan import channels_to_remove
from compress.quantization import QuantizationSettings, calibrate, quantize
from compress.quantization.layers import ActivationQuantizer, add
from detectors.data.formats.dota import DotaData, DotaDataset
from detectors.openmmlab.adapter import OpenMmlab

SIZE = 128


def shipped(size):
    """Return the plug-in with a configuration as it is shipped, and a network with fresh weights."""
    data = DotaDataset(DotaData(image_size=(SIZE, SIZE)), ())
    config = OpenMmlab.CONFIG(config=f"rotated_rtmdet_{size}-3x-dota", classes=CLASSES)
    detector = OpenMmlab(config, data)
    return detector, enliven(detector.build())


def outputs(model, images):
    with torch.no_grad():
        return list(model(images))


def pruned(detector, model, keep=0.6):
    """Return the network with some channels at zero, and without them."""
    example = detector.example_input(1)
    rules = PruningRules(detector.not_prunable(model), detector.custom_pruners(model))
    coupling = tried_coupling(model, example, rules)
    meant = set(rules.protected)
    assert set(coupling.not_prunable) <= meant, coupling.not_prunable
    scores = magnitude_scores(model, coupling.groups)
    removals = {
        group.root: channels_to_remove(
            group, scores[group.root], max(round(group.width * keep) // group.unit(1), 1) * group.unit(1)
        )
        for group in coupling.groups
    }
    zeroed, cut = copy.deepcopy(model), copy.deepcopy(model)
    zero_channels(coupling, zeroed, removals)
    remove_channels(coupling, cut, removals)
    return zeroed, cut


@pytest.mark.parametrize("size", ["s", *(pytest.param(name, marks=pytest.mark.slow) for name in ("m", "l"))])
def test_a_pruned_rtmdet_computes_what_it_computes_with_its_channels_at_zero(size):
    detector, model = shipped(size)
    zeroed, cut = pruned(detector, model)
    assert sum(p.numel() for p in cut.parameters()) < 0.6 * sum(p.numel() for p in model.parameters())
    images = smooth_images(1, seed=3, size=SIZE)
    for expected, found in zip(outputs(zeroed, images), outputs(cut, images), strict=True):
        error = float((found - expected).norm() / expected.norm().clamp_min(1e-12))
        assert error < 1e-5

    quantized = quantize(cut, QuantizationSettings(), detector)
    calibrate(quantized, [images])
    sums = [node for node in quantized.graph.nodes if node.target is add]
    assert sums
    for node in sums:
        around = [quantized.get_submodule(str(argument.target)) for argument in node.args[2:]]
        assert len(around) == 3
        assert all(isinstance(module, ActivationQuantizer) and module.is_active for module in around)
    assert all(bool(torch.isfinite(output).all()) for output in outputs(quantized, images))
