"""Patches of three programs, cut here by plain loops, put together again: boxes lie where they were."""

import json

import numpy as np
import pytest

from compress.errors import DataError
from detectors.data import merging
from detectors.data.patch_names import PatchName, convention_of, place_of, places_of

BOX = np.array([700.0, 420.0, 40.0, 16.0, 0.3])  # in pixels of the image


def record(name, size, scale, x, y):
    """Return what a detector finds of BOX in a patch: (box - (x, y)) * scale."""
    box = [(BOX[0] - x) * scale, (BOX[1] - y) * scale, BOX[2] * scale, BOX[3] * scale, BOX[4]]
    return {
        "name": name,
        "width": size[1],
        "height": size[0],
        "detections": [{"box": box, "score": 0.9, "label": 0, "class": "ship"}],
    }


PATCHES = {
    # Krimp: squares of 512 px; windows of 512 and of 1024 px.
    "krimp": [record("P0__512__600___300", (512, 512), 1, 600, 300), record("P0__1024__0___0", (512, 512), 0.5, 0, 0)],
    "krimp, one scale": [
        record("P0__512__300___100", (1024, 1024), 2, 300, 100),
        record("P0__512__600___0", (1024, 1024), 2, 600, 0),
    ],
    # MMRotate: pixels of the image; of 900 x 600 px a window of 1024 px is cut to the image without padding.
    "mmrotate, padded": [record("P0__1024__0___0", (1024, 1024), 1, 0, 0)],
    "mmrotate": [record("P0__1024__0___0", (600, 900), 1, 0, 0), record("P1__1024__200___0", (700, 1024), 1, 200, 0)],
    "mmrotate, squares too": [
        record("P0__1024__0___0", (800, 800), 1, 0, 0),
        record("P1__1024__200___76", (1024, 1024), 1, 200, 76),
    ],
    # DOTA_devkit: the image was resized by the rate first; X and Y are of the resized image.
    "devkit": [
        record("P0__1__600___400", (1024, 1024), 1, 600, 400),
        record("P0__0.5__200___100", (1024, 1024), 0.5, 400, 200),
        record("P0__1.5__900___300", (600, 800), 1.5, 600, 200),
        record("P0__2__1200___600", (1024, 1024), 2, 600, 300),
    ],
}


@pytest.mark.parametrize("case", PATCHES)
def test_boxes_of_every_convention_come_back_to_their_place(tmp_path, case):
    path = tmp_path / "detections.json"
    path.write_text(json.dumps({"classes": ["ship"], "images": PATCHES[case], "failed": []}))
    for convention in (None, case.partition(",")[0]):
        _, parts = merging.read_detections(path, convention)
        assert [part.name for part in parts] == [item["name"] for item in PATCHES[case]]
        for part in parts:
            np.testing.assert_allclose(part.in_image().boxes, [BOX], rtol=1e-6)
        for merged in merging.merge_patches(parts).values():
            np.testing.assert_allclose(merged.boxes, [BOX], rtol=1e-6)


@pytest.mark.parametrize(
    ("patches", "why"),
    [
        ([("P0__1024__0___0", (600, 600))], "may be a window of 1024 px brought to that size, or a smaller image"),
        ([("P0__1024__300___0", (600, 900))], "do not fit its name, expected 1024 px a side, or less only where"),
        ([("P0__512__0___0", (600, 900))], "do not fit its name, expected 512 px a side"),
        (
            [("P0__1024__0___0", (1024, 900)), ("P1__1024__9___9", (512, 512))],
            "P1__1024__9___9: 512 x 512 px do not fit",
        ),
        ([("P0__512__0___0", (1024, 1024)), ("P0__256__9___0", (600, 600))], "brought to 1024 and 600 px"),
        ([("P0__1__0___0", (600, 900)), ("P0__1024__0___0", (1024, 1024))], "names of two programs"),
        ([("P0__0__0___0", (600, 900))], "no patch name"),
        ([("P0__1024__0__0", (600, 900))], "no patch name"),
        ([("P0__1024__0___0", (0, 900))], "expected a size of at least 1 x 1"),
    ],
)
def test_what_does_not_fit_the_patches_own_size_is_refused(patches, why):
    records = [{"name": name, "height": size[0], "width": size[1]} for name, size in patches]
    with pytest.raises(DataError, match=why):
        places_of(records)


def test_who_cut_them_can_be_said_and_is_still_checked():
    name = PatchName.of("P0__1024__0___0")
    assert place_of(name, (600, 600), "mmrotate").scale == 1
    assert place_of(name, (512, 512), "krimp").scale == 2
    for size, convention in (((600, 900), "krimp"), ((600, 600), "devkit"), ((2048, 2048), "mmrotate")):
        with pytest.raises(DataError, match=r"do not fit its name.*--patch-names"):
            place_of(name, size, convention)
    with pytest.raises(DataError, match="a side of 16 px or more"):
        place_of(PatchName.of("P0__1__0___0"), (64, 64), "krimp")
    assert convention_of([(PatchName.of("P0__1.0__0___0"), (64, 64))]) == "devkit"
