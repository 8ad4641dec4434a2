"""COCO's JSON: every way to write a box, against corners worked out by hand; every mistake by its own sentence."""

import copy
import json
import math

import cv2
import numpy as np
import pytest

from compress.errors import DataError
from detectors.data.coco_boxes import annotation_quad, bbox_quad
from detectors.data.formats.coco import CROWD, CocoData, CocoDataset
from detectors.data.labels import IGNORED

SIZE = (48, 64)  # height, width
CLASSES = ("car", "traffic-light")
TABLE = {name: index for index, name in enumerate(CLASSES)}
CAR = {"id": 7, "image_id": 2, "category_id": 3, "bbox": [10, 5, 20, 8], "area": 160, "iscrowd": 0}
# As COCO's own instances_val2017.json has them, shortened.
DOCUMENT = {
    "info": {"year": 2017},
    "licenses": [],
    "images": [
        {"id": 2, "file_name": "000000000002.jpg", "width": 64, "height": 48, "license": 1},
        {"id": 1, "file_name": "000000000001.jpg", "width": 64, "height": 48, "license": 1},
    ],
    "categories": [
        {"id": 3, "name": "car", "supercategory": "vehicle"},
        {"id": 10, "name": "traffic light", "supercategory": "outdoor"},
    ],
    "annotations": [CAR],
}


@pytest.fixture
def make(tmp_path):
    """Return a function that writes a document, and its images where COCO's own archive has them."""

    def write(change=lambda document: None, folder="val", name="annotations/instances_val.json"):
        document = copy.deepcopy(DOCUMENT)
        change(document)
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        for number in (1, 2):
            cv2.imwrite(str(tmp_path / folder / f"{number:012d}.jpg"), np.zeros((*SIZE, 3), np.uint8))
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(document))
        return data_set(tmp_path, splits={"val": name})

    return write


def data_set(root, **fields):
    root = None if root is None else str(root)
    return CocoDataset(CocoData(root=root, image_size=SIZE, **fields), CLASSES)


def annotate(**fields):
    """Return a change that gives the car other fields."""
    return lambda document: document["annotations"][0].update(fields)


def same_corners(found, expected):
    """Compare corners as a set: where the first one is does not count."""
    found, expected = np.reshape(found, (4, 2)), np.reshape(expected, (4, 2))
    return max(np.abs(expected - corner).sum(axis=1).min() for corner in found) < 1e-9


def test_images_come_sorted_by_name_with_their_objects(make):
    images, problems = make().read("val", TABLE)
    assert problems == []
    assert [(image.name, len(image.objects)) for image in images] == [("000000000001", 0), ("000000000002", 1)]
    car = images[1].objects[0]
    assert (car.label, car.difficult, car.ignored) == (0, 0, False)
    assert car.quad == (10, 5, 30, 5, 30, 13, 10, 13)  # x to x + w: nothing is added or taken away


def test_white_space_in_a_category_becomes_a_hyphen_as_in_recipes(make):
    data = make(annotate(category_id=10))
    assert data.read("val", TABLE)[0][1].objects[0].label == 1
    assert CocoDataset.class_names(data.config) == CLASSES


@pytest.mark.parametrize("folder", ["images/val", "val", "images", "annotations", "."])
def test_images_are_found_where_tools_put_them(make, folder):
    assert [image.image_path.is_file() for image in make(folder=folder).read("val", TABLE)[0]] == [True, True]


def test_file_names_may_hold_a_folder(make, tmp_path):
    def change(document):
        for row in document["images"]:
            row["file_name"] = "deep/" + row["file_name"]
        document["images"][0]["file_name"] = "other/000000000002.jpg"

    data = make(change, folder="images/deep")
    (tmp_path / "images" / "other").mkdir()
    (tmp_path / "images" / "deep" / "000000000002.jpg").rename(tmp_path / "images" / "other" / "000000000002.jpg")
    images, problems = data.read("val", TABLE)
    assert (problems, [image.name for image in images]) == ([], ["deep/000000000001", "other/000000000002"])


