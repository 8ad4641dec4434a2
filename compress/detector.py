"""The contract of a detector plug-in. An extender reads this file, `dataset.py` and `stage.py`, nothing else.

A plug-in is a module (a folder under `detectors/`, an entry point of the group
`krimp.detectors`, or `package.module:NAME`) that offers one class with the members below.
Importing it must not import torch: heavy imports go inside the methods.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from compress.dataset import Batch, Dataset, InputFormat, Preloads

if TYPE_CHECKING:
    from pydantic import BaseModel
    from torch import Tensor, nn

# A batch of images, (N, 3, H, W) float32 normalized -> raw outputs, one array per name in
# `Detector.output_names(config)`, same order.
Forward = Callable[[np.ndarray], list[np.ndarray]]


class Detector(Protocol):
    """One detector with its data, made from the recipe's `detector:` and `data:` parts.

    The data set is the one that `data.format` names, made with the classes of the detector.
    """

    data: Dataset

    NAME: ClassVar[str]
    VERSION: ClassVar[str]  # enters the key of every artifact; raise it when the same recipe gives another result
    REQUIRES: ClassVar[tuple[str, ...]]  # import names checked before anything runs
    # The recipe's `detector:` part without `plugin`. Its field `classes`, if it has one, is given to the data set; a
    # field `backbone_weights` is null where the network is only tried (the dry pass).
    CONFIG: ClassVar[type[BaseModel]]
    DATA: ClassVar[str]  # format of a recipe whose `data:` part names none, e.g. 'dota'
    DEPLOY: ClassVar[str]  # module name of the torch-free part, see `Deploy`

    def __init__(self, config: BaseModel, data: Dataset) -> None: ...

    def build(self) -> nn.Module:
        """Return a fresh float model: forward(images) -> tuple of raw tensors.

        The first `len(output_names())` outputs are exported; later ones are for the loss only.
        """

    def load(self, model: nn.Module, checkpoint: str | Path) -> None:
        """Load weights in place. Each missing or unexpected key is a DetectorError."""

    def checkpoint_path(self) -> Path | None:
        """Return the file that holds the float weights, or None if the recipe names none."""

    def output_names(self) -> tuple[str, ...]:
        """Return the names of the exported raw outputs, in order."""

    def example_input(self, batch_size: int = 1) -> Tensor:
        """Return float32 (N, 3, H, W), normalized, at the deployed image size."""

    def not_prunable(self, model: nn.Module) -> dict[str, str]:
        """Return module name -> reason for layers whose output channels are fixed."""

    def not_quantizable(self, model: nn.Module) -> dict[str, str]:
        """Return module name -> reason for layers whose activations stay float."""

    def custom_pruners(self, model: nn.Module) -> dict[type, Any]:
        """Return Torch-Pruning rules by exact class for unusual layers."""

    def distill_points(self, model: nn.Module) -> tuple[str, ...]:
        """Return names of modules whose outputs are worth matching to a teacher."""

    def input_format(self) -> InputFormat:
        """Return how pixels enter the network; `Dataset.loader` makes its batches so."""

    def loss(self, model: nn.Module, raw: tuple[Tensor, ...], batch: Batch) -> dict[str, Tensor]:
        """Return named scalar losses from raw outputs; their sum is minimized."""

    def set_train_mode(self, model: nn.Module) -> None:
        """Put the model in training mode with the stem and BN frozen as configured."""

    def metadata(self) -> dict[str, Any]:
        """Return what deployment needs (JSON); goes into the ONNX file as `krimp.deploy`."""


@runtime_checkable
class ImportsWeights(Protocol):
    """Hook: `krimp import`. Without it the command refuses the plug-in."""

    @staticmethod
    def import_checkpoint(path: Path) -> dict[str, Tensor]:
        """Return the weights of another project's file under the plug-in's names; nothing in it is executed.

        A file that is not exactly the weights of one of its networks is a DetectorError.
        """


@runtime_checkable
class DistilsOutputs(Protocol):
    """Hook: the distance to a teacher. Without it: smooth L1 in units of the spread of each raw output."""

    def distill_loss(self, student: tuple[Tensor, ...], teacher: tuple[Tensor, ...], batch: Batch) -> Tensor:
        """Return a scalar >= 0 from the exported raw outputs of both, 0 where they are equal.

        Like `loss` it is divided for the images of all processes, not for those of this one.
        """


@runtime_checkable
class RefusesExport(Protocol):
    """Hook: networks that cannot become ONNX. Without it an impossible export fails when it is tried."""

    def export_refusal(self) -> str | None:
        """Return why this detector cannot be exported and what to do, or None if it can.

        Asked before anything runs, so that no training is lost for it.
        """


@runtime_checkable
class AdaptsTruth(Protocol):
    """Hook of detectors, and of their deployed parts: they find another form of what the data set holds.

    Without it truth is scored as it is.
    """

    def adapt_truth(self, truth: Any) -> Any:
        """Return the truth of an image (`Picture.truth`) as this detector can find it, e.g. axis-aligned."""


@runtime_checkable
class DecodesInTorch(Protocol):
    """Hook: networks whose outputs nothing outside torch decodes. Without it `DEPLOY` does, in training as deployed."""

    def torch_deploy(self) -> Deploy | None:
        """Return a deployed part that asks the model which ran last, or None where `DEPLOY` can do it."""


# What a plug-in may have beside the members of `Detector`. The engine asks `isinstance(detector, HOOK)` and does
# without where it is absent; a member of the right name but with other arguments is refused at load.
HOOKS = (Preloads, ImportsWeights, DistilsOutputs, RefusesExport, AdaptsTruth, DecodesInTorch)

MAX_WINDOW_PIXELS = 1 << 25  # of one window of a picture: 8192 x 4096 px; as a network's input 400 MB


class Deploy(Protocol):
    """The torch-free part of a plug-in (numpy, OpenCV), made from a model's metadata.

    The module that `Detector.DEPLOY` names has a function `make_deploy(meta) -> Deploy`, which raises DetectorError if
    a key is missing or a value cannot be served. A detections object has a length; the engine only passes it on. A
    window is a tuple with x, y, width, height in whole pixels.

    Attributes:
        meta: the model's `krimp.deploy`.
        image_size: (height, width) that the model was made for, pixels.
        classes: names.
        score_threshold: the model's own.
    """

    @property
    def meta(self) -> Mapping[str, Any]: ...  # noqa: D102

    @property
    def image_size(self) -> tuple[int, int]: ...  # noqa: D102

    @property
    def classes(self) -> tuple[str, ...]: ...  # noqa: D102

    @property
    def score_threshold(self) -> float: ...  # noqa: D102

    def preprocess(self, image: np.ndarray, *, minimum_size: tuple[int, int] | None = None) -> np.ndarray:
        """Turn a BGR uint8 (H, W, 3) image into float32 (1, 3, H', W'), padded to at least `minimum_size`."""

    def postprocess(
        self, raw: Sequence[np.ndarray], *, image_size: tuple[int, int], score_threshold: float | None = None
    ) -> list[Any]:
        """Turn raw outputs of a batch into detections, one object per image; arrays past the exported ones are cut."""

    def tile_windows(
        self, image_size: tuple[int, int], *, tile_size: tuple[int, int] | None = None, overlap_px: int | None = None
    ) -> list[Any]:
        """Return the windows in which a picture of any size is looked at."""

    def merge(self, parts: list[Any], windows: list[Any], *, image_size: tuple[int, int]) -> Any:
        """Return the detections of a whole picture from those of its windows; those of one window as they are."""

    def draw(self, image: np.ndarray, detections: Any, *, score_threshold: float | None = None) -> np.ndarray:
        """Return a BGR uint8 picture with the boxes drawn that score more than the threshold."""

    def to_text(self, detections: Any) -> str:
        """Return one line per detection."""

    def to_json(self, detections: Any) -> list[dict[str, Any]]:
        """Return one JSON-able record per detection, with at least `class` and `score`.

        COCO results and GeoJSON are made of `label` and `corners` (x1, y1, ..., x4, y4, px); without them these two
        formats are refused.
        """
