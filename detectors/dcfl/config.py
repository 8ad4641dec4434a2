"""DCFL's part of a recipe. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from detectors.data.labels import check_class_names
from detectors.dcfl.rules import Rules, published_rules
from detectors.geometry.pictures import IMAGENET_MEAN, IMAGENET_STD
from detectors.weights.finding import find_checkpoint

PLUGIN_FOLDER = Path(__file__).parent
Rgb = tuple[float, float, float]


class DcflConfig(BaseModel):
    """The `detector:` part of a recipe, without `plugin`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    backbone: Literal["mobilenet_v2", "resnet18", "resnet50", "resnet101"] = Field(
        "resnet50", description="Feature extractor."
    )
    channels: int = Field(256, ge=8, multiple_of=8, description="Width of FPN and head.")
    base_channels: int = Field(
        64, ge=8, multiple_of=8, description="Width of the first ResNet stage; narrower than 64 is for quick trials."
    )
    classes: tuple[str, ...] = Field(min_length=1, description="Class names in the order of their label index.")
    dilation: int = Field(
        3, ge=1, le=8, description="Of the third tower layer; the authors take 4 for DOTA-v1.0, else 3."
    )
    checkpoint: str | None = Field(
        None,
        description="Weights of the whole model: a path, or one in the plug-in folder; its suffix may be left out.",
    )
    backbone_weights: str | None = Field(
        None, description="'imagenet' (downloaded by torchvision), a local file with torchvision's names, or null."
    )
    frozen_stages: int | None = Field(
        None,
        ge=0,
        le=4,
        description="n: the stem and the first n stages stay; 0: nothing. Default: 1 with pretrained weights, else 0.",
    )
    norm_eval: bool | None = Field(
        None,
        description="Keep BatchNorm statistics fixed in training. Default: only with pretrained weights.",
    )
    topk: int = Field(16, ge=1, description="Coarse candidates of a box, K.")
    topq: int = Field(12, ge=1, description="Candidates of a box left after the ranking by prediction, Q.")
    gauss_threshold: float = Field(
        0.8,
        gt=0,
        description="Exponent g of the fine gate exp(-g). 0.8 as in the authors' AI-TOD-R run: it leaves "
        "2 % of the 6-16 px boxes without a positive, the 0.6 of their DOTA configurations 6 %.",
    )
    compat: bool = Field(False, description="Assign labels exactly like the published code, its quirks included.")
    score_threshold: float = Field(0.05, ge=0, lt=1, description="Detections must score strictly more.")
    nms_iou: float = Field(0.4, gt=0, le=1, description="Overlap at which the weaker box of a class goes.")
    nms_pre: int = Field(2000, ge=1, description="Cells of a level that are decoded.")
    max_detections: int = Field(2000, ge=1, description="Detections of an image.")
    mean: Rgb = Field(IMAGENET_MEAN, description="Of R, G, B, 0..255.")
    std: Rgb = Field(IMAGENET_STD, description="Of R, G, B, 0..255.")

    _check_classes = field_validator("classes")(check_class_names)

    @field_validator("std")
    @classmethod
    def _check_std(cls, std: Rgb) -> Rgb:
        if min(std) <= 0:
            raise ValueError(f"std is {std}; expected values above 0")
        return std

    @model_validator(mode="after")
    def _check_width(self) -> DcflConfig:
        if self.base_channels != 64 and self.backbone == "mobilenet_v2":
            raise ValueError(f"base_channels is {self.base_channels}, but mobilenet_v2 has one width. Leave it out.")
        if self.base_channels != 64 and self.backbone_weights is not None:
            raise ValueError(
                f"base_channels is {self.base_channels}, but pretrained backbones have 64. Leave out one of the two."
            )
        return self

    @property
    def pretrained(self) -> bool:
        """Return whether training starts from given weights."""
        return self.backbone_weights is not None or self.checkpoint is not None

    @property
    def num_frozen_stages(self) -> int:
        """Return how many stages stay as they are (0: not even the stem)."""
        return int(self.pretrained) if self.frozen_stages is None else self.frozen_stages

    @property
    def keeps_norm_statistics(self) -> bool:
        """Return whether BatchNorm runs in evaluation mode during training."""
        return self.pretrained if self.norm_eval is None else self.norm_eval

    @property
    def rules(self) -> Rules:
        """Return how labels are assigned and losses divided."""
        make = published_rules if self.compat else Rules
        return make(self.topk, self.topq, self.gauss_threshold)


def resolve_checkpoint(name: str) -> Path:
    """Return the file of a checkpoint: from the working directory, else from the plug-in's folder.

    Raises:
        DetectorError: there is no such file.
    """
    return find_checkpoint(name, folders=(Path(), PLUGIN_FOLDER))
