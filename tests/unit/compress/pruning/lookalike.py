"""A small network with everything that makes detectors hard to prune, and a plug-in for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch_pruning as tp
from fake_plugin import FakePlugin
from torch import Tensor, nn
from torch.nn import functional as F


class FieldConv(nn.Module):
    """Stands for a deformable layer: reads a field of 18 + 9 channels that must keep its width."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 3, 3) * 0.1)

    def forward(self, x: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
        grid = F.affine_grid(torch.eye(2, 3).repeat(len(x), 1, 1), [*x.shape], align_corners=False)
        grid = grid + 0.05 * offset[:, :2].permute(0, 2, 3, 1)
        taps = F.grid_sample(x, grid, align_corners=False) * mask[:, :1]
        columns = F.unfold(taps, 3, padding=1)
        y = self.weight.flatten(1) @ columns
        return y.view(len(x), self.out_channels, *x.shape[2:])


class FieldConvPruner(tp.function.BasePruningFunc):
    TARGET_MODULES = FieldConv

    def _cut(self, layer, idxs, dim):
        keep = [i for i in range(layer.weight.shape[dim]) if i not in set(idxs)]
        layer.weight = nn.Parameter(layer.weight.data[keep] if dim == 0 else layer.weight.data[:, keep])
        layer.out_channels, layer.in_channels = layer.weight.shape[:2]
        return layer

    def prune_out_channels(self, layer, idxs):
        return self._cut(layer, idxs, 0)

    def prune_in_channels(self, layer, idxs):
        return self._cut(layer, idxs, 1)

    def get_out_channels(self, layer):
        return layer.out_channels

    def get_in_channels(self, layer):
        return layer.in_channels


class Block(nn.Module):
    """Inverted residual with a depthwise convolution."""

    def __init__(self, width_in: int, hidden: int, width: int, stride: int) -> None:
        super().__init__()
        self.expand, self.expand_bn = nn.Conv2d(width_in, hidden, 1, bias=False), nn.BatchNorm2d(hidden)
        self.depth = nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False)
        self.depth_bn = nn.BatchNorm2d(hidden)
        self.project, self.project_bn = nn.Conv2d(hidden, width, 1, bias=False), nn.BatchNorm2d(width)
        self.adds = stride == 1 and width_in == width

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self.expand_bn(self.expand(x)))
        y = F.relu6(self.depth_bn(self.depth(y)))
        y = self.project_bn(self.project(y))
        return x + y if self.adds else y


class Head(nn.Module):
    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.tower1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.tower2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.conv_offset = nn.Conv2d(channels, 27, 3, padding=1)
        self.field = FieldConv(channels, channels)
        self.cls = nn.Conv2d(channels, classes, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.tower2(F.relu(self.tower1(x), inplace=True))
        field = self.conv_offset(x)
        return self.cls(self.field(x, field[:, :18], field[:, 18:].sigmoid())), field[:, :18]


class Lookalike(nn.Module):
    """Stem, three depthwise blocks, two-level FPN with an addition, one head called on both levels."""

    def __init__(self, channels: int = 32, classes: int = 3) -> None:
        super().__init__()
        self.stem, self.stem_bn = nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16)
        self.block1 = Block(16, 48, 24, 2)
        self.block2 = Block(24, 72, 24, 1)
        self.block3 = Block(24, 96, 40, 2)
        self.lateral1, self.lateral2 = nn.Conv2d(24, channels, 1), nn.Conv2d(40, channels, 1)
        self.out1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.out2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.head = Head(channels, classes)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        x = F.relu(self.stem_bn(self.stem(images)))
        fine = self.block2(self.block1(x))
        coarse = self.block3(fine)
        top = self.lateral2(coarse)
        bottom = self.lateral1(fine) + F.interpolate(top, scale_factor=2.0)
        cls1, field1 = self.head(self.out1(bottom))
        cls2, field2 = self.head(self.out2(top))
        return cls1, cls2, field1, field2


def seeded_lookalike(seed: int = 0) -> Lookalike:
    """Return a network whose batch norms are not trivial."""
    torch.manual_seed(seed)
    model = Lookalike()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.2)
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model.eval()


PROTECTED = {"head.cls": "class scores", "head.conv_offset": "sampling field"}
CUSTOM = {FieldConv: FieldConvPruner()}


@dataclass
class LookalikeBatch:
    images: Tensor
    target: Tensor

    def to(self, device) -> LookalikeBatch:
        return LookalikeBatch(self.images.to(device), self.target.to(device))


class LookalikeDetector(FakePlugin):
    """As much of a plug-in as the pruning stages use."""

    NAME, VERSION = "lookalike", "1"

    def build(self) -> nn.Module:
        return seeded_lookalike(3)

    def output_names(self):
        return ("cls1", "cls2")

    def example_input(self, batch_size: int = 1) -> Tensor:
        return torch.randn(batch_size, 3, 64, 64, generator=torch.Generator().manual_seed(5))

    def not_prunable(self, model):
        return PROTECTED

    def custom_pruners(self, model):
        return CUSTOM

    def distill_points(self, model):
        return ("out1",)

    def loader(self, split, input_format, *, batch_size, augment, seed):
        generator = torch.Generator().manual_seed(seed)
        return [
            LookalikeBatch(
                torch.randn(batch_size, 3, 64, 64, generator=generator),
                torch.randn(batch_size, 3, 16, 16, generator=generator),
            )
            for _ in range(4)
        ]

    def loss(self, model, raw, batch):
        return {"fit": F.mse_loss(raw[0], batch.target), "field": raw[2].square().mean()}


@dataclass
class FakeArtifact:
    path: Path


@dataclass
class FakeContext:
    """What a stage reads of its context."""

    detector: LookalikeDetector
    inputs: dict
    folder: Path
    scratch: Path
    name: str = "prune"
    seed: int = 7
    device: str = "cpu"

    @property
    def source(self) -> FakeArtifact:
        return self.inputs["source"]
