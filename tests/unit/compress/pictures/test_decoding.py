"""One decoder: every orientation, every depth, every size, and what is no picture."""

import re
import struct

import cv2
import numpy as np
import pytest
import rasterio
from picture_files import black_png, encoded, opencv, png_chunk, scene, seen, with_size

from compress.errors import DataError
from compress.pictures.decoding import Reading, decode, inspect, read_image
from compress.pictures.file_bytes import FileBytes
from compress.pictures.header import header_of, read_header
from compress.pictures.orientation import exif_orientation, stored_affine
from compress.progress import clear_warnings, collected_warnings
from compress.runtime.image_source import RasterSource, open_source
from detectors.data import image_header
from detectors.data.patch_writer import read_source_image
from detectors.data.samples import Sample

KINDS = ("JPEG", "PNG", "WEBP", "TIFF")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", KINDS)
def test_every_reader_sees_the_same_upright_picture(tmp_path, kind, orientation):
    stored = scene()
    path = tmp_path / f"a.{kind.lower() if kind != 'TIFF' else 'tif'}"
    path.write_bytes(encoded(stored, kind, orientation))
    expected = seen(stored, orientation)
    pictures = {
        "decode": decode(path.read_bytes()).pixels,
        "training and scoring": Sample("a", path, ()).load()[0],
        "tiling and preparation": read_source_image(path),
        "old door": image_header.decode(path.read_bytes()),
    }
    with open_source(path) as source:
        assert source.size == expected.shape[:2]
        pictures["detect"] = source.read((0, 0, expected.shape[1], expected.shape[0]))
    limit = 3 if kind == "JPEG" else 0
    for name, found in pictures.items():
        assert found.shape == expected.shape, name
        assert np.abs(found.astype(int) - expected).max() <= limit, name
        np.testing.assert_array_equal(found, pictures["decode"], err_msg=name)
    assert image_header.image_size(path.read_bytes()) == expected.shape[:2]
    assert image_header.read_image_size(path) == expected.shape[:2]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_windows_and_map_positions_of_a_turned_raster_are_those_of_what_is_seen(tmp_path, orientation):
    stored, path = scene(), tmp_path / "a.tif"
    path.write_bytes(encoded(stored, "TIFF", orientation))
    expected = seen(stored, orientation)
    with open_source(path) as source:
        assert isinstance(source, RasterSource)
        np.testing.assert_array_equal(source.read((5, 7, 20, 11)), expected[7:18, 5:25])
    a, b, c, d, e, f = stored_affine(stored.shape[:2], orientation)
    for x, y in ((0, 0), (13, 2), (30, 40)):  # the middle of an upright pixel is the middle of its stored one
        column, row = a * (x + 0.5) + b * (y + 0.5) + c - 0.5, d * (x + 0.5) + e * (y + 0.5) + f - 0.5
        np.testing.assert_array_equal(stored[int(row), int(column)], expected[y, x])


@pytest.mark.parametrize("order", ["II", "MM"])
def test_exif_is_read_in_both_byte_orders_and_nonsense_says_nothing(order):
    sign = "<" if order == "II" else ">"
    block = order.encode() + struct.pack(f"{sign}HIH", 42, 8, 1)
    assert exif_orientation(block + struct.pack(f"{sign}HHIHH", 0x112, 3, 1, 6, 0)) == 6
    assert exif_orientation(b"Exif\0\0" + block + struct.pack(f"{sign}HHII", 0x112, 4, 1, 8)) == 8
    for bad in (b"", b"Exif\0\0", block, block + struct.pack(f"{sign}HHIHH", 0x112, 3, 1, 77, 0), b"II" + b"\xff" * 40):
        assert exif_orientation(bad) == 1


