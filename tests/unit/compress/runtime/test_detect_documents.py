"""`krimp detect` on GeoTIFFs and with further formats, on a model whose detections are known."""

import json

import cv2
import numpy as np
import pytest
import rasterio
import typer
from typer.testing import CliRunner

from compress.cli.detecting import detect_command
from compress.cli.main import main
from compress.errors import DataError
from compress.runtime.detect import open_predictor
from compress.runtime.image_source import open_source

# (row, column) of white cells of 8 px.
CELLS = [(3, 5), (10, 12), (20, 2), (31, 44), (16, 19)]
CENTRES = {(column * 8 + 4.0, row * 8 + 4.0) for row, column in CELLS}


def run(*arguments):
    app = typer.Typer()
    app.command()(detect_command)
    # Cells of 8 px: with this overlap the grid of every window meets them.
    return CliRunner().invoke(app, [*(str(argument) for argument in arguments), "--overlap", "32"])


@pytest.fixture
def picture(tmp_path, white_cells):
    path = tmp_path / "000000000139.png"
    cv2.imwrite(str(path), white_cells((264, 376), CELLS))
    return path


@pytest.fixture
def geotiff(tmp_path, white_cells):
    """Return a GeoTIFF with 0.5 m a pixel whose upper left corner lies at 500,000 E 5,000,000 N of zone 32."""
    path = tmp_path / "field.tif"
    image = white_cells((264, 376), CELLS)
    with rasterio.open(
        path, "w", driver="GTiff", count=3, height=264, width=376, dtype="uint8", crs="EPSG:32632", tiled=True,
        blockxsize=64, blockysize=64, transform=rasterio.Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000),
    ) as file:  # fmt: skip
        file.write(image.transpose(2, 0, 1))
    return path


def centres(collection):
    rings = [feature["geometry"]["coordinates"][0][:4] for feature in collection["features"]]
    return {tuple(np.round(np.mean(ring, axis=0), 3).tolist()) for ring in rings}


def test_the_boxes_of_a_geotiff_lie_where_its_objects_lie_on_its_map(tmp_path, model_file, geotiff):
    result = run(model_file, geotiff, "--out", tmp_path / "out", "--format", "geojson", "--crs", "file")
    assert result.exit_code == 0, result.output
    collection = json.loads((tmp_path / "out" / "field.geojson").read_text())
    assert collection["crs"]["properties"]["name"] == "urn:ogc:def:crs:EPSG::32632"
    assert centres(collection) == {(500_000 + x / 2, 5_000_000 - y / 2) for x, y in CENTRES}
    assert {feature["properties"]["class"] for feature in collection["features"]} == {"lamp"}


def test_without_a_word_geojson_is_in_wgs84(tmp_path, model_file, geotiff):
    result = run(model_file, geotiff, "--out", tmp_path / "out", "--format", "geojson")
    assert result.exit_code == 0, result.output
    collection = json.loads((tmp_path / "out" / "field.geojson").read_text())
    assert "crs" not in collection
    points = np.array([feature["geometry"]["coordinates"][0][0] for feature in collection["features"]])
    assert len(points) == len(CELLS)
    assert (np.abs(points - (9.001, 45.1526)) < 0.0015).all()  # zone 32 begins to count at 9 degrees


def test_windows_of_a_tiff_give_the_same_boxes_as_the_whole_picture(tmp_path, model_file, geotiff, white_cells):
    predictor = open_predictor(model_file, overlap_px=32, threads=1)
    whole = predictor.detect(white_cells((264, 376), CELLS))
    with open_source(geotiff) as source:
        windows = predictor.detect(source)
    np.testing.assert_array_equal(windows.boxes, whole.boxes)
    np.testing.assert_array_equal(windows.scores, whole.scores)
    assert len(whole) == len(CELLS)


