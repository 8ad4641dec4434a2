"""Every block of the zoo: pruned at two budgets and with free widths, saved, loaded, quantized, exported, packed."""

from __future__ import annotations

import copy

import numpy as np
import onnxruntime as ort
import pytest
import torch
from block_zoo import BLOCKS, block_net
from fake_plugin import FakePlugin

from compress.codec import pack_file, unpack_bytes
from compress.export.onnx_file import export_onnx
from compress.export.parity import relative_error
from compress.model_folder import Build, load_model, save_model
from compress.pruning.cost_model import measure_cost
from compress.pruning.coupling import remove_channels, zero_channels
from compress.pruning.importance import magnitude_scores
from compress.pruning.settings import PruningRules, PruningSettings
from compress.pruning.structured import prune_step, tried_coupling
from compress.pruning.width_plan import channels_to_remove
from compress.quantization import QuantizationSettings, calibrate, quantize

torch.set_num_threads(1)
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
# Blocks whose inner layers cannot lose channels: a scale, a norm or a computed weight needs them all.
KEPT = {"group_norm_one", "yolo11_attention", "attention_dot", "weight_norm", "weight_norm_old"}


# One block of each kind is exported in the usual tests, the others in the slow ones.
EXPORTED = (
    "yolov8_c2f_list", "yolo11_c2psa", "rtmdet_cspnext", "repvgg", "convnext_conv", "shufflenet1", "mobilenetv3",
    "deformable", "weight_norm", "repeat_interleave", "prelu", "one_channel",
)  # fmt: skip


class Blocks(FakePlugin):
    def __init__(self, name):
        self.name = name

    def build(self):
        return block_net(self.name)

    def output_names(self):
        return ("maps",)

    def example_input(self, batch_size=1):
        return IMAGES[:1].repeat(batch_size, 1, 1, 1)

    def not_quantizable(self, model):
        return {"head": "output layer"}


def _outputs(model):
    with torch.no_grad():
        return model(IMAGES)[0]


@pytest.mark.parametrize("name", BLOCKS)
def test_a_pruned_block_computes_what_it_computes_with_its_channels_at_zero(name, tmp_path):
    whole = block_net(name)
    full = measure_cost(whole, IMAGES[:1], "macs")
    coupling = tried_coupling(whole, IMAGES[:1], PruningRules())
    assert any(name.startswith("block") for group in coupling.groups for name in group.producers) or name in KEPT
    for keep in (0.75, 0.4):
        zeroed, cut = copy.deepcopy(whole), copy.deepcopy(whole)
        scores = magnitude_scores(whole, coupling.groups)
        removals = {}
        for group in coupling.groups:
            unit = group.unit(1)
            removals[group.root] = channels_to_remove(
                group, scores[group.root], max(round(group.width * keep) // unit * unit, unit)
            )
        zero_channels(coupling, zeroed, removals)
        remove_channels(coupling, cut, removals)
        torch.testing.assert_close(_outputs(cut), _outputs(zeroed), rtol=1e-5, atol=1e-5)
        assert measure_cost(cut, IMAGES[:1], "macs") < full


@pytest.mark.parametrize(("share", "round_to"), [(0.8, 1), (0.8, 2), (0.6, 1)])
@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_is_pruned_to_a_budget_and_the_stage_can_load_it(name, share, round_to, tmp_path):
    model, detector = block_net(name), Blocks(name)
    full = measure_cost(model, IMAGES[:1], "macs")
    settings = PruningSettings(round_to=round_to)
    result = prune_step(model, IMAGES[:1], round(full * share), rules=PruningRules(), settings=settings)
    assert result.cost_after < full
    save_model(tmp_path, model, Build())
    again, _ = load_model(tmp_path, detector)
    assert torch.equal(_outputs(again), _outputs(model))


def _pruned_and_quantized(name):
    model, detector = block_net(name), Blocks(name)
    target = round(measure_cost(model, IMAGES[:1], "macs") * 0.7)
    prune_step(model, IMAGES[:1], target, rules=PruningRules(), settings=PruningSettings(round_to=2))
    quantized = quantize(model, QuantizationSettings(), detector)
    calibrate(quantized, [IMAGES])
    return model, quantized, detector


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in EXPORTED else pytest.mark.long) for n in BLOCKS])
def test_a_pruned_block_is_quantized_and_trains(name):
    model, quantized, _ = _pruned_and_quantized(name)
    assert relative_error(_outputs(quantized).numpy(), _outputs(model).numpy()) < 0.15
    quantized.train()
    quantized(IMAGES)[0].square().mean().backward()


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.long if n in EXPORTED else pytest.mark.slow) for n in BLOCKS]
)
def test_a_pruned_block_is_exported_and_packed(name, tmp_path):
    _, quantized, detector = _pruned_and_quantized(name)
    path = tmp_path / "model.onnx"
    export_onnx(quantized, path, detector=detector)
    found = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"images": IMAGES.numpy()})[0]
    assert relative_error(np.asarray(found), _outputs(quantized).numpy()) < 0.02
    pack_file(path, tmp_path / "model.krimp")
    assert unpack_bytes(tmp_path / "model.krimp") == path.read_bytes()
