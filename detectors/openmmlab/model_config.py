"""Reads an MMRotate configuration and adapts its `model` to a recipe; builds the OpenMMLab detector.

What is changed on top of the recipe's own wishes, and why: nothing is downloaded (pretrained parts of the
configuration are left out), SyncBN becomes BN (the same values in evaluation; a CPU has no SyncBN), frozen
stages are left to the plug-in (which knows pruned and traced models by module name), and the FPN doubles by
a fixed factor (so that the traced graph holds no shape arithmetic).
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.registry import DefaultScope
from torch import nn

from compress.errors import DetectorError
from detectors.openmmlab.config import OpenMmlabConfig, find_config

HEADS = ("bbox_head", "bbox_head_init", "bbox_head_refine", "rpn_head", "roi_head")
RESNET_DEPTH = {"resnet18": 18, "resnet34": 34, "resnet50": 50, "resnet101": 101}
MOBILENET_STAGES = (1, 2, 4, 6)  # strides 4, 8, 16, 32
MOBILENET_WIDTHS = (24, 32, 96, 320)
SYNC_NORMS = ("SyncBN", "MMSyncBN")
NOTHING_FROZEN = {"frozen_stages": -1, "norm_eval": False}
DEFAULT_TEST = {"score_thr": 0.05, "nms_pre": 2000, "max_per_img": 2000, "min_bbox_size": 0}


@dataclass(frozen=True)
class ModelConfig:
    """An adapted configuration.

    Attributes:
        model: arguments of the OpenMMLab detector, without its preprocessor.
        mean, std: of R, G, B, 0..255.
        takes_bgr: whether the published weights expect blue first (ours always take red first).
        box_type: 'rbox', 'qbox' or 'hbox', the form of the truth in training.
        plain_boxes: whether the heads take the truth as a bare tensor (`boxtype2tensor`).
        initial_gain: factor on the initial weights of the heads' convolutions; see `widen_start`.
    """

    model: ConfigDict
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    takes_bgr: bool
    box_type: str
    plain_boxes: bool
    initial_gain: float = 1.0

    @property
    def test_cfg(self) -> dict[str, Any]:
        """Return the settings of post-processing (of the last stage, where there are several)."""
        test = self.model.get("test_cfg") or {}
        return {**DEFAULT_TEST, **(test.get("rcnn") or test)}


def read_model_config(config: OpenMmlabConfig) -> ModelConfig:
    """Return the adapted configuration that a recipe names.

    Raises:
        DetectorError: the file cannot be read, or an option does not fit it.
    """
    path = find_config(config.config)
    try:
        with quiet():
            whole = Config.fromfile(path)
            whole.merge_from_dict({f"model.{name}": value for name, value in config.cfg_options.items()})
    except Exception as error:
        raise DetectorError(
            f"detector.config {config.config!r}: cannot be read: {type(error).__name__}: {error}. "
            "Correct the file or detector.cfg_options."
        ) from error
    if "model" not in whole:
        raise DetectorError(f"detector.config {config.config!r}: has no `model`. Name a configuration of a detector.")
    model = whole.model
    processor = model.pop("data_preprocessor", None) or whole.get("data_preprocessor") or {}
    takes_bgr = not processor.get("bgr_to_rgb", False)
    mean, std = (tuple(processor.get(key) or default) for key, default in (("mean", [0.0] * 3), ("std", [1.0] * 3)))
    _set_backbone(model, config)
    gain = _set_channels(model, config.channels)
    for name in HEADS:
        _walk(model.get(name), _class_setter(len(config.classes)))
    _set_suppression(model, config)
    _walk(model, _without_downloads)
    _walk(model, _without_sync)
    backbone = model.backbone
    freezes = str(backbone.type).rpartition(".")[2] == "ResNet"  # its defaults freeze, so it must be told not to
    backbone.update({key: off for key, off in NOTHING_FROZEN.items() if freezes or key in backbone})
    if "neck" in model and str(model.neck.type).rpartition(".")[2] == "FPN":
        model.neck.upsample_cfg = {"scale_factor": 2.0, "mode": "nearest"}
    order = slice(None, None, -1) if takes_bgr else slice(None)
    plain = bool(processor.get("boxtype2tensor", True))
    return ModelConfig(model, mean[order], std[order], takes_bgr, _box_type(whole), plain, gain)


def build_detector(model: ConfigDict) -> Any:
    """Return the OpenMMLab detector with fresh weights; its heads' initial values are the published ones.

    Raises:
        DetectorError: a part is not registered or its arguments do not fit.
    """
    import mmrotate.models  # noqa: F401 - fills the registries, those of MMDetection too
    from mmrotate.registry import MODELS

    try:
        with quiet(), DefaultScope.overwrite_default_scope("mmrotate"):
            detector = MODELS.build(model)
            detector.init_weights()
    except Exception as error:
        raise DetectorError(
            f"detector.config: the model cannot be built: {type(error).__name__}: {_first_line(error)}"
        ) from error
    return detector


@contextmanager
def quiet() -> Iterator[None]:
    """Hide what OpenMMLab prints while it reads and builds: a line for every parameter."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return text[0] if text else "no reason given"


