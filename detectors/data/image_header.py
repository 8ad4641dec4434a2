"""The size of an image file from its header, whether the file is complete, and its pixels: `compress/pictures`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from compress.pictures import decoding, header
from compress.pictures.decoding import AS_IT_IS, Reading


def image_size(content: bytes) -> tuple[int, int]:
    """Return (height, width) in pixels of an image file as it is to be seen, after a look at whether it is whole.

    Args:
        content: the whole file.

    Raises:
        ValueError: empty, truncated or not an image; the text says which.
    """
    return decoding.inspect(content, full=False)[0].size


def read_image_size(path: Path) -> tuple[int, int]:
    """Return (height, width) in pixels of an image file as it is to be seen, from its header.

    Unlike `image_size` it does not see whether the file breaks off later.

    Raises:
        OSError: the file cannot be read.
        ValueError: not an image; the text says what is wrong.
    """
    return header.header_of(path).size


def decode(content: bytes, reading: Reading = AS_IT_IS) -> np.ndarray:
    """Return the image as (H, W, 3) uint8 BGR, upright: EXIF's orientation is applied.

    Raises:
        ValueError: it cannot be decoded.
    """
    return decoding.decode(content, reading).pixels