PLAIN = [cv2.IMWRITE_TIFF_COMPRESSION, 1]  # OpenCV's own choice for floats in color loses digits
GRAY = np.linspace(20, 255, 48 * 64).reshape(48, 64).astype(np.uint8)
DEEP = {
    "8 bits in 16": GRAY.astype(np.uint16),
    "10 bits": GRAY.astype(np.uint16) * 4,
    "12 bits": GRAY.astype(np.uint16) * 16,
    "14 bits": GRAY.astype(np.uint16) * 64,
    "16 bits": GRAY.astype(np.uint16) * 257,
    "shares": GRAY.astype(np.float32) / 255,
    "shares, float64": GRAY.astype(np.float64) / 255,
    "floats of 8 bits": GRAY.astype(np.float32),
    "floats of 12 bits": GRAY.astype(np.float32) * 16,
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", DEEP)
def test_deep_pictures_have_the_brightness_of_their_eight_bits(tmp_path, name, channels):
    values = DEEP[name] if channels == 1 else np.stack([DEEP[name]] * 3, axis=2)
    suffixes = [".tif"] if values.dtype.kind == "f" else [".tif", ".png"]
    for suffix in suffixes:
        path = tmp_path / f"a{suffix}"
        path.write_bytes(opencv(suffix, values, PLAIN if suffix == ".tif" else []))
        found = read_image(path)
        assert found.dtype == np.uint8
        assert np.abs(found.astype(int) - GRAY[..., None]).max() <= 1
        with open_source(path) as source:
            np.testing.assert_array_equal(source.read((0, 0, 64, 48)), found)


@pytest.mark.parametrize("dtype", [np.float32, np.int16])
def test_measurements_reach_from_their_least_to_their_largest_value(tmp_path, dtype):
    celsius = np.linspace(-20, 43, 48 * 64).reshape(48, 64).astype(dtype)
    (tmp_path / "a.tif").write_bytes(opencv(".tif", celsius))
    found = read_image(tmp_path / "a.tif")[..., 0]
    assert (found.min(), found.max()) == (0, 255)
    np.testing.assert_allclose(found, (celsius.astype(float) + 20) / 63 * 255, atol=0.51)


def test_a_value_range_decides_and_what_lies_beyond_is_black_or_white(tmp_path):
    kelvin = np.linspace(7000, 8200, 48 * 64).reshape(48, 64).astype(np.uint16)
    kelvin[0, :2] = 0, 65535
    reading = Reading(value_range=(7100.0, 8100.0))
    for suffix in (".png", ".tif"):
        path = tmp_path / f"a{suffix}"
        path.write_bytes(opencv(suffix, kelvin))
        expected = np.rint(np.clip((kelvin.astype(float) - 7100) / 1000, 0, 1) * 255)
        np.testing.assert_array_equal(read_image(path, reading)[..., 1], expected)
        with open_source(path, reading) as source:
            np.testing.assert_array_equal(source.read((0, 0, 64, 48))[..., 2], expected)


def test_eight_bits_are_taken_as_they_are_whatever_the_range(tmp_path):
    content = opencv(".png", GRAY)
    np.testing.assert_array_equal(decode(content, Reading(value_range=(0.0, 4095.0))).pixels[..., 0], GRAY)


def test_missing_values_of_floats_are_black(tmp_path):
    values = DEEP["shares"].copy()
    values[3, 4], values[5, 6] = np.nan, -np.inf
    (tmp_path / "a.tif").write_bytes(opencv(".tif", values))
    found = read_image(tmp_path / "a.tif")[..., 0]
    assert (found[3, 4], found[5, 6]) == (0, 0)
    assert found[47, 63] == 255


CELSIUS = np.linspace(20, 30, 48 * 64).reshape(48, 64)


def geotiff(path, bands, **options):
    """Write a TIFF of bands, (n, H, W), as GDAL does."""
    bands = np.atleast_3d(bands.T).T if bands.ndim == 2 else bands
    with rasterio.open(
        path, "w", driver="GTiff", count=len(bands), height=bands.shape[1], width=bands.shape[2],
        dtype=str(bands.dtype), **options,
    ) as file:  # fmt: skip
        file.write(bands)
    return path


@pytest.mark.parametrize(
    ("dtype", "number", "named"),
    [
        ("float32", -9999, "-9999"), ("float64", -9999, -9999), ("float32", float(np.finfo("f4").min), None),
        ("int16", -32768, -32768), ("uint16", 65535, 65535), ("uint16", 0, 0), ("float32", np.nan, np.nan),
        ("int32", -(2**31), -(2**31)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("blocks", [{}, {"tiled": True, "blockxsize": 16, "blockysize": 16}])
def test_the_number_that_stands_for_nothing_is_black_and_not_part_of_the_range(tmp_path, dtype, number, named, blocks):
    values = (CELSIUS * (100 if "int" in dtype else 1)).astype(dtype)
    whole = read_image(geotiff(tmp_path / "a.tif", values, **blocks))
    nothing = values.copy()
    nothing[:16, :20] = number  # a whole block of it and a part of another
    nodata = number if named is None else float(named)
    path = geotiff(tmp_path / "b.tif", nothing, nodata=nodata, **blocks)
    found = read_image(path)
    assert (found[:16, :20] == 0).all()
    assert found[47, 63, 0] == whole[47, 63, 0]
    if "int" in dtype and number >= 0:
        np.testing.assert_array_equal(found[20:], whole[20:])
    with open_source(path) as source:
        np.testing.assert_array_equal(source.read((0, 0, 64, 48)), found)
    reading = Reading(value_range=(0.0, 3000.0))
    with open_source(path, reading) as source:
        np.testing.assert_array_equal(source.read((0, 0, 64, 48)), read_image(path, reading))


def test_a_picture_of_which_all_is_missing_is_black_and_no_warning(tmp_path):
    clear_warnings()
    for name, values, nodata in (("a", np.full((48, 64), -9999, "f4"), -9999), ("b", np.full((48, 64), np.nan), None)):
        path = geotiff(tmp_path / f"{name}.tif", values, nodata=nodata)
        assert not read_image(path).any()
        with open_source(path) as source:
            assert not source.read((0, 0, 64, 48)).any()
    assert collected_warnings() == []


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32", "float64", "int32"])
@pytest.mark.parametrize(
    ("count", "options", "why"),
    [
        (3, {"interleave": "band"}, r"in planes apart .*INTERLEAVE=PIXEL"),
        (4, {"interleave": "band", "tiled": True, "blockxsize": 16, "blockysize": 16}, "in planes apart"),
        (2, {}, "two values a pixel"),
        (1, {"photometric": "MINISWHITE"}, "0 is white"),
    ],
)
def test_deep_tiffs_of_which_opencv_gives_wrong_pixels_are_refused_in_words(tmp_path, dtype, count, options, why):
    path = geotiff(tmp_path / "a.tif", np.stack([CELSIUS.astype(dtype)] * count), **options)
    with pytest.raises(ValueError, match=why):
        inspect(path.read_bytes(), full=False)
    with pytest.raises(DataError, match=why):
        read_image(path)
    if count > 1:  # GDAL reads them right, so detect does
        plain = geotiff(tmp_path / "b.tif", CELSIUS.astype(dtype))
        with open_source(path) as source, open_source(plain) as gray:
            np.testing.assert_array_equal(source.read((0, 0, 64, 48)), gray.read((0, 0, 64, 48)))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_a_picture_that_uses_little_of_its_range_is_warned_about(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(opencv(suffix, np.linspace(7200, 7600, 48 * 64).reshape(48, 64).astype(np.uint16)))
    for read in (read_image, lambda path: open_source(path).__enter__()):
        clear_warnings()
        read(path)
        (text,) = collected_warnings()
        assert text.startswith(f"{path}: its values lie from 7200 to 7600, which is under 5% of the range 0 to 16383")
        assert "Set data.value_range" in text
    clear_warnings()
    read_image(path, Reading(value_range=(7000.0, 8000.0)))
    assert collected_warnings() == []


def test_the_limit_of_pixels_is_checked_before_anything_is_decoded(tmp_path, monkeypatch):
    files = {
        ".png": black_png(3000, 2000),
        ".gif": b"GIF89a" + struct.pack("<HH", 3000, 2000) + bytes(9),
        ".webp": opencv(".webp", np.zeros((2000, 3000, 3), np.uint8)),
    }
    for suffix in (".jpg", ".bmp", ".tif", ".pgm", ".jp2"):
        files[suffix] = opencv(suffix, np.zeros((2000, 3000), np.uint8))
    for suffix, content in files.items():
        assert read_header(FileBytes(content)).size == (2000, 3000), suffix
        if suffix != ".gif":
            assert decode(content, Reading(max_pixels=6_000_000)).pixels.shape == (2000, 3000, 3), suffix
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    for suffix, content in files.items():
        (tmp_path / f"a{suffix}").write_bytes(content)
        with pytest.raises(DataError, match="3000 x 2000 are more than the 5,999,999 pixels that are allowed"):
            read_image(tmp_path / f"a{suffix}", Reading(max_pixels=5_999_999))
    with pytest.raises(ValueError, match=r"40000 x 40000 are more than the 1,073,741,824 pixels that OpenCV decodes"):
        decode(with_size(files[".png"], 40_000, 40_000))
    with pytest.raises(ValueError, match=r"2097152 x 1 pixels, expected 1 to 1,048,576"):
        decode(with_size(files[".png"], 1 << 21, 1))


PNG = opencv(".png", scene())
JPEG = opencv(".jpg", scene())


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "the file is empty"),
        (b"hello" * 10, "cannot decode the 50 bytes as an image: none of JPEG, PNG"),
        (PNG[:20], "truncated PNG: no complete IHDR"),
        (PNG[:-12], "truncated PNG: no IEND"),
        (PNG[:60] + bytes([PNG[60] ^ 1]) + PNG[61:], "damaged PNG: wrong checksum of the IDAT chunk"),
        (PNG[:29] + bytes([PNG[29] ^ 1]) + PNG[30:], "damaged PNG: wrong checksum of the IHDR chunk"),
        (PNG[:33] + png_chunk(b"IEND", b""), "without pixels"),
        (PNG[:8] + png_chunk(b"IHDR", PNG[16:24] + b"\x08\x09\0\0\0") + PNG[33:], "color type 9"),
        (with_size(PNG, 40_000, 40_000), "40000 x 40000 are more than"),
        (with_size(PNG, 0, 5), "0 x 5 pixels"),
        (JPEG[:-2], "no end-of-image"),
        (JPEG[:30], "truncated JPEG"),
        (JPEG.replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c"), "components of 12 bits"),
        (JPEG.replace(b"\xff\xc0\0\x11", b"\xff\xc3\0\x11"), "process 3"),
        (JPEG.replace(b"\xff\xdb", b"\xff\xfe"), "no quantization table"),
        (opencv(".tif", scene())[:200], "."),
        (opencv(".webp", scene())[:60], "."),
        (opencv(".bmp", scene())[:30], "."),
    ],
)
def test_what_opencv_refuses_is_found_without_decoding_pngs_and_jpegs(content, why):
    for full in (False, True):
        with pytest.raises(ValueError, match=why):
            inspect(content, full=full)


@pytest.mark.parametrize("kind", ["png", "jpg", "progressive"])
def test_no_damaged_file_passes_the_check_and_fails_when_it_is_read(kind):
    progressive = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]
    content = {"png": PNG, "jpg": JPEG, "progressive": opencv(".jpg", scene(), progressive)}[kind]
    random = np.random.default_rng(0)
    passed = 0
    for _ in range(1500):
        damaged = bytearray(content)
        for _ in range(random.integers(1, 4)):
            place = int(random.integers(len(damaged)))
            match random.integers(3):
                case 0:
                    damaged[place] = int(random.integers(256))
                case 1:
                    del damaged[place : place + int(random.integers(1, 5))]
                case _:
                    damaged[place:place] = bytes(random.integers(0, 256, 3, np.uint8))
        try:
            header, _ = inspect(bytes(damaged), full=False)
        except ValueError:
            continue
        passed += 1
        try:
            found = decode(bytes(damaged)).pixels
        except ValueError:
            found = None
        assert found is not None, bytes(damaged)
        assert found.shape[:2] == header.size
    assert passed > {"png": 0, "jpg": 300, "progressive": 100}[kind]


def test_links_and_folders_are_called_what_they_are(tmp_path):
    (tmp_path / "a.png").symlink_to("/nowhere/b.png")
    (tmp_path / "b.png").mkdir()
    with pytest.raises(DataError, match=r"a\.png: a link to /nowhere/b\.png, where nothing is"):
        read_image(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"b\.png: a folder"):
        read_image(tmp_path / "b.png")


def test_a_header_is_read_from_the_disk_as_from_memory(tmp_path):
    for kind in KINDS:
        path = tmp_path / f"a.{kind}"
        path.write_bytes(encoded(scene(), kind, 6))
        assert header_of(path) == read_header(FileBytes(path.read_bytes()))
        assert header_of(path).orientation == 6


@pytest.mark.parametrize("blocks", [16, 64])
def test_a_raster_of_twelve_bits_is_looked_through_for_its_range(tmp_path, blocks):
    values = np.zeros((1, 128, 128), np.uint16)
    values[0, 100, 90] = 4000  # in the last blocks
    with rasterio.open(
        tmp_path / "a.tif", "w", driver="GTiff", count=1, height=128, width=128, dtype="uint16", tiled=True,
        blockxsize=blocks, blockysize=blocks,
    ) as file:  # fmt: skip
        file.write(values)
    with open_source(tmp_path / "a.tif") as source:
        assert source.read((90, 100, 1, 1)).tolist() == [[[249] * 3]]
    assert read_image(tmp_path / "a.tif")[100, 90].tolist() == [249] * 3


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a pointer of Git LFS; run `git lfs pull` first"),
        (b"\0\0\0\x18ftypheic", "HEIC, as telephones write; convert it to JPEG"),
        (b"\0\0\0\x20ftypavif", "AVIF"),
        (b"\x1f\x8b\x08\0", "compressed by gzip"),
        (b"<html><head>", "a page of HTML"),
    ],
)
def test_what_people_take_for_a_picture_is_named(content, what):
    with pytest.raises(ValueError, match=re.escape(what)):
        inspect(content, full=False)


@pytest.mark.parametrize("name", ["gray.tif", "cut.gif"])
def test_opencv_prints_nothing_of_what_is_tried_otherwise_or_told_in_words(tmp_path, capfd, name):
    if name == "gray.tif":
        assert cv2.imwrite(str(tmp_path / name), np.linspace(0, 1, 600, dtype=np.float32).reshape(20, 30))
        assert read_image(tmp_path / name)[-1, -1].tolist() == [255] * 3
    else:
        (tmp_path / name).write_bytes(b"GIF89a\x05\x00\x05\x00\x80\x00\x00" + bytes(17))
        with pytest.raises(DataError, match="cannot decode"):
            read_image(tmp_path / name)
    assert capfd.readouterr() == ("", "")
