"""Small picture files of every kind, written byte by byte or by Pillow and OpenCV."""

import io
import struct
import zlib

import cv2
import numpy as np
from PIL import Image

ORIENTATION = 0x112
# What an upright picture is in terms of the stored one, written out as indices: (row, column) of the stored pixel
# that is seen at (y, x) of the upright one, for a stored picture of h x w.
SEEN = {
    1: lambda y, x, h, w: (y, x),
    2: lambda y, x, h, w: (y, w - 1 - x),
    3: lambda y, x, h, w: (h - 1 - y, w - 1 - x),
    4: lambda y, x, h, w: (h - 1 - y, x),
    5: lambda y, x, h, w: (x, y),
    6: lambda y, x, h, w: (h - 1 - x, y),
    7: lambda y, x, h, w: (h - 1 - x, w - 1 - y),
    8: lambda y, x, h, w: (x, w - 1 - y),
}


def seen(stored, orientation):
    """Return what is seen of a stored picture, pixel by pixel."""
    h, w = stored.shape[:2]
    height, width = (w, h) if orientation > 4 else (h, w)
    rows = [[stored[SEEN[orientation](y, x, h, w)] for x in range(width)] for y in range(height)]
    return np.array(rows)


def scene(height=6, width=9):
    """Return (height, width, 3) uint8 in blocks of 8, so that a JPEG keeps it apart."""
    small = np.random.default_rng(3).integers(0, 255, (height, width, 3), np.uint8)
    return np.kron(small, np.ones((8, 8, 1), np.uint8))


def encoded(bgr, kind, orientation):
    """Return a file of Pillow's with a stored picture and its orientation."""
    image, out = Image.fromarray(np.ascontiguousarray(bgr[..., ::-1])), io.BytesIO()
    if kind == "TIFF":
        image.save(out, kind, tiffinfo={ORIENTATION: orientation})
        return out.getvalue()
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}.get(kind, {})
    image.save(out, kind, exif=exif, **options)
    return out.getvalue()


def png_chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def black_png(width, height):
    """Return a PNG of any size, black, a few kB for a hundred million pixels."""
    packer = zlib.compressobj(9)
    row = b"\0" * (1 + width * 3)
    body = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    start = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", start) + png_chunk(b"IDAT", body) + png_chunk(b"IEND", b"")


def with_size(png, width, height):
    """Return a PNG whose header states another size, with the right checksum."""
    start = struct.pack(">II", width, height) + png[24:29]
    return png[:8] + png_chunk(b"IHDR", start) + png[33:]


def opencv(suffix, pixels, options=()):
    return cv2.imencode(suffix, pixels, list(options))[1].tobytes()
