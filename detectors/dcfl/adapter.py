"""DCFL as a plug-in: the contract of `compress/detector.py`. Importing this file imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from compress.dataset import Batch, Dataset, InputFormat
from detectors.dcfl.config import DcflConfig, resolve_checkpoint
from detectors.geometry.pictures import padded_size
from detectors.weights.freezing import MOBILENET_V2_STAGES, RESNET_STAGES, set_training, stage_prefixes

if TYPE_CHECKING:
    from pydantic import BaseModel
    from torch import Tensor, nn

LEVELS = (3, 4, 5, 6, 7)
STRIDES = (8, 16, 32, 64, 128)  # px between cells, P3..P7
SIZE_DIVISOR = 32
ANCHOR_SCALE = 4  # side of a prior in strides
OUTPUT_LAYERS = {
    "head.conv_offset": "its 27 channels are the 9 offsets and the 9 masks of the deformable layers",
    "head.retina_cls": "one output channel a class",
    "head.retina_reg": "five output channels, the box deltas",
}
FLOAT_LAYERS = {
    "head.cls_convs.3": "ONNX has no integer DeformConv",
    "head.reg_convs.3": "ONNX has no integer DeformConv",
    "head.conv_offset": "sampling offsets reach far: an 8-bit step would be up to 8 px at P7",
    "head.retina_cls": "output layer; the error of a class score is the error of a detection",
    "head.retina_reg": "output layer; the error of a delta is the error of a box",
}
DISTILL_POINTS = (
    *(f"neck.fpn_convs.{level}" for level in range(len(LEVELS))),
    "head.cls_convs.3",
    "head.reg_convs.3",
)


class Dcfl:
    """DCFL on labelled boxes.

    Attributes:
        config: the recipe's `detector:` part.
        data: the data set.
    """

    NAME: ClassVar[str] = "dcfl"
    VERSION: ClassVar[str] = "2"  # 2: ties of the assigner go by value; the overlap's gradient is the area's own
    REQUIRES: ClassVar[tuple[str, ...]] = ("torch", "torchvision")
    CONFIG: ClassVar[type[BaseModel]] = DcflConfig
    DATA: ClassVar[str] = "dota"
    DEPLOY: ClassVar[str] = "detectors.dcfl.deploy"

    def __init__(self, config: DcflConfig, data: Dataset) -> None:
        self.config = config
        self.data = data

    # ---- model ------------------------------------------------------------------------------------

    def build(self) -> nn.Module:
        """Return a fresh network; with `backbone_weights` and no checkpoint its backbone is loaded.

        Raises:
            DetectorError: a backbone weight is missing or does not fit.
        """
        from detectors.dcfl.checkpoint import load_backbone
        from detectors.dcfl.network import DcflNetwork

        config = self.config
        model = DcflNetwork(
            config.backbone, len(config.classes), config.channels, config.dilation, config.base_channels
        )
        if config.backbone_weights is not None and config.checkpoint is None:
            load_backbone(model.backbone, config.backbone, config.backbone_weights)
        return model

    def load(self, model: nn.Module, checkpoint: str | Path) -> None:
        """Load all weights in place; also reads the names of the published code.

        Raises:
            DetectorError: a tensor is missing, unexpected or of another shape.
        """
        from detectors.dcfl.checkpoint import load_whole

        load_whole(model, resolve_checkpoint(str(checkpoint)))

    @staticmethod
    def import_checkpoint(path: Path) -> dict[str, Tensor]:
        """Return the weights of a checkpoint of the published code, or of a fork with its head, under our names.

        Raises:
            DetectorError: the file is not exactly the weights of a DCFL network, or holds Python objects.
        """
        from detectors.dcfl.published import import_published

        return import_published(path)

    def checkpoint_path(self) -> Path | None:
        """Return the file of `detector.checkpoint`, or None."""
        return None if self.config.checkpoint is None else resolve_checkpoint(self.config.checkpoint)

    def output_names(self) -> tuple[str, ...]:
        """Return cls_score_p3..p7, bbox_pred_p3..p7."""
        return tuple(f"{kind}_p{level}" for kind in ("cls_score", "bbox_pred") for level in LEVELS)

    def example_input(self, batch_size: int = 1) -> Tensor:
        """Return noise of the shape and range of normalized images; the same at every call."""
        from detectors.data.examples import example_images

        return example_images(batch_size, self.input_size())

    def input_size(self) -> tuple[int, int]:
        """Return (height, width) of the network's input: the deployed size padded to multiples of 32."""
        return padded_size(self.data.image_size, SIZE_DIVISOR)

    def input_format(self) -> InputFormat:
        """Return mean, deviation and padding of the images."""
        return InputFormat(self.config.mean, self.config.std, SIZE_DIVISOR)

    def not_prunable(self, model: nn.Module) -> dict[str, str]:
        """Return the output layers and the predictor of the sampling field."""
        return dict(OUTPUT_LAYERS)

    def not_quantizable(self, model: nn.Module) -> dict[str, str]:
        """Return the deformable layers and what is most sensitive."""
        return dict(FLOAT_LAYERS)

    def custom_pruners(self, model: nn.Module) -> dict[type, Any]:
        """Return the Torch-Pruning rule of the deformable layer."""
        from detectors.dcfl.deform import ModulatedDeformConv
        from detectors.weights.pruning import KernelPruner

        return {ModulatedDeformConv: KernelPruner()}

    def distill_points(self, model: nn.Module) -> tuple[str, ...]:
        """Return the FPN outputs and the ends of both towers."""
        return DISTILL_POINTS

    def set_train_mode(self, model: nn.Module) -> None:
        """Set training mode; freeze the first stages and BatchNorm statistics as configured."""
        config = self.config
        stages = MOBILENET_V2_STAGES if config.backbone == "mobilenet_v2" else RESNET_STAGES
        frozen = stage_prefixes(stages, config.num_frozen_stages, below="backbone")
        set_training(model, frozen=frozen, still_norms=("",) if config.keeps_norm_statistics else ())

    # ---- training and scoring ---------------------------------------------------------------------

    def loss(self, model: nn.Module, raw: tuple[Tensor, ...], batch: Batch) -> dict[str, Tensor]:
        """Return 'loss_cls' and 'loss_bbox' of a `BoxBatch`; the model itself is not asked."""
        from detectors.dcfl.losses import dcfl_loss

        return dcfl_loss(raw, batch, self.config.rules)

    def distill_loss(self, student: tuple[Tensor, ...], teacher: tuple[Tensor, ...], batch: Batch) -> Tensor:
        """Return the distance of two sets of exported raw outputs, weighted towards the teacher's detections."""
        from detectors.dcfl.distillation import distill_loss

        return distill_loss(student, teacher)

    def metadata(self) -> dict[str, Any]:
        """Return what `deploy.py` must know, JSON-able."""
        config = self.config
        return {
            "format_version": 1,
            "plugin": self.NAME,
            "image_size": list(self.data.image_size),
            "mean": list(config.mean),
            "std": list(config.std),
            "classes": list(config.classes),
            "strides": list(STRIDES),
            "anchor_scale": ANCHOR_SCALE,
            "score_threshold": config.score_threshold,
            "nms_iou": config.nms_iou,
            "nms_pre": config.nms_pre,
            "max_detections": config.max_detections,
            "angle_version": "le135",
            "output_names": list(self.output_names()),
            "size_divisor": SIZE_DIVISOR,
        }


DETECTOR = Dcfl
