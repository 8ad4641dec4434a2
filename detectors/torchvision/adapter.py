"""torchvision's detectors as a plug-in: the contract of `compress/detector.py`. Importing it imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from compress.dataset import Batch, Dataset, InputFormat
from detectors.data.samples import Truth
from detectors.geometry.pictures import padded_size
from detectors.torchvision import deploy
from detectors.torchvision.anchors import fcos_anchors, level_boxes, retinanet_anchors, ssd_boxes
from detectors.torchvision.config import SIZE_DIVISOR, TorchvisionConfig
from detectors.weights.finding import find_checkpoint
from detectors.weights.freezing import RESNET_STAGES, set_training, stage_prefixes

if TYPE_CHECKING:
    from pydantic import BaseModel
    from torch import Tensor, nn

# What `frozen_stages` counts: the stem first, then stage by stage.
STAGES = {
    "mobilenet_v3_large": (range(2), range(2, 4), range(4, 7), range(7, 13), range(13, 17)),
    "mobilenet_v3_small": (range(1), range(1, 2), range(2, 4), range(4, 9), range(9, 13)),
}
_OUTPUT = "output layer; its channels are {}"
_SENSITIVE = "output layer; its error is the error of a detection"


class TorchvisionDetector:
    """RetinaNet, FCOS or SSDlite on labelled boxes, boxes made axis-aligned.

    Attributes:
        config: the recipe's `detector:` part.
        data: the data set.
    """

    NAME: ClassVar[str] = "torchvision"
    VERSION: ClassVar[str] = "1"
    REQUIRES: ClassVar[tuple[str, ...]] = ("torch", "torchvision")
    CONFIG: ClassVar[type[BaseModel]] = TorchvisionConfig
    DATA: ClassVar[str] = "dota"
    DEPLOY: ClassVar[str] = "detectors.torchvision.deploy"

    def __init__(self, config: TorchvisionConfig, data: Dataset) -> None:
        self.config = config
        self.data = data

    # ---- model ------------------------------------------------------------------------------------

    def build(self) -> nn.Module:
        """Return a fresh network; with `weights` and no checkpoint they are loaded.

        Raises:
            DetectorError: a weight is missing or does not fit.
        """
        from detectors.torchvision.checkpoint import start_from
        from detectors.torchvision.network import build_network

        config = self.config
        model = build_network(
            config.spec,
            len(config.classes),
            self.anchors(),
            channels=config.channels,
            norm_eps=config.eps,
            reduced_tail=config.has_reduced_tail,
        )
        if config.weights is not None and config.checkpoint is None:
            start_from(model, config.spec, config.model, config.weights, config.classes)
        return model

    def load(self, model: nn.Module, checkpoint: str | Path) -> None:
        """Load all weights in place.

        Raises:
            DetectorError: a tensor is missing, unexpected or of another shape.
        """
        from detectors.torchvision.checkpoint import load_whole

        load_whole(model, find_checkpoint(str(checkpoint)))

    def checkpoint_path(self) -> Path | None:
        """Return the file of `detector.checkpoint`, or None."""
        return None if self.config.checkpoint is None else find_checkpoint(self.config.checkpoint)

    def output_names(self) -> tuple[str, ...]:
        """Return cls_logits_LEVEL of all levels, then bbox_regression_LEVEL, and for FCOS bbox_ctrness_LEVEL."""
        spec = self.config.spec
        return tuple(f"{kind}_{level}" for kind in spec.kinds for level in spec.levels)

    def example_input(self, batch_size: int = 1) -> Tensor:
        """Return noise of the shape and range of normalized images; the same at every call."""
        from detectors.data.examples import example_images

        return example_images(batch_size, self.input_size())

    def input_size(self) -> tuple[int, int]:
        """Return (height, width) of the network's input: the deployed size padded to multiples of 32."""
        return padded_size(self.data.image_size, SIZE_DIVISOR)

    def anchors(self) -> dict[str, Any]:
        """Return the description of the boxes that raw maps are relative to."""
        config = self.config
        if config.spec.architecture == "retinanet":
            return retinanet_anchors(config.anchor_scale)
        return fcos_anchors() if config.spec.architecture == "fcos" else self._default_boxes()

    def _default_boxes(self) -> dict[str, Any]:
        return ssd_boxes(*self.config.box_shares, len(self.config.spec.levels))

    def input_format(self) -> InputFormat:
        """Return mean, deviation and padding of the images."""
        return InputFormat(self.config.values.mean, self.config.values.std, SIZE_DIVISOR)

    def not_prunable(self, model: nn.Module) -> dict[str, str]:
        """Return the output layers."""
        scores, boxes = _OUTPUT.format("classes of each box"), _OUTPUT.format("four values of each box")
        named = {name: scores if "classification" in name else boxes for name in self._output_layers()}
        return {n: _OUTPUT.format("one value a cell") if n.endswith("ctrness") else text for n, text in named.items()}

    def not_quantizable(self, model: nn.Module) -> dict[str, str]:
        """Return the output layers; everything else that convolves is computed in integers."""
        return dict.fromkeys(self._output_layers(), _SENSITIVE)

    def _output_layers(self) -> tuple[str, ...]:
        spec = self.config.spec
        if spec.architecture == "ssdlite":
            heads = ("classification_head", "regression_head")
            return tuple(f"head.{head}.module_list.{level}.1" for head in heads for level in range(len(spec.levels)))
        last = ("classification_head.cls_logits", "regression_head.bbox_reg", "regression_head.bbox_ctrness")
        return tuple(f"head.{name}" for name in last[: len(spec.kinds)])

    def custom_pruners(self, model: nn.Module) -> dict[type, Any]:
        """Return none: every layer is one of torch.nn."""
        return {}

    def distill_points(self, model: nn.Module) -> tuple[str, ...]:
        """Return the FPN's outputs, or the first levels of SSDlite."""
        if self.config.spec.architecture == "ssdlite":
            return ("backbone.features.0", "backbone.features.1", "backbone.extra.0")
        return tuple(f"backbone.fpn.layer_blocks.{level}" for level in range(3))

    def set_train_mode(self, model: nn.Module) -> None:
        """Set training mode; freeze the first stages, and BatchNorm if so configured."""
        still = ("",) if self.config.keeps_norms else ()
        set_training(model, frozen=self._frozen_prefixes(), still_norms=still, norms_learn=False)

    def _frozen_prefixes(self) -> tuple[str, ...]:
        spec, count = self.config.spec, self.config.num_frozen_stages
        stages = STAGES.get(spec.backbone, RESNET_STAGES)
        if spec.architecture != "ssdlite":
            return stage_prefixes(stages, count, below="backbone.body")
        # SSDlite holds the blocks of its backbone in a Sequential of their own.
        prefixes = stage_prefixes(stages, count, below="backbone.features.0")
        return (*prefixes, "backbone.features.1.") if count == 4 else prefixes

    # ---- training and scoring ---------------------------------------------------------------------

    def loss(self, model: nn.Module, raw: tuple[Tensor, ...], batch: Batch) -> dict[str, Tensor]:
        """Return 'loss_cls', 'loss_bbox' and for FCOS 'loss_ctrness' of a `BoxBatch`; the model is not asked."""
        import torch

        from detectors.torchvision.losses import detection_loss, upright

        spec = self.config.spec
        shapes = [(level.shape[2], level.shape[3]) for level in raw[: len(spec.levels)]]
        size = (batch.images.shape[2], batch.images.shape[3])
        anchors = level_boxes(self.anchors(), shapes, size, self.input_size())
        device = raw[0].device
        return detection_loss(
            spec.architecture,
            raw,
            [torch.from_numpy(level).to(device) for level in anchors],
            [upright(boxes) for boxes in batch.boxes],  # type: ignore[attr-defined]
            batch.labels,  # type: ignore[attr-defined]
            [upright(boxes) for boxes in batch.ignored],  # type: ignore[attr-defined]
            len(self.config.classes),
        )

    def adapt_truth(self, truth: Truth) -> Truth:
        """Return the truth with the axis-aligned rectangle around each box, angle 0."""
        return truth.upright()

    def metadata(self) -> dict[str, Any]:
        """Return what `deploy.py` must know, JSON-able."""
        config = self.config
        return {
            "format_version": deploy.FORMAT_VERSION,
            "plugin": self.NAME,
            "architecture": config.spec.architecture,
            "image_size": list(self.data.image_size),
            "input_size": list(self.input_size()),
            "size_divisor": SIZE_DIVISOR,
            "mean": list(config.values.mean),
            "std": list(config.values.std),
            "classes": list(config.classes),
            "anchors": self.anchors(),
            "num_levels": len(config.spec.levels),
            "score_threshold": config.values.score_threshold,
            "nms_iou": config.values.nms_iou,
            "nms_pre": config.values.nms_pre,
            "max_detections": config.values.max_detections,
            "output_names": list(self.output_names()),
        }


DETECTOR = TorchvisionDetector