@pytest.mark.parametrize(
    "obb",
    [
        [10, 5, 40, 20, 35, 30, 5, 15],
        [[10, 5], [40, 20], [35, 30], [5, 15]],
        {"corners": [10, 5, 40, 20, 35, 30, 5, 15]},
        {"corners": [[10, 5], [40, 20], [35, 30], [5, 15]]},
    ],
)
def test_libreyolos_corners_are_taken_as_they_are(obb):
    assert annotation_quad(CAR | {"obb": obb}, SIZE) == (10, 5, 40, 20, 35, 30, 5, 15)


@pytest.mark.parametrize("obb", [[20, 12, 10, 4, math.pi / 2], {"xywhr": [20, 12, 4, 10, 0]}])
def test_libreyolos_five_numbers_are_turned_clockwise_in_radians(obb):
    assert same_corners(annotation_quad(CAR | {"obb": obb}, SIZE), [18, 7, 22, 7, 22, 17, 18, 17])


def test_cvats_rotation_turns_the_box_clockwise_in_degrees_around_its_centre():
    # width 20, height 8, centre (20, 9): by 90 degrees it stands upright; by 30 the upper right corner goes down.
    quad = annotation_quad(CAR | {"attributes": {"occluded": False, "rotation": 90.0}}, SIZE)
    assert same_corners(quad, [16, -1, 24, -1, 24, 19, 16, 19])
    cos, sin = math.cos(math.radians(30)), math.sin(math.radians(30))
    upper_right = np.reshape(annotation_quad(CAR | {"attributes": {"rotation": 30}}, SIZE), (4, 2))[1]
    assert upper_right == pytest.approx([20 + 10 * cos + 4 * sin, 9 + 10 * sin - 4 * cos])


def test_cvats_rotation_counts_more_than_the_upright_outline_that_it_writes_beside_it():
    outline = [[10, 5, 30, 5, 30, 13, 10, 13]]
    quad = annotation_quad(CAR | {"attributes": {"rotation": 90}, "segmentation": outline}, SIZE)
    assert same_corners(quad, [16, -1, 24, -1, 24, 19, 16, 19])
    assert same_corners(annotation_quad(CAR | {"attributes": {"rotation": 0.0}}, SIZE), bbox_quad(CAR))


def test_polygons_give_the_smallest_rectangle_around_all_of_them():
    parts = [[10, 10, 20, 10, 20, 12], [18, 20, 20, 20, 20, 18, 19, 18]]
    assert same_corners(annotation_quad(CAR | {"segmentation": parts}, SIZE), [10, 10, 20, 10, 20, 20, 10, 20])
    turned = [[10, 0, 20, 10, 15, 15, 10, 20, 0, 10]]  # a square on its corner with one more point on a side
    assert same_corners(annotation_quad(CAR | {"segmentation": turned}, SIZE), [10, 0, 20, 10, 10, 20, 0, 10])


def test_four_corners_of_a_polygon_stay_as_they_are():
    assert annotation_quad(CAR | {"segmentation": [[1, 2, 30, 4, 28, 20, 2, 19]]}, SIZE) == (1, 2, 30, 4, 28, 20, 2, 19)


@pytest.mark.parametrize("packed", [False, True])
def test_a_mask_covers_whole_pixels(packed):
    # Rows 2 and 3 of columns 5 to 8 of a picture of 48 rows.
    counts = [5 * 48 + 2, 2, 46, 2, 46, 2, 46, 2]
    counts.append(48 * 64 - sum(counts))
    text = "b72^100000^b2"  # pycocotools 2.0.11
    mask = {"size": [48, 64], "counts": text if packed else counts}
    assert same_corners(annotation_quad(CAR | {"segmentation": mask}, SIZE), [5, 2, 9, 2, 9, 4, 5, 4])


def test_boxes_bbox_leaves_outlines_and_rotation_aside(make, tmp_path):
    change = annotate(segmentation=[[0, 0, 5, 5, 2, 9]], attributes={"rotation": 45})
    make(change)
    data = data_set(tmp_path, splits={"val": "annotations/instances_val.json"}, boxes="bbox")
    assert data.read("val", TABLE)[0][1].objects[0].quad == (10, 5, 30, 5, 30, 13, 10, 13)


