"""The torchvision plug-in's part of a recipe, and what each of its networks looks like. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from detectors.data.labels import check_class_names
from detectors.geometry.pictures import IMAGENET_MEAN, IMAGENET_STD

Architecture = Literal["retinanet", "fcos", "ssdlite"]
Rgb = tuple[float, float, float]

HALF_RANGE: Rgb = (127.5, 127.5, 127.5)  # SSDlite sees pixels in -1..1
SIZE_DIVISOR = 32


@dataclass(frozen=True)
class ModelSpec:
    """One network of torchvision.

    Attributes:
        architecture: which head, loss and decoding.
        backbone: name in `torchvision.models`.
        kinds: what each level gives, in the order of the raw outputs.
        levels: names of the levels, fine to coarse.
    """

    architecture: Architecture
    backbone: str
    kinds: tuple[str, ...]
    levels: tuple[str, ...]


_PYRAMID = ("p3", "p4", "p5", "p6", "p7")
_SSD = ("c4", "c5", "e1", "e2", "e3", "e4")
_BOXES = ("cls_logits", "bbox_regression")
MODELS = {
    "retinanet_resnet18_fpn": ModelSpec("retinanet", "resnet18", _BOXES, _PYRAMID),
    "retinanet_resnet50_fpn": ModelSpec("retinanet", "resnet50", _BOXES, _PYRAMID),
    "retinanet_mobilenet_v3_large_fpn": ModelSpec("retinanet", "mobilenet_v3_large", _BOXES, _PYRAMID),
    "fcos_resnet18_fpn": ModelSpec("fcos", "resnet18", (*_BOXES, "bbox_ctrness"), _PYRAMID),
    "fcos_resnet50_fpn": ModelSpec("fcos", "resnet50", (*_BOXES, "bbox_ctrness"), _PYRAMID),
    "ssdlite320_mobilenet_v3_small": ModelSpec("ssdlite", "mobilenet_v3_small", _BOXES, _SSD),
    "ssdlite320_mobilenet_v3_large": ModelSpec("ssdlite", "mobilenet_v3_large", _BOXES, _SSD),
}
ModelName = Literal[
    "retinanet_resnet18_fpn",
    "retinanet_resnet50_fpn",
    "retinanet_mobilenet_v3_large_fpn",
    "fcos_resnet18_fpn",
    "fcos_resnet50_fpn",
    "ssdlite320_mobilenet_v3_small",
    "ssdlite320_mobilenet_v3_large",
]


@dataclass(frozen=True)
class Defaults:
    """torchvision's own values of one architecture, taken where a recipe leaves a field out."""

    score_threshold: float
    nms_iou: float
    nms_pre: int
    max_detections: int
    mean: Rgb
    std: Rgb
    norm_eps: float


DEFAULTS: dict[Architecture, Defaults] = {
    "retinanet": Defaults(0.05, 0.5, 1000, 300, IMAGENET_MEAN, IMAGENET_STD, 1e-5),
    "fcos": Defaults(0.2, 0.6, 1000, 100, IMAGENET_MEAN, IMAGENET_STD, 1e-5),
    "ssdlite": Defaults(0.001, 0.55, 300, 300, HALF_RANGE, HALF_RANGE, 1e-3),
}
_ONLY = {  # field -> architectures that read it
    "channels": ("retinanet", "fcos"),
    "anchor_scale": ("retinanet",),
    "box_shares": ("ssdlite",),
    "reduced_tail": ("ssdlite",),
}


