"""Windows of raster files against the pixels that were written, and map positions against plain formulas."""

import subprocess
import sys

import cv2
import numpy as np
import pytest
import rasterio

from compress.errors import DataError
from compress.predictor import ArraySource
from compress.runtime.image_source import RasterSource, open_source


def write(path, bands, **profile):
    """Write (bands, H, W) as a tiled GeoTIFF of UTM zone 32N, 0.5 m a pixel."""
    count, height, width = bands.shape
    settings = {
        "driver": "GTiff", "count": count, "height": height, "width": width, "dtype": bands.dtype, "tiled": True,
        "blockxsize": 64, "blockysize": 64, "crs": "EPSG:32632",
        "transform": rasterio.Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000),
    } | profile  # fmt: skip
    colormap = settings.pop("colormap", None)
    colors = settings.pop("colorinterp", None)
    with rasterio.open(path, "w", **settings) as file:
        file.write(bands)
        if colormap:
            file.write_colormap(1, colormap)
        if colors:
            file.colorinterp = [rasterio.enums.ColorInterp[name] for name in colors]
    return path


def noise(count, dtype=np.uint8, size=(150, 200)):
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (count, *size), dtype)


def whole(path):
    with open_source(path) as source:
        height, width = source.size
        return source.read((0, 0, width, height))


@pytest.mark.parametrize("window", [(0, 0, 200, 150), (10, 20, 64, 64), (199, 149, 1, 1), (60, 0, 10, 150)])
def test_a_window_is_the_same_part_of_the_whole_picture(tmp_path, window):
    bands = noise(3)
    x, y, width, height = window
    expected = bands[::-1, y : y + height, x : x + width].transpose(1, 2, 0)
    with open_source(write(tmp_path / "a.tif", bands)) as source:
        assert isinstance(source, RasterSource)
        found = source.read(window)
    assert source.size == (150, 200)
    assert (found.dtype, found.flags.c_contiguous) == (np.uint8, True)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(ArraySource(bands[::-1].transpose(1, 2, 0)).read(window), expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("count", [1, 3])
def test_opencv_and_the_window_reader_see_the_same_pixels(tmp_path, dtype, count):
    path = tmp_path / "a.tif"
    image = noise(count, dtype).transpose(1, 2, 0)
    assert cv2.imwrite(str(path), image)
    np.testing.assert_array_equal(whole(path), cv2.imread(str(path), cv2.IMREAD_COLOR))


def test_a_fourth_band_is_left_aside_and_colors_are_found_by_their_meaning(tmp_path):
    bands = noise(4)
    np.testing.assert_array_equal(whole(write(tmp_path / "a.tif", bands)), bands[2::-1].transpose(1, 2, 0))
    swapped = write(tmp_path / "b.tif", bands, colorinterp=["undefined", "blue", "green", "red"])
    np.testing.assert_array_equal(whole(swapped), bands[1:].transpose(1, 2, 0))


def test_a_palette_is_looked_up(tmp_path):
    indices = noise(1) % 4
    colors = {0: (0, 0, 0), 1: (255, 10, 20), 2: (30, 255, 40), 3: (50, 60, 255)}
    path = write(tmp_path / "a.tif", indices, colormap=colors)
    table = np.array([colors[index][::-1] for index in range(4)], np.uint8)
    np.testing.assert_array_equal(whole(path), table[indices[0]])


def test_a_tiff_without_georeference_is_read_and_has_no_place_on_a_map(tmp_path):
    path = tmp_path / "a.tif"
    cv2.imwrite(str(path), noise(3).transpose(1, 2, 0))
    with open_source(path) as source:
        assert source.position is None


def test_other_pictures_are_decoded_whole(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), noise(3).transpose(1, 2, 0))
    with open_source(tmp_path / "a.png") as source:
        assert isinstance(source, ArraySource)
        assert source.size == (150, 200)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda path: write(path, noise(3).astype(np.uint32)), r"bands \[1, 2, 3\] are uint32, expected one of uint8"),
        (lambda path: path.write_bytes(b"II*\0 no raster"), r"a\.tif: .*expected a raster file"),
        (
            lambda path: write(path, np.zeros((3, 64, 64), np.uint8), tiled=True, blockxsize=16384, blockysize=16384,
                               compress="deflate", sparse_ok=True),
            r"stored in blocks of 16384 x 16384 px .*gdal_translate -co TILED=YES",
        ),
    ],
)  # fmt: skip
def test_a_raster_that_cannot_be_read_in_windows_is_an_error_that_says_what_to_do(tmp_path, make, expected):
    make(tmp_path / "a.tif")
    with pytest.raises(DataError, match=expected), open_source(tmp_path / "a.tif"):
        pass


