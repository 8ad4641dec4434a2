"""YOLO's text files: detect, OBB and segment lines against pixels worked out by hand; every mistake by its sentence."""

import cv2
import numpy as np
import pytest

from compress.errors import DataError
from compress.progress import clear_warnings, collected_warnings
from detectors.data.formats.yolo import YoloData, YoloDataset, label_path
from detectors.data.yolo_lines import format_detect, format_obb, parse_line

SIZE = (50, 200)  # height, width
CLASSES = ("plane", "ship", "storage-tank")
TABLE = {name: index for index, name in enumerate((*CLASSES, "a"))}
# As Ultralytics' dota8.yaml has it, shortened.
YAML = """\
# DOTA8 dataset
path: dota8 # dataset root dir
train: images/train # train images (relative to 'path') 4 images
val: images/val

names:
  0: plane
  1: ship
  2: storage tank
"""


@pytest.fixture
def make(tmp_path):
    """Return a function that writes a data set of two images a split, the first with the given labels."""
    root = tmp_path / "dota8"

    def write(labels="1 0.1 0.2 0.3 0.2 0.3 0.4 0.1 0.4\n", yaml=YAML, images="images/{}", texts="labels/{}"):
        for split in ("train", "val"):
            folder = root / images.format(split)
            folder.mkdir(parents=True)
            for name in ("P0861__1024__0___1648", "P1053__1024__0___90"):
                cv2.imwrite(str(folder / f"{name}.jpg"), np.zeros((*SIZE, 3), np.uint8))
            (root / texts.format(split)).mkdir(parents=True, exist_ok=True)
            (root / texts.format(split) / "P0861__1024__0___1648.txt").write_text(labels)
        (root / "data.yaml").write_text(yaml)
        return YoloDataset(YoloData(root=str(root), image_size=SIZE), CLASSES)

    return write


def test_dota8s_layout_is_read_and_an_image_without_labels_holds_nothing(make):
    data = make()
    images, problems = data.read("val", TABLE)
    assert problems == []
    assert [(image.name, len(image.objects)) for image in images] == [
        ("P0861__1024__0___1648", 1),
        ("P1053__1024__0___90", 0),
    ]
    ship = images[0].objects[0]
    assert (ship.label, ship.difficult, ship.ignored) == (1, 0, False)
    assert ship.quad == pytest.approx((20, 10, 60, 10, 60, 20, 20, 20))
    assert YoloDataset.class_names(data.config) == CLASSES


@pytest.mark.parametrize(
    ("line", "corners"),
    [
        ("0 0.5 0.5 0.1 0.2", (90, 20, 110, 20, 110, 30, 90, 30)),
        ("0 0.1 0.2 0.3 0.2 0.3 0.4 0.1 0.4", (20, 10, 60, 10, 60, 20, 20, 20)),
        ("2 1 1 1.05 1 1.05 1.2 1 1.2", (200, 50, 210, 50, 210, 60, 200, 60)),
    ],
)
def test_lines_are_shares_of_the_size_from_the_upper_left_corner(line, corners):
    quad, label = parse_line(line, 3, SIZE)
    assert quad == pytest.approx(corners, abs=1e-9)
    assert label == int(line[0])


def test_a_polygon_gives_the_smallest_rectangle_in_pixels_not_in_shares():
    # In pixels a square on its corner with one more point; in shares it would be a rhombus.
    points = [(100, 10), (110, 20), (105, 25), (100, 30), (90, 20)]
    line = "0 " + " ".join(f"{x / 200!r} {y / 50!r}" for x, y in points)
    quad = np.reshape(parse_line(line, 1, SIZE)[0], (4, 2))
    expected = np.array([(100, 10), (110, 20), (100, 30), (90, 20)])
    assert max(np.abs(quad - corner).sum(axis=1).min() for corner in expected) < 1e-9


