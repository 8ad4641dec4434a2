"""torchvision's networks from images to raw maps: its backbones and heads, without transforms and decoding.

Modules keep torchvision's names (`backbone.body`, `backbone.fpn`, `head.classification_head`, ...), so its published
weights fit. Norms are plain BatchNorm2d: torchvision's FrozenBatchNorm2d computes the same from the same tensors, but
pruning and folding know only the former. What "frozen" means is left to `set_train_mode`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor, nn
from torchvision.models import get_model
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.models.detection.ssdlite import SSDLiteFeatureExtractorMobileNet, SSDLiteHead
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from detectors.torchvision.anchors import boxes_per_cell
from detectors.torchvision.config import ModelSpec

STRIDED = {"mobilenet_v3_large": (6, 12, 16), "mobilenet_v3_small": (3, 8, 12)}  # last block at stride 8, 16, 32
SSD_EXPANDED = {"mobilenet_v3_large": 13, "mobilenet_v3_small": 9}  # block whose expansion is SSDlite's first level
SSD_INIT_STD = 0.03


class PyramidNetwork(nn.Module):
    """RetinaNet or FCOS: backbone, FPN P3-P7 and two towers shared by all levels.

    Args:
        spec: architecture and backbone.
        num_classes: classes without background.
        channels: width of FPN and towers.
        anchors_per_cell: boxes a cell.
        norm_eps: of BatchNorm.
    """

    def __init__(
        self, spec: ModelSpec, num_classes: int, *, channels: int, anchors_per_cell: int, norm_eps: float
    ) -> None:
        super().__init__()
        self.backbone = build_pyramid(spec.backbone, channels, norm_eps)
        head: Any = RetinaNetHead if spec.architecture == "retinanet" else FCOSHead
        self.head = head(channels, anchors_per_cell, num_classes)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the raw maps of all levels, kind by kind.

        Args:
            images: (N, 3, H, W) float32, normalized; H and W multiples of 32.

        Returns:
            P3..P7 each: class scores before the sigmoid (N, A * C, h, w), box values (N, A * 4, h, w), and for FCOS
            centreness before the sigmoid (N, 1, h, w).
        """
        features = list(self.backbone(images).values())
        classify, regress = self.head.classification_head, self.head.regression_head
        scores = [classify.cls_logits(classify.conv(feature)) for feature in features]
        towers = [regress.conv(feature) for feature in features]
        boxes = [regress.bbox_reg(tower) for tower in towers]
        if not hasattr(regress, "bbox_ctrness"):
            return (*scores, *boxes)
        distances = [nn.functional.relu(box) for box in boxes]
        return (*scores, *distances, *(regress.bbox_ctrness(tower) for tower in towers))


class SsdLiteNetwork(nn.Module):
    """SSDlite: MobileNetV3, four extra stages, and a depthwise head of its own for each of six levels."""

    def __init__(
        self,
        spec: ModelSpec,
        num_classes: int,
        *,
        boxes_per_level: list[int],
        norm_eps: float,
        reduced_tail: bool,
    ) -> None:
        super().__init__()
        norm: Any = partial(nn.BatchNorm2d, eps=norm_eps, momentum=0.03)
        mobilenet = get_model(spec.backbone, weights=None, norm_layer=norm, reduced_tail=reduced_tail).features
        for layer in mobilenet.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=SSD_INIT_STD)
        self.backbone = SSDLiteFeatureExtractorMobileNet(mobilenet, SSD_EXPANDED[spec.backbone], norm)
        widths = [block[-1].out_channels for block in (*self.backbone.features, *self.backbone.extra)]
        self.head = SSDLiteHead(widths, boxes_per_level, num_classes + 1, norm)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the raw maps of all levels, class scores first.

        Args:
            images: (N, 3, H, W) float32, normalized.

        Returns:
            Six levels each: class scores before the softmax (N, A * (C + 1), h, w), box deltas (N, A * 4, h, w).
        """
        features = list(self.backbone(images).values())
        parts = (self.head.classification_head.module_list, self.head.regression_head.module_list)
        return tuple(block(feature) for part in parts for block, feature in zip(part, features, strict=True))


def build_pyramid(name: str, channels: int, norm_eps: float) -> BackboneWithFPN:
    """Return a backbone of torchvision with an FPN P3..P7; fresh weights."""
    norm: Any = partial(nn.BatchNorm2d, eps=norm_eps)
    backbone = get_model(name, weights=None, norm_layer=norm)
    if name in STRIDED:
        backbone = backbone.features
        layers = [str(index) for index in STRIDED[name]]
        widths = [backbone[index].out_channels for index in STRIDED[name]]
    else:
        layers = ["layer2", "layer3", "layer4"]
        widths = [backbone.inplanes // 4, backbone.inplanes // 2, backbone.inplanes]
    returned = {layer: str(index) for index, layer in enumerate(layers)}
    return BackboneWithFPN(backbone, returned, widths, channels, extra_blocks=LastLevelP6P7(channels, channels))


def build_network(
    spec: ModelSpec,
    num_classes: int,
    anchors: dict[str, Any],
    *,
    channels: int,
    norm_eps: float,
    reduced_tail: bool,
) -> PyramidNetwork | SsdLiteNetwork:
    """Return a fresh network with the boxes that `anchors` describes."""
    per_level = [boxes_per_cell(anchors, level) for level in range(len(spec.levels))]
    if spec.architecture == "ssdlite":
        return SsdLiteNetwork(
            spec, num_classes, boxes_per_level=per_level, norm_eps=norm_eps, reduced_tail=reduced_tail
        )
    return PyramidNetwork(spec, num_classes, channels=channels, anchors_per_cell=per_level[0], norm_eps=norm_eps)
