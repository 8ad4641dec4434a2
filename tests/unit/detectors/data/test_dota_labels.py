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


@pytest.mark.parametrize(
    ("line", "near"),
    [
        (
            GOOD.replace("ship", "SHIP"),
            "unknown class 'SHIP', expected one of ship, plane, boat, dontcare. Did you mean 'sh",
        ),
        (GOOD.replace("ship", "Dont-Care"), "Did you mean 'dontcare'?"),
        (GOOD.replace("ship", "dont care"), "The class 'dont care' has a blank; write 'dontcare'."),
        (GOOD.replace("ship", "small vehicle"), "The class 'small vehicle' has a blank; write 'small-vehicle'."),
        ("0 0.5 0.5 0.1 0.1", "5 columns, expected 10"),
        ("0 0.5 0.5 0.1 0.1", "looks like a line of YOLO (class and shares of the picture): set data.format: yolo"),
        ("3 0.1 0.1 0.2 0.1 0.2 0.2 0.1 0.2", "looks like a line of YOLO"),
        ("3 0.1 0.1 0.2 0.1 0.2 0.2 0.1 0.2 0.9", "class is '0.2', expected a name. It looks like a line of YOLO"),
        ("3 320 240 50 60", "It looks like a class and an upright or turned box; four corners and the class's name"),
        (GOOD.replace(" ", ";"), "It has semicolons; write blanks."),
        ("<annotation></annotation>", "It looks like XML or JSON"),
        (GOOD.replace("10", "1_0", 1), "x1 is '1_0', expected a number in pixels"),
        (GOOD.replace(" ", ","), "It has commas; write blanks."),
        (
            GOOD.replace("10", "10,5", 1),
            "x1 is '10,5', expected a number in pixels. It has a comma for the",
        ),
        (GOOD.replace(" ", ", "), "It has commas; write blanks."),
        (f"{GOOD} 0.98", "The last one looks like a score"),
        ("10 10 30 10 30 20 10 20 ship", "difficult (0 or 1), seems to be missing"),
        ("10 10 30 10 30 20 10 20", "The class and difficult (0 or 1) seem to be missing."),
        ("1e308 10 30 10 30 20 10 20 ship 0", "x1 is 1e308, expected a number of pixels, 1e+09 at most"),
        ("-1e308 10 1e308 10 30 20 10 20 ship 0", "x1 is -1e308, expected a number of pixels"),
    ],
)
def test_a_line_that_nearly_fits_is_told_with_the_near_miss(make, line, near):
    with pytest.raises(DataError) as error:
        DotaDataset(make([line]), CLASSES).counts("train")
    assert "im0.txt:1: " in str(error.value)
    assert near in str(error.value)


def test_suffixes_in_capitals_and_webp_are_read_and_what_macos_leaves_is_not(make, tmp_path):
    data = make([GOOD, GOOD, GOOD])
    folder = tmp_path / "data" / "train"
    (folder / "images" / "im0.jpg").rename(folder / "images" / "im0.JPG")
    (folder / "labelTxt" / "im0.txt").rename(folder / "labelTxt" / "im0.TXT")
    image = cv2.imread(str(folder / "images" / "im1.png"))
    (folder / "images" / "im1.png").unlink()
    cv2.imwrite(str(folder / "images" / "im1.webp"), image)
    (folder / "images" / "im2.jpg").unlink()
    (folder / "images" / "im2.TIF").write_bytes(cv2.imencode(".tif", image)[1].tobytes())
    (folder / "images" / "._im0.jpg").write_bytes(b"\0\5\x16\7")
    (folder / "labelTxt" / "._im0.txt").write_bytes(b"\0\5\x16\7\xb0")
    dataset = DotaDataset(data, CLASSES)
    assert dataset.counts("train", check="full")["boxes"] == 3
    assert dataset.class_names(data) == ("ship",)
    before = dataset.digest("train")
    (folder / "labelTxt" / "im0.TXT").write_text("")
    assert dataset.digest("train") != before
    (folder / "labelTxt" / "im0.txt").write_text("")
    with pytest.raises(DataError, match=r"im0\.txt: same name as im0\.TXT, expected one label file a name"):
        dataset.samples("train")


