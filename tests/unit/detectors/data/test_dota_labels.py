"""Every way in which a data folder can be wrong gets its own sentence, all at once."""

import cv2
import numpy as np
import pytest
from pydantic import ValidationError

from compress.dataset import InputFormat
from compress.errors import DataError
from compress.progress import clear_warnings, collected_warnings
from detectors.data.formats.dota import DotaData, DotaDataset
from detectors.data.image_header import image_size
from detectors.data.loader import build_loader
from detectors.data.samples import class_table

CLASSES = ("ship", "plane")
FORMAT = InputFormat((0, 0, 0), (1, 1, 1), 1)
GOOD = "10 10 30 10 30 20 10 20 ship 0"


@pytest.fixture
def make(tmp_path):
    """Return a function that writes a split of 64 x 48 images with the given label texts."""

    def write(texts, root="data"):
        folder = tmp_path / root / "train"
        (folder / "images").mkdir(parents=True)
        (folder / "labelTxt").mkdir()
        image = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
        for index, text in enumerate(texts):
            cv2.imwrite(str(folder / "images" / f"im{index}.{'png' if index % 2 else 'jpg'}"), image)
            (folder / "labelTxt" / f"im{index}.txt").write_text(text)
        return DotaData(root=str(tmp_path / root), image_size=(48, 64), ignore=("dontcare",), merge={"boat": "ship"})

    return write


def test_a_good_split_is_counted_and_header_lines_and_empty_files_are_allowed(make):
    data = make([f"imagesource:GoogleEarth\ngsd:0.2\n{GOOD}\n{GOOD.replace('ship 0', 'boat 1')}\n", "", f"{GOOD}\n"])
    assert DotaDataset(data, CLASSES).counts("train", check="full") == {
        "images": 3,
        "boxes": 2,
        "ignored_boxes": 1,
        "ship": 2,
        "plane": 0,
    }


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("10 10 30 10 30 20 10 20 ship", "9 columns, expected 10"),
        ("10 10 30 10 30 20 10 20 ship 0 7", "11 columns, expected 10"),
        ("10 10 30 x 30 20 10 20 ship 0", "y2 is 'x', expected a number"),
        ("10 10 30 10 30 nan 10 20 ship 0", "y3 is nan, expected a finite number"),
        ("10 10 inf 10 30 20 10 20 ship 0", "x2 is inf, expected a finite number"),
        (
            "10 10 30 10 30 20 10 20 shp 0",
            "unknown class 'shp', expected one of ship, plane, boat, dontcare. Did you mean 'ship'?",
        ),
        ("10 10 30 10 30 20 10 20 ship yes", "difficult is 'yes', expected 0, 1 or 2"),
    ],
)
def test_a_wrong_line_is_named_with_file_line_and_expectation(make, line, expected):
    data = make([f"gsd:0.2\n{GOOD}\n{line}\n"])
    with pytest.raises(DataError) as error:
        DotaDataset(data, CLASSES).counts("train")
    assert "im0.txt:3: " in str(error.value)
    assert expected in str(error.value)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("10 10 30 10 30 10 10 10 ship 0", "degenerate box: its area is 0 px^2"),
        ("1e8 1e8 1.00000001e8 1e8 1.00000001e8 1.00000001e8 1e8 1.00000001e8 ship 0", "degenerate box"),
        ("70 10 90 10 90 20 70 20 ship 0", "lies outside the image of 64 x 48 px"),
        ("-30 10 -5 10 -5 20 -30 20 ship 0", "lies outside the image of 64 x 48 px"),
    ],
)
def test_an_empty_box_is_dropped_counted_and_told_everywhere(make, line, why):
    data = DotaDataset(make([f"{GOOD}\n{line}\n{line}\n"]), CLASSES)
    clear_warnings()
    assert data.counts("train")["boxes"] == 1
    (text,) = collected_warnings()
    assert text.startswith("data split 'train': 2 boxes were dropped, e.g. ")
    assert "im0.txt:2: " in text
    assert why in text
    ((_, _, truth),) = data.images("train")
    assert len(truth.boxes) == 1
    (item,) = [build_loader(data.samples("train"), data.config, FORMAT, batch_size=1, augment=False, seed=0).dataset[0]]
    assert len(item.boxes) == 1


def test_a_box_partly_outside_the_image_is_allowed(make):
    data = make(["-5 10 30 10 30 20 -5 20 ship 0"])
    assert DotaDataset(data, CLASSES).counts("train")["boxes"] == 1


def test_all_problems_are_listed_at_once_up_to_twenty_and_counted(make):
    data = make(["bad line\n" * 15, "worse line\n" * 15])
    with pytest.raises(DataError, match="30 problems") as error:
        DotaDataset(data, CLASSES).samples("train")
    assert str(error.value).count("2 columns, expected 10") == 20
    assert "... and 10 more" in str(error.value)


