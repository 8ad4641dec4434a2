"""DCFL's head: two towers, each ending in the prior-capturing block, shared by all FPN levels."""

from __future__ import annotations

import math

from torch import Tensor, nn

from detectors.dcfl.deform import TAPS, ModulatedDeformConv

PUBLISHED_STD = 0.01  # of the initial weights, for 256 channels
PUBLISHED_CHANNELS = 256
PRIOR_PROBABILITY = 0.01  # of a class at the start; sets the bias of the class output
BOX_FIELDS = 5  # dx, dy, dw, dh, da


class ConvRelu(nn.Module):
    """3x3 convolution with bias and ReLU; the parameter names are `conv.weight`, `conv.bias`."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.activate = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, out, H, W), >= 0."""
        result: Tensor = self.activate(self.conv(x))
        return result


def _tower(channels: int, dilation: int) -> nn.ModuleList:
    return nn.ModuleList(
        [
            ConvRelu(channels, channels),
            ConvRelu(channels, channels),
            # The published layer is a deformable one with a constant ring of offsets; with dilation
            # and padding d a plain convolution gives the same numbers, borders included.
            nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation, bias=False),
            ModulatedDeformConv(channels, channels),
        ]
    )


def _draw_normal(conv: nn.Conv2d, std: float, bias: float = 0.0) -> None:
    nn.init.normal_(conv.weight, std=std)
    if conv.bias is not None:
        nn.init.constant_(conv.bias, bias)


class DcflHead(nn.Module):
    """Class and box towers; the box tower predicts the sampling field of both deformable layers.

    Args:
        num_classes: classes without background.
        channels: width of FPN and towers.
        dilation: of the third tower layer.
    """

    def __init__(self, num_classes: int, channels: int, dilation: int) -> None:
        super().__init__()
        self.cls_convs = _tower(channels, dilation)
        self.reg_convs = _tower(channels, dilation)
        self.conv_offset = nn.Conv2d(channels, 3 * TAPS, 3, padding=1)
        self.mask_activate = nn.Sigmoid()
        self.retina_cls = nn.Conv2d(channels, num_classes, 3, padding=1)
        self.retina_reg = nn.Conv2d(channels, BOX_FIELDS, 3, padding=1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the published initial values; the sampling field starts at exactly zero.

        The published N(0, 0.01) belongs to 256 channels. A narrower head gets a wider spread, so that
        signals and gradients start at the published size (a head of 32 channels hardly learned without).

        Source:
            detectors/dcfl/README.md, section 1.
        """
        spread = PUBLISHED_STD * math.sqrt(PUBLISHED_CHANNELS / self.conv_offset.in_channels)
        for tower in (self.cls_convs, self.reg_convs):
            for layer in tower:
                if isinstance(layer, ConvRelu):
                    _draw_normal(layer.conv, spread)
                elif isinstance(layer, ModulatedDeformConv):
                    layer.reset_parameters()
                elif isinstance(layer, nn.Conv2d):
                    nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
        _draw_normal(self.retina_cls, spread, bias=-math.log((1 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY))
        _draw_normal(self.retina_reg, spread)
        for field in self.conv_offset.parameters():
            nn.init.zeros_(field)

    def forward(self, feature: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Predict on one FPN level.

        Args:
            feature: (N, channels, h, w).

        Returns:
            class scores before the sigmoid (N, C, h, w); box deltas (N, 5, h, w); sampling
            offsets in cells (N, 18, h, w) in the order dy0, dx0, dy1, dx1, ...

        Source:
            Xu et al. 2023, arXiv 2304.08876 (prior capturing block).
        """
        cls_feature = self.cls_convs[2](self.cls_convs[1](self.cls_convs[0](feature)))
        reg_feature = self.reg_convs[2](self.reg_convs[1](self.reg_convs[0](feature)))
        field = self.conv_offset(reg_feature)
        offset = field[:, : 2 * TAPS]
        mask = self.mask_activate(field[:, 2 * TAPS :])
        cls_feature = self.cls_convs[3](cls_feature, offset, mask)
        reg_feature = self.reg_convs[3](reg_feature, offset, mask)
        return self.retina_cls(cls_feature), self.retina_reg(reg_feature), offset
