"""What a picture file says before its pixels: format, size, orientation, depth; and whether the file is whole.

Nothing is decoded, so a size can be refused before it takes memory. What no reader here knows is no picture.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from pathlib import Path

from compress.pictures.file_bytes import FileBytes
from compress.pictures.orientation import UPRIGHT, exif_orientation, upright_size
from compress.pictures.tiff_header import read_tiff
from compress.whole_file import open_regular

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
JPEG_SIGNATURE = b"\xff\xd8"
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")  # in any case: .TIF too
KNOWN = "JPEG, PNG, TIFF, WebP, BMP, GIF, JPEG 2000 and PNM"
MAX_SIDE = 1 << 20  # of OpenCV, px
_PNG_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}  # color type -> bits
_JPEG_END = b"\xff\xd9"
# Start-of-frame markers C0..CF without C4 (Huffman tables), C8 (reserved) and CC (arithmetic coding).
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_DECODED = {0xC0, 0xC1, 0xC2, 0xC9, 0xCA}  # baseline, extended, progressive; the last two with arithmetic coding
_JPEG_ALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a length
_JPEG_START_OF_SCAN, _JPEG_APP1 = 0xDA, 0xE1
_MAX_PARTS = 100_000  # chunks, markers or directory entries that are looked at


@dataclass(frozen=True)
class Header:
    """What a file says of its picture.

    Attributes:
        format: its name.
        stored: (height, width) as stored, px.
        orientation: EXIF's, 1 to 8.
        deep: its values have more than 8 bits, or are floats.
        missing: of a deep picture, the number that stands for "nothing was measured here"; None where none is named.
        refusal: why it is not read, though OpenCV gives pixels: wrong ones; None where it is read.
    """

    format: str
    stored: tuple[int, int]
    orientation: int = UPRIGHT
    deep: bool = False
    missing: float | None = None
    refusal: str | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Return (height, width) as it is to be seen, px."""
        return upright_size(self.stored, self.orientation)


def read_header(source: FileBytes) -> Header:
    """Return what a file says of its picture.

    Raises:
        ValueError: empty, cut off inside the header, of no known format, or of a size that nothing can have.
    """
    start = source.at(0, 32)
    if not start:
        raise ValueError("the file is empty (0 bytes)")
    for matches, reader in _READERS:
        if matches(start):
            header = reader(source)
            break
    else:
        what = next((f", but {name}" for place, mark, name in _FOREIGN if start[place:].startswith(mark)), "")
        raise ValueError(f"OpenCV cannot decode the {len(source)} bytes as an image: none of {KNOWN}{what}")
    if min(header.stored) < 1 or max(header.stored) > MAX_SIDE:
        height, width = header.stored
        raise ValueError(f"the header says {width} x {height} pixels, expected 1 to {MAX_SIDE:,} each")
    return header


def header_of(path: Path) -> Header:
    """Return what a file on the disk says of its picture; errors as of `read_header`, and OSError."""
    with open_regular(path) as file:
        return read_header(FileBytes(file))


def check_whole(content: bytes) -> Header:
    """Return the header of a file after a look at all that tells whether OpenCV can decode it.

    PNG: every checksum and the end; JPEG: the tables and the end. Other formats have neither: they are to be decoded.

    Raises:
        ValueError: as of `read_header`, or the file is cut off or damaged.
    """
    header = read_header(FileBytes(content))
    if header.format == "PNG":
        _check_png(content)
    elif header.format == "JPEG":
        _check_jpeg(content)
    return header


# ---- PNG: W3C PNG specification (third edition), sections 5, 11.2.1 and 11.3.4.4 -----------------------------------


def _png(source: FileBytes) -> Header:
    if source.at(12, 4) != b"IHDR" or len(source) < 33:
        raise ValueError("truncated PNG: no complete IHDR chunk")
    width, height, depth, color = source.unpack(">IIBB", 16)
    if depth not in _PNG_DEPTHS.get(color, ()):
        raise ValueError(f"OpenCV cannot decode a PNG of color type {color} with {depth} bits, which the format lacks")
    orientation = UPRIGHT
    for place, kind, size in _png_chunks(source):
        if kind == b"eXIf":
            orientation = exif_orientation(source.at(place, size))
            break
    return Header("PNG", (height, width), orientation, deep=depth == 16)


