"""Every block of the zoo: pruned at two budgets and with free widths, saved, loaded, quantized, exported, packed."""

from __future__ import annotations

import copy

import block_zoo
import numpy as np
import onnxruntime as ort
import pytest
import torch
from fake_plugin import FakePlugin
from odd_blocks import ODD

from compress.codec import pack_file, unpack_bytes
from compress.errors import StageError
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
BLOCKS = block_zoo.BLOCKS | ODD
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
# Layers that keep their channels, and a word of the reason; everything else in every block can lose some.
NORM, SIDE, MEAN, NO_RUN = "norm over all channels", "side input", "mean mixes", "does not run with fewer"
COMPUTED, GROUPS = "whose weight is computed or shared", "deformable convolution with groups"
KEPT = {
    "yolov8_c2f_literal": {"block.cv1.0": NO_RUN, "block.m.0.cv2.0": NO_RUN},
    "yolo11_attention": dict.fromkeys(("before.0", "block.qkv.0", "block.pe.0"), NO_RUN),
    "yolo11_c2psa": dict.fromkeys(
        ("block.cv1.0", "block.attn.qkv.0", "block.attn.proj.0", "block.attn.pe.0", "block.ffn.1.0"), NO_RUN
    ),
    "convnext_conv": dict.fromkeys(("before.0", "block.dw", "block.pw2"), NORM),
    "convnext_linear": dict.fromkeys(("before.0", "block.dw", "block.pw2"), NORM),
    "deformable": {"block.offset": SIDE, "block.mask": SIDE},
    "deformable_v1": {"block.offset": SIDE, "block.mask": "no output depends on it"},
    "attention_tokens": dict.fromkeys(("before.0", "block.proj", "block.mlp.2"), NORM),
    "attention_dot": dict.fromkeys(("before.0", "block.proj", "block.mlp.2"), NORM) | {"block.qkv": "scale of the"},
    "weight_norm": {"block.a.0": "weight is computed", "block.b": "weight is computed"},
    "weight_norm_old": {"block.a.0": "weight is computed", "block.b": "weight is computed"},
    "one_channel": {"block.map": "one channel", "block.one": "one channel"},
    "cbam": {"block.a.0": MEAN, "block.se.fc2": MEAN, "block.map": "one channel"},
    "group_norm_one": {"before.0": NORM, "block.a": NORM, "block.b": NORM},
    "weight_standardization": {"block.a.0": COMPUTED, "block.own": "its weight is computed"},
    "spectral_norm_old": {"block.a.0": COMPUTED, "block.own": "its weight is computed"},
    "masked": {"block.a.0": COMPUTED, "block.own": "its weight is computed"},
    "tied": {"before.0": NO_RUN, "block.a": COMPUTED},
    "deformable_norm": {"block.field": SIDE},
    "deformable_groups": {"block.a.0": GROUPS, "block.field": SIDE, "block.deform": "convolution with groups"},
    "unsaved_buffer": {"block.a.0": "ties it to a fixed size"},
    "distribution": {"block.steps": "softmax mixes", "block.mean": "one channel"},
}
# Budgets of MACs below which some blocks cannot go.
OUT_OF_REACH = dict.fromkeys(("weight_norm", "weight_norm_old", "group_norm_one", "weight_standardization"), 0.6)
OUT_OF_REACH["deformable_groups"] = 0.63


# One block of each kind is exported in the usual tests, the others in the slow ones.
EXPORTED = (
    "yolov8_c2f_list", "yolo11_c2psa", "rtmdet_cspnext", "repvgg", "convnext_conv", "shufflenet1", "mobilenetv3",
    "deformable", "weight_norm", "repeat_interleave", "prelu", "one_channel", "in_place_alias", "tied",
    "deformable_norm",
)  # fmt: skip


def block_net(name):
    return block_zoo.block_net(name, BLOCKS)


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


@pytest.mark.parametrize("name", BLOCKS)
def test_every_layer_can_lose_channels_but_those_that_are_known_to_keep_them(name):
    kept = dict(tried_coupling(block_net(name), IMAGES[:1], PruningRules({"head": "raw output"})).not_prunable)
    assert kept.pop("head") == "raw output"
    words = KEPT.get(name, {})
    assert kept.keys() == words.keys()
    assert all(word in kept[layer] for layer, word in words.items()), kept
    assert all(reason.cure for reason in kept.values())


@pytest.mark.parametrize(("share", "round_to"), [(0.8, 1), (0.8, 2), (0.6, 1), (0.35, 1)])
@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_is_pruned_to_a_budget_and_the_stage_can_load_it(name, share, round_to, tmp_path):
    model, detector = block_net(name), Blocks(name)
    full = measure_cost(model, IMAGES[:1], "macs")
    settings = PruningSettings(round_to=round_to)
    if share < OUT_OF_REACH.get(name, 0):
        with pytest.raises(StageError, match="cannot be reached"):
            prune_step(model, IMAGES[:1], {"macs": round(full * share)}, rules=PruningRules(), settings=settings)
        return
    result = prune_step(model, IMAGES[:1], {"macs": round(full * share)}, rules=PruningRules(), settings=settings)
    assert result.after["macs"] / full == pytest.approx(share, abs=0.06)
    save_model(tmp_path, model, Build())
    again, _ = load_model(tmp_path, detector)
    assert torch.equal(_outputs(again), _outputs(model))


def _pruned_and_quantized(name):
    model, detector = block_net(name), Blocks(name)
    target = round(measure_cost(model, IMAGES[:1], "macs") * 0.7)
    prune_step(model, IMAGES[:1], {"macs": target}, rules=PruningRules(), settings=PruningSettings(round_to=2))
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
