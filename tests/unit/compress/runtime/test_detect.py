"""`krimp detect` on a model whose detections are known."""

import hashlib
import json
import struct
import unicodedata
import zlib

import cv2
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from compress.cli.detecting import detect_command
from compress.errors import CodecError, DataError, DetectorError, StageError
from compress.runtime.detect import find_images, open_predictor
from compress.runtime.image_source import read_image

# Cells of 8 px; sizes and overlap are multiples of 8, so that the grid of every window meets them.
CELLS = [(3, 5), (10, 12), (20, 2), (31, 44), (16, 19), (15, 20)]
EXPECTED = {(column * 8 + 4, row * 8 + 4) for row, column in CELLS}


@pytest.fixture
def picture(tmp_path, white_cells):
    path = tmp_path / "scene.png"
    cv2.imwrite(str(path), white_cells((264, 376), CELLS))
    return path


def run(*arguments):
    app = typer.Typer()
    app.command()(detect_command)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def centres(image_record):
    return {(round(d["box"][0]), round(d["box"][1])) for d in image_record["detections"]}


@pytest.mark.parametrize("size", [{}, {"height": 128, "width": 160}])
def test_every_object_of_a_large_picture_is_found_once(tmp_path, write_model, picture, size):
    model = write_model(tmp_path / "any.onnx", **size)
    result = run(model, picture, "--out", tmp_path / "out", "--overlap", 32)
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "out" / "detections.json").read_text())
    image = record["images"][0]
    assert centres(image) == EXPECTED
    assert len(image["detections"]) == len(EXPECTED)
    assert image["num_windows"] > 4
    first = image["detections"][0]
    assert first["class"] == "lamp"
    np.testing.assert_allclose(first["box"][2:], [16, 8, 0.3], atol=1e-4)
    lines = (tmp_path / "out" / "scene.txt").read_text().splitlines()
    assert len(lines) == len(EXPECTED)
    assert all(line.split()[0] == "lamp" and len(line.split()) == 10 for line in lines)
    assert cv2.imread(str(tmp_path / "out" / "scene.png")).shape == (528, 752, 3)


def test_a_packed_model_detects_the_same(tmp_path, model_file, picture):
    from compress.codec import pack_file

    pack_file(model_file, tmp_path / "model.krimp")
    run(model_file, picture, "--out", tmp_path / "a")
    run(tmp_path / "model.krimp", picture, "--out", tmp_path / "b")
    assert (tmp_path / "a" / "scene.txt").read_bytes() == (tmp_path / "b" / "scene.txt").read_bytes()


@pytest.mark.parametrize("shape", [(1, 1), (9, 300), (40, 40), (128, 160), (129, 161)])
def test_pictures_of_any_size_are_accepted(model_file, shape):
    predictor = open_predictor(model_file, threads=1)
    white = np.full((*shape, 3), 255, np.uint8)
    found = predictor.detect(white)
    if min(shape) >= 9:
        assert len(found) > 0
        assert found.boxes[:, 0].max() <= shape[1] - 1


def test_options_change_threshold_tile_and_pictures(tmp_path, model_file, picture):
    arguments = [
        model_file,
        picture,
        "--out",
        tmp_path / "out",
        "--tile",
        "256x256",
        "--score",
        "0.999",
        "--no-pictures",
    ]
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert record["tile_size"] == [256, 256]
    assert record["score_threshold"] == 0.999
    assert record["images"][0]["detections"] == []
    assert not (tmp_path / "out" / "scene.png").exists()