def _png_chunks(source: FileBytes) -> list[tuple[int, bytes, int]]:
    """Return (place of its data, kind, size) of each chunk up to the end or where the file breaks off."""
    place, length = len(PNG_SIGNATURE), len(source)
    chunks: list[tuple[int, bytes, int]] = []
    while place + 12 <= length and len(chunks) < _MAX_PARTS:
        head = source.at(place, 8)
        size = int.from_bytes(head[:4], "big")
        chunks.append((place + 8, head[4:8], size))
        if head[4:8] == b"IEND":
            break
        place += 12 + size
    return chunks


def _check_png(content: bytes) -> None:
    chunks = _png_chunks(FileBytes(content))
    if chunks[-1][1] != b"IEND":
        raise ValueError("truncated PNG: no IEND chunk")
    if not any(kind == b"IDAT" for _, kind, _ in chunks):
        raise ValueError("OpenCV cannot decode it: a PNG without pixels (no IDAT chunk)")
    for place, kind, size in chunks:
        if kind[:1].isupper() and zlib.crc32(content[place - 4 : place + size]) != int.from_bytes(
            content[place + size : place + size + 4], "big"
        ):
            raise ValueError(f"damaged PNG: wrong checksum of the {kind.decode('ascii', 'replace')} chunk at {place}")


# ---- JPEG: ITU-T T.81, annex B -------------------------------------------------------------------------------------


def _jpeg(source: FileBytes) -> Header:
    size, orientation, place = None, UPRIGHT, 2
    for marker, data, length in _jpeg_segments(source):
        place = data + length
        if marker in _JPEG_FRAMES:
            precision, height, width, parts = source.unpack(">BHHB", data)
            if marker not in _JPEG_DECODED or precision != 8 or parts not in (1, 3, 4):
                raise ValueError(
                    f"OpenCV cannot decode a JPEG of process {marker - 0xC0} with {parts} components of {precision} "
                    "bits, expected baseline or progressive with 8"
                )
            size = height, width
        if marker == _JPEG_APP1 and orientation == UPRIGHT:
            orientation = exif_orientation(source.at(data, length))
    if size is None:
        raise ValueError(f"truncated JPEG: no frame header up to byte {place}")
    return Header("JPEG", size, orientation)


def _jpeg_segments(source: FileBytes) -> list[tuple[int, int, int]]:
    """Return (marker, place of its data, length) of each segment up to the first scan."""
    place = 2
    segments: list[tuple[int, int, int]] = []
    while len(segments) < _MAX_PARTS:
        head = source.at(place, 4)
        if len(head) < 4:
            break
        if head[0] != 0xFF:
            raise ValueError(f"damaged JPEG: no marker at byte {place}")
        if head[1] == 0xFF:  # fill byte
            place += 1
            continue
        if head[1] in _JPEG_ALONE:
            place += 2
            continue
        length = int.from_bytes(head[2:], "big")
        if length < 2:
            raise ValueError(f"damaged JPEG: a segment of {length} bytes at byte {place}")
        segments.append((head[1], place + 4, length - 2))
        if head[1] == _JPEG_START_OF_SCAN:
            break
        place += 2 + length
    return segments


def _check_jpeg(content: bytes) -> None:
    segments = _jpeg_segments(FileBytes(content))
    kinds = {marker for marker, _, _ in segments}
    if _JPEG_START_OF_SCAN not in kinds:
        raise ValueError("truncated JPEG: no scan")
    if 0xDB not in kinds:
        raise ValueError("damaged JPEG: no quantization table before its scan, so OpenCV cannot decode it")
    if _JPEG_END not in content[-2:] and content.find(_JPEG_END, segments[-1][1]) < 0:
        raise ValueError("truncated JPEG: no end-of-image marker")


# ---- others --------------------------------------------------------------------------------------------------------


def _tiff(source: FileBytes) -> Header:
    found = read_tiff(source)
    return Header("TIFF", found.stored, found.orientation, found.deep, found.missing, found.refusal)


