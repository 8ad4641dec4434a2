"""A whole run of an MMRotate detector on pictures that are not of the deployed size: its report shows them."""

import json

import cv2
import numpy as np
import pytest

from compress.cli.main import main

DEPLOYED = (96, 128)
SIZES = [(96, 128), (70, 100), (150, 200), (128, 96)]  # as deployed, smaller, larger than a window, turned
RECIPE = """
format_version: 2
name: other_sizes
detector:
  plugin: openmmlab
  config: rotated-retinanet-rbox-le90_r50_fpn_1x_dota
  classes: [ship]
  backbone: resnet18
  base_channels: 16
  channels: 32
data: {{format: dota, root: {root}, image_size: [96, 128], crop_size: 96}}
defaults: {{training: {{batch_size: 2}}}}
stages:
  - {{stage: train, training: {{max_steps: 2}}}}
  - {{stage: export_onnx, parity_images: 1}}
  - {{stage: pack}}
  - {{stage: report, split: test, pictures: 4}}
"""


@pytest.fixture
def data(tmp_path):
    """Write a picture of each size in each split, with a ship."""
    for split in ("train", "val", "test"):
        for part in ("images", "labelTxt"):
            (tmp_path / "data" / split / part).mkdir(parents=True)
        for number, (height, width) in enumerate(SIZES):
            image = np.full((height, width, 3), 60, np.uint8)
            cv2.rectangle(image, (20, 20), (50, 40), (230, 230, 230), -1)
            cv2.imwrite(str(tmp_path / "data" / split / "images" / f"{number}.png"), image)
            labels = tmp_path / "data" / split / "labelTxt" / f"{number}.txt"
            labels.write_text("20 20 50 20 50 40 20 40 ship 0\n")
    return tmp_path / "data"


@pytest.mark.long
def test_the_report_of_a_run_shows_pictures_of_any_size(tmp_path, data):
    recipe = tmp_path / "r.yaml"
    recipe.write_text(RECIPE.format(root=data))
    assert main(["run", str(recipe), "--out", str(tmp_path / "out"), "--no-dry-pass"]) == 0
    (report,) = (tmp_path / "out").rglob("report.json")
    pictures = json.loads(report.read_text())["pictures"]
    assert [picture["image"] for picture in pictures] == ["0", "1", "2", "3"]
    for picture, (height, width) in zip(pictures, SIZES, strict=True):
        assert len(picture["num_detections"]) == 2  # the float model and the packed one
        shown = cv2.imread(str(report.parent / picture["file"]))
        assert shown.shape[0] >= height
        assert shown.shape[1] >= 2 * width