def test_folders_patterns_and_files_are_accepted_each_picture_once(tmp_path):
    for name in ("b.jpg", "a.PNG", "notes.txt", "sub/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = find_images([tmp_path, tmp_path / "a.PNG", f"{tmp_path}/**/*.png", tmp_path / "notes.txt"])
    assert [path.name for path in found] == ["a.PNG", "b.jpg", "c.png", "notes.txt"]
    with pytest.raises(DataError, match="no such picture"):
        find_images([tmp_path / "none.png"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no picture"):
        find_images([tmp_path / "empty"])


def test_a_picture_that_cannot_be_decoded_does_not_stop_the_others(tmp_path, model_file, picture):
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    (tmp_path / "empty.png").write_bytes(b"")
    result = run(model_file, tmp_path / "broken.jpg", tmp_path / "empty.png", picture, "--out", tmp_path / "out")
    assert isinstance(result.exception, DataError)
    assert "2 of 3 pictures failed" in str(result.exception)
    assert result.exception.exit_code != 0
    record = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert len(record["images"]) == 1
    assert [failed["file"] for failed in record["failed"]] == [
        str(tmp_path / "broken.jpg"),
        str(tmp_path / "empty.png"),
    ]


def test_pictures_of_equal_name_do_not_overwrite_each_other(tmp_path, model_file, picture):
    (tmp_path / "other").mkdir()
    twin = tmp_path / "other" / "scene.png"
    cv2.imwrite(str(twin), np.zeros((50, 50, 3), np.uint8))
    run(model_file, picture, twin, "--out", tmp_path / "out")
    record = json.loads((tmp_path / "out" / "detections.json").read_text())
    names = [image["name"] for image in record["images"]]
    assert len(set(names)) == 2
    assert all((tmp_path / "out" / f"{name}.txt").exists() for name in names)


def test_models_that_cannot_be_served_are_refused(tmp_path, write_model, meta):
    with pytest.raises(CodecError, match="carries no"):
        open_predictor(write_model(tmp_path / "bare.onnx", meta=None))
    for plugin in ("nothing_like_that", "os:system", "os", "compress.cli.main"):
        with pytest.raises(DetectorError):
            open_predictor(write_model(tmp_path / "evil.onnx", meta=meta | {"plugin": plugin}))
    del meta["classes"]
    with pytest.raises(DetectorError, match="classes missing"):
        open_predictor(write_model(tmp_path / "old.onnx", meta=meta))


def test_sizes_that_do_not_fit_are_refused(tmp_path, write_model, model_file):
    fixed = write_model(tmp_path / "fixed.onnx", height=128, width=160)
    with pytest.raises(StageError, match="takes 128x160 px only"):
        open_predictor(fixed, tile_size=(256, 256))
    with pytest.raises(DetectorError, match="overlap"):
        open_predictor(model_file, overlap_px=128)
    result = run(model_file, model_file, "--out", tmp_path, "--tile", "big")
    assert isinstance(result.exception, StageError)


def test_grey_and_sixteen_bit_pictures_become_bgr(tmp_path):
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((5, 6), 77, np.uint8))
    cv2.imwrite(str(tmp_path / "deep.tiff"), np.full((5, 6, 3), 77 * 256, np.uint16))
    for name in ("grey.png", "deep.tiff"):
        image = read_image(tmp_path / name)
        assert image.shape == (5, 6, 3)
        assert (image == 77).all()


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_file_where_a_folder_is_wanted_is_told(tmp_path, model_file, picture, place):
    (tmp_path / "file").write_text("mine")
    result = run(model_file, picture, "--out", tmp_path / place)
    assert isinstance(result.exception, DataError)
    assert f"{place}: it, or a part of its path, is a file. Expected a folder to write in" in str(result.exception)
    assert (tmp_path / "file").read_text() == "mine"


def test_pictures_are_never_drawn_over(model_file, picture):
    content = picture.read_bytes()
    result = run(model_file, picture, "--out", picture.parent)
    assert isinstance(result.exception, DataError)
    assert "would be drawn over" in str(result.exception)
    assert picture.read_bytes() == content


def test_labels_and_pictures_beside_the_picture_are_never_replaced(tmp_path, model_file):
    cv2.imwrite(str(tmp_path / "p.jpg"), np.zeros((40, 50, 3), np.uint8))
    kept = {"p.txt": b"0 .5 .5 .1 .1\n", "p.png": b"another picture", "detections.json": b"{}"}
    for name, content in kept.items():
        (tmp_path / name).write_bytes(content)
    result = run(model_file, tmp_path / "p.jpg", "--out", tmp_path)
    assert isinstance(result.exception, DataError)
    assert "there already" in str(result.exception)
    assert {name: (tmp_path / name).read_bytes() for name in kept} == kept
    for _ in range(2):  # the second time nothing stands in the way
        assert run(model_file, tmp_path / "p.jpg", "--out", tmp_path / "out").exit_code == 0
    assert run(model_file, tmp_path / "p.jpg", "--out", tmp_path, "--force").exit_code == 0
    assert json.loads((tmp_path / "detections.json").read_text())["images"]


def test_one_bad_name_does_not_end_a_batch_and_results_of_long_names_are_written(tmp_path, model_file):
    folder = tmp_path / "in"
    folder.mkdir()
    content = cv2.imencode(".png", np.zeros((40, 50, 3), np.uint8))[1].tobytes()
    names = ["a.png", "b" + "x" * 245 + ".png", "c.png", "\udcff\udcfe.png"]
    for name in names:
        (folder / name).write_bytes(content)
    result = run(model_file, folder, "--out", tmp_path / "out", "--json")
    assert result.exit_code == 0, result.exception
    record = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert sorted(image["file"] for image in record["images"]) == sorted(str(folder / name) for name in names)
    found = [tmp_path / "out" / f"{image['name']}{end}" for image in record["images"] for end in (".txt", ".png")]
    assert all(path.exists() for path in found)
    assert json.loads(result.stdout) == record


def test_results_that_cannot_be_written_are_told_and_the_others_are_done(tmp_path, model_file, picture):
    cv2.imwrite(str(tmp_path / "other.png"), np.zeros((40, 50, 3), np.uint8))
    (tmp_path / "out" / "other.txt").mkdir(parents=True)
    result = run(model_file, tmp_path / "other.png", picture, "--out", tmp_path / "out")
    assert isinstance(result.exception, DataError)
    assert "1 of 2 pictures failed" in str(result.exception)
    record = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert [image["file"] for image in record["images"]] == [str(picture)]
    assert "other.txt: is a folder" in record["failed"][0]["error"]


def test_the_record_is_written_whatever_ends_the_batch(tmp_path, write_model, meta, picture):
    model = write_model(tmp_path / "fixed.onnx", meta=meta | {"classes": ["one"]})
    result = run(model, picture, "--out", tmp_path / "out")
    assert isinstance(result.exception, DetectorError)
    record = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert (record["images"], record["classes"]) == ([], ["one"])


def test_names_of_results_are_unique_where_digests_and_stems_meet(tmp_path):
    from compress.runtime.detect import Results

    first, second = tmp_path / "a" / "x.png", tmp_path / "b" / "x.png"
    digest = hashlib.sha256(str(second).encode()).hexdigest()[:8]
    images = [first, tmp_path / "a" / f"x_{digest}.png", second, second, tmp_path / "c" / ("y" * 300 + ".png")]
    images += [tmp_path / "X.png", tmp_path / "h\u00e9.png", tmp_path / "he\u0301.png"]  # one file on some systems
    names = [path.name for path in Results(tmp_path, pictures=False).paths(images)]
    assert len({unicodedata.normalize("NFC", name).casefold() for name in names}) == len(names) == 9
    assert max(map(len, names)) <= 255 - len(".geojson") + len(".txt")


def test_a_model_without_metadata_says_what_works_with_it(tmp_path, write_model, picture):
    result = run(write_model(tmp_path / "bare.onnx", meta=None), picture, "--out", tmp_path / "out")
    assert isinstance(result.exception, CodecError)
    for command in ("export_onnx", "krimp pack", "krimp inspect", "krimp.open_session"):
        assert command in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_a_turned_picture_is_detected_as_it_is_seen(tmp_path, model_file, white_cells):
    stored = white_cells((264, 376), CELLS)
    content = cv2.imencode(".png", np.rot90(stored))[1].tobytes()  # stored a quarter turn off; 6 turns it back
    exif = b"II*\0\x08\0\0\0" + struct.pack("<HHHIHHI", 1, 0x112, 3, 1, 6, 0, 0)
    chunk = struct.pack(">I", len(exif)) + b"eXIf" + exif + struct.pack(">I", zlib.crc32(b"eXIf" + exif))
    (tmp_path / "scene.png").write_bytes(content[:33] + chunk + content[33:])
    assert run(model_file, tmp_path / "scene.png", "--out", tmp_path / "out", "--overlap", 32).exit_code == 0
    (image,) = json.loads((tmp_path / "out" / "detections.json").read_text())["images"]
    assert (image["height"], image["width"]) == (264, 376)
    assert centres(image) == EXPECTED


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_the_value_range_of_a_model_holds_where_it_is_deployed(tmp_path, write_model, meta, white_cells, suffix):
    deep = white_cells((264, 376), CELLS)[..., 0].astype(np.uint16) * 4 + 7000  # 7000 and 8020
    deep[0, 0] = 60_000  # one hot pixel
    cv2.imwrite(str(tmp_path / f"scene{suffix}"), deep)
    found = {}
    for name, values in {"none": None, "range": [7000, 8020]}.items():
        model = write_model(tmp_path / f"{name}.onnx", meta=meta if values is None else meta | {"value_range": values})
        assert run(model, tmp_path / f"scene{suffix}", "--out", tmp_path / name, "--overlap", 32).exit_code == 0
        found[name] = centres(json.loads((tmp_path / name / "detections.json").read_text())["images"][0])
    assert found["range"] >= EXPECTED
    assert not EXPECTED & found["none"]
    for wrong in ([8020, 7000], [1], "all", [0, None]):
        model = write_model(tmp_path / "wrong.onnx", meta=meta | {"value_range": wrong})
        result = run(model, tmp_path / f"scene{suffix}", "--out", tmp_path / "wrong")
        assert isinstance(result.exception, DetectorError)


def test_the_caller_limits_the_pixels_of_a_picture(tmp_path, model_file, picture):
    result = run(model_file, picture, "--out", tmp_path / "out", "--max-pixels", 264 * 376 - 1)
    assert isinstance(result.exception, DataError)
    assert "376 x 264 are more than the 99,263 pixels that are allowed" in str(result.exception)
    assert run(model_file, picture, "--out", tmp_path / "out", "--max-pixels", 264 * 376).exit_code == 0
    bomb = bytearray(picture.read_bytes())
    bomb[16:24] = struct.pack(">II", 30_000, 30_000)
    bomb[29:33] = struct.pack(">I", zlib.crc32(bytes(bomb[12:29])))
    (tmp_path / "bomb.png").write_bytes(bytes(bomb))
    result = run(model_file, tmp_path / "bomb.png", "--out", tmp_path / "out")
    assert "30000 x 30000 are more than the 268,435,456 pixels that are allowed" in str(result.exception)