def test_written_lines_are_read_back_to_a_millionth_of_a_pixel():
    rng = np.random.default_rng(0)
    for _ in range(50):
        size = tuple(rng.integers(1, 30_000, 2).tolist())
        quad = rng.uniform(-0.2, 1.2, 8) * np.tile(size[::-1], 4)
        found, label = parse_line(format_obb(3, quad.tolist(), size), 5, size)
        assert label == 3
        assert np.abs(np.array(found) - quad).max() < 1e-6
        box = np.reshape(parse_line(format_detect(3, quad.tolist(), size), 5, size)[0], (4, 2))
        assert box.min(axis=0) == pytest.approx(quad.reshape(4, 2).min(axis=0), abs=1e-6)
        assert box.max(axis=0) == pytest.approx(quad.reshape(4, 2).max(axis=0), abs=1e-6)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("0 0.1 0.1 0.2", "4 columns, expected 5 (class cx cy w h), 9"),
        ("0 0.1 0.1 0.2 0.2 0.9", "6 columns, expected 5"),
        ("0 1 1 1 1 1 1 1", "8 columns, expected 5"),
        ("3 0.1 0.1 0.2 0.2", "class is '3', expected a whole number from 0 to 2"),
        ("-1 0.1 0.1 0.2 0.2", "class is '-1', expected a whole number from 0 to 2"),
        ("1.5 0.1 0.1 0.2 0.2", "class is '1.5', expected a whole number"),
        ("ship 0.1 0.1 0.2 0.2", "class is 'ship', expected a whole number"),
        ("nan 0.1 0.1 0.2 0.2", "class is 'nan', expected a whole number"),
        ("0 0.1 x 0.2 0.2", "column 3 is 'x', expected a number from 0 to 1"),
        ("0 0.1 0.1 nan 0.2", "column 4 is nan, expected a share of the picture's size, 0 to 1"),
        ("0 120 34 20 10", "column 2 is 120, expected a share of the picture's size, 0 to 1; is it in pixels?"),
        ("0 0.1 0.1 0 0.2", "width 0 and height 0.2, expected both above 0"),
    ],
)
def test_a_wrong_line_is_named_by_file_and_number_with_what_was_expected(make, line, expected):
    images, problems = make(f"\n1 0.1 0.1 0.2 0.2\n{line}\n").read("train", TABLE)
    assert len(problems) == 1
    assert "labels/train/P0861__1024__0___1648.txt:3: " in problems[0]
    assert expected in problems[0]
    assert len(images[0].objects) == 1


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        ("names: [plane, ship, tank]\n", ("plane", "ship", "tank")),
        ("nc: 2\nnames: ['small vehicle', ship]\n", ("small-vehicle", "ship")),
        ("names: {1: b, 0: a}\n", ("a", "b")),
        ("names: {'0': a, '1': b}\n", ("a", "b")),
    ],
)
def test_names_may_be_a_list_or_numbered(make, names, classes):
    data = make("", YAML[: YAML.index("names:")] + names)
    assert YoloDataset.class_names(data.config) == classes


@pytest.mark.parametrize(
    ("yaml", "expected"),
    [
        ("path: .\ntrain: images/train\n", "names is None, expected a list of class names"),
        ("names: {0: a, 2: b}\ntrain: images/train\n", r"names has the keys \[0, 2\], expected 0 to 1, each once"),
        ("names: {a: 0}\ntrain: images/train\n", r"names has the keys \['a'\], expected 0, 1, 2"),
        ("names: [a, a]\ntrain: images/train\n", "names has a 2 times, expected each once"),
        ("nc: 3\nnames: [a]\ntrain: images/train\n", "nc is 3, expected 1, the number of names"),
        ("names: [a]\ntrain: pictures\n", "train: .*pictures: no such folder or file"),
        ("names: [a]\n", "train is None, expected a folder of images"),
        ("names: [a]\ntrain: 7\n", "train is 7, expected a folder of images"),
        ("names: [a]\npath: elsewhere\ntrain: x\n", "path is elsewhere, and there is no folder"),
        ("names: [a\n", r"data\.yaml:\d: .*expected YAML"),
        ("- a\n", "a list, expected keys path, train, val, test and names"),
    ],
)
def test_a_wrong_yaml_file_is_an_error_that_says_what_was_expected(make, yaml, expected):
    with pytest.raises(DataError, match=expected):
        make("", yaml).read("train", TABLE)


@pytest.mark.parametrize("path", ["/home/somebody/datasets/dota8", "elsewhere", "."])
def test_a_path_of_another_machine_is_passed_over_for_the_folder_of_the_file(make, path):
    images, problems = make(yaml=YAML.replace("path: dota8", f"path: {path}")).read("train", TABLE)
    assert (problems, [len(image.objects) for image in images]) == ([], [1, 0])


def test_roboflows_layout_is_read(make):
    yaml = "train: ../train/images\nval: ../val/images\nnc: 1\nnames: [a]\n"
    images, problems = make("0 .5 .5 .1 .1\n", yaml, "{}/images", "{}/labels").read("train", TABLE)
    assert (problems, [len(image.objects) for image in images]) == ([], [1, 0])


def test_a_split_may_be_lists_of_images_and_of_folders(make, tmp_path):
    data = make(yaml=YAML.replace("images/train #", "[part.txt, images/val] #"))
    (tmp_path / "dota8" / "part.txt").write_text(
        "./images/train/P0861__1024__0___1648.jpg\n\nimages/train/P1053__1024__0___90.jpg\n"
    )
    images, problems = data.read("train", TABLE)
    assert problems == []
    assert [image.name for image in images] == [
        "train/P0861__1024__0___1648",
        "train/P1053__1024__0___90",
        "val/P0861__1024__0___1648",
        "val/P1053__1024__0___90",
    ]
    (tmp_path / "dota8" / "part.txt").write_text("images/train/gone.jpg\n")
    assert "part.txt:1: no image" in data.read("train", TABLE)[1][0]


