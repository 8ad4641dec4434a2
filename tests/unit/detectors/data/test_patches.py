"""Windows and the objects in them, against MMRotate's method written once more in dota_tree.py."""

import math

import numpy as np
import pytest
from dota_tree import area, clip, reference_patches, reference_starts
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.errors import DataError
from detectors.data.patches import (
    Patch,
    PatchSettings,
    cut_patch,
    image_patches,
    objects_in_patches,
    patch_quads,
)


@settings(deadline=None, max_examples=80)
@given(st.integers(1, 3000), st.integers(1, 3000), st.sampled_from([(1024, 200), (256, 0), (800, 799), (600, 150)]))
def test_windows_are_mmrotates_for_any_image(height, width, cut):
    if cut == (800, 799):
        height, width = min(height, 850), min(width, 850)
    found = image_patches("P", (height, width), PatchSettings(*cut))
    wanted = reference_patches(np.zeros((height, width, 3), np.uint8), "", *cut) if height * width < 4e5 else None
    if wanted is not None:
        assert {(p.side_px, p.x, p.y) for p in found} == set(wanted)
    xs, ys = (reference_starts(length, cut[0], cut[0] - cut[1]) for length in (width, height))
    assert {(p.x, p.y) for p in found} <= {(x, y) for x in xs for y in ys}
    assert len({p.name for p in found}) == len(found)


@pytest.mark.parametrize("size", [(300, 500), (800, 800), (1500, 700), (2100, 2600)])
def test_windows_of_several_scales_compete_for_the_share_of_image_as_mmrotates_do(size):
    cut = PatchSettings(1024, 500, (0.5, 1.0, 1.5))
    found = {(p.side_px, p.x, p.y) for p in image_patches("P", size, cut)}
    assert found == set(reference_patches(np.zeros((*size, 3), np.uint8), "", 1024, 500, (0.5, 1.0, 1.5)))


def test_at_one_scale_every_pixel_is_in_a_window():
    for height, width in ((100, 5000), (1024, 1025), (3000, 2049), (1, 1)):
        seen = np.zeros((height, width), bool)
        for p in image_patches("P", (height, width), PatchSettings()):
            seen[p.y : p.y + p.side_px, p.x : p.x + p.side_px] = True
        assert seen.all()


corner = st.integers(-60, 320)


@settings(deadline=None, max_examples=150)
@given(st.tuples(corner, corner, st.integers(4, 120), st.integers(4, 60), st.floats(0, 3.14)))
def test_share_of_an_object_in_a_window_equals_plain_clipping(box):
    cx, cy, w, h, angle = box
    cos, sin = math.cos(angle), math.sin(angle)
    ends = [(-w / 2, -h / 2), (w / 2, -h / 2), (w / 2, h / 2), (-w / 2, h / 2)]
    points = [(cx + x * cos - y * sin, cy + x * sin + y * cos) for x, y in ends]
    share = area(clip(points, 0, 0, 256, 256)) / area(points)
    quads = np.array(points).reshape(1, 8)
    for least in (0.3, 0.7):
        ((index, cut),) = objects_in_patches(quads, [Patch("P", 256, 0, 0)], least)
        if abs(share - least) > 1e-6:
            assert (len(index) == 1) == (share > least)
        if len(index) and abs(share - 1) > 1e-5:
            assert cut[0]


def test_object_that_touches_the_border_from_inside_is_whole_and_exactly_seventy_percent_belongs():
    quads = np.array([[246, 0, 256, 0, 256, 10, 246, 10], [249, 20, 259, 20, 259, 30, 249, 30]], float)
    (index, cut) = objects_in_patches(quads, [Patch("P", 256, 0, 0)], 0.7)[0]
    assert index.tolist() == [0, 1]
    assert cut.tolist() == [False, True]


def test_crossed_concave_and_empty_quadrilaterals_do_no_harm():
    crossed = [10, 10, 50, 50, 50, 10, 10, 50]
    concave = [100, 100, 140, 120, 100, 140, 110, 120]
    point = [5, 5, 5, 5, 5, 5, 5, 5]
    outside = [900, 900, 950, 900, 950, 950, 900, 950]
    quads = np.array([crossed, concave, point, outside], float)
    assert objects_in_patches(quads, [Patch("P", 256, 0, 0)], 0.7)[0][0].tolist() == [0, 1]
    assert objects_in_patches(quads, [Patch("P", 25, 5, 5)], 0.7)[0][0].tolist() == []
    assert objects_in_patches(np.zeros((0, 8)), [Patch("P", 256, 0, 0)], 0.7)[0][0].tolist() == []


def test_patch_of_another_scale_is_brought_to_size_with_its_objects():
    image = np.zeros((600, 600, 3), np.uint8)
    image[100:140, 200:260] = 255
    patch = Patch("P", 512, 40, 60)
    pixels = cut_patch(image, patch, PatchSettings(256, 50, (0.5,)))
    quad = patch_quads(np.array([[200, 100, 260, 100, 260, 140, 200, 140]]), patch, 256)
    assert pixels.shape == (256, 256, 3)
    assert quad.tolist() == [[80, 20, 110, 20, 110, 40, 80, 40]]
    assert (pixels[20:40, 80:110] == 255).all()
    assert pixels.astype(int).sum() == 20 * 30 * 3 * 255
    assert cut_patch(image, patch, PatchSettings(256, 50, (0.5,), resize=False)).shape == (512, 512, 3)


def test_names_go_there_and_back():
    patch = Patch("P0__a___b", 1024, 824, 0)
    assert patch.name == "P0__a___b__1024__824___0"
    assert Patch.from_name(patch.name) == patch
    with pytest.raises(DataError, match=r"P0001: no patch name, expected IMAGE__SIDE__X___Y"):
        Patch.from_name("P0001")


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"overlap_px": 1024}, "overlap: 1024 px does not fit into patches of 1024 px"),
        ({"scales": (1.0, 0.0)}, r"scales: \[1.0, 0.0\], expected numbers above 0"),
        ({"min_object_share": 0.0}, "shares: image 0.6, object 0.0"),
    ],
)
def test_settings_that_cannot_be_are_refused(fields, text):
    with pytest.raises(DataError, match=text):
        PatchSettings(**fields)