def test_a_picture_without_a_place_on_a_map_fails_alone(tmp_path, model_file, picture, geotiff):
    result = run(model_file, picture, geotiff, "--out", tmp_path / "out", "--format", "geojson")
    assert isinstance(result.exception, DataError)
    assert "000000000139.png: has no place on a map" in str(result.exception)
    assert "1 of 2 pictures failed, the others are done" in str(result.exception)
    assert (tmp_path / "out" / "field.geojson").is_file()


def test_coco_results_count_as_the_annotations_do(tmp_path, model_file, picture):
    annotations = {
        "images": [{"id": 77, "file_name": picture.name}],
        "categories": [{"id": 5, "name": "ship"}, {"id": 9, "name": "lamp"}],
    }
    (tmp_path / "val.json").write_text(json.dumps(annotations))
    out = tmp_path / "out"
    result = run(model_file, picture, "--out", out, "--format", "coco", "--coco-ids", tmp_path / "val.json")
    assert result.exit_code == 0, result.output
    rows = json.loads((out / "coco_results.json").read_text())
    assert {(row["image_id"], row["category_id"]) for row in rows} == {(77, 9)}
    found = {(row["bbox"][0] + row["bbox"][2] / 2, row["bbox"][1] + row["bbox"][3] / 2) for row in rows}
    assert {(round(x, 1), round(y, 1)) for x, y in found} == CENTRES
    result = run(model_file, picture, "--out", tmp_path / "own", "--format", "coco")
    rows = json.loads((tmp_path / "own" / "coco_results.json").read_text())
    assert {(row["image_id"], row["category_id"]) for row in rows} == {(139, 1)}


def test_a_wrong_annotation_file_stops_the_command_before_the_work(tmp_path, model_file, picture):
    (tmp_path / "val.json").write_text("{")
    result = run(
        model_file, picture, "--out", tmp_path / "out", "--format", "coco", "--coco-ids", tmp_path / "val.json"
    )
    assert isinstance(result.exception, DataError)
    assert "val.json" in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_a_class_that_the_annotations_lack_is_told(tmp_path, model_file, picture):
    (tmp_path / "val.json").write_text(json.dumps({"images": [{"id": 1, "file_name": picture.name}], "categories": []}))
    with_ship = {"images": [{"id": 1, "file_name": picture.name}], "categories": [{"id": 5, "name": "ship"}]}
    (tmp_path / "ship.json").write_text(json.dumps(with_ship))
    result = run(model_file, picture, "--out", tmp_path / "b", "--format", "coco", "--coco-ids", tmp_path / "ship.json")
    assert isinstance(result.exception, DataError)
    assert "class 'lamp': the annotations name no such category, expected one of ship" in str(result.exception)


def test_a_raster_too_large_to_be_held_is_not_drawn(tmp_path, model_file, geotiff, monkeypatch, capsys):
    from compress.runtime import detect

    monkeypatch.setattr(detect, "MAX_DRAWN_PIXELS", 1000)
    assert main(["detect", str(model_file), str(geotiff), "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "field.txt").is_file()
    assert not (tmp_path / "out" / "field.png").exists()
    assert "376 x 264 px are too many to draw" in capsys.readouterr().err


def test_a_small_raster_is_drawn_like_any_picture(tmp_path, model_file, geotiff, picture):
    assert run(model_file, geotiff, picture, "--out", tmp_path / "out").exit_code == 0
    assert (tmp_path / "out" / "field.png").read_bytes() == (tmp_path / "out" / "000000000139.png").read_bytes()


def test_json_on_standard_output_is_one_document_even_where_a_picture_has_many_windows(
    tmp_path, model_file, geotiff, monkeypatch, capsys
):
    from compress import progress
    from compress.runtime import detect

    monkeypatch.setattr(detect, "MANY_WINDOWS", 1)
    monkeypatch.setattr(progress, "LINE_INTERVAL_S", 0)
    arguments = [str(model_file), str(geotiff), "--out", str(tmp_path / "out"), "--json", "--no-pictures"]
    assert main(["detect", *arguments]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["images"][0]["name"] == "field"
    assert "field.tif: 1/" in printed.err
