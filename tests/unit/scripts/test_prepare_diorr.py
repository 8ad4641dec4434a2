"""DIOR-R in its published layout becomes folders in DOTA format."""

import cv2
import numpy as np
import pytest

from compress.cli.main import main
from detectors.data.diorr import CLASSES
from detectors.data.formats.dota import DotaData, DotaDataset

CORNERS = ("left_top", "right_top", "right_bottom", "left_bottom")


def prepare_diorr(arguments):
    return main(["data", "prepare-diorr", *arguments])


def annotation(*objects):
    """Return an annotation file with (class, four corners)."""
    text = "".join(
        f"<object><name>{name}</name><pose>Unspecified</pose><difficult>{difficult}</difficult><type>robndbox</type><robndbox>"
        + "".join(f"<x_{c}>{x}</x_{c}><y_{c}>{y}</y_{c}>" for c, (x, y) in zip(CORNERS, corners, strict=True))
        + "</robndbox><angle>0.3</angle></object>"
        for name, corners, difficult in objects
    )
    return f"<annotation><filename>x.jpg</filename><size><width>96</width><height>80</height></size>{text}</annotation>"


SQUARE = [(10, 12), (40, 12), (40, 30), (10, 30)]
SLANTED = [(50.5, 20), (70, 30.25), (60, 50), (40, 40)]


@pytest.fixture
def release(tmp_path):
    root = tmp_path / "DIOR"
    labels = root / "Annotations" / "Oriented Bounding Boxes"
    lists = root / "ImageSets" / "Main"
    for folder in (labels, lists, root / "JPEGImages-trainval", root / "JPEGImages-test"):
        folder.mkdir(parents=True)
    names = {"train": ["00001", "00003"], "val": ["00002"], "test": ["11726"]}
    for split, members in names.items():
        (lists / f"{split}.txt").write_text("".join(f"{name}\n" for name in members))
        for name in members:
            where = root / f"JPEGImages-{'test' if split == 'test' else 'trainval'}"
            cv2.imwrite(str(where / f"{name}.jpg"), np.full((80, 96, 3), int(name) % 200, np.uint8))
            objects = [("airplane", SQUARE, 0), ("Expressway-Service-area", SLANTED, 1)][: 2 - int(name == "00003")]
            (labels / f"{name}.xml").write_text(annotation(*objects))
    return root


def test_splits_are_linked_and_labelled_in_dota_format(release, tmp_path, capsys):
    out = tmp_path / "out"
    assert prepare_diorr([str(release), "--out", str(out), "--processes", "2"]) == 0
    assert sorted(p.name for p in (out / "trainval" / "images").iterdir()) == ["00001.jpg", "00002.jpg", "00003.jpg"]
    assert (out / "train" / "labelTxt" / "00001.txt").read_text() == (
        "10 12 40 12 40 30 10 30 airplane 0\n50.5 20 70 30.25 60 50 40 40 expressway-service-area 1\n"
    )
    assert (release / "JPEGImages-test" / "11726.jpg").stat().st_nlink == 2
    data = DotaDataset(DotaData(root=str(out), image_size=(80, 96)), CLASSES)
    assert data.counts("test", check="full") | {"boxes": 1, "ignored_boxes": 1} == data.counts("test")
    _, image, truth = next(iter(data.images("test")))
    assert image.shape == (80, 96, 3)
    np.testing.assert_allclose(truth.boxes[0], [25, 21, 30, 18, 0], atol=1e-4)
    capsys.readouterr()
    assert prepare_diorr([str(release), "--out", str(out)]) == 0
    assert capsys.readouterr().out.count("(already there)") == 4


def test_every_wrong_annotation_is_told_and_the_right_ones_stay(release, tmp_path, capsys):
    labels = release / "Annotations" / "Oriented Bounding Boxes"
    good = (labels / "00001.xml").read_text()
    (labels / "00001.xml").write_text(good.replace("airplane", "aeroplane"))
    (labels / "00003.xml").write_text("<annotation><object>")
    (labels / "00002.xml").write_text(good.replace("<y_right_top>12</y_right_top>", ""))
    options = [str(release), "--out", str(tmp_path / "out"), "--splits", "trainval", "--processes", "1"]
    assert prepare_diorr([*options]) == 3
    text = capsys.readouterr().err
    assert "3 problems" in text
    assert "00001.xml: object 1: class 'aeroplane', expected one of airplane" in text
    assert "00002.xml: object 1: robndbox/y_right_top is None, expected a number of pixels" in text
    assert "00003.xml: no element found" in text or "00003.xml: mismatched tag" in text or "00003.xml:" in text
    (labels / "00001.xml").write_text(good)
    assert prepare_diorr([*options]) == 3
    assert "2 problems" in capsys.readouterr().err


def test_boxes_without_area_or_outside_the_image_are_dropped_and_told(release, tmp_path, capsys):
    labels = release / "Annotations" / "Oriented Bounding Boxes"
    outside = [(200, 200), (220, 200), (220, 220), (200, 220)]
    (labels / "11726.xml").write_text(annotation(("dam", SQUARE, 0), ("dam", [(5, 5)] * 4, 0), ("dam", outside, 0)))
    assert prepare_diorr([str(release), "--out", str(tmp_path / "out"), "--splits", "test"]) == 0
    assert "2 boxes were dropped, e.g. 11726.xml: object 2: degenerate box" in capsys.readouterr().out
    assert (tmp_path / "out" / "test" / "labelTxt" / "11726.txt").read_text() == "10 12 40 12 40 30 10 30 dam 0\n"


def test_missing_pieces_are_named(release, tmp_path, capsys):
    (release / "JPEGImages-trainval" / "00002.jpg").unlink()
    (release / "Annotations" / "Oriented Bounding Boxes" / "00001.xml").unlink()
    assert prepare_diorr([str(release), "--out", str(tmp_path / "out")]) == 3
    assert "00001.xml: missing" in capsys.readouterr().err
    (release / "ImageSets" / "Main" / "val.txt").unlink()
    assert prepare_diorr([str(release), "--out", str(tmp_path / "out"), "--splits", "val"]) == 3
    assert "val.txt" in capsys.readouterr().err
    truncated = release / "JPEGImages-test" / "11726.jpg"
    truncated.write_bytes(truncated.read_bytes()[:-20])
    assert prepare_diorr([str(release), "--out", str(tmp_path / "out"), "--splits", "test"]) == 3
    assert "11726.jpg: truncated JPEG" in capsys.readouterr().err
