"""COCO results and GeoJSON against documents made by hand; the COCO API reads them in tests/openmmlab."""

import itertools
import json

import numpy as np
import pytest

from compress.errors import DataError, DetectorError
from compress.runtime.documents import CocoIds, coco_results, geojson

CORNERS = [10.0, 5.0, 40.0, 20.0, 35.0, 30.0, 5.0, 15.0]
SHIP = {"class": "ship", "label": 1, "score": 0.75, "box": [22.5, 17.5, 33.5, 11.2, 0.46], "corners": CORNERS}
LORRY = {"class": "large-vehicle", "label": 0, "score": 0.5, "corners": [0, 0, 8, 0, 8, 4, 0, 4]}
ANNOTATIONS = {
    "images": [
        {"id": 139, "file_name": "a/000000000139.jpg", "width": 64, "height": 48},
        {"id": 7, "file_name": "b/000000000139.jpg", "width": 64, "height": 48},
    ],
    "categories": [{"id": 90, "name": "large vehicle"}, {"id": 3, "name": "ship"}],
}
IDS = CocoIds.from_document(ANNOTATIONS, "val.json")


def test_a_row_holds_the_upright_rectangle_the_outline_and_the_score():
    assert coco_results([("x/a/000000000139.jpg", [SHIP])], IDS) == [
        {
            "image_id": 139,
            "category_id": 3,
            "bbox": [5.0, 5.0, 35.0, 25.0],
            "score": 0.75,
            "segmentation": [CORNERS],
            "obb": CORNERS,
        }
    ]


@pytest.mark.parametrize(("file", "identity"), [("/data/a/000000000139.jpg", 139), ("b/000000000139.jpg", 7)])
def test_the_annotations_decide_the_numbers_of_images_and_categories(file, identity):
    rows = coco_results([(file, [LORRY])], IDS)
    assert [(row["image_id"], row["category_id"]) for row in rows] == [(identity, 90)]


@pytest.mark.parametrize(
    ("file", "identity"), [("d/000000000139.jpg", 139), ("d/P0861__1024__0___90.png", "P0861__1024__0___90")]
)
def test_without_annotations_names_that_are_numbers_are_the_numbers_and_classes_count_from_one(file, identity):
    rows = coco_results([(file, [SHIP, LORRY])], CocoIds())
    assert [(row["image_id"], row["category_id"]) for row in rows] == [(identity, 2), (identity, 1)]


def test_what_the_annotations_do_not_name_is_an_error():
    with pytest.raises(DataError, match=r"c\.jpg: the annotations name no such picture"):
        coco_results([("c.jpg", [])], IDS)
    with pytest.raises(DataError, match="class 'tank': the annotations name no such category, expected one of large"):
        coco_results([("a/000000000139.jpg", [SHIP | {"class": "tank"}])], IDS)
    with pytest.raises(DataError, match=r"val\.json: KeyError"):
        CocoIds.from_document({"images": []}, "val.json")
    with pytest.raises(DataError, match=r"val\.json: .*expected COCO annotations"):
        CocoIds.from_document([], "val.json")


def test_detections_without_corners_are_refused():
    with pytest.raises(DetectorError, match="no corners"):
        coco_results([("a/000000000139.jpg", [{"class": "ship", "label": 1, "score": 1.0}])], IDS)


def north_up(points):
    """Half a unit a pixel, y up."""
    return np.asarray(points) * (0.5, -0.5) + (100, 200)


def signed_area(ring):
    return sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in itertools.pairwise(ring)) / 2


@pytest.mark.parametrize("to_map", [north_up, lambda points: np.asarray(points, float)], ids=["y-up", "y-down"])
def test_rings_are_closed_and_counterclockwise_on_the_map(to_map):
    collection = geojson([SHIP, LORRY], to_map)
    rings = [feature["geometry"]["coordinates"][0] for feature in collection["features"]]
    for ring, record in zip(rings, (SHIP, LORRY), strict=True):
        assert len(ring) == 5
        assert ring[0] == ring[-1]
        assert signed_area(ring) > 0
        expected = to_map(np.reshape(record["corners"], (4, 2)))
        assert sorted(ring[:4]) == sorted(expected.tolist())


def test_a_counterclockwise_ring_far_from_the_origin_is_recognized():
    tiny = geojson([LORRY], lambda points: np.asarray(points) * (1e-7, -1e-7) + (179.9, 52.0))
    assert signed_area([[x - 179.9, y - 52.0] for x, y in tiny["features"][0]["geometry"]["coordinates"][0]]) > 0


def test_properties_tell_class_label_and_score_and_the_document_is_json():
    collection = json.loads(json.dumps(geojson([SHIP], north_up)))
    assert (collection["type"], "crs" in collection) == ("FeatureCollection", False)
    feature = collection["features"][0]
    assert (feature["type"], feature["geometry"]["type"]) == ("Feature", "Polygon")
    assert feature["properties"] == {"class": "ship", "label": 1, "score": 0.75}
    assert geojson([], north_up)["features"] == []


def test_another_coordinate_system_is_named():
    collection = geojson([SHIP], north_up, crs="urn:ogc:def:crs:EPSG::32632")
    assert collection["crs"] == {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32632"}}