def test_missing_labels_missing_images_and_twins_are_problems(make, tmp_path):
    data = make([GOOD, GOOD, GOOD])
    folder = tmp_path / "data" / "train"
    (folder / "labelTxt" / "im0.txt").unlink()
    (folder / "images" / "im1.png").unlink()
    (folder / "images" / "im2.bmp").write_bytes(b"")
    with pytest.raises(DataError) as error:
        DotaDataset(data, CLASSES).counts("train")
    assert "im0.txt: missing, expected the labels of im0.jpg" in str(error.value)
    assert "im1.txt: no image of that name" in str(error.value)
    assert "same name as im2.bmp" in str(error.value)


@pytest.mark.parametrize(
    ("name", "damage", "expected"),
    [
        ("im0.jpg", lambda content: b"", "the file is empty"),
        ("im0.jpg", lambda content: content[: len(content) // 2], "truncated JPEG"),
        ("im1.png", lambda content: content[: len(content) // 2], "truncated PNG"),
        ("im1.png", lambda content: b"hello" * 10, "cannot decode"),
    ],
)
def test_a_damaged_image_is_a_problem_without_decoding(make, tmp_path, name, damage, expected):
    data = make([GOOD, GOOD])
    path = tmp_path / "data" / "train" / "images" / name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=expected) as error:
        DotaDataset(data, CLASSES).counts("train")
    assert str(path) in str(error.value)


def test_reading_an_undecodable_image_is_a_data_error(make, tmp_path):
    data = make([GOOD])
    (tmp_path / "data" / "train" / "images" / "im0.jpg").write_bytes(b"\xff\xd8nothing")
    with pytest.raises(DataError, match=r"im0\.jpg"):
        list(DotaDataset(data, CLASSES).images("train"))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp"])
def test_the_header_gives_the_size_that_decoding_gives(suffix):
    content = cv2.imencode(suffix, np.zeros((37, 53, 3), np.uint8))[1].tobytes()
    assert image_size(content) == (37, 53)


def test_missing_root_split_and_folders_say_what_to_pass(make, tmp_path):
    with pytest.raises(DataError, match=r"--set data\.root="):
        DotaDataset(DotaData(image_size=(64, 64)), CLASSES).samples("train")
    with pytest.raises(DataError, match="no split 'tests', expected one of train, val, test"):
        DotaDataset(make([GOOD]), CLASSES).samples("tests")
    with pytest.raises(DataError, match="no such folder"):
        DotaDataset(DotaData(root=str(tmp_path / "nothing"), image_size=(64, 64)), CLASSES).samples("train")
    (tmp_path / "void" / "val" / "images").mkdir(parents=True)
    (tmp_path / "void" / "val" / "labelTxt").mkdir()
    with pytest.raises(DataError, match="no image, expected"):
        DotaDataset(DotaData(root=str(tmp_path / "void"), image_size=(64, 64)), CLASSES).samples("val")


def test_ignore_and_merge_must_fit_the_classes():
    with pytest.raises(DataError, match="expected one of ship, plane"):
        class_table(DotaData(image_size=(64, 64), merge={"boat": "shp"}), CLASSES)
    with pytest.raises(DataError, match="'ship' is a class of the detector"):
        class_table(DotaData(image_size=(64, 64), ignore=("ship",)), CLASSES)
    with pytest.raises(ValidationError, match="in ignore and in merge"):
        DotaData(image_size=(64, 64), ignore=("boat",), merge={"boat": "ship"})
    with pytest.raises(ValidationError, match="rot"):
        DotaData(image_size=(64, 64), rot="typo")


def test_merged_difficult_and_ignored_boxes_arrive_where_they_belong(make):
    text = "\n".join(GOOD.replace("ship 0", end) for end in ("boat 0", "plane 0", "ship 1", "dontcare 0"))
    (_, image, truth), *_ = DotaDataset(make([text]), CLASSES).images("train")
    assert image.shape == (48, 64, 3)
    assert truth.labels.tolist() == [0, 1]
    assert truth.ignored_boxes.shape == (2, 5)
    np.testing.assert_allclose(truth.boxes[0], [20, 15, 20, 10, 0], atol=1e-4)


def test_the_digest_follows_content_and_names_and_not_the_path(make, tmp_path):
    first, second = make([GOOD, ""], root="one"), make([GOOD, ""], root="two")
    assert DotaDataset(first, CLASSES).digest("train") == DotaDataset(second, CLASSES).digest("train")
    (tmp_path / "two" / "train" / "labelTxt" / "im1.txt").write_text(GOOD)
    changed = DotaDataset(second, CLASSES).digest("train")
    assert DotaDataset(first, CLASSES).digest("train") != changed
    for part, suffix in (("labelTxt", "txt"), ("images", "png")):
        path = tmp_path / "two" / "train" / part / f"im1.{suffix}"
        path.rename(path.with_stem("renamed"))
    assert DotaDataset(second, CLASSES).digest("train") != changed
