"""Data sets from one format to another and back: the same boxes, on real files and on small ones of each style."""

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from compress.cli.main import main
from compress.errors import DataError
from compress.progress import clear_warnings
from detectors.data.conversion import Choices, convert
from detectors.data.source import check_source, find_format, open_source
from detectors.data.writers import enclosing_quad, is_upright, plain_number

HERE = Path(__file__).parent
STYLES = HERE / "formats" / "styles"
HIT_UAV = Path(__file__).parents[4] / ".." / "shared" / "data" / "hit-uav"
ROTATED = ("dota", "coco", "yolo-obb")


def krimp(*arguments):
    return main(["data", *map(str, arguments)])


def content(root, **options):
    """Return split -> name -> sorted (class, corners, difficult) of a data set, '/' in names as DOTA writes it."""
    source = open_source(root, **options)
    result = {}
    for split in source.splits:
        samples, problems = source.read(split, "full")
        assert problems == []
        result[split] = {
            sample.name.replace("/", "-"): sorted(
                (source.classes[item.label], *np.round(item.quad, 4).tolist(), item.difficult)
                for item in sample.objects
            )
            for sample in samples
        }
    return result


def hardest_two(rows):
    return sorted((*row[:-1], min(row[-1], 2)) for row in rows)


def without_difficulty(found):
    return {s: {n: sorted((*row[:-1], 0) for row in rows) for n, rows in images.items()} for s, images in found.items()}


@pytest.fixture(scope="module")
def hit_uav(tmp_path_factory):
    """Return a folder with every 20th real image of each split and its labels."""
    if not HIT_UAV.is_dir():
        pytest.skip(f"{HIT_UAV.name} is not there")
    root = tmp_path_factory.mktemp("real") / "hit-uav"
    for split in ("train", "val", "test"):
        for part in ("images", "labelTxt"):
            (root / split / part).mkdir(parents=True)
        for path in sorted((HIT_UAV / split / "images").iterdir())[::20]:
            for file in (path, HIT_UAV / split / "labelTxt" / f"{path.stem}.txt"):
                (root / split / file.parent.name / file.name).symlink_to(file.resolve())
    return root


@pytest.fixture(scope="module")
def diorr(tmp_path_factory):
    """Return the folder that prepare-diorr makes of a release in DIOR-R's layout."""
    out = tmp_path_factory.mktemp("diorr") / "prepared"
    assert krimp("prepare-diorr", STYLES / "diorr", "--out", out, "--splits", "test", "--processes", "1") == 0
    return out


@pytest.fixture(params=["dota8", "diorr", "coco", "hit-uav"])
def any_set(request):
    made = {"hit-uav": "hit_uav", "diorr": "diorr"}
    return request.getfixturevalue(made[request.param]) if request.param in made else STYLES / request.param


@pytest.mark.parametrize("to", ROTATED)
def test_there_and_back_again_the_boxes_are_the_same(any_set, tmp_path, to):
    before = content(any_set)
    assert sum(len(rows) for images in before.values() for rows in images.values()) > 5
    convert(open_source(any_set), to, tmp_path / "there", choices=Choices(difficult="keep"))
    there = content(tmp_path / "there")
    back_to = {"dota": "dota", "coco": "coco", "yolo": "yolo-obb"}[open_source(any_set).format]
    convert(open_source(tmp_path / "there"), back_to, tmp_path / "back", choices=Choices(difficult="keep"))
    back = content(tmp_path / "back")
    lossless = to != "yolo-obb" and back_to != "yolo-obb"
    expected = before if lossless else without_difficulty(before)
    if lossless and "dota" in (to, back_to):  # DOTA's column ends at 2, where a crowd is 3
        expected = {split: {n: hardest_two(rows) for n, rows in images.items()} for split, images in before.items()}
    assert without_difficulty(there) == without_difficulty(before)
    assert back == expected


@pytest.mark.parametrize("to", ROTATED)
def test_classes_keep_their_order(any_set, tmp_path, to):
    classes = open_source(any_set).classes
    convert(open_source(any_set), to, tmp_path / "out", choices=Choices(difficult="keep"))
    found = open_source(tmp_path / "out").classes
    if to == "dota":  # its files declare no classes: those that occur, sorted
        assert found == tuple(sorted(found))
        assert set(found) <= set(classes)
    else:
        assert found == classes