def test_a_damaged_part_is_an_error_where_it_lies(tmp_path):
    path = write(tmp_path / "a.tif", noise(3), compress="deflate")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"a\.tif"), open_source(path) as source:
        source.read((0, 0, 200, 150))


def test_pixels_lie_on_the_map_from_the_outer_corner_of_the_first_one(tmp_path):
    with open_source(write(tmp_path / "a.tif", noise(3))) as source:
        position = source.position
    corners = np.array([(0, 0), (200, 150), (10.5, 20)])
    np.testing.assert_allclose(
        position.to_map(corners), [(500_000, 5_000_000), (500_100, 4_999_925), (500_005.25, 4_999_990)]
    )
    assert position.name == "urn:ogc:def:crs:EPSG::32632"


def test_a_turned_raster_turns_its_boxes(tmp_path):
    turned = rasterio.Affine(0.3, 0.4, 500_000, 0.4, -0.3, 5_000_000)
    with open_source(write(tmp_path / "a.tif", noise(3), transform=turned)) as source:
        found = source.position.to_map(np.array([(10, 20)]))
    np.testing.assert_allclose(found, [(500_000 + 3 + 8, 5_000_000 + 4 - 6)])


def test_longitude_comes_before_latitude_and_agrees_with_the_formula_of_the_projection(tmp_path):
    # On the central meridian of zone 32 (9 degrees east) the northing is 0.9996 times the arc from the equator.
    with open_source(write(tmp_path / "a.tif", noise(3))) as source:
        longitude, latitude = source.position.to_wgs84(np.array([(0, 0)]))[0]
    assert longitude == pytest.approx(9, abs=1e-9)
    assert 0.9996 * meridian_arc(latitude) == pytest.approx(5_000_000, abs=1e-3)


def meridian_arc(latitude_degrees):
    """Return the way along a meridian of WGS 84 from the equator, m, by adding up small steps."""
    a, flattening = 6_378_137.0, 1 / 298.257223563
    e2 = flattening * (2 - flattening)
    edges = np.linspace(0, np.radians(latitude_degrees), 200_001)
    middle = (edges[1:] + edges[:-1]) / 2
    return float(np.sum(a * (1 - e2) / (1 - e2 * np.sin(middle) ** 2) ** 1.5 * np.diff(edges)))


def test_coordinates_that_are_degrees_already_stay_what_they_are(tmp_path):
    transform = rasterio.Affine(1e-5, 0, 13.0, 0, -1e-5, 52.0)
    with open_source(write(tmp_path / "a.tif", noise(3), crs="EPSG:4326", transform=transform)) as source:
        found = source.position.to_wgs84(np.array([(100, 50)]))
        assert source.position.to_wgs84(np.zeros((0, 2))).shape == (0, 2)
    np.testing.assert_allclose(found, [(13.001, 51.9995)], atol=1e-12)


def test_without_rasterio_a_tiff_is_decoded_whole_and_the_module_loads(tmp_path):
    cv2.imwrite(str(tmp_path / "a.tif"), noise(3).transpose(1, 2, 0))
    code = f"""
import sys
from pathlib import Path
sys.modules["rasterio"] = None
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "rasterio" else find(name, package)
from compress.errors import DataError
from compress.predictor import ArraySource
from compress.runtime.image_source import RasterSource, open_source
with open_source(Path({str(tmp_path / "a.tif")!r})) as source:
    assert isinstance(source, ArraySource)
try:
    RasterSource(Path("a.tif"))
except DataError as error:
    assert "krimp[geo]" in str(error), error
else:
    raise AssertionError
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
