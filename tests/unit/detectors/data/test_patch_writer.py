"""Cutting a small DOTA in the official layout: the files, resuming after a kill, and what is said of bad input."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from dota_tree import OVERLAP, SIZE, reference_patches, write_tree

from compress.cli.main import main
from detectors.data import folder_builder
from detectors.data.patches import Patch

ROOT = Path(__file__).resolve().parents[4]
CUT = ("--size", str(SIZE), "--overlap", str(OVERLAP), "--processes", "1")


def prepare_dota(arguments):
    return main(["data", "prepare-dota", *arguments])


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    return write_tree(tmp_path_factory.mktemp("DOTA"))


@pytest.fixture(scope="module")
def prepared(release, tmp_path_factory):
    out = tmp_path_factory.mktemp("patches")
    assert prepare_dota([str(release), "--out", str(out), *CUT, "--processes", "2", "--trainval"]) == 0
    return out


def lines_of(path):
    """Return label lines with numbers as numbers."""
    return [[*map(float, line.split()[:8]), *line.split()[8:]] for line in path.read_text().splitlines()]


def content(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("manifest.json", ".lock")
    }


def labels_of(release, split):
    return release / split / "labelTxt-v1.0" / "labelTxt"


@pytest.mark.parametrize("split", ["train", "val"])
def test_pixels_and_labels_equal_a_plain_reference(release, prepared, split):
    names, cut = set(), 0
    for file in (release / split / "images").iterdir():
        image = cv2.imread(str(file))  # grey and 16 bits become what OpenCV makes of them
        text = (labels_of(release, split) / f"{file.stem}.txt").read_text()
        for (side, x, y), (pixels, lines) in reference_patches(image, text, SIZE, OVERLAP).items():
            name = Patch(file.stem, side, x, y).name
            names.add(name)
            assert (cv2.imread(str(prepared / split / "images" / f"{name}.png")) == pixels).all()
            wanted = [[*map(float, line.split()[:8]), *line.split()[8:]] for line in lines]
            assert lines_of(prepared / split / "labelTxt" / f"{name}.txt") == wanted
            cut += sum(line[9] == "2" for line in wanted)
    assert {path.stem for path in (prepared / split / "images").iterdir()} == names
    assert {path.stem for path in (prepared / split / "labelTxt").iterdir()} == names
    assert cut > 5


@pytest.mark.openmmlab
def test_mmrotates_own_script_writes_the_same_bytes(release, prepared, tmp_path):
    mmrotate = Path(importlib.util.find_spec("mmrotate").origin).parent
    script = mmrotate / ".mim/tools/data/dota/split/img_split.py"
    (tmp_path / "base.json").write_text(json.dumps({"padding_value": [104, 116, 124]}))
    train = release / "train"
    command = [sys.executable, script, "--base-json", tmp_path / "base.json", "--nproc", "1"]
    command += ["--img-dirs", train / "images", "--ann-dirs", labels_of(release, "train")]
    command += [
        "--sizes",
        str(SIZE),
        "--gaps",
        str(OVERLAP),
        "--rates",
        "0.5",
        "1.0",
        "--save-dir",
        tmp_path / "theirs",
    ]
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    scales = ("--scales", "0.5", "1.0", "--keep-size", "--splits", "train")
    assert prepare_dota([str(release), "--out", str(tmp_path / "ours"), *CUT, *scales]) == 0
    theirs, ours = tmp_path / "theirs", tmp_path / "ours" / "train"
    assert {p.name for p in (theirs / "images").iterdir()} == {p.name for p in (ours / "images").iterdir()}
    for path in (theirs / "images").iterdir():
        assert (cv2.imread(str(path)) == cv2.imread(str(ours / "images" / path.name))).all()
        assert (theirs / "annfiles" / f"{path.stem}.txt").read_bytes() == (
            ours / "labelTxt" / f"{path.stem}.txt"
        ).read_bytes()


def test_test_split_has_images_only_and_trainval_is_both_without_a_second_copy(prepared):
    assert not (prepared / "test" / "labelTxt").exists()
    assert list((prepared / "test" / "images").iterdir())
    both = content(prepared / "train") | content(prepared / "val")
    assert content(prepared / "trainval") == both
    name = sorted(both)[0]
    assert (prepared / "trainval" / name).stat().st_nlink == 2


def test_prepared_folders_are_what_recipes_read(prepared):
    from detectors.data.dota_release import CLASSES
    from detectors.data.formats.dota import DotaData, DotaDataset

    data = DotaData(root=str(prepared), image_size=(SIZE, SIZE), splits={"train": "trainval"})
    counts = DotaDataset(data, CLASSES["1.0"]).counts("train", check="full")
    manifest = folder_builder.read_manifest(prepared / "trainval")
    assert counts["images"] == sum(source["patches"] for source in manifest["sources"])
    assert counts["boxes"] + counts["ignored_boxes"] == sum(source["objects"] for source in manifest["sources"])


def test_second_run_does_nothing_and_another_setting_is_refused(release, prepared, capsys):
    before = {path: path.stat().st_mtime_ns for path in prepared.rglob("*.png")}
    assert prepare_dota([str(release), "--out", str(prepared), *CUT, "--trainval"]) == 0
    assert capsys.readouterr().out.count("(already there)") == 4
    assert before == {path: path.stat().st_mtime_ns for path in prepared.rglob("*.png")}
    assert prepare_dota([str(release), "--out", str(prepared), "--size", "300"]) == 3
    assert "made with settings" in capsys.readouterr().err


def test_scales_come_in_the_size_of_the_network(release, tmp_path):
    options = ("--splits", "val", "--scales", "0.5", "1.0")
    assert prepare_dota([str(release), "--out", str(tmp_path), *CUT, *options]) == 0
    sides = set()
    for path in (tmp_path / "val" / "images").iterdir():
        patch = Patch.from_name(path.stem)
        sides.add(patch.side_px)
        assert cv2.imread(str(path)).shape == (SIZE, SIZE, 3)
        text = (labels_of(release, "val") / f"{patch.image}.txt").read_text()
        image = np.zeros((*cv2.imread(str(release / "val" / "images" / f"{patch.image}.png")).shape[:2], 3), np.uint8)
        found = reference_patches(image, text, SIZE, OVERLAP, (0.5, 1.0))
        _, lines = found[patch.side_px, patch.x, patch.y]
        factor = SIZE / patch.side_px
        wanted = [[float(v) * factor for v in line.split()[:8]] + line.split()[8:] for line in lines]
        assert lines_of(tmp_path / "val" / "labelTxt" / f"{path.stem}.txt") == wanted
    assert sides == {SIZE, 2 * SIZE}


def test_patches_of_background_only_can_be_left_out(tmp_path):
    release = write_tree(tmp_path / "DOTA", splits=("train", "val"))
    for split in ("train", "val"):
        for path in sorted(labels_of(release, split).iterdir())[2:4]:
            path.write_text("")
    out = tmp_path / "out"
    assert prepare_dota([str(release), "--out", str(out), *CUT, "--skip-empty", "train", "--trainval"]) == 0
    sizes = {s: [p.stat().st_size for p in (out / s / "labelTxt").iterdir()] for s in ("train", "val", "trainval")}
    assert min(sizes["train"]) > 0
    assert min(sizes["val"]) == 0
    assert sorted(sizes["trainval"]) == sorted(sizes["train"] + [size for size in sizes["val"] if size])


@pytest.mark.parametrize("version", ["1.5", "2.0"])
def test_other_versions_have_their_own_folders_and_classes(version, tmp_path):
    release = write_tree(tmp_path / "DOTA", version, splits=("train",))
    label = sorted((release / "train" / f"labelTxt-v{version}" / f"DOTA-v{version}_train").iterdir())[0]
    label.write_text("10 10 50 10 50 30 10 30 container-crane 0\n")
    (release / "train" / "images" / "part1" / "images").mkdir(parents=True)
    (release / "train" / "images" / "P0000.png").rename(release / "train" / "images" / "part1" / "images" / "P0000.png")
    assert prepare_dota([str(release), "--out", str(tmp_path / "out"), *CUT, "--version", version]) == 0
    text = (tmp_path / "out" / "train" / "labelTxt" / "P0000__256__0___0.txt").read_text()
    assert text == "10.0 10.0 50.0 10.0 50.0 30.0 10.0 30.0 container-crane 0\n"


def test_two_roots_are_read_as_one(tmp_path):
    first = write_tree(tmp_path / "v1", "2.0", splits=("train",))
    second = tmp_path / "v2" / "train" / "images"
    second.mkdir(parents=True)
    (first / "train" / "images" / "P0001.png").rename(second / "P0001.png")
    roots = [str(first), str(tmp_path / "v2")]
    assert prepare_dota([*roots, "--out", str(tmp_path / "out"), *CUT, "--version", "2.0"]) == 0
    assert (tmp_path / "out" / "train" / "images" / "P0001__256__0___0.png").is_file()


def test_every_wrong_label_is_told_before_anything_is_cut(release, tmp_path, capsys):
    bad = write_tree(tmp_path / "DOTA", splits=("train",))
    labels = labels_of(bad, "train")
    (labels / "P0000.txt").write_text("1 1 9 1 9 9 1 9 plane\n1 1 9 1 9 9 1 9 plan 0\n1 1 x 1 9 9 1 9 plane 0\n")
    (labels / "P0001.txt").write_bytes(b"\xff\xfe\x00")
    assert prepare_dota([str(bad), "--out", str(tmp_path / "out"), *CUT]) == 3
    text = capsys.readouterr().err
    assert "4 problems" in text
    assert "P0000.txt:1: 9 columns, expected 10" in text
    assert "P0000.txt:2: unknown class 'plan'" in text
    assert "Did you mean 'plane'?" in text
    assert "P0000.txt:3: x2 is 'x', expected a number" in text
    assert "P0001.txt" in text
    assert not (tmp_path / "out").exists()
    (labels / "P0000.txt").unlink()
    (labels / "P0099.txt").write_text("")
    assert prepare_dota([str(bad), "--out", str(tmp_path / "out"), *CUT]) == 3
    text = capsys.readouterr().err
    assert "P0000.png: no label file P0000.txt" in text
    assert "P0099.txt: no image of that name" in text


def test_boxes_without_area_are_dropped_and_told(tmp_path, capsys):
    release = write_tree(tmp_path / "DOTA", splits=("train",))
    with (labels_of(release, "train") / "P0000.txt").open("a") as file:
        file.write("5 5 5 5 5 5 5 5 plane 0\n900 900 950 900 950 950 900 950 plane 0\n")
    assert prepare_dota([str(release), "--out", str(tmp_path / "out"), *CUT]) == 0
    text = capsys.readouterr().out
    assert "1 boxes without area were dropped, e.g. P0000.txt:" in text
    assert "1 objects are in no patch" in text


def test_damaged_image_is_told_at_the_end_and_only_it_is_done_again(tmp_path, capsys):
    release = write_tree(tmp_path / "DOTA", splits=("train",))
    file = release / "train" / "images" / "P0001.png"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    out = tmp_path / "out"
    assert prepare_dota([str(release), "--out", str(out), *CUT]) == 3
    assert "P0001.png: truncated PNG" in capsys.readouterr().err
    assert not (out / "train").exists()
    done = {path: path.stat().st_mtime_ns for path in (out / "train.partial").rglob("*.png")}
    assert done
    file.write_bytes(whole)
    assert prepare_dota([str(release), "--out", str(out), *CUT]) == 0
    for path, time_ns in done.items():
        assert (out / "train" / path.relative_to(out / "train.partial")).stat().st_mtime_ns == time_ns


def test_image_with_more_pixels_than_opencv_takes_is_refused_from_its_header(tmp_path, capsys):
    release = write_tree(tmp_path / "DOTA", splits=("train",))
    file = release / "train" / "images" / "P0002.png"
    content = bytearray(file.read_bytes())
    content[16:24] = (40_000).to_bytes(4, "big") + (40_000).to_bytes(4, "big")
    file.write_bytes(content)
    assert prepare_dota([str(release), "--out", str(tmp_path / "out"), *CUT]) == 3
    assert "P0002.png: 40000 x 40000 are more than the 1,073,741,824 pixels" in capsys.readouterr().err


def test_missing_folders_and_splits_are_told_with_where_was_looked(tmp_path, capsys):
    assert prepare_dota([str(tmp_path), "--out", str(tmp_path / "out")]) == 3
    assert "no split of DOTA found, looked for" in capsys.readouterr().err
    (tmp_path / "train" / "images").mkdir(parents=True)
    assert prepare_dota([str(tmp_path), "--out", str(tmp_path / "out")]) == 3
    assert "no image of split 'train'" in capsys.readouterr().err
    cv2.imwrite(str(tmp_path / "train" / "images" / "P0.png"), np.zeros((8, 8, 3), np.uint8))
    assert prepare_dota([str(tmp_path), "--out", str(tmp_path / "out")]) == 3
    text = capsys.readouterr().err
    assert "no labels of DOTA-v1.0 for split 'train' found" in text
    assert "labelTxt-v1.0/labelTxt" in text


def test_folder_of_somebody_else_is_left_alone(release, tmp_path, capsys):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "mine.txt").write_text("mine")
    assert prepare_dota([str(release), "--out", str(tmp_path), *CUT, "--splits", "train"]) == 3
    assert "was not made here" in capsys.readouterr().err
    assert (tmp_path / "train" / "mine.txt").read_text() == "mine"


def test_killed_run_leaves_no_worker_and_goes_on_to_the_same_bytes(release, prepared, tmp_path):
    # Slowed down so that the kill comes in the middle of the work, which is otherwise over in a moment.
    slow = (
        "import sys, time; sys.path.insert(0, sys.argv.pop(1));"
        "import detectors.data.folder_builder as b, detectors.data.patch_writer as w; write = b.write_file;"
        "w.write_file = lambda *a: (time.sleep(0.05), write(*a))[1];"
        "from compress.cli.main import main; sys.exit(main(['data', 'prepare-dota', *sys.argv[1:]]))"
    )
    command = [sys.executable, "-c", slow, str(ROOT), str(release), "--out", str(tmp_path), *CUT[:4]]
    command += ["--processes", "2", "--splits", "train"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and len(list(tmp_path.glob("train.partial/.records/P*.json"))) < 2:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "train").exists()
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("train.partial/.records/P*.json")}
    assert 2 <= len(kept) < 5
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and alive(process.pid):
        time.sleep(0.1)
    assert not alive(process.pid)
    (tmp_path / "train.partial" / "images" / "leftover.png").write_bytes(b"half")
    assert prepare_dota([str(release), "--out", str(tmp_path), *CUT, "--splits", "train"]) == 0
    assert content(tmp_path / "train") == content(prepared / "train")
    assert not (tmp_path / "train" / ".records").exists()


def alive(group):
    """Return whether a process of a group is left (zombies do not count)."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            return True
    return False


