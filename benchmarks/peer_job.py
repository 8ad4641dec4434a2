"""What a method of `benchmarks/peers.py` starts from, and what it leaves."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.post_training import prepare
from compress.detector import Detector
from compress.stage import StageContext
from compress.whole_file import write_whole

INPUTS = "inputs"
MADE = "made.json"


@dataclass(frozen=True)
class Job:
    """One method at work.

    Attributes:
        detector: the recipe's, with its data.
        inputs: folder of `float.onnx` and `images.npy`, (n, 3, H, W) float32, normalized: the same for every method.
        folder: of this method alone; what lies in it survives a kill.
    """

    detector: Detector
    inputs: Path
    folder: Path

    @property
    def float_file(self) -> Path:
        """Return the float network as an ONNX file."""
        return self.inputs / "float.onnx"

    @cached_property
    def images(self) -> np.ndarray:
        """Return the calibration images, (n, 3, H, W) float32, normalized."""
        images: np.ndarray = np.load(self.inputs / "images.npy", mmap_mode="r", allow_pickle=False)
        return images

    @property
    def batches(self) -> list[Tensor]:
        """Return them one by one, (1, 3, H, W)."""
        return [torch.from_numpy(np.array(image[None])) for image in self.images]

    @property
    def target(self) -> Path:
        """Return the file that a method writes."""
        return self.folder / "model.onnx"

    def context(self) -> StageContext:
        """Return what functions of stages ask for."""
        return StageContext(self.folder.name, self.folder, self.folder, {}, self.detector, 0, "cpu", {})


@dataclass(frozen=True)
class Made:
    """What a method left.

    Attributes:
        runs: file that ONNX Runtime opens, .onnx or .krimp.
        stored_bytes: size of the method's own coded form, which decodes to `runs`; None: `runs` is stored itself.
        note: what a reader of the table must know, in words.
    """

    runs: str
    stored_bytes: int | None = None
    note: str = ""

    def write(self, folder: Path) -> None:
        """Write it into a folder, whole."""
        write_whole(folder / MADE, json.dumps(asdict(self)) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Made:
        """Return what `write` wrote."""
        return cls(**json.loads((folder / MADE).read_text(encoding="utf-8")))


def prepared_inputs(detector: Detector, work: Path, images: int) -> Path:
    """Return the folder of the inputs, made if it is not there yet; whole or not at all."""
    folder = work / f"{INPUTS}_{images}"
    if not folder.is_dir():
        half = folder.with_suffix(".half")
        for left in half.glob("*"):
            left.unlink()
        prepare(detector, half, images, 0)
        half.rename(folder)
    return folder
