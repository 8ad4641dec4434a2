"""Backbones whose three maps have strides 8, 16 and 32: ResNet of any width, MobileNetV2.

Modules are named as OpenMMLab names them, for so do all checkpoints of DCFL; ResNet's names are torchvision's as well.
Layers are made in a fixed order, each with a draw of its own: a seed keeps its initial values.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

RESNET_BLOCKS: dict[str, tuple[type[BasicBlock | Bottleneck], tuple[int, int, int, int]]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet101": (Bottleneck, (3, 4, 23, 3)),
}
MOBILENET_STEM = 32  # channels
# Expansion, channels, blocks and stride of layer1..layer7.
MOBILENET_LAYERS = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
)  # fmt: skip
MOBILENET_OUTPUTS = (3, 5, 7)  # layers
MOBILENET_LAST = 1280  # channels of the convolution in front of the classifier


class ResNet(nn.Module):
    """ResNet without classifier, of torchvision's blocks; torchvision's own class has one width only.

    Args:
        name: key of RESNET_BLOCKS.
        base_channels: width of the stem and of the first stage's 3x3 convolutions; 64 is the usual network.

    Attributes:
        widths: channels of the three maps.

    Source:
        He et al. 2016, arXiv 1512.03385, table 1; stride 2 on the 3x3 convolution of a bottleneck.
    """

    def __init__(self, name: str, base_channels: int) -> None:
        super().__init__()
        block, counts = RESNET_BLOCKS[name]
        stages = [base_channels * block.expansion * 2**stage for stage in range(4)]
        self.widths = stages[1:]
        self.conv1 = nn.Conv2d(3, base_channels, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(base_channels)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = _residual_stage(block, base_channels, stages[0], counts[0], stride=1)
        self.layer2 = _residual_stage(block, stages[0], stages[1], counts[1], stride=2)
        self.layer3 = _residual_stage(block, stages[1], stages[2], counts[2], stride=2)
        self.layer4 = _residual_stage(block, stages[2], stages[3], counts[3], stride=2)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return C3, C4, C5 (N, width, H / stride, W / stride) of images (N, 3, H, W)."""
        stem = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        c3 = self.layer2(self.layer1(stem))
        c4 = self.layer3(c3)
        return c3, c4, self.layer4(c4)


def _residual_stage(
    block: type[BasicBlock | Bottleneck], before: int, after: int, count: int, *, stride: int
) -> nn.Sequential:
    """Return `count` blocks from `before` to `after` channels; the first has the stride."""
    shortcut = None
    if stride != 1 or before != after:
        shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride=stride, bias=False), nn.BatchNorm2d(after))
    inner = after // block.expansion
    first = block(before, inner, stride, shortcut)
    return nn.Sequential(first, *(block(after, inner) for _ in range(count - 1)))


class MobileNetV2(nn.Module):
    """MobileNetV2 of width 1 without classifier.

    Attributes:
        widths: channels of the three maps.

    Source:
        Sandler et al. 2018, arXiv 1801.04381, table 2.
    """

    def __init__(self) -> None:
        super().__init__()
        self.widths = [MOBILENET_LAYERS[number - 1][1] for number in MOBILENET_OUTPUTS]
        self.conv1 = conv_norm(3, MOBILENET_STEM, 3, stride=2)
        before = MOBILENET_STEM
        for number, (expansion, after, count, stride) in enumerate(MOBILENET_LAYERS, start=1):
            first = InvertedResidual(before, after, stride=stride, expansion=expansion)
            rest = [InvertedResidual(after, after, stride=1, expansion=expansion) for _ in range(count - 1)]
            self.add_module(f"layer{number}", nn.Sequential(first, *rest))
            before = after
        # Not kept, nothing here reads it. Its draw is: what is drawn behind it stays what it was for a seed.
        conv_norm(before, MOBILENET_LAST)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return C3, C4, C5 (N, width, H / stride, W / stride) of images (N, 3, H, W)."""
        x = self.conv1(images)
        maps = []
        for number in range(1, len(MOBILENET_LAYERS) + 1):
            x = getattr(self, f"layer{number}")(x)
            if number in MOBILENET_OUTPUTS:
                maps.append(x)
        return tuple(maps)


class InvertedResidual(nn.Module):
    """Block of MobileNetV2: widen, filter every channel alone, narrow; added to its input where the shapes agree.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        stride: of the filter.
        expansion: channels of the filter in channels of the input; 1 leaves the widening out.

    Source:
        Sandler et al. 2018, arXiv 1801.04381, section 3.3.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, expansion: int) -> None:
        super().__init__()
        inner = in_channels * expansion
        # Stochastic depth of rate 0. A quantized graph rounds anew behind it: exported files stay what they were.
        self.drop_path = nn.Identity()
        self.expand_conv = conv_norm(in_channels, inner) if expansion != 1 else None
        self.depthwise_conv = conv_norm(inner, inner, 3, stride=stride, groups=inner)
        self.linear_conv = conv_norm(inner, out_channels, activates=False)
        self.adds_input = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, out, H / stride, W / stride) of x (N, in, H, W)."""
        inner = x if self.expand_conv is None else self.expand_conv(x)
        result: Tensor = self.linear_conv(self.depthwise_conv(inner))
        return x + self.drop_path(result) if self.adds_input else result


def conv_norm(
    in_channels: int,
    out_channels: int,
    kernel_size: int = 1,
    *,
    stride: int = 1,
    groups: int = 1,
    activates: bool = True,
) -> nn.Sequential:
    """Return a convolution `conv` without bias, BatchNorm `bn` and, if it activates, ReLU6 `activate`."""
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, groups=groups, bias=False)
    draw_kaiming(conv)
    layers: OrderedDict[str, nn.Module] = OrderedDict(conv=conv, bn=nn.BatchNorm2d(out_channels))
    if activates:
        layers["activate"] = nn.ReLU6(inplace=True)
    return nn.Sequential(layers)


def draw_kaiming(conv: nn.Conv2d) -> None:
    """Draw weights of a convolution before a ReLU, N(0, 2 / fan_out), in place.

    Source:
        He et al. 2015, arXiv 1502.01852, equation 14.
    """
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")


def build_backbone(name: str, base_channels: int = 64) -> ResNet | MobileNetV2:
    """Return a backbone with fresh weights.

    Args:
        name: 'mobilenet_v2' or a key of RESNET_BLOCKS.
        base_channels: width of the first ResNet stage; 64 is the usual network.
    """
    return MobileNetV2() if name == "mobilenet_v2" else ResNet(name, base_channels)


def reset_backbone(backbone: nn.Module) -> None:
    """Draw initial values in place: Kaiming normal, norms 1 and 0; the last norm of each ResNet block starts at 0."""
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            draw_kaiming(module)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
    for module in backbone.modules():
        if isinstance(module, BasicBlock | Bottleneck):
            nn.init.zeros_((module.bn2 if isinstance(module, BasicBlock) else module.bn3).weight)