@pytest.mark.parametrize(
    ("fields", "difficult"),
    [
        ({"iscrowd": 1, "segmentation": {"size": [48, 64], "counts": [0, 48 * 64]}}, CROWD),
        ({"ignore": 1}, 1),
        ({"attributes": {"difficult": 2}}, 2),
        ({"attributes": {"difficult": True}}, 1),  # a check box of CVAT
        ({"attributes": {"difficult": False}, "ignore": 0}, 0),
    ],
)
def test_crowds_and_difficult_objects_are_marked(make, fields, difficult):
    item = make(annotate(**fields)).read("val", TABLE)[0][1].objects[0]
    assert (item.difficult, item.ignored) == (difficult, difficult > 0)


def test_classes_that_the_table_ignores_are_ignored_and_unknown_ones_are_problems(make):
    data = make(annotate(category_id=10))
    assert data.read("val", {"car": 0, "traffic-light": IGNORED})[0][1].objects[0].ignored
    (problem,) = data.read("val", {"car": 0, "traffic-lights": 1})[1]
    assert "annotations[0] (id 7): unknown class 'traffic-light'" in problem
    assert "Did you mean 'traffic-lights'?" in problem


@pytest.mark.parametrize("check", ["header", "full"])
def test_images_are_looked_at_on_request(make, tmp_path, check):
    data = make(
        lambda document: (document["images"][0].update(width=63), document["annotations"][0].update(bbox=[70, 5, 5, 5]))
    )
    assert data.read("val", TABLE)[1] == []
    size, outside = data.read("val", TABLE, check=check)[1]
    assert "image 000000000002.jpg: height x width is 48 x 63, expected 48 x 64 as the file has it" in size
    assert "annotations[0] (id 7): the box (x 70 to 75, y 5 to 10) lies outside the image of 64 x 48 px" in outside
    path = tmp_path / "val" / "000000000001.jpg"
    path.write_bytes(path.read_bytes()[:-40])
    assert "000000000001.jpg: truncated JPEG" in "".join(data.read("val", TABLE, check=check)[1])


