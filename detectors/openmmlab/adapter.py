"""Detectors of MMRotate as a plug-in: the contract of `compress/detector.py`. Importing this file imports no torch."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from compress.dataset import Batch, Dataset, InputFormat
from compress.errors import DetectorError
from detectors.geometry.deployed import BoxDeploy
from detectors.geometry.pictures import padded_size
from detectors.openmmlab.config import OpenMmlabConfig, config_digest, find_config
from detectors.openmmlab.families import OUTPUT_LAYERS, Layout, class_name, layout_of
from detectors.weights.finding import find_checkpoint
from detectors.weights.freezing import MOBILENET_V2_STAGES, RESNET_STAGES, set_training, stage_prefixes

if TYPE_CHECKING:
    import numpy as np
    from pydantic import BaseModel
    from torch import Tensor, nn

    from detectors.openmmlab.model_config import ModelConfig
    from detectors.openmmlab.networks import Network

SIZE_DIVISOR = 32
SUFFIXES = (".safetensors", ".pth")  # of a checkpoint; may be left out
STAGES = {  # what `frozen_stages` counts: the stem first, then stage by stage
    "MobileNetV2": MOBILENET_V2_STAGES,
    "ResNet": RESNET_STAGES,
    "CSPNeXt": (("stem",), ("stage1",), ("stage2",), ("stage3",), ("stage4",)),
}
OUTPUT_PATTERN = re.compile(rf"bbox_head.*\.(?:{'|'.join(OUTPUT_LAYERS)})(?:\.\d+)?")
ORIENTED_PATTERN = re.compile(r"bbox_head_refine\.\d+\.or_conv")
ALIGN_PATTERN = re.compile(r"align\.\d+")
DISTILL_PATTERN = re.compile(r"neck\.(?:fpn_convs|out_convs)\.\d+")


class OpenMmlab:
    """A detector of MMRotate on labelled boxes.

    Attributes:
        config: the recipe's `detector:` part.
        data: the data set.
    """

    NAME: ClassVar[str] = "openmmlab"
    VERSION: ClassVar[str] = "3"  # 3: nothing of FCOS or ATSS below the threshold; 2: KLD from the sides of the boxes
    REQUIRES: ClassVar[tuple[str, ...]] = ("torch", "torchvision", "mmcv", "mmengine", "mmdet", "mmrotate")
    PRELOAD: ClassVar[tuple[str, ...]] = ("mmrotate.models",)
    CONFIG: ClassVar[type[BaseModel]] = OpenMmlabConfig
    DATA: ClassVar[str] = "dota"
    DEPLOY: ClassVar[str] = "detectors.openmmlab.deploy"

    def __init__(self, config: OpenMmlabConfig, data: Dataset) -> None:
        self.config = config
        self.data = data
        self._heads: nn.Module | None = None  # of the model that ran last, route 'features'
        # Configuration files and MMRotate decide what is built, so they belong to the key of every artifact.
        try:
            package = importlib.metadata.version("onedl-mmrotate")
        except importlib.metadata.PackageNotFoundError:
            package = "from source"
        self.VERSION = f"{type(self).VERSION} mmrotate {package} {config_digest(find_config(config.config))[:16]}"  # type: ignore[misc]

    # ---- model ------------------------------------------------------------------------------------

    @cached_property
    def _model_config(self) -> ModelConfig:
        from detectors.openmmlab.model_config import read_model_config

        return read_model_config(self.config)

    @cached_property
    def layout(self) -> Layout:
        """The raw outputs of the network."""
        return layout_of(self._model_config.model)

    @cached_property
    def _loss_heads(self) -> list[Any]:
        """Heads that lend their assigners, coders and losses; their weights are never read."""
        from detectors.openmmlab.losses import make_portable

        detector = self._fresh_detector()
        make_portable(detector)
        if self.layout.route == "dense":
            return [detector.bbox_head]
        return [detector.bbox_head_init, *detector.bbox_head_refine]

    def _fresh_detector(self) -> Any:
        from copy import deepcopy

        from detectors.openmmlab.model_config import build_detector, widen_start

        detector = build_detector(deepcopy(self._model_config.model))
        widen_start(detector, self._model_config.initial_gain)
        return detector

    def _network(self, detector: nn.Module) -> Network:
        from detectors.openmmlab.losses import make_portable
        from detectors.openmmlab.networks import build_network

        make_portable(detector)
        return build_network(detector, self.layout, self._notice)

    def _notice(self, heads: nn.Module) -> None:
        self._heads = heads

    def build(self) -> nn.Module:
        """Return a fresh network; with `backbone_weights` and no checkpoint its backbone is loaded.

        Raises:
            DetectorError: the configuration cannot be built, or a backbone weight is missing or does not fit.
        """
        from detectors.openmmlab.checkpoint import load_backbone

        model = self._network(self._fresh_detector())
        if self.config.backbone_weights is not None and self.config.checkpoint is None:
            load_backbone(model.backbone, Path(self.config.backbone_weights).expanduser())
        return model

    def load(self, model: nn.Module, checkpoint: str | Path) -> None:
        """Load all weights in place: Krimp's safetensors, or a torch file with MMRotate's names.

        Raises:
            DetectorError: a tensor is missing, unexpected or of another shape.
        """
        from detectors.openmmlab.checkpoint import load_strictly
        from detectors.weights.reading import read_tensors

        path = find_checkpoint(str(checkpoint), suffixes=SUFFIXES)
        state = read_tensors(path)
        if path.suffix != ".safetensors":
            published = self._fresh_detector()
            load_strictly(published, state, str(path))
            if self._model_config.takes_bgr:
                _turn_input_channels(published.backbone)
            state = self._network(published).state_dict()
        load_strictly(model, state, str(path))

    def checkpoint_path(self) -> Path | None:
        """Return the file of `detector.checkpoint`, or None."""
        name = self.config.checkpoint
        return None if name is None else find_checkpoint(name, suffixes=SUFFIXES)

    @cached_property
    def _strides(self) -> tuple[int, ...]:
        if self.layout.route == "features":
            return tuple(range(int(self._model_config.model.neck.num_outs)))
        return tuple(int(stride[0]) for stride in self._loss_heads[0].prior_generator.strides)

    def output_names(self) -> tuple[str, ...]:
        """Return e.g. cls_score_s8, ..., bbox_pred_s128; for the route 'features' feature_0, feature_1, ..."""
        mark = "" if self.layout.route == "features" else "s"
        return tuple(f"{kind}_{mark}{stride}" for kind in self.layout.exported for stride in self._strides)

    def export_refusal(self) -> str | None:
        """Return why the graph would end in feature maps that nothing outside torch decodes; None for dense heads."""
        return self.layout.export_refusal

    def example_input(self, batch_size: int = 1) -> Tensor:
        """Return noise of the shape and range of normalized images; the same at every call."""
        from detectors.data.examples import example_images

        return example_images(batch_size, padded_size(self.data.image_size, SIZE_DIVISOR))

    def input_format(self) -> InputFormat:
        """Return mean, deviation and padding of the images."""
        return InputFormat(self._model_config.mean, self._model_config.std, SIZE_DIVISOR)

    def not_prunable(self, model: nn.Module) -> dict[str, str]:
        """Return the output layers, what rotates as eight, and the window attention of Swin."""
        found = dict.fromkeys(_layers(model, OUTPUT_PATTERN), "output layer: its channels are classes, boxes or angles")
        found |= dict.fromkeys(_layers(model, ORIENTED_PATTERN), "its channels are filters in eight rotations")
        if class_name(self._model_config.model.backbone) == "SwinTransformer":
            found["backbone"] = "window attention ties its channels across reshapes"
        return found

    def not_quantizable(self, model: nn.Module) -> dict[str, str]:
        """Return the output layers and the aligned convolutions."""
        why = "output layer: the error of a score, a delta or an angle is the error of a detection"
        found = dict.fromkeys(_layers(model, OUTPUT_PATTERN), why)
        return found | dict.fromkeys(_layers(model, ALIGN_PATTERN), "ONNX has no integer DeformConv")

    def custom_pruners(self, model: nn.Module) -> dict[type, Any]:
        """Return the Torch-Pruning rule of the aligned convolution, where there is one."""
        if self.layout.route != "refine":
            return {}
        from detectors.openmmlab.align import AlignedConv
        from detectors.weights.pruning import KernelPruner

        return {AlignedConv: KernelPruner()}

    def distill_points(self, model: nn.Module) -> tuple[str, ...]:
        """Return the outputs of the neck."""
        return tuple(_layers(model, DISTILL_PATTERN))

    def set_train_mode(self, model: nn.Module) -> None:
        """Set training mode; freeze the first stages and the backbone's BatchNorm statistics as configured."""
        stages = STAGES.get(class_name(self._model_config.model.backbone), ())
        frozen = stage_prefixes(stages, self.config.num_frozen_stages, below="backbone")
        set_training(model, frozen=frozen, still_norms=("backbone.",) if self.config.keeps_norm_statistics else ())

    # ---- training and scoring ---------------------------------------------------------------------

    def loss(self, model: nn.Module, raw: tuple[Tensor, ...], batch: Batch) -> dict[str, Tensor]:
        """Return the losses of a `BoxBatch` by OpenMMLab's names; dense heads do not ask the model."""
        from detectors.openmmlab import losses
        from detectors.openmmlab.networks import split

        box_type = self._model_config.box_type
        if self.layout.route == "features":
            if not self.layout.learns:
                raise DetectorError(
                    f"detector.config {self.config.config!r}: cannot be trained here: {self.layout.reason}."
                )
            network: Any = getattr(model, "module", model)
            heads = network.heads.detector
            plain = self._model_config.plain_boxes
            return losses.feature_loss(heads, raw, batch, box_type, plain_boxes=plain)
        maps = split(raw, len(self.layout.kinds))
        if self.layout.route == "dense":
            return losses.dense_loss(self._loss_heads[0], maps, batch, box_type)
        weights = self._model_config.model.train_cfg.stage_loss_weights
        return losses.refine_loss(self._loss_heads, maps, batch, box_type, weights)

    def torch_deploy(self) -> BoxDeploy | None:
        """Return what asks the heads of the model that ran last, for the route 'features'; None for dense heads."""
        return BoxDeploy(self.metadata(), self._decode_in_torch) if self.layout.route == "features" else None

    def _decode_in_torch(
        self,
        raw: Sequence[np.ndarray],
        meta: Mapping[str, Any],
        *,
        image_size: tuple[int, int],
        score_threshold: float | None = None,
    ) -> list[Any]:
        """Return the detections that the heads of the model that ran last find in feature maps."""
        from detectors.openmmlab.predict import predict

        if self._heads is None:
            raise DetectorError("evaluation: no model has run whose heads could decode these feature maps.")
        return predict(
            self._heads, raw, image_size, float(meta["score_threshold"] if score_threshold is None else score_threshold)
        )

    def metadata(self) -> dict[str, Any]:
        """Return what `deploy.py` must know, JSON-able."""
        config, read = self.config, self._model_config
        common = {
            "format_version": 1,
            "plugin": self.NAME,
            "config": Path(config.config).stem,
            "image_size": list(self.data.image_size),
            "mean": list(read.mean),
            "std": list(read.std),
            "classes": list(config.classes),
            "kinds": list(self.layout.exported),
            "output_names": list(self.output_names()),
            "size_divisor": SIZE_DIVISOR,
        }
        if self.layout.route == "features":
            nms = read.test_cfg.get("nms") or {}
            own = {"score_threshold": read.test_cfg["score_thr"], "nms_iou": nms.get("iou_threshold", 0.1)}
            own["max_detections"] = read.test_cfg["max_per_img"]
        else:
            from detectors.openmmlab.description import describe

            own = describe(self._loss_heads, read.test_cfg)
        return common | own


def _layers(model: nn.Module, pattern: re.Pattern[str]) -> list[str]:
    """Return the names of the layers that match as a whole; lists of layers are not layers."""
    from torch import nn

    return [
        name
        for name, module in model.named_modules()
        if pattern.fullmatch(name) and not isinstance(module, nn.ModuleList)
    ]


def _turn_input_channels(backbone: nn.Module) -> None:
    """Let a network that was trained on blue, green, red take red, green, blue."""
    import torch
    from torch import nn

    first = next(layer for layer in backbone.modules() if isinstance(layer, nn.Conv2d) and layer.in_channels == 3)
    with torch.no_grad():
        first.weight.copy_(first.weight.flip(1))


DETECTOR = OpenMmlab