def _webp(source: FileBytes) -> Header:
    """RFC 9649, sections 2.5 to 2.7."""
    kind = source.at(12, 4)
    if kind == b"VP8X":
        low_w, high_w, low_h, high_h = source.unpack("<HBHB", 24)
        size = (low_h + (high_h << 16) + 1, low_w + (high_w << 16) + 1)
        return Header("WebP", size, _webp_orientation(source))
    if kind == b"VP8L":
        bits = source.unpack("<I", 21)[0]
        return Header("WebP", ((bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1))
    width, height = source.unpack("<HH", 26)
    return Header("WebP", (height & 0x3FFF, width & 0x3FFF))


def _webp_orientation(source: FileBytes) -> int:
    place, length = 12, len(source)
    for _ in range(_MAX_PARTS):
        if place + 8 > length:
            break
        size = source.unpack("<I", place + 4)[0]
        if source.at(place, 4) == b"EXIF":
            return exif_orientation(source.at(place + 8, size))
        place += 8 + size + size % 2
    return UPRIGHT


def _bmp(source: FileBytes) -> Header:
    if source.unpack("<I", 14)[0] == 12:
        width, height = source.unpack("<HH", 18)
    else:
        width, height = source.unpack("<ii", 18)
    return Header("BMP", (abs(height), abs(width)))


def _gif(source: FileBytes) -> Header:
    width, height = source.unpack("<HH", 6)
    return Header("GIF", (height, width))


def _pnm(source: FileBytes) -> Header:
    start = re.sub(rb"#[^\n]*", b"", source.at(0, 1 << 12))
    numbers = [int(text[:9]) for text in re.findall(rb"\d+", start[2:], re.ASCII)[:3]]
    if len(numbers) < 2:
        raise ValueError("damaged PNM: its header states no size")
    deep = start[1:2] not in b"14" and len(numbers) == 3 and numbers[2] > 255
    return Header("PNM", (numbers[1], numbers[0]), deep=deep)


def _jpeg2000(source: FileBytes) -> Header:
    """ITU-T T.800, annex A.5.1: the SIZ marker of the code stream."""
    place = source.at(0, 1 << 16).find(b"\xff\x4f\xff\x51")
    if place < 0:
        raise ValueError("damaged JPEG 2000: no code stream in its first bytes")
    right, bottom, left, top = source.unpack(">4I", place + 8)
    depth = source.unpack("B", place + 42)[0]
    return Header("JPEG 2000", (max(bottom - top, 0), max(right - left, 0)), deep=(depth & 0x7F) + 1 > 8)


# What people take for a picture: where its mark stands, the mark, and what it is.
_FOREIGN = (
    (0, b"version https://git-lfs", "a pointer of Git LFS; run `git lfs pull` first"),
    (4, b"ftypheic", "HEIC, as telephones write; convert it to JPEG"),
    (4, b"ftypmif1", "HEIF; convert it to JPEG"),
    (4, b"ftypavif", "AVIF; convert it to PNG"),
    (0, b"\x1f\x8b", "compressed by gzip; decompress it first"),
    (0, b"PK\x03\x04", "a zip archive; unpack it first"),
    (0, b"\x93NUMPY", "an array of NumPy; store it as TIFF"),
    (0, b"%PDF", "a PDF; store its pictures as PNG"),
    (0, b"<!DOCTYPE", "a page of HTML, perhaps of a download that failed"),
    (0, b"<html", "a page of HTML, perhaps of a download that failed"),
)
_READERS = (
    (lambda start: start.startswith(PNG_SIGNATURE), _png),
    (lambda start: start.startswith(JPEG_SIGNATURE), _jpeg),
    (lambda start: start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), _tiff),
    (lambda start: start[:4] == b"RIFF" and start[8:12] == b"WEBP", _webp),
    (lambda start: start[:2] == b"BM", _bmp),
    (lambda start: start[:4] == b"GIF8", _gif),
    (lambda start: re.match(rb"P[1-6]\s", start) is not None, _pnm),
    (lambda start: start[4:8] == b"jP  " or start.startswith(b"\xff\x4f\xff\x51"), _jpeg2000),
)