def test_a_box_without_area_is_a_problem(make):
    (problem,) = make(annotate(obb=[1, 1, 5, 5, 9, 9, 5, 5])).read("val", TABLE)[1]
    assert "annotations[0] (id 7): degenerate box" in problem


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"bbox": [1, 2, 3]}, "bbox is [1, 2, 3], expected four finite numbers [x, y, width, height] in pixels"),
        ({"bbox": None}, "bbox is None, expected four finite numbers"),
        ({"bbox": [1, 2, "3", 4]}, "bbox is [1, 2, '3', 4], expected four finite numbers"),
        ({"bbox": [1, 2, math.nan, 4]}, "bbox is [1, 2, nan, 4], expected four finite numbers"),
        ({"bbox": [1, 2, 10**400, 4]}, "expected four finite numbers"),
        ({"bbox": [1, 2, True, 4]}, "bbox is [1, 2, True, 4], expected four finite numbers"),
        ({"bbox": [1, 2, 3, 4, 0.5]}, "write rotated boxes as obb, or as attributes.rotation"),
        ({"bbox": [1, 2, 0, 4]}, "bbox is [1, 2, 0, 4], expected a width and a height above 0"),
        ({"bbox": [1, 2, 3, -4]}, "expected a width and a height above 0"),
        ({"obb": [1, 2, 3]}, "obb is [1, 2, 3], expected 8 finite numbers x1, y1, ..., x4, y4 or 5: cx, cy, w, h"),
        ({"obb": {"points": []}}, "obb is None, expected 8 finite numbers"),
        ({"obb": [1, 2, -3, 4, 0]}, "obb is [1, 2, -3, 4, 0], expected a width and a height above 0"),
        ({"attributes": {"rotation": "30"}}, "attributes.rotation is '30', expected degrees, clockwise"),
        ({"segmentation": [[1, 2, 3, 4]]}, "segmentation[0] is [1, 2, 3, 4], expected an even number of finite"),
        ({"segmentation": [[1, 2, 3, 4, 5, 6, 7]]}, "expected an even number of finite numbers, 6 at least"),
        ({"segmentation": "polygon"}, "segmentation is 'polygon', expected polygons"),
        (
            {"segmentation": {"size": [48, 64], "counts": [3]}},
            "segmentation.counts add up to 3 pixels, expected 48 x 64",
        ),
        (
            {"segmentation": {"size": [2, 2], "counts": [1, 3]}},
            "segmentation.size is 2 x 2, expected the image's 48 x 64",
        ),
        ({"segmentation": {"size": [48, 64], "counts": [3072]}}, "a mask without any pixel"),
        ({"image_id": 9}, "image_id is 9, expected the id of one of the 2 images"),
        ({"image_id": [2]}, "image_id is [2], expected the id of one of the 2 images"),
        ({"category_id": "car"}, "category_id is 'car', expected the id of one of the 2 categories"),
        ({"iscrowd": 2}, "iscrowd is 2, expected 0 or 1"),
        ({"attributes": {"difficult": 5}}, "attributes.difficult is 5, expected 0, 1 or 2"),
    ],
)
def test_a_wrong_annotation_is_named_by_place_and_id_with_what_was_expected(make, fields, expected):
    images, problems = make(annotate(**fields)).read("val", TABLE)
    assert len(problems) == 1
    assert "instances_val.json: annotations[0] (id 7): " in problems[0]
    assert expected in problems[0]
    assert images[1].objects == ()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda d: d["images"].append({"file_name": "a.jpg"}), "images[2]: id is None, expected a number"),
        (lambda d: d["images"].append(dict(d["images"][0])), "images[2]: id 2 is there twice"),
        (lambda d: d["images"][0].update(file_name=3), "images[0]: file_name is 3, expected a text"),
        (lambda d: d["images"][0].update(file_name="../a.jpg"), "expected a path below the folder of the images"),
        (lambda d: d["images"][0].update(file_name="C:/a.jpg"), "expected a path below the folder of the images"),
        (lambda d: d["images"].append({"id": 5, "file_name": "gone.jpg"}), "image gone.jpg: not in "),
        (lambda d: d["images"].append(None), "images[2]: expected an object"),
        (lambda d: d["categories"].append({"id": 4, "name": ""}), "categories[2]: name is '', expected a text"),
        (lambda d: d["categories"].append({"id": 4, "name": "car"}), "categories 3 and 4: both called car"),
        (lambda d: d["annotations"].append("box"), "annotations[1]: expected an object"),
        (lambda d: d["annotations"].append(CAR), "annotations[1] (id 7): id 7 is there twice"),
        (lambda d: d.pop("categories"), "no list categories, expected images, categories, annotations"),
    ],
)
def test_a_wrong_list_is_named_by_place(make, change, expected):
    problems = make(change).read("val", TABLE)[1]
    assert any("instances_val.json: " in problem and expected in problem for problem in problems), problems


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", "instances_val.json:1:2: "),
        ("[]", "a list, expected an object with images, categories, annotations"),
        ("[" * 100_000, "nested too deeply"),
        ('{"images": [' + "9" * 5000 + "]}", "digits"),
    ],
)
def test_what_is_no_coco_document_is_a_problem_not_a_traceback(make, tmp_path, text, expected):
    data = make()
    (tmp_path / "annotations" / "instances_val.json").write_text(text)
    images, problems = data.read("val", TABLE)
    assert (images, len(problems)) == ([], 1)
    assert expected in problems[0]


def test_a_missing_file_or_folder_is_an_error_that_says_what_to_set(make, tmp_path):
    data = make()
    with pytest.raises(DataError, match="no split 'train', expected one of val"):
        data.read("train", TABLE)
    with pytest.raises(DataError, match=r"data\.root: not given"):
        data_set(None).read("val", TABLE)
    with pytest.raises(DataError, match="no such file, expected the annotations of split 'val'"):
        data_set(tmp_path, splits={"val": "other.json"}).read("val", TABLE)
    with pytest.raises(DataError, match="no such folder, expected the images of split 'val'"):
        data_set(tmp_path, splits=data.config.splits, image_folders={"val": "pictures"}).read("val", TABLE)
    for path in (tmp_path / "val").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"its first image 000000000002\.jpg is in none of .*data\.image_folders"):
        data.read("val", TABLE)


def test_the_files_of_a_split_are_its_json_and_its_images_by_names_below_the_root(make):
    assert [name for name, _ in make().files("val")] == [
        "annotations/instances_val.json",
        "val/000000000001.jpg",
        "val/000000000002.jpg",
    ]
