"""The plug-in's part of a recipe. Imports no torch and no OpenMMLab package."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from compress.errors import DetectorError
from detectors.data.labels import check_class_names

Backbone = Literal["mobilenet_v2", "resnet18", "resnet34", "resnet50", "resnet101"]


class OpenMmlabConfig(BaseModel):
    """The `detector:` part of a recipe, without `plugin`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    config: str = Field(
        description="MMRotate configuration: the name of a shipped one (file name without .py), or a path to a file."
    )
    classes: tuple[str, ...] = Field(min_length=1, description="Class names in the order of their label index.")
    checkpoint: str | None = Field(
        None,
        description="Weights of the whole model: .safetensors of Krimp, or a .pth that belongs to the configuration.",
    )
    backbone: Backbone | None = Field(None, description="Replaces the backbone of the configuration.")
    base_channels: int = Field(
        64,
        ge=8,
        multiple_of=8,
        description="Width of the first stage of a replaced ResNet; narrow ones are for trials.",
    )
    channels: int | None = Field(
        None, ge=8, multiple_of=8, description="Width of neck and heads; null: as in the configuration."
    )
    cfg_options: dict[str, Any] = Field(
        default_factory=dict,
        description="Further changes of the configuration's `model`, dotted name -> value, e.g. neck.num_outs: 4.",
    )
    backbone_weights: str | None = Field(
        None, description="Local file with torchvision's (ResNet, MobileNetV2) or the backbone's own names, or null."
    )
    frozen_stages: int | None = Field(
        None,
        ge=0,
        le=4,
        description="n: the stem and the first n stages stay; 0: nothing. Default: 1 with given weights, else 0.",
    )
    norm_eval: bool | None = Field(
        None, description="Keep BatchNorm statistics of the backbone fixed. Default: only with given weights."
    )
    score_threshold: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="Detections must score strictly more, centreness included; null: as in the configuration.",
    )
    nms_iou: float | None = Field(
        None, gt=0, le=1, description="Overlap at which the weaker box of a class goes; null: as in the configuration."
    )

    @field_validator("config")
    @classmethod
    def _check_config(cls, name: str) -> str:
        try:
            find_config(name)
        except DetectorError as error:
            raise ValueError(str(error).removeprefix("detector.config: ")) from error
        return name

    _check_classes = field_validator("classes")(check_class_names)

    @model_validator(mode="after")
    def _check_width(self) -> OpenMmlabConfig:
        if self.base_channels != 64 and not (self.backbone or "").startswith("resnet"):
            raise ValueError(f"base_channels is {self.base_channels}, which only a replaced ResNet has. Leave it out.")
        return self

    @property
    def has_weights(self) -> bool:
        """Return whether training starts from given weights."""
        return self.backbone_weights is not None or self.checkpoint is not None

    @property
    def num_frozen_stages(self) -> int:
        """Return how many stages stay as they are (0: not even the stem)."""
        return int(self.has_weights) if self.frozen_stages is None else self.frozen_stages

    @property
    def keeps_norm_statistics(self) -> bool:
        """Return whether the backbone's BatchNorm runs in evaluation mode during training."""
        return self.has_weights if self.norm_eval is None else self.norm_eval


def config_folder() -> Path | None:
    """Return MMRotate's folder of shipped configurations, or None if it is not installed. Imports nothing."""
    spec = importlib.util.find_spec("mmrotate")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (path := Path(folder) / ".mim" / "configs").is_dir():
            return path
    return None


def shipped_configs() -> dict[str, Path]:
    """Return name -> file of every configuration that MMRotate ships; parts of others are left out."""
    folder = config_folder()
    if folder is None:
        return {}
    files = sorted(path for path in folder.rglob("*.py") if "_base_" not in path.relative_to(folder).parts)
    return {path.stem: path for path in files}


def find_config(name: str) -> Path:
    """Return the file of a configuration.

    Raises:
        DetectorError: neither a file nor a shipped configuration. Without MMRotate every name passes,
            and the check for missing frameworks speaks.
    """
    path = Path(name).expanduser()
    if path.suffix == ".py":
        if path.is_file():
            return path.resolve()
        raise DetectorError(f"detector.config: there is no file {name!r}. Correct the path, or name a shipped one.")
    shipped = shipped_configs()
    if name in shipped or not shipped:
        return shipped.get(name, path)
    near = get_close_matches(name, shipped, n=1, cutoff=0.4)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise DetectorError(f"detector.config: MMRotate ships no configuration {name!r}.{hint}")


def config_digest(path: Path) -> str:
    """Return the sha256 (hex) over a configuration and all that it builds on (`_base_`), in order of first use."""
    digest, waiting, seen = hashlib.sha256(), [path], set()
    while waiting:
        file = waiting.pop(0)
        if file in seen or not file.is_file():
            continue
        seen.add(file)
        content = file.read_bytes()
        digest.update(content)
        waiting += [(file.parent / base).resolve() for base in _bases(content)]
    return digest.hexdigest()


def _bases(content: bytes) -> list[str]:
    for node in ast.parse(content).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "_base_" for t in node.targets):
            value = ast.literal_eval(node.value)
            return [value] if isinstance(value, str) else list(value)
    return []
