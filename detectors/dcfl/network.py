"""The network: backbone and FPN of mmdet, DCFL's head; plain tensors in, fifteen tensors out."""

from __future__ import annotations

from typing import Any

import mmdet.models.backbones as mmdet_backbones
from mmdet.models.backbones.resnet import BasicBlock, Bottleneck
from mmdet.models.necks import FPN
from torch import Tensor, nn

from detectors.dcfl.head import DcflHead

LEVELS = (3, 4, 5, 6, 7)
STRIDES = (8, 16, 32, 64, 128)  # px between cells, P3..P7
SIZE_DIVISOR = 32  # height and width of the input must be multiples of it
RESNET_DEPTH = {"resnet18": 18, "resnet50": 50, "resnet101": 101}
MOBILENET_STAGES = (2, 4, 6)  # layer3, layer5, layer7: strides 8, 16, 32
MOBILENET_CHANNELS = (32, 96, 320)


def build_backbone(name: str, base_channels: int = 64) -> tuple[nn.Module, list[int]]:
    """Build a backbone whose last three outputs have strides 8, 16 and 32.

    Args:
        name: 'mobilenet_v2' or a key of RESNET_DEPTH.
        base_channels: width of the first ResNet stage; 64 is the usual network.

    Returns:
        The module with fresh weights, and the widths of its three outputs.
    """
    if name == "mobilenet_v2":
        backbone = mmdet_backbones.MobileNetV2(out_indices=MOBILENET_STAGES)
        # mmdet always builds the classifier's 320 -> 1280 convolution; nothing here reads it.
        backbone.layers.remove("conv2")
        del backbone.conv2
        return backbone, list(MOBILENET_CHANNELS)
    depth = RESNET_DEPTH[name]
    backbone = mmdet_backbones.ResNet(
        depth=depth, base_channels=base_channels, out_indices=(1, 2, 3), norm_eval=False, style="pytorch"
    )
    expansion = 1 if depth == 18 else 4
    return backbone, [base_channels * expansion * 2**stage for stage in (1, 2, 3)]


def build_neck(in_channels: list[int], channels: int) -> nn.Module:
    """Build the FPN: three inputs, P3..P7 out, no norm, no activation, extra levels from C5.

    The top-down path doubles by a fixed factor, not by the shape of the other input: the
    traced graph then holds no shape arithmetic. Inputs are multiples of 32, so both are equal.
    """
    return FPN(
        in_channels=in_channels,
        out_channels=channels,
        num_outs=len(LEVELS),
        start_level=0,
        add_extra_convs="on_input",
        upsample_cfg={"scale_factor": 2.0, "mode": "nearest"},
    )


def reset_backbone(backbone: nn.Module) -> None:
    """Draw mmdet's initial values; its own `init_weights` logs a line for every parameter.

    Kaiming normal (fan out), norms 1 and 0; the last norm of each ResNet block starts at 0.
    """
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
    for module in backbone.modules():
        if isinstance(module, BasicBlock | Bottleneck):
            nn.init.zeros_((module.norm2 if isinstance(module, BasicBlock) else module.norm3).weight)


def reset_neck(neck: nn.Module) -> None:
    """Draw the initial values of the FPN: Xavier uniform, biases 0."""
    for module in neck.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)


class DcflNetwork(nn.Module):
    """Whole DCFL network.

    Args:
        backbone: 'mobilenet_v2', 'resnet18', 'resnet50' or 'resnet101'.
        num_classes: classes without background.
        channels: width of FPN and head.
        dilation: of the third tower layer (3; 4 for DOTA-v1.0).
        base_channels: width of the first ResNet stage.
    """

    def __init__(
        self, backbone: str, num_classes: int, channels: int = 256, dilation: int = 3, base_channels: int = 64
    ) -> None:
        super().__init__()
        self.backbone, widths = build_backbone(backbone, base_channels)
        self.neck = build_neck(widths, channels)
        self.head = DcflHead(num_classes, channels, dilation)
        reset_backbone(self.backbone)
        reset_neck(self.neck)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return raw outputs of all levels.

        Args:
            images: (N, 3, H, W) float32, normalised; H and W multiples of 32.

        Returns:
            Fifteen tensors, P3..P7 each: class scores before the sigmoid (N, C, h, w), box
            deltas (N, 5, h, w), sampling offsets in cells (N, 18, h, w).
        """
        scores: list[Tensor] = []
        boxes: list[Tensor] = []
        offsets: list[Tensor] = []
        for feature in self.neck(self.backbone(images)):
            score, box, offset = self.head(feature)
            scores.append(score)
            boxes.append(box)
            offsets.append(offset)
        return (*scores, *boxes, *offsets)


def output_names(kind: str) -> tuple[str, ...]:
    """Return 'kind_p3', ..., 'kind_p7'."""
    return tuple(f"{kind}_p{level}" for level in LEVELS)


def split_raw(raw: Any) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Split the fifteen raw outputs into class scores, box deltas and offsets, P3..P7 each."""
    count = len(LEVELS)
    values = list(raw)
    return values[:count], values[count : 2 * count], values[2 * count : 3 * count]
