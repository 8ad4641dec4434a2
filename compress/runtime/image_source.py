"""Picture files as image sources: TIFFs are read window by window, so that one of 20,000 x 20,000 px is never whole."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from compress.errors import DataError
from compress.number_text import size_text
from compress.pictures.brightness import TOPS, Contents, Range, eight_of_sixteen, to_eight_bits
from compress.pictures.decoding import AS_IT_IS, Reading, flat_text, read_image, reason
from compress.pictures.header import Header, header_of
from compress.pictures.orientation import UPRIGHT, stored_affine, upright, upright_size
from compress.predictor import ArraySource, Box, ImageSource
from compress.progress import warn
from compress.runtime.map_position import MapPosition

RASTER_SUFFIXES = (".tif", ".tiff")
BAND_TYPES = ("uint8", "uint16", "int16", "int32", "float32", "float64")
BLOCK_CACHE_BYTES = 128 << 20  # of GDAL; its own default is a share of the machine's memory
MAX_BLOCK_BYTES = 256 << 20  # GDAL decodes whole blocks, so a larger one breaks the promise of little memory
INSTALL = 'Install it: pip install "krimp[geo]" (in Krimp\'s folder: pip install ".[geo]").'


class RasterSource:
    """A raster file that rasterio (GDAL) reads: TIFF and GeoTIFF, BigTIFF and cloud-optimized ones too.

    Three bands or more are red, green and blue (by their color interpretation, else the first three), one or two are
    gray, a palette is looked up; more than 8 bits become 8 as in `compress/pictures/decoding.py`, so that the pixels
    are the same without rasterio. Where nobody says which values matter, the whole file is looked through for them
    first. The picture stands upright by its orientation.

    Attributes:
        path: the file.
        position: where its pixels lie on the map, None without georeference.
    """

    def __init__(self, path: Path, reading: Reading = AS_IT_IS) -> None:
        self.path = path
        self._environment = contextlib.ExitStack()
        rasterio = _rasterio()
        self._environment.enter_context(rasterio.Env(GDAL_CACHEMAX=BLOCK_CACHE_BYTES))
        try:
            self._dataset = self._environment.enter_context(_open(rasterio, path))
            self._bands, self._palette = _bands_and_palette(self._dataset, path)
            self._stored = self._dataset.height, self._dataset.width
            header = _header(path)
            self._orientation = UPRIGHT if header is None else header.orientation
            self._missing = None if header is None else header.missing
            self.position = _position(self._dataset, stored_affine(self._stored, self._orientation))
            self._limits = None if self._dataset.dtypes[self._bands[0] - 1] == "uint8" else self._find_limits(reading)
        except BaseException:
            self.close()
            raise

    @property
    def size(self) -> tuple[int, int]:
        """Return (height, width), px."""
        return upright_size(self._stored, self._orientation)

    def read(self, window: Box) -> np.ndarray:
        """Return a window, (height, width, 3) uint8, BGR.

        Raises:
            DataError: the file is damaged there.
        """
        pixels = self._read_stored(_stored_window(window, self._stored, self._orientation))
        if self._limits is not None:
            full = pixels.dtype == np.uint16 and self._limits == (0, TOPS[-1]) and self._missing is None
            pixels = (
                eight_of_sixteen(pixels, len(pixels)) if full else to_eight_bits(pixels, self._limits, self._missing)
            )
        if self._palette is not None:
            return upright(self._palette[pixels[0]], self._orientation)
        _, height, width = pixels.shape
        return upright(np.broadcast_to(pixels[::-1].transpose(1, 2, 0), (height, width, 3)), self._orientation)

    def _read_stored(self, window: Box) -> np.ndarray:
        """Return a window of the stored raster, (bands, height, width)."""
        import rasterio

        x, y, width, height = window
        try:
            pixels: np.ndarray = self._dataset.read(self._bands, window=rasterio.windows.Window(x, y, width, height))
        except rasterio.errors.RasterioError as error:
            raise DataError(
                f"{self.path}: x {x}, y {y}, {width} x {height} px cannot be read: {error}. Check or replace the file."
            ) from error
        return pixels

    def _find_limits(self, reading: Reading) -> Range:
        """Return what becomes 0 and 255; a file that uses all 16 bits is known as such before its end."""
        if reading.value_range is not None:
            return reading.value_range
        contents = None
        for _, window in self._dataset.block_windows(self._bands[0]):
            box = (window.col_off, window.row_off, window.width, window.height)
            found = Contents.of(self._read_stored(box), self._missing)
            contents = found if contents is None else contents.with_(found)
            limits = contents.natural_range()
            if contents.whole and limits == (0, TOPS[-1]) and flat_text(contents, limits) is None:
                return limits  # nothing that follows changes it
        assert contents is not None  # a raster has a block
        limits = contents.natural_range()
        if (flat := flat_text(contents, limits)) is not None:
            warn(f"{self.path}: {flat}")
        return limits

    def close(self) -> None:
        """Close the file."""
        self._environment.close()


@contextlib.contextmanager
def open_source(path: Path, reading: Reading = AS_IT_IS) -> Iterator[ImageSource]:
    """Open a picture file: TIFFs window by window where rasterio is installed, all others decoded whole.

    Args:
        path: the file.
        reading: brightness, and the largest size of what is decoded whole.

    Raises:
        DataError: the file cannot be read, or is too large.
    """
    if path.suffix.lower() in RASTER_SUFFIXES and has_rasterio():
        source = RasterSource(path, reading)
        try:
            yield source
        finally:
            source.close()
    else:
        yield ArraySource(read_image(path, reading))


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
    if types not in [[known] for known in BAND_TYPES]:
        raise DataError(
            f"{path}: bands {bands} are {', '.join(types)}, expected one of {', '.join(BAND_TYPES)}. Convert it to 8 "
            "bits with the range of brightness that the network was trained on: gdal_translate -ot Byte -scale LOW HIGH"
        )
    if names[0] != "palette" or len(bands) == 3:
        return bands, None
    if types != ["uint8"]:
        raise DataError(f"{path}: a palette of {types[0]}, expected uint8. Convert it: gdal_translate -expand rgb")
    palette = np.zeros((256, 3), np.uint8)
    for index, (red, green, blue, _) in dataset.colormap(1).items():
        palette[index] = blue, green, red
    return bands, palette


def _header(path: Path) -> Header | None:
    """Return what the file says of its picture; None where GDAL reads it and Krimp does not know it."""
    try:
        return header_of(path)
    except ValueError:
        return None
    except OSError as error:
        raise DataError(f"{path}: {reason(error, path)}. Check or remove the file.") from error


def _stored_window(window: Box, stored: tuple[int, int], orientation: int) -> Box:
    """Return where an upright window lies in the stored raster."""
    x, y, width, height = window
    a, b, c, d, e, f = stored_affine(stored, orientation)
    columns = sorted((a * px + b * py + c) for px, py in ((x, y), (x + width, y + height)))
    rows = sorted((d * px + e * py + f) for px, py in ((x, y), (x + width, y + height)))
    left, top = int(columns[0]), int(rows[0])
    return left, top, int(columns[1]) - left, int(rows[1]) - top


def _position(dataset: Any, stored: tuple[float, ...]) -> MapPosition | None:
    if dataset.crs is None or dataset.transform.is_identity:
        return None
    a, b, c, d, e, f = tuple(dataset.transform)[:6]
    columns = [(a * x + b * y, d * x + e * y) for x, y in zip(stored[:3], stored[3:], strict=True)]
    (a, d), (b, e), (x, y) = columns
    return MapPosition((a, b, x + c, d, e, y + f), dataset.crs.to_wkt())