def test_a_second_run_in_the_same_folder_is_refused(release, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(folder_builder, "_LOCK_WAIT_S", 0.2)
    with folder_builder._lock(tmp_path / "train"):
        assert prepare_dota([str(release), "--out", str(tmp_path), *CUT, "--splits", "train"]) == 3
    assert "another run is writing there" in capsys.readouterr().err


def test_full_disk_is_one_sentence_and_loses_nothing(release, tmp_path, capsys, monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("detectors.data.patch_writer.write_file", full)
    assert prepare_dota([str(release), "--out", str(tmp_path), *CUT, "--splits", "train"]) == 4
    said = capsys.readouterr().err
    assert said.startswith("error: the disk is full or a quota is used up at ")
    assert said.count("\n") == 1
    monkeypatch.undo()
    assert prepare_dota([str(release), "--out", str(tmp_path), *CUT, "--splits", "train"]) == 0


def test_large_images_wait_for_memory(tmp_path):
    release = write_tree(tmp_path / "DOTA", splits=("train",))
    out = tmp_path / "out"
    options = [*CUT[:4], "--processes", "2", "--memory-gb", "0.0001"]
    assert prepare_dota([str(release), "--out", str(out), *options]) == 0
    assert len(folder_builder.read_manifest(out / "train")["sources"]) == 5


def test_no_process_at_all_is_refused(release, tmp_path, capsys):
    assert prepare_dota([str(release), "--out", str(tmp_path), "--processes", "0"]) == 3
    assert "limits: 0 processes" in capsys.readouterr().err
