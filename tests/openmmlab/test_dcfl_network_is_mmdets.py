"""DCFL's backbones and FPN against mmdet's, from the same weights: values, gradients, statistics, initial draws."""

import copy

import pytest
import torch
from mmdet.models.backbones import MobileNetV2, ResNet
from mmdet.models.backbones.resnet import BasicBlock, Bottleneck
from mmdet.models.necks import FPN
from torch import nn

from detectors.dcfl.backbones import build_backbone, reset_backbone
from detectors.dcfl.head import DcflHead
from detectors.dcfl.neck import Fpn, reset_neck
from detectors.dcfl.network import DcflNetwork

LIMIT = 1e-6
CHANNELS = 16
DEPTHS = {"resnet18": 18, "resnet50": 50, "resnet101": 101}
BACKBONES = [
    ("mobilenet_v2", 64), ("resnet18", 64), ("resnet18", 8), ("resnet50", 64), ("resnet50", 8), ("resnet101", 16),
]  # fmt: skip


def mmdets_backbone(name, base_channels):
    if name == "mobilenet_v2":
        return MobileNetV2(out_indices=(2, 4, 6))
    return ResNet(
        depth=DEPTHS[name], base_channels=base_channels, out_indices=(1, 2, 3), norm_eval=False, style="pytorch"
    )


def mmdets_neck(widths, channels=CHANNELS):
    return FPN(
        in_channels=list(widths),
        out_channels=channels,
        num_outs=5,
        add_extra_convs="on_input",
        upsample_cfg={"scale_factor": 2.0, "mode": "nearest"},
    )


def without_classifier(state):
    """Leave out the classifier's last convolution, which mmdet's MobileNetV2 always has."""
    return {name: value for name, value in state.items() if not name.startswith("conv2.")}


class Pair(nn.Module):
    """Backbone and neck, from images to P3..P7."""

    def __init__(self, backbone, neck):
        super().__init__()
        self.backbone, self.neck = backbone, neck

    def forward(self, images):
        return self.neck(self.backbone(images)[:3])


@pytest.fixture(scope="module", params=BACKBONES, ids=lambda pair: f"{pair[0]}-{pair[1]}")
def pairs(request):
    """Return our backbone and neck, and mmdet's with the same weights, in which no two norms are alike."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    backbone = build_backbone(*request.param)
    ours = Pair(backbone, Fpn(backbone.widths, CHANNELS, 5))
    for module in ours.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.2, 0.6)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    theirs = Pair(mmdets_backbone(*request.param), mmdets_neck(backbone.widths))
    found = theirs.load_state_dict(ours.state_dict(), strict=False)
    assert [name for name in found.missing_keys if not name.startswith("backbone.conv2.")] == []
    assert found.unexpected_keys == []
    return ours, theirs


def images(seed=1):
    return torch.randn(2, 3, 96, 128, generator=torch.Generator().manual_seed(seed))


def assert_close(mine, expected):
    torch.testing.assert_close(mine, expected, atol=LIMIT, rtol=LIMIT)


def test_parameters_have_mmdets_names_in_mmdets_order(pairs):
    ours, theirs = pairs
    names = [name for name in theirs.state_dict() if not name.startswith("backbone.conv2.")]
    assert list(ours.state_dict()) == names


def test_the_levels_are_mmdets_in_evaluation(pairs):
    ours, theirs = (pair.eval() for pair in pairs)
    with torch.no_grad():
        levels, expected = ours(images()), theirs(images())
    assert [tuple(level.shape[1:]) for level in levels] == [
        (CHANNELS, 12, 16), (CHANNELS, 6, 8), (CHANNELS, 3, 4), (CHANNELS, 2, 2), (CHANNELS, 1, 1),
    ]  # fmt: skip
    for mine, level in zip(levels, expected, strict=True):
        assert float(level.std()) > 1e-3
        assert_close(mine, level)


def test_gradients_and_running_statistics_are_mmdets_in_training(pairs):
    ours, theirs = (copy.deepcopy(pair).train() for pair in pairs)
    for pair in (ours, theirs):
        sum((level * level).mean() for level in pair(images())).backward()
    expected = {name: value.grad for name, value in theirs.named_parameters() if value.grad is not None}
    mine = {name: value.grad for name, value in ours.named_parameters()}
    assert set(mine) == set(expected)
    assert max(float(value.abs().max()) for value in expected.values()) > 1e-3
    for name, gradient in expected.items():
        assert_close(mine[name], gradient)
    after = theirs.state_dict()
    for name, value in ours.state_dict().items():
        assert_close(value, after[name])


def traced(pair):
    """Return operation and target of every node; quantizers and exported tensors are named after these."""
    graph = torch.fx.symbolic_trace(pair).graph
    nodes = [(node.op, node.name, getattr(node.target, "__name__", node.target)) for node in graph.nodes]
    return [node for node in nodes if not node[1].startswith("backbone_conv2_")]


def test_the_traced_graph_is_mmdets_node_by_node(pairs):
    ours, theirs = (copy.deepcopy(pair).eval() for pair in pairs)
    expected = traced(theirs)
    assert len(expected) > 50
    assert traced(ours) == expected


@pytest.mark.parametrize(("name", "base_channels"), [("mobilenet_v2", 64), ("resnet18", 8), ("resnet50", 8)])
def test_a_seed_draws_the_initial_values_that_it_drew_with_mmdets_parts(name, base_channels):
    torch.manual_seed(5)
    ours = DcflNetwork(name, 3, channels=CHANNELS, base_channels=base_channels)
    after = torch.rand(4)
    torch.manual_seed(5)
    backbone = mmdets_backbone(name, base_channels)
    neck = mmdets_neck(ours.backbone.widths)
    head = DcflHead(3, CHANNELS, 3)
    if name == "mobilenet_v2":
        del backbone.conv2
    draw_as_mmdet(backbone)
    reset_neck(neck)
    expected = {"backbone": backbone, "neck": neck, "head": head}
    for part, module in expected.items():
        own = getattr(ours, part).state_dict()
        for key, value in module.state_dict().items():
            assert torch.equal(own[key], value), f"{part}.{key}"
    assert torch.equal(torch.rand(4), after)


def draw_as_mmdet(backbone):
    """Kaiming normal, norms 1 and 0, the last norm of a block 0, as mmdet's `init_weights` does without a file."""
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, a=0, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
    for module in backbone.modules():
        if isinstance(module, BasicBlock | Bottleneck):
            nn.init.zeros_(getattr(module, "norm2" if isinstance(module, BasicBlock) else "norm3").weight)


@pytest.mark.parametrize(("name", "base_channels"), [("mobilenet_v2", 64), ("resnet50", 8)])
def test_initial_values_are_distributed_as_mmdets_own_init_weights_draws_them(name, base_channels):
    torch.manual_seed(0)
    ours = build_backbone(name, base_channels)
    reset_backbone(ours)
    neck = Fpn(ours.widths, CHANNELS, 5)
    reset_neck(neck)
    theirs, their_neck = mmdets_backbone(name, base_channels), mmdets_neck(ours.widths)
    theirs.init_weights()
    their_neck.init_weights()
    pairs = [(ours.state_dict(), without_classifier(theirs.state_dict())), (neck.state_dict(), their_neck.state_dict())]
    for mine, expected in pairs:
        assert set(mine) == set(expected)
        for key, value in expected.items():
            if value.dim() < 2:
                assert torch.equal(mine[key], value), key
            elif value.numel() > 2000:
                assert float(mine[key].std()) == pytest.approx(float(value.std()), rel=0.12), key
