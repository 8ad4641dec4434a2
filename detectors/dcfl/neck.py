"""The feature pyramid P3..P7 behind a backbone. Modules are named as OpenMMLab names them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from detectors.dcfl.backbones import draw_kaiming


class Fpn(nn.Module):
    """Feature pyramid without norm and activation; its extra levels come from the last input.

    The top-down path doubles by a fixed factor, not by the shape of the other input: the
    traced graph then holds no shape arithmetic. Inputs are multiples of 32, so both are equal.

    Args:
        in_channels: widths of the inputs, finest first.
        channels: width of all outputs.
        num_levels: outputs; those beyond the inputs are 3x3 convolutions of stride 2, the first on the last input,
            each further one on the level before it.

    Source:
        Lin et al. 2017, arXiv 1612.03144, section 3; extra levels: Lin et al. 2017, arXiv 1708.02002, section 4.
    """

    def __init__(self, in_channels: Sequence[int], channels: int, num_levels: int) -> None:
        super().__init__()
        lateral, output = [], []
        for width in in_channels:
            lateral.append(_convolution(width, channels, 1))
            output.append(_convolution(channels, channels, 3))
        for level in range(num_levels - len(in_channels)):
            output.append(_convolution(channels if level else in_channels[-1], channels, 3, stride=2))
        self.lateral_convs = nn.ModuleList(lateral)
        self.fpn_convs = nn.ModuleList(output)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return the levels (N, channels, h, w), finest first, of the backbone's maps, each half as high and wide."""
        tops = [conv(feature) for conv, feature in zip(self.lateral_convs, features, strict=True)]
        for level in reversed(range(len(tops) - 1)):
            tops[level] = tops[level] + F.interpolate(tops[level + 1], scale_factor=2.0, mode="nearest")
        levels = [conv(top) for conv, top in zip(self.fpn_convs, tops, strict=False)]
        source = features[-1]
        for conv in self.fpn_convs[len(tops) :]:
            levels.append(source := conv(source))
        return tuple(levels)


def _convolution(in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2)
    draw_kaiming(conv)
    return nn.Sequential(OrderedDict(conv=conv))


def reset_neck(neck: nn.Module) -> None:
    """Draw initial values in place: Xavier uniform, biases 0."""
    for module in neck.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