def test_upright_boxes_survive_yolos_detect_format(tmp_path):
    source = STYLES / "coco"
    convert(open_source(source), "yolo-detect", tmp_path / "a", choices=Choices(enclose=True, difficult="keep"))
    found = content(tmp_path / "a")["val"]
    for name, rows in without_difficulty(content(source))["val"].items():
        expected = sorted((row[0], *np.round(enclosing_quad(row[1:9]), 4), 0) for row in rows)
        for one, other in zip(found[name], expected, strict=True):
            assert one[0] == other[0]
            np.testing.assert_allclose(one[1:], other[1:], atol=2e-4)


def test_what_a_format_cannot_hold_is_refused_until_something_is_chosen(diorr, tmp_path):
    source = open_source(diorr)
    with pytest.raises(DataError, match=r"1 objects are difficult or crowds .*--difficult keep .*--difficult drop"):
        convert(source, "yolo-obb", tmp_path / "a")
    with pytest.raises(DataError, match=r"boxes are not upright .*yolo-detect holds upright ones only.*--enclose"):
        convert(source, "yolo-detect", tmp_path / "a", choices=Choices(difficult="drop"))
    assert list(tmp_path.iterdir()) == []
    facts = convert(source, "yolo-obb", tmp_path / "a", choices=Choices(difficult="drop"))
    before, after = content(diorr), content(tmp_path / "a")
    assert facts["dropped"] == 1
    assert after == {s: {n: [r for r in rows if r[-1] == 0] for n, rows in i.items()} for s, i in before.items()}


def test_corners_outside_are_told_and_moved_to_the_border_on_request(tmp_path):
    source = open_source(STYLES / "dota8")
    facts = convert(source, "yolo-obb", tmp_path / "a")
    assert facts["outside"] == 1
    clipped = convert(source, "yolo-obb", tmp_path / "b", choices=Choices(clip=True))
    assert clipped["outside"] == 0
    for path in (tmp_path / "b" / "labels").rglob("*.txt"):
        shares = [float(column) for line in path.read_text().splitlines() for column in line.split()[1:]]
        assert all(0 <= share <= 1 for share in shares)


