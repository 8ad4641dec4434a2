"""What `krimp plan` says of networks whose layers keep their channels: module, block, reason and cure."""

import json
import sys
import textwrap
from pathlib import Path

import pytest

from compress.artifact import find_folder
from compress.cli.main import main

PLUGIN = '''
import torch
from block_zoo import BlockNet
from fake_plugin import FakePlugin
from engine_fakes import FakeDetector as Base
from torch import nn


class Tied(nn.Module):
    """Every width is that of the raw outputs."""

    def __init__(self):
        super().__init__()
        self.stem, self.one, self.two = (nn.Conv2d(c, 8, 3, padding=1) for c in (3, 8, 8))

    def forward(self, images):
        x = self.stem(images)
        return (x + self.two(self.one(x).relu() + x),)


class Remembers(nn.Module):
    """A layer that keeps a value a channel where no one looks for it."""

    def __init__(self, where):
        super().__init__()
        self.in_channels, self.out_channels, self.where = 16, 16, where
        self.weight = nn.Parameter(torch.randn(16, 16, 1, 1))
        self.left = list(range(16))
        self.register_buffer("scale", torch.linspace(0.5, 1.5, 16).view(1, 16, 1, 1))

    def forward(self, x):
        return nn.functional.conv2d(x, self.weight) * self.scale[:, self.left[:self.out_channels]]


class Rule:
    """Cuts it, and what it keeps."""

    def prune_out_channels(self, layer, gone):
        kept = [i for i in range(layer.out_channels) if i not in gone]
        layer.weight, layer.out_channels = nn.Parameter(layer.weight[kept].detach()), len(kept)
        if layer.where == "buffer":
            layer.scale = layer.scale[:, kept]
            layer.left = list(range(len(kept)))
        else:
            layer.left = [layer.left[i] for i in kept]

    def prune_in_channels(self, layer, gone):
        kept = [i for i in range(layer.in_channels) if i not in gone]
        layer.weight, layer.in_channels = nn.Parameter(layer.weight[:, kept].detach()), len(kept)

    def get_out_channels(self, layer):
        return layer.out_channels

    def get_in_channels(self, layer):
        return layer.in_channels


class Unloadable(nn.Module):
    def __init__(self, where):
        super().__init__()
        self.stem, self.odd, self.head = nn.Conv2d(3, 16, 3), Remembers(where), nn.Conv2d(16, 4, 1)

    def forward(self, images):
        return (self.head(self.odd(self.stem(images).relu())),)


class BlockDetector(Base):
    def build(self):
        name = "NAME"
        if name == "tied":
            return Tied()
        return Unloadable(name.removeprefix("odd ")) if name.startswith("odd ") else BlockNet(name)

    def example_input(self, batch_size=1):
        return torch.zeros(batch_size, 3, *self.data.image_size)

    def not_prunable(self, model):
        return {}

    def not_quantizable(self, model):
        return {}

    def custom_pruners(self, model):
        return {Remembers: Rule()}

    def distill_points(self, model):
        return ()
'''


@pytest.fixture
def asked(tmp_path, monkeypatch, capfd):
    """Return a function that runs `krimp COMMAND` for a network of the zoo: exit code, standard output and error."""
    monkeypatch.syspath_prepend(Path(__file__).parent / "blocks")
    monkeypatch.syspath_prepend(tmp_path)

    def ask(name, command, *arguments, share=0.3, **fields):
        (tmp_path / "blocks_plugin.py").write_text(PLUGIN.replace("NAME", name))
        (tmp_path / "weights").write_text("none are read")
        sys.modules.pop("blocks_plugin", None)
        extra = "".join(f", {key}: {value}" for key, value in fields.items())
        recipe = tmp_path / "a.yaml"
        recipe.write_text(
            textwrap.dedent(f"""\
            name: blocks
            detector: {{plugin: 'blocks_plugin:BlockDetector', checkpoint: {tmp_path}/weights}}
            data: {{image_size: [32, 32]}}
            stages:
              - {{stage: prune_structured, target: {{macs: {share}}}, round_to: 1, importance: magnitude, bn_batches: 0{extra}}}
            """)  # noqa: E501
        )
        code = main([command, str(recipe), "--out", str(tmp_path / "out"), *arguments])
        return code, *capfd.readouterr()

    yield ask
    sys.modules.pop("blocks_plugin", None)


@pytest.mark.parametrize(
    ("name", "share", "words"),
    [
        (
            "tied",
            0.9,
            ["stem, one, two (in Tied, 100%", "a raw output", "a 1x1 convolution", "Leave the stage out"],
        ),
        ("group_norm_one", 0.35, ["block.a, block.b (in block, a GroupNorms", "a norm over all", "Use batch norm"]),
        ("convnext_conv", 0.25, ["block.dw (in block, a ConvNeXt", "a norm over all channels", "Use batch norm"]),
        ("weight_norm", 0.35, ["block.b (in block, a WeightNorm", "is computed", "remove_parametrizations"]),
        ("weight_norm_old", 0.35, ["block.b (in block, a WeightNorm", "is computed", "remove_weight_norm"]),
        ("attention_dot", 0.25, ["block.qkv (in block, a TokenAttention", "scale of the attention", "yourself"]),
        ("yolov8_c2f_literal", 0.08, ["block.cv1.0 (in block, a C2f", "does not run with fewer", "x.shape[1] // 2"]),
    ],
)
def test_a_target_out_of_reach_is_refused_with_the_layers_that_stand_in_its_way(asked, name, share, words):
    code, _, err = asked(name, "plan", share=share)
    assert code == 4
    assert "a.yaml:5:5: stages[0]: stage prune_structured: target macs" in err
    assert all(word in err for word in ["cannot be reached", *words]), err
    assert "Traceback" not in err


def test_layers_that_keep_their_channels_are_told_although_the_target_is_reached(asked):
    words = "  block.proj, block.mlp.2 (in block, a TokenAttention, "
    for state in ("passed in", "passed before"):
        code, out, err = asked("attention_tokens", "plan", share=0.6)
        assert (code, err) == (0, "")
        assert f"dry pass: {state}" in out
        assert words in out
        assert "the operator add ties it to channels that stay: a norm over all channels reads it." in out
    document = json.loads(asked("attention_tokens", "plan", "--json", share=0.6)[1])
    assert any(line.startswith(words.strip()) for line in document["dry_pass"]["kept"])


def test_nothing_is_told_of_a_network_that_loses_channels_everywhere(asked):
    code, out, _ = asked("mobilenetv3", "plan", share=0.35)
    assert code == 0
    assert "channels" not in out


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("odd buffer", "the pruned model cannot be loaded again: "),
        ("odd attribute", "output 0 of the pruned model changed when it was saved and loaded. "),
    ],
)
def test_a_pruned_model_that_cannot_be_loaded_is_refused_and_not_sealed(asked, tmp_path, name, words):
    cure = "A layer of the network has a state whose size build.json cannot tell: name it in `protect`"
    for command, *options in (["plan"], ["run"], ["run", "--no-dry-pass"]):
        code, _, err = asked(name, command, *options, share=0.6)
        assert code == 4
        assert f"stage prune_structured: {words}" in err
        assert cure in err
    assert find_folder(tmp_path / "out" / "blocks", "float") is not None
    assert find_folder(tmp_path / "out" / "blocks", "prune_structured") is None
    # The cure works.
    assert asked(name, "run", share=0.9, protect="{odd: keeps a state}")[0] == 0