class TorchvisionConfig(BaseModel):
    """The `detector:` part of a recipe, without `plugin`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: ModelName = Field(description="Network; the names of torchvision, and smaller ones of the same kind.")
    classes: tuple[str, ...] = Field(min_length=1, description="Class names in the order of their label index.")
    channels: int = Field(
        256, ge=64, multiple_of=32, description="Width of FPN and head (RetinaNet, FCOS); 256 fits published weights."
    )
    checkpoint: str | None = Field(None, description="Weights of the whole detector as trained by Krimp: a file.")
    weights: str | None = Field(
        None,
        description="Where training starts: torchvision's COCO_V1 (whole detector), IMAGENET1K_V1 or IMAGENET1K_V2 "
        "(backbone), downloaded; or a local file of either kind; or null.",
    )
    frozen_stages: int | None = Field(
        None,
        ge=0,
        le=4,
        description="n: the stem and the first n stages stay; 0: nothing. Default: 1 for pretrained RetinaNet and "
        "FCOS, else 0.",
    )
    norm_eval: bool | None = Field(
        None, description="Keep BatchNorm as it is in training. Default: pretrained RetinaNet and FCOS only."
    )
    norm_eps: float | None = Field(
        None, ge=0, description="Of BatchNorm. Default: torchvision's; RetinaNet's COCO_V1 was made with 0."
    )
    anchor_scale: float = Field(4.0, gt=0, description="Side of RetinaNet's smallest anchor, in strides of its level.")
    box_shares: tuple[float, float] = Field(
        (0.2, 0.95), description="Side of SSDlite's smallest and largest default box, as a share of the image."
    )
    reduced_tail: bool | None = Field(
        None,
        description="SSDlite's last stage has half its width. Default: yes, except with ImageNet's weights by name.",
    )
    score_threshold: float | None = Field(None, ge=0, lt=1, description="Detections must score strictly more.")
    nms_iou: float | None = Field(None, gt=0, le=1, description="Overlap above which the weaker box of a class goes.")
    nms_pre: int | None = Field(None, ge=1, description="Candidates of a level (SSDlite: of a class) before NMS.")
    max_detections: int | None = Field(None, ge=1, description="Detections of an image.")
    mean: Rgb | None = Field(None, description="Of R, G, B, 0..255.")
    std: Rgb | None = Field(None, description="Of R, G, B, 0..255.")

    _check_classes = field_validator("classes")(check_class_names)

    @field_validator("std")
    @classmethod
    def _check_std(cls, std: Rgb | None) -> Rgb | None:
        if std is not None and min(std) <= 0:
            raise ValueError(f"std is {std}; expected values above 0")
        return std

    @field_validator("box_shares")
    @classmethod
    def _check_shares(cls, shares: tuple[float, float]) -> tuple[float, float]:
        if not 0 < shares[0] < shares[1] <= 1:
            raise ValueError(f"box_shares are {shares}; expected 0 < smallest < largest <= 1")
        return shares

    @model_validator(mode="after")
    def _check_fields_of_the_model(self) -> TorchvisionConfig:
        for name, readers in _ONLY.items():
            # Compared with the default: a recipe is also read back from its dump, where every field is set.
            if getattr(self, name) != type(self).model_fields[name].default and self.spec.architecture not in readers:
                raise ValueError(f"{name} is read by {' and '.join(readers)} only, and model is {self.model}")
        return self

    @property
    def spec(self) -> ModelSpec:
        """Return what the network looks like."""
        return MODELS[self.model]

    @property
    def pretrained(self) -> bool:
        """Return whether training starts from given weights."""
        return self.weights is not None or self.checkpoint is not None

    @property
    def _freezes_by_default(self) -> bool:
        return self.pretrained and self.spec.architecture != "ssdlite"

    @property
    def num_frozen_stages(self) -> int:
        """Return how many stages stay as they are (0: not even the stem)."""
        return int(self._freezes_by_default) if self.frozen_stages is None else self.frozen_stages

    @property
    def keeps_norms(self) -> bool:
        """Return whether BatchNorm stays as it is during training, what torchvision's FrozenBatchNorm2d does."""
        return self._freezes_by_default if self.norm_eval is None else self.norm_eval

    @property
    def eps(self) -> float:
        """Return the epsilon of BatchNorm."""
        if self.norm_eps is not None:
            return self.norm_eps
        if self.weights == "COCO_V1" and self.spec.architecture == "retinanet":
            return 0.0  # pytorch/vision#2933: published before FrozenBatchNorm2d had an epsilon
        return DEFAULTS[self.spec.architecture].norm_eps

    @property
    def has_reduced_tail(self) -> bool:
        """Return whether SSDlite's last stage is half as wide: torchvision's detectors are, its classifiers not."""
        if self.reduced_tail is not None:
            return self.reduced_tail
        return self.weights is None or not self.weights.startswith("IMAGENET")

    @property
    def values(self) -> Defaults:
        """Return the fields of `Defaults`: the recipe's where it gives them, else torchvision's."""
        default = DEFAULTS[self.spec.architecture]
        given = {field.name: getattr(self, field.name) for field in fields(default)}
        return replace(default, **{name: value for name, value in given.items() if value is not None})