def test_a_box_so_far_outside_that_no_reader_takes_it_is_refused_for_yolo(tmp_path):
    root = tmp_path / "set"
    convert(open_source(STYLES / "dota8"), "dota", root, choices=Choices(copy=True))
    labels = root / "val" / "labelTxt" / "P1470__1024__2474___0.txt"
    labels.write_text("70 10 900 10 900 20 70 20 ship 0\n")
    with pytest.raises(DataError, match=r"P1470__1024__2474___0: a box reaches from .* to 11\.25 .*--clip"):
        convert(open_source(root), "yolo-obb", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    convert(open_source(root), "yolo-obb", tmp_path / "out", choices=Choices(clip=True))
    (row,) = content(tmp_path / "out")["val"]["P1470__1024__2474___0"]
    assert row[1:9] == (70, 10, 80, 10, 80, 20, 70, 20)


def test_a_wrong_data_set_is_refused_with_its_mistakes_and_nothing_is_written(tmp_path):
    root = tmp_path / "wrong"
    convert(open_source(STYLES / "dota8"), "dota", root)
    path = sorted((root / "val" / "labelTxt").iterdir())[0]
    path.write_text("1 2 3\n" + path.read_text() + "1 1 1 1 1 1 1 1 ship 0\n1 2\n")
    with pytest.raises(DataError) as error:
        convert(open_source(root), "coco", tmp_path / "out")
    assert "2 problems, expected none. Nothing was written" in str(error.value)
    assert f"{path.name}:1: 3 columns, expected 10" in str(error.value)
    assert "degenerate" not in str(error.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["wrong"]


def test_nothing_of_the_users_is_replaced(tmp_path):
    source = open_source(STYLES / "dota8")
    convert(source, "coco", tmp_path / "out")
    with pytest.raises(DataError, match=r"is there already. Choose another --out, or replace it with --force"):
        convert(source, "dota", tmp_path / "out")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match=r"notes\.txt is of no conversion"):
        convert(source, "dota", tmp_path / "out", force=True)
    (tmp_path / "out" / "notes.txt").unlink()
    convert(source, "dota", tmp_path / "out", force=True)
    assert find_format(tmp_path / "out") == "dota"
    assert not (tmp_path / "out" / "annotations").exists()
    with pytest.raises(DataError, match="holds the data set that is read"):
        convert(open_source(tmp_path / "out"), "coco", tmp_path, force=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.txt").write_text("mine")
    with pytest.raises(DataError, match="not empty, and no earlier conversion made it"):
        convert(source, "dota", tmp_path / "mine", force=True)


@pytest.mark.parametrize("copy", [False, True])
def test_images_are_linked_or_copied_byte_for_byte(tmp_path, copy):
    first = tmp_path / "first"
    convert(open_source(STYLES / "dota8"), "dota", first, choices=Choices(copy=True))
    convert(open_source(first), "coco", tmp_path / "second", choices=Choices(copy=copy))
    for path in (first / "val" / "images").iterdir():
        placed = tmp_path / "second" / "images" / "val" / path.name
        assert placed.read_bytes() == path.read_bytes()
        assert placed.samefile(path) is not copy


def test_a_run_that_breaks_off_leaves_nothing(tmp_path, monkeypatch):
    from detectors.data import conversion

    def fail(source, target):
        raise OSError(28, "No space left on device", str(target))

    monkeypatch.setattr(conversion, "link_or_copy", fail)
    with pytest.raises(OSError, match="No space left"):
        convert(open_source(STYLES / "dota8"), "coco", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_names_that_would_become_one_are_refused(tmp_path):
    root = tmp_path / "set"
    for name in ("a/b", "a-b"):
        (root / "images" / "val" / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / "images" / "val" / f"{name}.png"), np.zeros((8, 8, 3), np.uint8))
    (root / "labels" / "val").mkdir(parents=True)
    (root / "labels" / "val" / "a-b.txt").write_text("0 .5 .5 .1 .1\n")
    (root / "data.yaml").write_text("val: images/val\nnames: [ship]\n")
    with pytest.raises(DataError, match="would both become a-b"):
        convert(open_source(root), "dota", tmp_path / "out")


def test_the_format_is_seen_from_what_lies_there(diorr):
    for root, name in ((STYLES / "dota8", "yolo"), (STYLES / "coco", "coco"), (diorr, "dota")):
        assert find_format(root) == name
        facts, problems = check_source(open_source(root))
        assert (facts["format"], problems) == (name, [])


def test_what_is_no_data_set_is_an_error_that_says_what_was_looked_for(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        find_format(tmp_path / "gone")
    with pytest.raises(DataError, match=r"neither SPLIT/labelTxt \(dota\) nor data.yaml \(yolo\)"):
        find_format(tmp_path)
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_val2017.json").write_text("{}")
    with pytest.raises(DataError, match=r"no split found, looked for train \(annotations/train\.json\).*--split NAME"):
        open_source(tmp_path)


def test_the_command_check_counts_and_lists_every_problem(diorr, tmp_path, capsys):
    assert krimp("check", diorr, "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    counts = facts["splits"]["test"]
    assert (facts["format"], facts["problems"]) == ("dota", [])
    assert counts["objects"] + counts["ignored"] == sum(len(rows) for rows in content(diorr)["test"].values())
    assert sum(counts["per_class"].values()) == counts["objects"]
    convert(open_source(STYLES / "dota8"), "dota", tmp_path / "wrong")
    for path in (tmp_path / "wrong" / "val" / "labelTxt").iterdir():
        path.write_text("1 2\n" * 15)
    assert krimp("check", tmp_path / "wrong") == 3
    text = capsys.readouterr().err
    assert text.count(": 2 columns, expected 10") == 15 * len(list((tmp_path / "wrong" / "val" / "labelTxt").iterdir()))


EMPTY = {  # format -> the ways to write a box that holds nothing of a picture of 64 x 48 px
    "dota": ["10 10 30 10 30 10 10 10 ship 0", "5 5 5 5 5 5 5 5 ship 0", "70 10 90 10 90 20 70 20 ship 0"],
    "yolo": ["0 .5 .5 0 .1", "0 .5 .5 .1 0", "0 .1 .1 .2 .2 .3 .3 .4 .4", "0 .1 .1 .2 .2 .3 .3", "0 1.5 .5 .1 .1"],
    "coco": [
        {"bbox": [5, 5, 0, 9]}, {"bbox": [5, 5, 9, 0]}, {"bbox": [70, 5, 9, 9]},
        {"obb": [1, 1, 5, 5, 9, 9, 5, 5]}, {"bbox": [5, 5, 0, 9], "attributes": {"rotation": 30}},
        {"bbox": [5, 5, 9, 9], "segmentation": [[1, 1, 2, 2, 3, 3]]},
        {"bbox": [5, 5, 9, 9], "segmentation": {"size": [48, 64], "counts": [48 * 64]}},
    ],
}  # fmt: skip
GOOD = {
    "dota": "10 10 30 10 30 20 10 20 ship 0",
    "yolo": "0 .3 .3 .2 .2",
    "coco": {"bbox": [10, 10, 20, 10]},
}


def write_set(root, kind, objects):
    """Write a data set of one picture, 64 x 48 px, in split val."""
    folder = root / ("val/images" if kind == "dota" else "images/val")
    labels = root / {"dota": "val/labelTxt", "yolo": "labels/val", "coco": "annotations"}[kind]
    for path in (folder, labels):
        path.mkdir(parents=True)
    cv2.imwrite(str(folder / "a.png"), np.full((48, 64, 3), 99, np.uint8))
    if kind == "coco":
        rows = [{"id": i, "image_id": 1, "category_id": 1} | row for i, row in enumerate(objects)]
        document = {"images": [{"id": 1, "file_name": "a.png", "height": 48, "width": 64}], "annotations": rows}
        document["categories"] = [{"id": 1, "name": "ship"}]
        (labels / "val.json").write_text(json.dumps(document))
        return
    (labels / "a.txt").write_text("".join(f"{line}\n" for line in objects))
    if kind == "yolo":
        (root / "data.yaml").write_text("val: images/val\nnames: [ship]\n")


@pytest.mark.parametrize(("kind", "empty"), [(kind, row) for kind, rows in EMPTY.items() for row in rows])
def test_an_empty_box_is_dropped_counted_and_told_by_check_and_convert_in_every_format(tmp_path, capsys, kind, empty):
    write_set(tmp_path / "set", kind, [GOOD[kind], empty, GOOD[kind]])
    assert krimp("check", tmp_path / "set", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    (place,) = facts["splits"]["val"]["dropped"]
    assert ("annotations[1] (id 1): " if kind == "coco" else "a.txt:2: ") in place
    assert (facts["problems"], facts["splits"]["val"]["objects"]) == ([], 2)
    assert krimp("check", tmp_path / "set") == 0
    assert f"warning, a box that is dropped: {place}" in capsys.readouterr().out
    for to in ROTATED:
        clear_warnings()
        assert krimp("convert", tmp_path / "set", "--to", to, "--out", tmp_path / to) == 0
        printed = capsys.readouterr()
        assert "1 boxes without area or outside their image were dropped" in printed.out
        assert "data split 'val': 1 boxes were dropped, e.g. " in printed.err
        assert len(content(tmp_path / to)["val"]["a"]) == 2


def test_a_box_that_its_clipped_corners_leave_nothing_of_is_dropped_and_counted(tmp_path):
    # Its upright rectangle touches the picture by a hair, its corners moved to the border have no area.
    write_set(tmp_path / "set", "dota", [GOOD["dota"], "63.9999 10 90 10 90 10.002 63.9999 10.002 ship 0"])
    facts = convert(open_source(tmp_path / "set"), "yolo-obb", tmp_path / "out", choices=Choices(clip=True))
    assert (facts["empty"], facts["dropped"], facts["splits"]["val"]["objects"]) == (1, 0, 1)
    assert len(content(tmp_path / "out")["val"]["a"]) == 1


@pytest.mark.parametrize(
    ("kind", "shares"),
    [("dota", ["0.1 0.1 0.4 0.1 0.4 0.3 0.1 0.3 ship 0"] * 2), ("coco", [{"bbox": [0.1, 0.1, 0.3, 0.2]}] * 2)],
)
def test_boxes_in_shares_where_pixels_are_expected_are_refused_and_one_tiny_box_is_not(tmp_path, capsys, kind, shares):
    write_set(tmp_path / "set", kind, shares)
    assert krimp("check", tmp_path / "set") == 3
    assert "all others lie inside the first pixel, expected pixels. They look like shares" in capsys.readouterr().err
    write_set(tmp_path / "tiny", kind, [GOOD[kind], *shares])
    assert krimp("check", tmp_path / "tiny") == 0


def test_the_check_tells_folders_that_are_no_split_and_classes_that_differ_by_case(tmp_path, capsys):
    write_set(tmp_path / "set", "dota", [GOOD["dota"], GOOD["dota"].replace("ship", "Ship")])
    (tmp_path / "set" / "Training" / "labelTxt").mkdir(parents=True)
    assert krimp("check", tmp_path / "set") == 0
    text = capsys.readouterr().out
    assert "warning, classes that differ by little: Ship and ship" in text
    assert "warning, a folder that is not looked at: Training (--split Training)" in text


@pytest.mark.parametrize(
    ("files", "hint"),
    [
        (
            ["train/labels/a.txt"],
            "There is train/labels: DOTA's labels lie in train/labelTxt, YOLO's beside",
        ),
        (["train/LabelTxt-v1.0/a.txt"], "There is train/LabelTxt-v1.0: DOTA's"),
        (["labelTxt/a.txt", "images/a.png"], "looks like a split: name the folder above it"),
        (["train/instances.json"], "If train/instances.json is COCO's: --format coco --split NAME=PLACE"),
    ],
)
def test_a_folder_that_is_nearly_a_data_set_is_told_what_is_missing(tmp_path, files, hint):
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("")
    with pytest.raises(DataError) as error:
        find_format(tmp_path)
    assert hint in str(error.value)


@pytest.mark.parametrize("part", ["images/a.png", "labelTxt/a.txt"])
def test_pipes_and_devices_among_the_files_are_refused_and_not_waited_for(tmp_path, capsys, part):
    for make in (os.mkfifo, lambda path: path.symlink_to("/dev/zero")):
        root = tmp_path / f"set{len(list(tmp_path.iterdir()))}"
        write_set(root, "dota", [GOOD["dota"]])
        path = root / "val" / part
        path.unlink()
        make(path)
        assert krimp("check", root) == 3
        assert f"{path}: a device or pipe, not a file" in capsys.readouterr().err


def test_the_check_tells_pictures_without_contrast(tmp_path, capsys):
    write_set(tmp_path / "set", "dota", [GOOD["dota"]])
    deep = np.full((48, 64), 30000, np.uint16)
    deep[0, 0] = 30100
    cv2.imwrite(str(tmp_path / "set/val/images/a.png"), deep)
    assert krimp("check", tmp_path / "set") == 0
    assert "warning, a picture without contrast: " in capsys.readouterr().out


def test_the_command_check_takes_splits_by_place(tmp_path, capsys):
    convert(open_source(STYLES / "coco"), "coco", tmp_path / "set")
    (tmp_path / "set" / "annotations" / "val.json").rename(tmp_path / "set" / "annotations" / "instances_val2017.json")
    (tmp_path / "set" / "images" / "val").rename(tmp_path / "set" / "val2017")
    assert krimp("check", tmp_path / "set", "--split", "val=annotations/instances_val2017.json", "--json") == 0
    assert list(json.loads(capsys.readouterr().out)["splits"]) == ["val"]


def test_the_command_convert_tells_what_was_written(tmp_path, capsys):
    options = ["--to", "yolo-obb", "--out", tmp_path / "out"]
    assert krimp("convert", STYLES / "dota8", *options) == 0
    text = capsys.readouterr().out
    assert "val: 2 images" in text
    assert "1 boxes reach outside their image" in text
    assert krimp("convert", STYLES / "dota8", *options) == 3
    assert krimp("convert", STYLES / "dota8", *options, "--force", "--json") == 0
    assert json.loads(capsys.readouterr().out)["splits"]["val"]["images"] == 2
    assert krimp("convert", STYLES / "dota8", "--to", "voc", "--out", tmp_path / "other") == 2


@pytest.mark.parametrize(
    ("quad", "upright"),
    [
        ((0, 0, 4, 0, 4, 2, 0, 2), True),
        ((4, 2, 0, 2, 0, 0, 4, 0), True),  # from another corner
        ((0, 0, 0, 2, 4, 2, 4, 0), True),  # the other way round
        ((0, 0, 4, 0.1, 4, 2, 0, 2), False),
        ((2, 0, 4, 2, 2, 4, 0, 2), False),
        ((0, 0, 4, 0, 4, 0, 4, 2), False),  # a corner of the rectangle is missing
    ],
)
def test_upright_boxes_are_recognized(quad, upright):
    assert is_upright(quad) is upright


@pytest.mark.parametrize(
    ("value", "text"), [(12.5, "12.5"), (3.0, "3"), (-1e-9, "0"), (60.00000000001, "60"), (1234567.25, "1234567.25")]
)
def test_numbers_are_written_without_noise(value, text):
    assert plain_number(value) == text