def _set_backbone(model: ConfigDict, config: OpenMmlabConfig) -> None:
    """Replace the backbone, and tell the neck the widths of its outputs."""
    if config.backbone is None:
        return
    inputs = len(model.neck.in_channels)
    if config.backbone == "mobilenet_v2":
        model.backbone = ConfigDict(type="mmdet.MobileNetV2", out_indices=MOBILENET_STAGES[-inputs:])
        widths: tuple[int, ...] = MOBILENET_WIDTHS
    else:
        depth, base = RESNET_DEPTH[config.backbone], config.base_channels
        stages = tuple(range(4))
        model.backbone = ConfigDict(
            type="mmdet.ResNet", depth=depth, base_channels=base, out_indices=stages[-inputs:], style="pytorch"
        )
        widths = tuple(base * (1 if depth < 50 else 4) * 2**stage for stage in stages)
    model.neck.in_channels = list(widths[-inputs:])


def _set_channels(model: ConfigDict, channels: int | None) -> float:
    """Give neck and heads another width; return the gain that keeps their signals at the published size."""
    if channels is None:
        return 1.0
    before = model.neck.out_channels
    model.neck.out_channels = channels

    def change(part: MutableMapping[str, Any]) -> None:
        for key in ("in_channels", "feat_channels", "out_channels", "point_feat_channels"):
            if part.get(key) == before:
                part[key] = channels

    for name in HEADS:
        _walk(model.get(name), change)
    return math.sqrt(before / channels)


def widen_start(detector: nn.Module, gain: float) -> None:
    """Multiply the fresh weights of the heads' convolutions, in place.

    The published spread (mostly N(0, 0.01)) belongs to the published width; a head of 64 channels instead of 256
    passes on a sixteenth of the signal after four layers, and hardly learns.
    """
    for name in HEADS:
        for layer in getattr(detector, name, nn.Identity()).modules():
            if isinstance(layer, nn.Conv2d):
                layer.weight.data.mul_(gain)


def _set_suppression(model: ConfigDict, config: OpenMmlabConfig) -> None:
    """Give the recipe's threshold and overlap to the heads too: those of two stages decode in torch."""
    test = model.setdefault("test_cfg", ConfigDict())
    own = test.get("rcnn") or test
    if config.score_threshold is not None:
        own.score_thr = config.score_threshold
    if config.nms_iou is not None:
        own.nms = {"type": "nms_rotated", **(own.get("nms") or {}), "iou_threshold": config.nms_iou}


def _class_setter(number: int) -> Callable[[MutableMapping[str, Any]], None]:
    def change(part: MutableMapping[str, Any]) -> None:
        if "num_classes" in part:
            part["num_classes"] = number

    return change


def _without_downloads(part: MutableMapping[str, Any]) -> None:
    init = part.get("init_cfg")
    if isinstance(init, dict) and init.get("type") == "Pretrained":
        part["init_cfg"] = None
    if part.get("pretrained") is not None:
        part["pretrained"] = None


def _without_sync(part: MutableMapping[str, Any]) -> None:
    if part.get("type") in SYNC_NORMS:
        part["type"] = "BN"


def _walk(part: Any, change: Callable[[MutableMapping[str, Any]], None]) -> None:
    """Apply a change to every table in a nested configuration."""
    if isinstance(part, dict):
        change(part)
        part = list(part.values())
    if isinstance(part, list | tuple):
        for item in part:
            _walk(item, change)


def _box_type(whole: Config) -> str:
    """Return the form of the truth that the training pipeline of the configuration makes; DOTA's own is 'qbox'."""
    steps = whole.get("train_pipeline") or []
    for step in steps:
        if str(step.get("type", "")).endswith("ConvertBoxType"):
            return str(dict(step.box_type_mapping).get("gt_bboxes", "rbox"))
    return "qbox" if any(step.get("box_type") == "qbox" for step in steps) else "rbox"
