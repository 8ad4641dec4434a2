"""What is fed to a stranger's network: pictures as it takes them, or arrays as they are."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from compress.errors import DataError
from compress.pictures.decoding import AS_IT_IS, Reading, read_image
from compress.runtime.detect import find_images
from compress.shrink.network import Network
from compress.shrink.observe import Feed
from compress.whole_file import open_regular

FREE_SIDE = 640  # px, of an input whose size is free
STRIDE = 32  # that a free size is a multiple of
MAX_PIXELS = 1 << 26  # of an input
MAX_ARRAY_BYTES = 1 << 30  # of an array that is fed


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes an input.

    Attributes:
        size: (height, width) px.
        scale: that pixels 0..255 are multiplied by first.
        mean, std: of each channel, after the scale, in the order of the channels.
        bgr: blue first, as OpenCV reads them; else red first.
        fit: 'letterbox' keeps the shape and pads with `pad_value`, 'stretch' does not keep it, 'pad' changes no pixel
            and adds zeros of the input, below and to the right.
        gray: one channel.
        pad_value: brightness of what a letterbox fills, 0..255.
        corner: a letterbox has the picture in the upper left corner, else in the middle.
        enlarge: a letterbox enlarges smaller pictures.
    """

    size: tuple[int, int]
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    bgr: bool = False
    fit: str = "letterbox"
    gray: bool = False
    pad_value: int = 114
    corner: bool = False
    enlarge: bool = True

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        """Return (1, C, height, width) float32 of a picture, (H, W, 3) uint8 BGR."""
        return self.values(self.placed(picture), (picture.shape[0], picture.shape[1]))

    def placed(self, picture: np.ndarray) -> np.ndarray:
        """Return a picture in the size of the input, (height, width, 3) uint8 BGR.

        Raises:
            ValueError: it does not fit in, where no pixel may be changed.
        """
        import cv2

        height, width = self.size
        if self.fit == "stretch":
            return cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR)
        high, wide = picture.shape[:2]
        if self.fit == "pad" and (high > height or wide > width):
            raise ValueError(
                f"picture of {wide}x{high} px: the network looks at windows of {width}x{height} px. Give pictures "
                "of at most that size, or let them be resized."
            )
        inner = high, wide
        if self.fit == "letterbox":
            factor = min(height / high, width / wide)
            factor = factor if self.enlarge else min(factor, 1.0)
            inner = min(max(round(high * factor), 1), height), min(max(round(wide * factor), 1), width)
        small = picture
        if inner != (high, wide):
            small = cv2.resize(picture, (inner[1], inner[0]), interpolation=cv2.INTER_LINEAR)
        if inner == self.size:
            return small
        top, left = (height - inner[0]) // 2, (width - inner[1]) // 2
        if self.corner or self.fit == "pad":
            top = left = 0
        canvas = np.full((height, width, 3), self.pad_value, np.uint8)
        canvas[top : top + inner[0], left : left + inner[1]] = small
        return canvas

    def values(self, placed: np.ndarray, picture_size: tuple[int, int]) -> np.ndarray:
        """Return (1, C, height, width) float32 of a picture in the size of the input.

        Args:
            placed: (height, width, 3) uint8 BGR.
            picture_size: (height, width) of the picture before it was placed, px.
        """
        import cv2

        pixels = placed
        if self.gray:
            pixels = cv2.cvtColor(placed, cv2.COLOR_BGR2GRAY)[:, :, None]
        elif not self.bgr:
            pixels = placed[:, :, ::-1]
        channels = pixels.shape[2]
        made = np.zeros((1, channels, *self.size), np.float32)
        high, wide = picture_size if self.fit == "pad" else self.size
        for channel, (mean, std) in enumerate(zip(*self.in_brightness(channels), strict=True)):
            # One table a channel, as `krimp detect` has it: 256 divisions instead of one a pixel.
            table = (np.arange(256, dtype=np.float32) - np.float32(mean)) / np.float32(std)
            made[0, channel, :high, :wide] = table[pixels[:high, :wide, channel]]
        return made

    def in_brightness(self, channels: int = 3) -> list[list[float]]:
        """Return mean and std of each channel of the input, of brightness 0..255."""
        means, stds = ([value / self.scale for value in values] for values in (self.mean, self.std))
        return [values * channels if len(values) == 1 else values for values in (means, stds)]

    def with_fields(self, fields: Mapping[str, Any]) -> Preprocessing:
        """Return the same with some fields of a person's; a mean or std without a scale is of brightness 0..255.

        Raises:
            DataError: a mean or std does not fit the channels, or is no number that can be divided by.
        """
        channels = 1 if self.gray else 3
        for name in ("mean", "std"):
            values = fields.get(name)
            if values is not None and len(values) not in (1, channels):
                raise DataError(f"--{name}: {len(values)} numbers, expected {channels}, one a channel, or one for all.")
        divide = (*fields.get("std", ()), fields.get("scale", 1.0))
        if not all(0 < value < math.inf for value in divide) or not all(map(math.isfinite, fields.get("mean", ()))):
            raise DataError("--std and --scale divide or multiply pixels: expected finite numbers above 0.")
        given = dict(fields)
        if ("mean" in fields or "std" in fields) and "scale" not in fields:
            largest = max((*fields.get("mean", ()), *fields.get("std", ())))
            given["scale"] = 1.0 if largest > 1 else 1 / 255  # (123.7, ...) is of 0..255, (0.485, ...) of 0..1
        return replace(self, **given)

    def __str__(self) -> str:
        order = "gray" if self.gray else "BGR" if self.bgr else "RGB"
        rest = "" if set(self.mean) == {0.0} and set(self.std) == {1.0} else f", minus {self.mean} over {self.std}"
        return f"{self.fit} to {self.size[1]}x{self.size[0]} px, {order} times {self.scale:.6g}{rest}"


