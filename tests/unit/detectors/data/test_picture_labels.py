"""Labels of given pictures, wherever they lie, and what is said of those that are nearly right."""

import json

import cv2
import numpy as np
import pytest

from compress.errors import DataError
from detectors.data.labels import IGNORED
from detectors.data.picture_labels import label_table, open_labels

TABLE = {"car": 0, "ship": 1}


@pytest.fixture
def files(tmp_path):
    (tmp_path / "pictures").mkdir()
    paths = [tmp_path / "pictures" / f"scene{number}.png" for number in range(2)]
    for path in paths:
        cv2.imwrite(str(path), np.zeros((100, 200, 3), np.uint8))
    return paths


def texts(folder, **lines):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in lines.items():
        (folder / f"{name}.txt").write_text(text)
    return folder


def boxes(truths):
    return [(truth.boxes[:, :4].round(3).tolist(), truth.labels.tolist()) for truth in truths]


def document(images, annotations, categories=(("car", 1), ("ship", 2))):
    return {
        "images": [{"id": number, "file_name": name} for number, name in images],
        "categories": [{"id": number, "name": name} for name, number in categories],
        "annotations": [
            {"id": n, "image_id": image, "category_id": category, "bbox": box}
            for n, (image, category, box) in enumerate(annotations)
        ],
    }


WANTED = [([[30.0, 40.0, 20.0, 10.0]], [1]), ([], [])]


@pytest.mark.parametrize("place", [".", "labels", "labelTxt"])
def test_text_files_are_found_beside_each_other_or_one_folder_below(tmp_path, files, place):
    folder = tmp_path / "truth"
    texts(folder / place, scene0="1 0.15 0.4 0.1 0.1", other="9 9 9 9")
    labels = open_labels(folder, files)
    assert (labels.format, labels.names) == ("yolo", ())
    assert boxes(labels.truths(TABLE, ["car", "ship"], upright=True)) == WANTED


def test_dota_is_told_by_its_lines(tmp_path, files):
    folder = texts(tmp_path / "truth", scene0="imagesource:x\n20 35 40 35 40 45 20 45 ship 0\n", scene1="")
    labels = open_labels(folder, files)
    assert (labels.format, labels.names, labels.are_ordered) == ("dota", ("ship",), False)
    assert boxes(labels.truths(TABLE, [], upright=True)) == WANTED


@pytest.mark.parametrize("where", ["yaml", "folder", "list"])
def test_names_of_yolo_come_from_its_yaml_or_its_list(tmp_path, files, where):
    texts(tmp_path / "pictures", scene0="0 0.15 0.4 0.1 0.1")
    if where == "list":
        (tmp_path / "pictures" / "classes.txt").write_text("ship\nsea horse\n")
    else:
        (tmp_path / "data.yaml").write_text("names: [ship, sea horse]\n")
    labels = open_labels(tmp_path / "data.yaml" if where == "yaml" else tmp_path / "pictures", files)
    assert (labels.format, labels.names) == ("yolo", ("ship", "sea-horse"))
    table, _ = label_table(labels.names, ["car", "ship", "sea horse"], {})
    assert boxes(labels.truths(table, [], upright=True)) == WANTED


def test_coco_may_list_more_than_the_pictures_and_name_them_by_other_folders(tmp_path, files):
    listed = [(3, "a/scene0.png"), (4, "a/scene1.png"), (5, "a/missing.png")]
    found = [(3, 2, [20, 35, 20, 10]), (5, 2, [0, 0, 5, 5]), (4, 1, [500, 500, 9, 9])]
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(document(listed, found)))
    labels = open_labels(path, files)
    assert (labels.format, labels.names, labels.are_ordered) == ("coco", ("car", "ship"), True)
    assert boxes(labels.truths(TABLE, [], upright=True)) == WANTED  # what lies outside is dropped


@pytest.mark.parametrize(
    ("listed", "found", "text"),
    [
        ([(3, "scene0.png"), (4, "Scene1.png")], [], r"scene1.png: not listed.*There is Scene1.png"),
        ([(3, "scene0.png"), (4, "a/scene1.png"), (5, "b/scene1.png")], [], "scene1.png: listed more than once"),
        ([(3, "scene0.png"), (4, "scene1.png")], [(3, 2, [20, 35, -20, 10])], r"annotations\[0\] \(id 0\): bbox"),
        ([(3, "scene0.png"), (4, "scene1.png")], [(9, 2, [20, 35, 20, 10])], r"image_id is 9, expected the id of one"),
    ],
)
def test_what_is_wrong_in_coco_is_told(tmp_path, files, listed, found, text):
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(document(listed, found)))
    with pytest.raises(DataError, match=text):
        open_labels(path, files).truths(TABLE, [], upright=True)


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        ({"scene0": "20 35 40 35 40 45 20 45 ship 0"}, r"no labels of scene1.png \(they may be empty\)"),
        ({"scene0": "20 35 40 35 40 45 20 45 ship 3", "scene1": ""}, "scene0.txt:1: difficult is '3'"),
        ({"scene0": "1 0.15 0.4 0.1 0.1", "Scene1": ""}, r"no labels of scene1.png.*There is Scene1.txt"),
        ({"scene0": "7 0.15 0.4 0.1 0.1"}, "scene0.txt:1: class is '7', expected a whole number from 0 to 1"),
        ({"Scene0": "1 0.15 0.4 0.1 0.1"}, r"no labels of any of the 2 pictures, expected scene0.txt.*Scene0.txt"),
    ],
)
def test_what_is_wrong_in_text_files_is_told(tmp_path, files, lines, text):
    folder = texts(tmp_path / "truth", **lines)
    with pytest.raises(DataError, match=text):
        open_labels(folder, files).truths(TABLE, ["car", "ship"], upright=True)


def test_what_is_no_labels_is_told(tmp_path, files):
    with pytest.raises(DataError, match="no such file or folder"):
        open_labels(tmp_path / "nothing", files)
    with pytest.raises(DataError, match="'voc': unknown"):
        open_labels(tmp_path, files, format_name="voc")
    with pytest.raises(DataError, match="labels of format coco are a JSON file"):
        open_labels(tmp_path, files, format_name="coco")
    (tmp_path / "labels.json").write_text("{}")
    with pytest.raises(DataError, match=r"a folder with labels.json. Name the file itself"):
        open_labels(tmp_path, files)
    with pytest.raises(DataError, match="no list images, categories, annotations"):
        _ = open_labels(tmp_path / "labels.json", files).names


def test_turned_boxes_become_the_rectangles_around_them_for_upright_detectors(tmp_path, files):
    folder = texts(tmp_path / "truth", scene0="30 20 50 40 30 60 10 40 ship 0", scene1="")
    labels = open_labels(folder, files)
    (turned, _), (upright, _) = (labels.truths(TABLE, [], upright=kind) for kind in (False, True))
    np.testing.assert_allclose(turned.boxes[0, :4], [30, 40, 28.284, 28.284], atol=1e-2)
    np.testing.assert_allclose(upright.boxes, [[30, 40, 40, 40, 0]], atol=1e-4)


def test_names_that_differ_by_case_blanks_or_hyphens_are_one():
    table, ignored = label_table(["Small-Vehicle", "truck", "tree"], ["small vehicle", "car"], {"truck": "car"})
    assert table == {"small-vehicle": 0, "car": 1, "truck": 1, "Small-Vehicle": 0, "tree": IGNORED}
    assert ignored == ("tree",)
