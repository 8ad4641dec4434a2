"""One decoder for every picture file: its size is checked first, it stands upright, and it has 8 bits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from compress.errors import DataError
from compress.pictures.brightness import LITTLE, TOPS, Contents, Range, eight_of_sixteen, to_eight_bits
from compress.pictures.file_bytes import FileBytes
from compress.pictures.header import Header, check_whole, read_header
from compress.pictures.orientation import upright
from compress.progress import warn
from compress.whole_file import read_whole

_SILENT = 0  # level of OpenCV's log
OPENCV_PIXELS = 1 << 30  # OpenCV decodes no larger picture
# Of pictures of more than 8 bits, in this order: some TIFFs are decoded with one of them only.
_DEEP_FLAGS = (
    ("IMREAD_COLOR", "IMREAD_ANYDEPTH"),
    ("IMREAD_ANYCOLOR", "IMREAD_ANYDEPTH"),
    ("IMREAD_UNCHANGED",),
)


@dataclass(frozen=True)
class Reading:
    """How picture files are read.

    Attributes:
        value_range: what becomes 0 and 255 in pictures of more than 8 bits; None: what the file holds decides.
        max_pixels: larger pictures are refused before they are decoded.
    """

    value_range: Range | None = None
    max_pixels: int = OPENCV_PIXELS


AS_IT_IS = Reading()


@dataclass(frozen=True)
class Decoded:
    """A picture file as pixels.

    Attributes:
        pixels: (H, W, 3) uint8, BGR, upright.
        flat: where its values use little of their range, the sentence that says so.
    """

    pixels: np.ndarray
    flat: str | None = None


def decode(content: bytes, reading: Reading = AS_IT_IS) -> Decoded:
    """Return the picture of a file.

    EXIF's orientation is applied; gray is repeated, a fourth channel left out; more than 8 bits become 8 by
    `compress/pictures/brightness.py`.

    Args:
        content: the whole file.
        reading: brightness and largest size.

    Raises:
        ValueError: empty, too large, or not to be decoded; the text says which.
    """
    header = read_header(FileBytes(content))
    refuse_size(header.stored, min(reading.max_pixels, OPENCV_PIXELS))
    if header.refusal is not None:
        raise ValueError(header.refusal)
    data = np.frombuffer(content, np.uint8)
    if not header.deep:
        pixels, flat = _opencv(data, "IMREAD_COLOR"), None
    else:
        pixels, flat = _deep(data, reading.value_range, header.missing)
    if pixels is None:
        raise ValueError(f"OpenCV cannot decode the {len(content)} bytes as an image")
    # OpenCV turns TIFFs by itself, whatever it is told.
    return Decoded(pixels if header.format == "TIFF" else upright(pixels, header.orientation), flat)


def inspect(content: bytes, *, full: bool, reading: Reading = AS_IT_IS) -> tuple[Header, Decoded | None]:
    """Return what a file says of its picture after all checks, and the picture where it had to be decoded.

    PNGs of 8 bits are decoded with `full` only, because their checksums tell, and JPEGs at an eighth of their size,
    which takes a fifth of the time.

    Raises:
        ValueError: the file cannot be read as a picture.
    """
    refuse_size(read_header(FileBytes(content)).stored, min(reading.max_pixels, OPENCV_PIXELS))
    header = check_whole(content)
    if full or header.deep or header.format not in ("PNG", "JPEG"):
        return header, decode(content, reading)
    if header.format == "JPEG" and _opencv(np.frombuffer(content, np.uint8), "IMREAD_REDUCED_GRAYSCALE_8") is None:
        raise ValueError(f"OpenCV cannot decode the {len(content)} bytes as an image")
    return header, None


def read_image(path: Path, reading: Reading = AS_IT_IS) -> np.ndarray:
    """Return the picture of a file, (H, W, 3) uint8 BGR, as `decode`; one that is nearly flat is warned about.

    Raises:
        DataError: the file cannot be read or decoded, or is too large.
    """
    try:
        decoded = decode(read_whole(path), reading)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: {reason(error, path)}, expected an image. Replace or remove the file.") from error
    if decoded.flat:
        warn(f"{path}: {decoded.flat}")
    return decoded.pixels


def reason(error: OSError | ValueError, path: Path) -> str:
    """Return why a file could not be read, in words; a link that leads nowhere is called one."""
    if isinstance(error, FileNotFoundError) and path.is_symlink():
        return f"a link to {path.readlink()}, where nothing is"
    if isinstance(error, IsADirectoryError):
        return "a folder"
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def refuse_size(size: tuple[int, int], max_pixels: int) -> None:
    """Raise ValueError if a picture of (height, width) px has more pixels than are allowed."""
    height, width = size
    if height * width > max_pixels:
        whose = " that OpenCV decodes" if max_pixels == OPENCV_PIXELS else " that are allowed"
        raise ValueError(f"{width} x {height} are more than the {max_pixels:,} pixels{whose}")


def flat_text(contents: Contents, limits: Range) -> str | None:
    """Return the sentence on a picture whose values use less than `LITTLE` of their range, None for others."""
    if contents.share_of(limits) >= LITTLE or contents.least >= contents.most:
        return None
    return (
        f"its values lie from {contents.least:g} to {contents.most:g}, which is under {LITTLE:.0%} of the range "
        f"{limits[0]:g} to {limits[1]:g} that becomes 0 to 255: nearly flat. Set data.value_range (of a model file: "
        "when it is trained) to the values that matter."
    )


def _deep(data: np.ndarray, value_range: Range | None, missing: float | None) -> tuple[np.ndarray | None, str | None]:
    """Return a picture of more than 8 bits as 8 bits, and what is to be said of its brightness."""
    values = next((found for flags in _DEEP_FLAGS if (found := _opencv(data, *flags)) is not None), None)
    if values is None:
        return None, None
    values = values[..., None] if values.ndim == 2 else values[..., : 3 if values.shape[2] >= 3 else 1]
    contents = Contents.of(values, missing)
    limits = value_range or contents.natural_range()
    flat = flat_text(contents, limits)
    if value_range is None and missing is None and values.dtype == np.uint16 and limits[1] == TOPS[-1]:
        narrow = _opencv(data, "IMREAD_COLOR")  # all 16 bits are used: OpenCV's own way to 8
        if narrow is not None:
            return narrow, flat
        pixels = eight_of_sixteen(values, values.shape[2])
    else:
        pixels = to_eight_bits(values, limits, missing)
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3))), flat


def _opencv(data: np.ndarray, *flags: str) -> np.ndarray | None:
    """Return what OpenCV makes of a file, as stored but for TIFFs, or None."""
    import cv2

    unchanged = getattr(cv2, flags[0]) == cv2.IMREAD_UNCHANGED  # -1: it takes no other flag beside it
    bits = 0 if unchanged else cv2.IMREAD_IGNORE_ORIENTATION
    for flag in flags:
        bits |= getattr(cv2, flag)
    level = cv2.getLogLevel()
    cv2.setLogLevel(_SILENT)  # a refusal is told in words, or tried otherwise
    try:
        return cv2.imdecode(data, bits)
    except cv2.error:  # asserts on what it does not like
        return None
    finally:
        cv2.setLogLevel(level)