@dataclass(frozen=True)
class Inputs:
    """What a network is fed, one after the other, as often as it is asked for.

    Attributes:
        network: whose inputs they are.
        files: pictures, or `.npz` archives with an array for each input.
        preprocessing: of pictures.
        reading: how picture files are read.
    """

    network: Network
    files: Sequence[Path]
    preprocessing: Preprocessing | None
    reading: Reading = field(default=AS_IT_IS)

    def __call__(self) -> Iterator[Feed]:
        """Yield what each file holds.

        Raises:
            DataError: a file cannot be read, or does not fit the inputs.
        """
        for file in self.files:
            yield self.one(file)

    def one(self, file: Path) -> Feed:
        """Return what one file holds."""
        if self.preprocessing is None:
            return _arrays(file, self.network)
        (name,) = self.network.inputs
        return {name: self.preprocessing.values(*self.placed(file))}

    def placed(self, file: Path) -> tuple[np.ndarray, tuple[int, int]]:
        """Return a picture file in the size of the input, (height, width, 3) uint8 BGR, and its own (height, width) px.

        Raises:
            DataError: it cannot be read, or does not fit in.
        """
        assert self.preprocessing is not None, "arrays have no pixels"
        picture = read_image(file, self.reading)
        try:
            return self.preprocessing.placed(picture), (picture.shape[0], picture.shape[1])
        except ValueError as error:
            raise DataError(f"{file}: {error}") from error

    def some(self, files: Iterable[Path]) -> Inputs:
        """Return the same of other files."""
        return Inputs(self.network, list(files), self.preprocessing, self.reading)


def find_inputs(network: Network, data: Path, preprocessing: Preprocessing | None, reading: Reading) -> Inputs:
    """Return the inputs in a folder.

    Raises:
        DataError: it holds nothing that the network takes.
    """
    archives = sorted(data.glob("*.npz")) if data.is_dir() else []
    if archives:
        return Inputs(network, archives, None, reading)
    if preprocessing is None:
        shapes = ", ".join(f"{name} {shape_text(shape)}" for name, shape in network.inputs.items())
        raise DataError(
            f"{data}: the network's inputs are {shapes}: no single picture. Give a folder of .npz archives, each with "
            "an array for every input."
        )
    height, width = preprocessing.size
    if height * width > MAX_PIXELS:
        raise DataError(f"an input of {width}x{height} px: more than the {MAX_PIXELS:,} pixels that are allowed.")
    return Inputs(network, find_images([data]), preprocessing, reading)


def guessed_preprocessing(network: Network) -> Preprocessing | None:
    """Return what most networks of that input take, None if it is no picture: 0..1, red first, shape kept."""
    if len(network.inputs) != 1:
        return None
    (shape,) = network.inputs.values()
    if len(shape) != 4 or shape[1] not in (1, 3):
        return None
    height, width = (side or FREE_SIDE for side in shape[2:])
    return Preprocessing((height, width), gray=shape[1] == 1)


def shape_text(shape: Sequence[int | None]) -> str:
    """Return a shape for people: '1x3x?x?'."""
    return "x".join("?" if side is None else str(side) for side in shape)


def _arrays(file: Path, network: Network) -> Feed:
    """Return the arrays of an archive; what they are is looked at before they take memory.

    Raises:
        DataError: it is no such archive, or its arrays do not fit the inputs.
    """
    try:
        with open_regular(file) as opened, zipfile.ZipFile(opened) as archive:
            names = {entry.removesuffix(".npy"): entry for entry in archive.namelist() if entry.endswith(".npy")}
            missing = [name for name in network.inputs if name not in names]
            if missing:
                have = ", ".join(sorted(names)) or "none"
                raise DataError(f"{file}: no array {', '.join(missing)}. It has {have}.")
            return {
                name: _array(archive, names[name], shape, f"{file}: {name}") for name, shape in network.inputs.items()
            }
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as error:
        raise DataError(f"{file}: {error}. Expected a .npz archive of plain arrays.") from error


def _array(archive: zipfile.ZipFile, entry: str, shape: Sequence[int | None], where: str) -> np.ndarray:
    """Return one array of an archive.

    Raises:
        DataError: it does not fit, is very large, or holds what is no finite number.
        ValueError: it is no plain array.
    """
    with archive.open(entry) as member:
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        version = np.lib.format.read_magic(member)
        if version not in read:
            raise ValueError(f"{entry} is of version {version}")
        found, _, dtype = read[version](member)
    if len(found) != len(shape) or not all(n in (None, side) for n, side in zip(shape, found, strict=True)):
        raise DataError(f"{where} is {shape_text(found)}, and the network takes {shape_text(shape)}.")
    size = math.prod(found) * dtype.itemsize
    if size > MAX_ARRAY_BYTES:
        raise DataError(f"{where} takes {size:,} bytes, more than the {MAX_ARRAY_BYTES:,} that are allowed.")
    with archive.open(entry) as member:
        value: np.ndarray = np.lib.format.read_array(member, allow_pickle=False)
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        raise DataError(f"{where} holds NaN or infinity, expected finite numbers.")
    return value