def test_files_that_cannot_be_read_and_names_that_nearly_fit_are_told(make, tmp_path):
    data = make([GOOD] * 5)
    images, labels = (tmp_path / "data" / "train" / part for part in ("images", "labelTxt"))
    (images / "im0.jpg").unlink()
    (images / "im0.jpg").symlink_to("/nowhere/im0.jpg")
    (labels / "im1.txt").unlink()
    (labels / "im1.txt").symlink_to("/nowhere/im1.txt")
    (labels / "im2.txt").rename(labels / "im2.jpg.txt")
    (labels / "im3.txt").rename(labels / "IM3.txt")
    (labels / "im4.txt").rename(labels / "im4.xml")
    (images / "folder.png").mkdir()
    with pytest.raises(DataError) as error:
        DotaDataset(data, CLASSES).counts("train")
    for text in (
        "im0.jpg: a link to /nowhere/im0.jpg, where nothing is",
        "im1.txt: a link to /nowhere/im1.txt, where nothing is",
        "im2.txt: missing, expected the labels of im2.jpg (may be empty). There is im2.jpg.txt.",
        "IM3.txt: no image of that name, expected one in",
        "There is im3.png.",
        "im3.txt: missing, expected the labels of im3.png (may be empty). There is IM3.txt.",
        "im4.txt: missing, expected the labels of im4.jpg (may be empty). There is im4.xml.",
        "folder.txt: missing",
    ):
        assert text in str(error.value)
    with pytest.raises(DataError, match=r"im0\.jpg: a link to /nowhere/im0\.jpg, where nothing is, expected a file"):
        DotaDataset(data, CLASSES).digest("train")


def test_names_whose_accents_are_stored_in_another_way_are_told(make, tmp_path):
    data = make([GOOD] * 2)
    images, labels = (tmp_path / "data" / "train" / part for part in ("images", "labelTxt"))
    (images / "im0.jpg").rename(images / "h\u00e9.jpg")
    (labels / "im0.txt").rename(labels / "he\u0301.txt")
    with pytest.raises(DataError) as error:
        DotaDataset(data, CLASSES).counts("train")
    assert str(error.value).count("Its accents are stored in another way (Unicode NFC and NFD); rename one.") == 2


def test_a_first_recipe_of_a_folder_with_a_broken_image_is_refused_in_words(make, tmp_path):
    data = make([GOOD])
    (tmp_path / "data" / "train" / "images" / "im0.jpg").write_bytes(b"\xff\xd8nothing")
    with pytest.raises(DataError, match=r"im0\.jpg: damaged JPEG"):
        DotaDataset.describe(tmp_path / "data")
    assert data.root == str(tmp_path / "data")


def test_a_folder_of_nearly_the_right_name_is_told(make, tmp_path):
    data = make([GOOD])
    (tmp_path / "data" / "train" / "labelTxt").rename(tmp_path / "data" / "train" / "labels")
    with pytest.raises(DataError, match=r"labelTxt: no such folder, .* There is labels: rename it\."):
        DotaDataset(data, CLASSES).samples("train")


def test_images_one_folder_too_deep_are_told(make, tmp_path):
    data = make([GOOD])
    images = tmp_path / "data" / "train" / "images"
    (images / "part1").mkdir()
    (images / "im0.jpg").rename(images / "part1" / "im0.jpg")
    with pytest.raises(DataError, match=r"no image, expected .*part1/im0\.jpg lies one folder too deep"):
        DotaDataset(data, CLASSES).samples("train")


def test_a_value_range_reaches_training_and_scoring_and_flat_pictures_are_counted(make, tmp_path):
    data = make([GOOD, GOOD])
    images = tmp_path / "data" / "train" / "images"
    deep = np.linspace(7200, 7600, 48 * 64).reshape(48, 64).astype(np.uint16)
    for path in list(images.iterdir()):
        path.unlink()
        cv2.imwrite(str(path.with_suffix(".png")), deep)
    clear_warnings()
    DotaDataset(data, CLASSES).check("train")
    (text,) = collected_warnings()
    assert "2 of 2 pictures are nearly flat, e.g." in text
    assert "Set data.value_range" in text
    ranged = DotaData.model_validate(data.model_dump() | {"value_range": [7200, 7600]})
    dataset = DotaDataset(ranged, CLASSES)
    clear_warnings()
    dataset.check("train")
    assert collected_warnings() == []
    _, image, _ = next(iter(dataset.images("train")))
    assert (image.min(), image.max()) == (0, 255)
    (batch,) = dataset.loader("train", FORMAT, batch_size=2, augment=False, seed=0)
    assert (batch.images.min(), batch.images.max()) == (0, 255)
    for wrong in ([5, 5], [9, 1], [0, float("nan")], [0]):
        with pytest.raises(ValidationError):
            DotaData.model_validate(data.model_dump() | {"value_range": wrong})


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


@pytest.mark.parametrize(
    "sizes",
    [{"image_size": (10**9, 10**9)}, {"image_size": (64, 64), "crop_size": 10**6}, {"image_size": (65536, 1024)}],
)
def test_a_size_that_no_model_file_may_have_is_refused_in_the_recipe(sizes):
    with pytest.raises(ValidationError, match="px are more than the 33,554,432 that a network looks at at once"):
        DotaData(root="x", **sizes)
