"""The networks: images in, raw maps out, with the parts of an OpenMMLab detector under their own names.

The forward passes can be traced by torch.fx and do the same in training and evaluation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from mmdet.models.utils import multi_apply
from mmrotate.models.utils import ORConv2d
from torch import Tensor, nn

from compress.errors import DetectorError
from detectors.openmmlab.align import AlignedConv, oriented_to_plain
from detectors.openmmlab.families import Layout

Maps = list[list[Tensor]]  # per kind, per level


def build_network(detector: Any, layout: Layout, on_features: Callable[[nn.Module], None]) -> Network:
    """Return the network of an OpenMMLab detector; the detector's parts move into it.

    Args:
        detector: as built by `model_config.build_detector`.
        layout: its raw outputs.
        on_features: for the route 'features': called with the heads in every forward pass.
    """
    _drop_unused(detector.backbone)
    if layout.route == "dense":
        return DenseNetwork(detector.backbone, detector.neck, detector.bbox_head)
    if layout.route == "refine":
        return RefineNetwork(detector.backbone, detector.neck, detector.bbox_head_init, detector.bbox_head_refine)
    return FeatureNetwork(detector, on_features, layout.export_refusal)


def _drop_unused(backbone: Any) -> None:
    """Remove the classifier's last convolution that mmdet's MobileNetV2 always builds and nothing here reads."""
    if type(backbone).__name__ == "MobileNetV2" and max(backbone.out_indices) < 7:
        backbone.layers.remove("conv2")
        del backbone.conv2


class DenseNetwork(nn.Module):
    """Backbone, neck and one dense head."""

    def __init__(self, backbone: nn.Module, neck: nn.Module, bbox_head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.bbox_head = bbox_head

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the raw maps, kind by kind, level by level.

        Args:
            images: (N, 3, H, W) float32, normalized; H and W multiples of 32.
        """
        return flatten(head_maps(self.bbox_head, self.neck(self.backbone(images))))


def head_maps(head: Any, features: Sequence[Tensor]) -> Sequence[Sequence[Tensor]]:
    """Run a head. FCOS alone multiplies its distances by the stride in evaluation; here it never does."""
    if type(head).__name__ == "RotatedFCOSHead":
        ones = [1] * len(features)
        maps: Sequence[Sequence[Tensor]] = multi_apply(head.forward_single, features, head.scales, ones)
    else:
        maps = head(features)
    return maps


def flatten(maps: Sequence[Sequence[Tensor]]) -> tuple[Tensor, ...]:
    """Return the maps of all kinds and levels as one tuple."""
    return tuple(level for kind in maps for level in kind)


def split(raw: Sequence[Tensor], number: int) -> Maps:
    """Return the maps kind by kind; `number` kinds of equally many levels."""
    levels = len(raw) // number
    return [list(raw[kind * levels : (kind + 1) * levels]) for kind in range(number)]


class RefineNetwork(nn.Module):
    """Backbone, neck, a first head, and stages that look again where the stage before put its boxes (S2A-Net)."""

    def __init__(
        self, backbone: nn.Module, neck: nn.Module, bbox_head_init: Any, bbox_head_refine: nn.ModuleList
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.bbox_head_init = bbox_head_init
        self.bbox_head_refine = nn.ModuleList(bbox_head_refine)
        self.align = nn.ModuleList()
        priors = bbox_head_init.prior_generator
        refining: list[Any] = list(self.bbox_head_refine)
        for stage, head in enumerate(refining):
            before = [bbox_head_init, *refining][: stage + 1]
            coders = [one.bbox_coder for one in before]
            self.align.append(AlignedConv(head.feat_refine_module.deform_conv, priors, coders))
            del head.feat_refine_module
            for name, part in list(head.named_children()):
                if isinstance(part, ORConv2d):
                    setattr(head, name, oriented_to_plain(part))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return scores and deltas of the last stage, deltas of the earlier ones, then their scores."""
        features = self.neck(self.backbone(images))
        scores, deltas = self.bbox_head_init(features)
        earlier_scores, earlier_deltas = [], []
        for align, head in zip(self.align, self.bbox_head_refine, strict=True):
            earlier_scores.append(scores)
            earlier_deltas.append(deltas)
            aligned = [
                torch.relu(align(feature, level, *(stage[level] for stage in earlier_deltas)))
                for level, feature in enumerate(features)
            ]
            scores, deltas = head(aligned)
        return flatten([scores, deltas, *earlier_deltas, *earlier_scores])


class FeatureNetwork(nn.Module):
    """Backbone and neck; the heads travel with them as children of an identity and stay as they are."""

    def __init__(self, detector: Any, on_features: Callable[[nn.Module], None], refusal: str | None) -> None:
        super().__init__()
        self.backbone = detector.backbone
        self.neck = detector.neck
        del detector.backbone, detector.neck
        detector.extract_feat = _given_features
        self.heads = nn.Identity()
        self.heads.add_module("detector", detector)
        self.heads.register_forward_pre_hook(_reporter(on_features, refusal))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the feature maps, finest first."""
        first, *others = self.neck(self.backbone(images))
        return (self.heads(first), *others)


def _given_features(features: Any) -> Any:
    """Stand for `extract_feat` of a detector that is handed feature maps instead of images."""
    return features


def _reporter(on_features: Callable[[nn.Module], None], refusal: str | None) -> Callable[[Any, Any], None]:
    """Return a hook; a plain function, because copying a model must not copy what a method belongs to."""

    def hook(heads: Any, _: Any) -> None:
        if torch.compiler.is_exporting():
            raise DetectorError(refusal)
        on_features(heads.detector)

    return hook


Network = DenseNetwork | RefineNetwork | FeatureNetwork
