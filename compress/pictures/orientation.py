"""EXIF orientation: how a stored picture is turned and mirrored to stand upright.

Numbers are those of the tag: 1 as stored, 2 mirrored, 3 turned by half, 4 mirrored top to bottom, 5 to 8 with rows and
columns exchanged.

Source:
    TIFF 6.0, tag 274; CIPA DC-008 (EXIF 2.32), table 3.
"""

from __future__ import annotations

import struct

import numpy as np

UPRIGHT = 1
TAG = 0x112
_EXIF_MARK = b"Exif\0\0"
_MAX_ENTRIES = 1000
# orientation -> (exchange rows and columns, then flip rows, then flip columns)
_MOVES = {
    1: (False, False, False),
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Return stored pixels (H, W, ...) as they are to be seen, contiguous; exact, no pixel is computed."""
    exchanged, rows, columns = _MOVES[orientation]
    pixels = pixels.swapaxes(0, 1) if exchanged else pixels
    return np.ascontiguousarray(pixels[:: -1 if rows else 1, :: -1 if columns else 1])


def upright_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Return (height, width) of a stored size as it is to be seen.

    >>> upright_size((480, 640), 6)
    (640, 480)
    """
    return (size[1], size[0]) if _MOVES[orientation][0] else size


def stored_affine(size: tuple[int, int], orientation: int) -> tuple[float, float, float, float, float, float]:
    """Return (a, b, c, d, e, f): the upright point (x, y) is stored at (a x + b y + c, d x + e y + f), px.

    Args:
        size: (height, width) as stored.
        orientation: of the picture.
    """
    exchanged, rows, columns = _MOVES[orientation]
    height, width = upright_size(size, orientation)
    x = (-1.0, float(width)) if columns else (1.0, 0.0)
    y = (-1.0, float(height)) if rows else (1.0, 0.0)
    if exchanged:
        return 0.0, y[0], y[1], x[0], 0.0, x[1]
    return x[0], 0.0, x[1], 0.0, y[0], y[1]


def orientation_of(value: int) -> int:
    """Return a value of the tag, 1 where it is none of the eight."""
    return value if value in _MOVES else UPRIGHT


def exif_orientation(block: bytes) -> int:
    """Return the orientation in a block of EXIF, 1 where it says none or is damaged.

    Args:
        block: a TIFF header with its first directory, with or without EXIF's own mark before it.
    """
    block = block.removeprefix(_EXIF_MARK)
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    try:
        if order is None or struct.unpack_from(f"{order}H", block, 2)[0] != 42:
            return UPRIGHT
        start = struct.unpack_from(f"{order}I", block, 4)[0]
        count = struct.unpack_from(f"{order}H", block, start)[0]
        for entry in range(min(count, _MAX_ENTRIES)):
            tag, kind = struct.unpack_from(f"{order}HH", block, start + 2 + 12 * entry)
            if tag == TAG:
                form = {3: "H", 4: "I"}.get(kind, "H")
                return orientation_of(struct.unpack_from(f"{order}{form}", block, start + 10 + 12 * entry)[0])
    except struct.error:
        pass  # an unreadable block says nothing; the pixels are whole without it
    return UPRIGHT