def test_labels_that_are_all_missing_are_a_problem_because_the_layout_must_be_wrong(make):
    problems = make(texts="annotations/{}").read("val", TABLE)[1]
    assert len(problems) == 1
    assert (
        "labels/val/P0861__1024__0___1648.txt: missing, and so are the labels of all 2 images of split 'val'"
        in problems[0]
    )


@pytest.mark.parametrize(
    ("image", "label", "more"),
    [("P2.jpg", "p2.txt", ""), ("h\u00e9.jpg", "he\u0301.txt", " Its accents are stored in another way (Unicode NFC")],
)
def test_labels_of_nearly_an_images_name_are_not_taken_for_none(make, tmp_path, image, label, more):
    data = make()
    images, labels = (tmp_path / "dota8" / part / "train" for part in ("images", "labels"))
    (images / "P1053__1024__0___90.jpg").rename(images / image)
    assert data.read("train", TABLE)[1] == []
    (labels / label).write_text("1 0.1 0.2 0.3 0.2 0.3 0.4 0.1 0.4\n")
    _, (problem,) = data.read("train", TABLE)
    assert f"missing, expected the labels of {image}. There is {label}.{more}" in problem


def test_labels_of_nearly_an_images_name_that_another_image_has_are_its_own(make, tmp_path):
    data = make()
    images, labels = (tmp_path / "dota8" / part / "train" for part in ("images", "labels"))
    (images / "P1053__1024__0___90.jpg").rename(images / "p0861__1024__0___1648.jpg")
    assert (labels / "P0861__1024__0___1648.txt").exists()
    assert data.read("train", TABLE)[1] == []


@pytest.mark.parametrize("check", [None, "header", "full"])
def test_images_are_looked_at_on_request(make, tmp_path, check):
    data = make("0 1.5 .5 .1 .1\n")
    folder = tmp_path / "dota8/images/val"
    second = folder / "P1053__1024__0___90.jpg"
    second.write_bytes(second.read_bytes()[:-40])
    problems = data.read("val", TABLE, check=check)[1]
    if check is None:
        assert problems == []
    else:
        outside, broken = problems
        assert "0___1648.txt:1: the box (x 290 to 310, y 22.5 to 27.5) lies outside the image of 200 x 50 px" in outside
        assert "P1053__1024__0___90.jpg: truncated JPEG" in broken


def test_two_images_of_one_name_would_share_their_labels(make, tmp_path):
    data = make()
    cv2.imwrite(str(tmp_path / "dota8/images/val/P1053__1024__0___90.png"), np.zeros((9, 9, 3), np.uint8))
    assert "same name as P1053__1024__0___90.jpg, expected one image a name" in data.read("val", TABLE)[1][0]


def test_the_last_folder_images_becomes_labels(tmp_path):
    assert label_path(tmp_path / "images" / "a" / "images" / "images.png") == tmp_path / "images/a/labels/images.txt"
    assert label_path(tmp_path / "photos" / "b.c.jpg") == tmp_path / "photos/b.c.txt"


def test_the_files_of_a_split_are_the_yaml_its_images_and_their_labels(make):
    assert [name for name, _ in make().files("val")] == [
        "data.yaml",
        "images/val/P0861__1024__0___1648.jpg",
        "images/val/P1053__1024__0___90.jpg",
        "labels/val/P0861__1024__0___1648.txt",
    ]


def test_a_box_without_area_costs_itself_alone_and_broken_links_and_capitals_are_seen(make, tmp_path):
    data = make("0 .5 .5 0 .1\n0 .5 .5 .1 .1\n")
    clear_warnings()
    assert data.counts("val")["boxes"] >= 1
    (text,) = collected_warnings()
    assert "1 boxes were dropped, e.g." in text
    labels = tmp_path / "dota8/labels/val"
    for path in list(labels.glob("*.txt")):
        path.rename(path.with_suffix(".TXT"))
    before = data.counts("val")["boxes"]
    assert before >= 1
    (tmp_path / "dota8/images/val/gone.jpg").symlink_to("/nowhere/gone.jpg")
    assert any("gone.jpg: a link to /nowhere/gone.jpg" in problem for problem in data.read("val", TABLE)[1])


def test_a_line_of_dota_is_told_as_one(make):
    (problem,) = make("1 1 9 1 9 9 1 9 ship 0\n").read("val", TABLE)[1]
    assert "it looks like a line of DOTA's labels, set data.format: dota" in problem
