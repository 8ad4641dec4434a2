"""The size of an image file from its header, and whether the file is complete; no pixel is decoded."""

from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
JPEG_SIGNATURE = b"\xff\xd8"
JPEG_END = b"\xff\xd9"
# Start-of-frame markers C0..CF without C4 (Huffman tables), C8 (reserved) and CC (arithmetic coding).
JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
JPEG_START_OF_SCAN = 0xDA
HEADER_BYTES = 1 << 16


def image_size(content: bytes) -> tuple[int, int]:
    """Return (height, width) in pixels of an image file.

    PNG and JPEG are answered from the header, and a file that breaks off early is refused;
    any other format is decoded.

    Args:
        content: the whole file.

    Raises:
        ValueError: empty, truncated or not an image; the text says which.

    Source:
        PNG: W3C PNG specification, section 11.2.1 (IHDR). JPEG: ITU-T T.81, annex B.
    """
    if not content:
        raise ValueError("the file is empty (0 bytes)")
    if content.startswith(PNG_SIGNATURE):
        size = _png_size(content)
    elif content.startswith(JPEG_SIGNATURE):
        size = _jpeg_size(content)
    else:
        image = decode(content)
        size = image.shape[0], image.shape[1]
    if min(size) < 1:
        raise ValueError(f"the header says {size[1]} x {size[0]} pixels")
    return size


def read_image_size(path: Path) -> tuple[int, int]:
    """Return (height, width) in pixels of an image file, from its first bytes where they tell.

    Unlike `image_size` it does not see whether a PNG or JPEG breaks off later.

    Raises:
        OSError: the file cannot be read.
        ValueError: not an image; the text says what is wrong.
    """
    with path.open("rb") as file:
        start = file.read(HEADER_BYTES)
        if start.startswith(PNG_SIGNATURE) and start[12:16] == b"IHDR" and len(start) >= 33:
            width, height = struct.unpack(">II", start[16:24])
            return height, width
        if start.startswith(JPEG_SIGNATURE) and (size := _jpeg_frame(start)[0]) is not None:
            return size
        return image_size(start + file.read())


def decode(content: bytes) -> np.ndarray:
    """Return the image as (H, W, 3) uint8 BGR, as stored: an EXIF rotation is not applied.

    Raises:
        ValueError: OpenCV cannot decode the bytes.
    """
    if not content:
        raise ValueError("the file is empty (0 bytes)")
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    image = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    if image is None:
        raise ValueError(f"OpenCV cannot decode the {len(content)} bytes as an image")
    return image


def _png_size(content: bytes) -> tuple[int, int]:
    if len(content) < 33 or content[12:16] != b"IHDR":
        raise ValueError("truncated PNG: no complete IHDR chunk")
    if b"IEND" not in content[-64:] and b"IEND" not in content:
        raise ValueError("truncated PNG: no IEND chunk")
    width, height = struct.unpack(">II", content[16:24])
    return height, width


def _jpeg_size(content: bytes) -> tuple[int, int]:
    size, position = _jpeg_frame(content)
    if size is None:
        raise ValueError("truncated JPEG: no frame header")
    if JPEG_END not in content[-2:] and content.find(JPEG_END, position) < 0:
        raise ValueError("truncated JPEG: no end-of-image marker")
    return size


def _jpeg_frame(content: bytes) -> tuple[tuple[int, int] | None, int]:
    """Return (height, width), None where the content ends before it, and where the walk through the markers ended."""
    position, size = 2, None
    while position + 4 <= len(content):
        if content[position] != 0xFF:
            raise ValueError(f"damaged JPEG: no marker at byte {position}")
        marker = content[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        length = struct.unpack(">H", content[position + 2 : position + 4])[0]
        if marker in JPEG_FRAMES and position + 9 <= len(content):
            size = struct.unpack(">HH", content[position + 5 : position + 9])
        if marker == JPEG_START_OF_SCAN:
            break
        position += 2 + length
    return size, position
