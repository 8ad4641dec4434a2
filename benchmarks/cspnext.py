"""CSPNeXt, the backbone of RTMDet, in plain torch: what the measurement of SiLU networks runs on.

Source: Lyu et al. 2022, arXiv 2212.07784, section 3.1; sizes as in MMDetection's `cspnext.py` (tiny: a third of the
blocks, three eighths of the channels).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

# In, out, blocks, whether blocks add their input, whether the stage pools spatial pyramids.
STAGES = (
    (64, 128, 3, True, False),
    (128, 256, 6, True, False),
    (256, 512, 6, True, False),
    (512, 1024, 3, False, True),
)


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Return convolution, batch norm and SiLU."""
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.SiLU(inplace=True))


class Block(nn.Module):
    """3x3 convolution, then 5x5 depthwise and 1x1; with its input added where asked."""

    def __init__(self, channels: int, *, adds: bool) -> None:
        super().__init__()
        self.conv1 = conv(channels, channels, 3)
        self.conv2 = nn.Sequential(conv(channels, channels, 5, groups=channels), conv(channels, channels, 1))
        self.adds = adds

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's features, of the same shape."""
        out: Tensor = self.conv2(self.conv1(x))
        return x + out if self.adds else out


class Attention(nn.Module):
    """A gate for each channel: mean, 1x1, hard sigmoid, product."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pool, self.fc, self.gate = nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, channels, 1), nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """Return x times its gates."""
        gates: Tensor = self.gate(self.fc(self.pool(x)))
        return x * gates


class Stage(nn.Module):
    """Two branches, one with blocks, joined, gated and mixed."""

    def __init__(self, channels: int, blocks: int, *, adds: bool) -> None:
        super().__init__()
        half = channels // 2
        self.main, self.short = conv(channels, half, 1), conv(channels, half, 1)
        self.blocks = nn.Sequential(*(Block(half, adds=adds) for _ in range(blocks)))
        self.attention, self.final = Attention(2 * half), conv(2 * half, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the same shape."""
        joined = torch.cat((self.blocks(self.main(x)), self.short(x)), 1)
        out: Tensor = self.final(self.attention(joined))
        return out


class Pyramid(nn.Module):
    """Max-pooling of three sizes beside the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv(channels, channels // 2, 1), conv(channels * 2, channels, 1)
        self.pools = nn.ModuleList(nn.MaxPool2d(size, 1, size // 2) for size in (5, 9, 13))

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the same shape."""
        x = self.conv1(x)
        out: Tensor = self.conv2(torch.cat([x, *(pool(x) for pool in self.pools)], 1))
        return out


class CspNext(nn.Module):
    """The backbone; returns the features of strides 8, 16 and 32.

    Args:
        depth: share of the blocks, 0.167 for tiny.
        width: share of the channels, 0.375 for tiny.
    """

    def __init__(self, depth: float = 0.167, width: float = 0.375) -> None:
        super().__init__()
        stem = int(STAGES[0][0] * width // 2)
        self.stem = nn.Sequential(conv(3, stem, 3, 2), conv(stem, stem, 3), conv(stem, int(STAGES[0][0] * width), 3))
        self.stages = nn.ModuleList()
        for inputs, outputs, blocks, adds, pools in STAGES:
            channels = int(outputs * width)
            parts: list[nn.Module] = [conv(int(inputs * width), channels, 3, 2)]
            parts += [Pyramid(channels)] if pools else []
            parts.append(Stage(channels, max(round(blocks * depth), 1), adds=adds))
            self.stages.append(nn.Sequential(*parts))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return (N, C, H / stride, W / stride) for the strides 8, 16 and 32.

        Args:
            x: (N, 3, H, W), normalized.
        """
        x = self.stem(x)
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return tuple(features[1:])
