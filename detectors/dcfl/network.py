"""The network: backbone, FPN and DCFL's head; plain tensors in, fifteen tensors out."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from detectors.dcfl.backbones import build_backbone, reset_backbone
from detectors.dcfl.head import DcflHead
from detectors.dcfl.neck import Fpn, reset_neck

LEVELS = (3, 4, 5, 6, 7)
STRIDES = (8, 16, 32, 64, 128)  # px between cells, P3..P7
SIZE_DIVISOR = 32  # height and width of the input must be multiples of it


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
        self.backbone = build_backbone(backbone, base_channels)
        self.neck = Fpn(self.backbone.widths, channels, len(LEVELS))
        self.head = DcflHead(num_classes, channels, dilation)
        reset_backbone(self.backbone)
        reset_neck(self.neck)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return raw outputs of all levels.

        Args:
            images: (N, 3, H, W) float32, normalized; H and W multiples of 32.

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
