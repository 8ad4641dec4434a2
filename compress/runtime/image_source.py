"""Picture files as image sources: TIFFs are read window by window, so that one of 20,000 x 20,000 px is never whole."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from compress.errors import DataError
from compress.number_text import size_text
from compress.predictor import ArraySource, Box, ImageSource
from compress.runtime.map_position import MapPosition

RASTER_SUFFIXES = (".tif", ".tiff")
BLOCK_CACHE_BYTES = 128 << 20  # of GDAL; its own default is a share of the machine's memory
MAX_BLOCK_BYTES = 256 << 20  # GDAL decodes whole blocks, so a larger one breaks the promise of little memory
INSTALL = 'Install it: pip install "krimp[geo]" (in Krimp\'s folder: pip install ".[geo]").'


class RasterSource:
    """A raster file that rasterio (GDAL) reads: TIFF and GeoTIFF, BigTIFF and cloud-optimized ones too.

    Three bands or more are red, green and blue (by their color interpretation, else the first three), one or two are
    gray, a palette is looked up; 16 bits become 8 as in OpenCV, so that the pixels are the same without rasterio. Bands
    of other types have no brightness that a network was trained on and are refused.

    Attributes:
        path: the file.
        position: where its pixels lie on the map, None without georeference.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._environment = contextlib.ExitStack()
        rasterio = _rasterio()
        self._environment.enter_context(rasterio.Env(GDAL_CACHEMAX=BLOCK_CACHE_BYTES))
        try:
            self._dataset = self._environment.enter_context(_open(rasterio, path))
            self._bands, self._palette = _bands_and_palette(self._dataset, path)
            self.position = _position(self._dataset)
        except BaseException:
            self.close()
            raise

    @property
    def size(self) -> tuple[int, int]:
        """Return (height, width), px."""
        return self._dataset.height, self._dataset.width

    def read(self, window: Box) -> np.ndarray:
        """Return a window, (height, width, 3) uint8, BGR.

        Raises:
            DataError: the file is damaged there.
        """
        import rasterio

        x, y, width, height = window
        try:
            pixels = self._dataset.read(self._bands, window=rasterio.windows.Window(x, y, width, height))
        except rasterio.errors.RasterioError as error:
            raise DataError(
                f"{self.path}: x {x}, y {y}, {width} x {height} px cannot be read: {error}. Check or replace the file."
            ) from error
        if pixels.dtype == np.uint16:
            pixels = _eight_bits(pixels)
        if self._palette is not None:
            colors: np.ndarray = self._palette[pixels[0]]
            return colors
        return np.ascontiguousarray(np.broadcast_to(pixels[::-1].transpose(1, 2, 0), (height, width, 3)))

    def close(self) -> None:
        """Close the file."""
        self._environment.close()


@contextlib.contextmanager
def open_source(path: Path) -> Iterator[ImageSource]:
    """Open a picture file: TIFFs window by window where rasterio is installed, all others decoded whole.

    Raises:
        DataError: the file cannot be read.
    """
    if path.suffix.lower() in RASTER_SUFFIXES and has_rasterio():
        source = RasterSource(path)
        try:
            yield source
        finally:
            source.close()
    else:
        yield ArraySource(read_image(path))


def read_image(path: Path) -> np.ndarray:
    """Return a picture as (H, W, 3) uint8, BGR.

    Raises:
        DataError: the file cannot be read or decoded.
    """
    import cv2

    try:
        content = np.fromfile(path, np.uint8)
        image = cv2.imdecode(content, cv2.IMREAD_COLOR) if content.size else None
    except (OSError, cv2.error) as error:
        raise DataError(f"{path}: cannot be read as a picture: {error}. Check or remove the file.") from error
    if image is None:
        raise DataError(
            f"{path}: {content.size} bytes that are no picture OpenCV can decode. Check or remove the file."
        )
    return image


def has_rasterio() -> bool:
    """Return whether the extra `geo` is installed; imports nothing."""
    import importlib.util

    return importlib.util.find_spec("rasterio") is not None


def _rasterio() -> Any:
    try:
        import rasterio
        import rasterio.windows
    except ImportError as error:
        raise DataError(f"rasterio: {error}. It reads GeoTIFFs. {INSTALL}") from error
    return rasterio


def _open(rasterio: Any, path: Path) -> Any:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)  # a plain TIFF is welcome
        try:
            dataset = rasterio.open(path)
        except rasterio.errors.RasterioIOError as error:
            raise DataError(f"{path}: {error}, expected a raster file. Check or remove the file.") from error
    rows, columns = dataset.block_shapes[0]
    block = rows * columns * np.dtype(dataset.dtypes[0]).itemsize
    block *= dataset.count if dataset.interleaving is not None and dataset.interleaving.name == "pixel" else 1
    if block > MAX_BLOCK_BYTES:
        dataset.close()
        raise DataError(
            f"{path}: stored in blocks of {columns} x {rows} px ({size_text(block)}), at most "
            f"{size_text(MAX_BLOCK_BYTES)} can be read piece by piece. Store it in tiles: "
            f"gdal_translate -co TILED=YES {path.name} tiled.tif"
        )
    return dataset


def _bands_and_palette(dataset: Any, path: Path) -> tuple[list[int], np.ndarray | None]:
    """Return the numbers of the bands to read (R, G, B or gray), and a (256, 3) BGR palette if there is one."""
    names = [item.name for item in dataset.colorinterp]
    colors = [names.index(name) + 1 for name in ("red", "green", "blue") if name in names]
    bands = colors if len(colors) == 3 else [1, 2, 3] if dataset.count >= 3 else [1]
    types = sorted({dataset.dtypes[band - 1] for band in bands})
    if types not in (["uint8"], ["uint16"]):
        raise DataError(
            f"{path}: bands {bands} are {', '.join(types)}, expected uint8 or uint16. Convert it to 8 bits with the "
            "range of brightness that the network was trained on: gdal_translate -ot Byte -scale LOW HIGH"
        )
    if names[0] != "palette" or len(bands) == 3:
        return bands, None
    if types != ["uint8"]:
        raise DataError(f"{path}: a palette of {types[0]}, expected uint8. Convert it: gdal_translate -expand rgb")
    palette = np.zeros((256, 3), np.uint8)
    for index, (red, green, blue, _) in dataset.colormap(1).items():
        palette[index] = blue, green, red
    return bands, palette


def _eight_bits(pixels: np.ndarray) -> np.ndarray:
    """Return (bands, H, W) uint16 as uint8: OpenCV takes the upper byte of gray, and rounds colors of TIFFs."""
    if len(pixels) == 1:
        return (pixels >> 8).astype(np.uint8)
    return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _position(dataset: Any) -> MapPosition | None:
    if dataset.crs is None or dataset.transform.is_identity:
        return None
    return MapPosition(tuple(dataset.transform)[:6], dataset.crs.to_wkt())
