"""The formats as the engine finds and uses them: check, digest, images, loader and score."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from compress.dataset import InputFormat
from compress.errors import DataError
from compress.plugins import DATASETS, available_plugins, find_dataset
from detectors.geometry.detections import Detections

STYLES = Path(__file__).parent / "styles"
INPUT = InputFormat(mean=(0.0, 0.0, 0.0), std=(255.0, 255.0, 255.0), size_divisor=32)
# Format -> its folder, split, classes with objects there, an annotation file, images, objects (ignored ones apart).
CASES = {
    "coco": ("coco", ("person", "car", "traffic-light"), "annotations/val.json", 3, 6, 1),
    "yolo": ("dota8", ("ship", "large-vehicle", "small-vehicle", "tennis-court"), "labels/val/{}.txt", 2, 4, 0),
}


@pytest.fixture(params=sorted(CASES))
def case(request):
    return request.param, *CASES[request.param]


def make(name, root, classes):
    kind = find_dataset(name)
    return kind(kind.CONFIG(root=str(root), image_size=(64, 96)), classes)


def test_the_formats_are_found_by_name_and_nothing_else_is_one():
    assert available_plugins(DATASETS) == ["coco", "dota", "yolo"]


def test_a_split_passes_its_check_and_its_images_come_with_their_truth(case):
    name, folder, classes, _, num_images, num_objects, num_ignored = case
    data = make(name, STYLES / folder, classes)
    data.check("val")
    pictures = list(data.images("val"))
    assert len(pictures) == num_images
    assert all(picture.image.shape[2] == 3 and picture.image.dtype == np.uint8 for picture in pictures)
    assert sum(len(picture.truth.boxes) for picture in pictures) == num_objects
    assert sum(len(picture.truth.ignored_boxes) for picture in pictures) == num_ignored


def test_a_class_that_the_recipe_does_not_name_is_a_problem_until_it_is_ignored_or_merged(case):
    name, folder, classes, *_ = case
    with pytest.raises(DataError, match=f"unknown class '{classes[0]}'"):
        make(name, STYLES / folder, classes[1:]).check("val")
    kind = find_dataset(name)
    fields = {"root": str(STYLES / folder), "image_size": (64, 96)}
    kind(kind.CONFIG(**fields, ignore=classes[:1]), classes[1:]).check("val")
    kind(kind.CONFIG(**fields, merge={classes[0]: classes[1]}), classes[1:]).check("val")


def test_the_digest_is_of_the_content_and_not_of_the_path(case, tmp_path):
    name, folder, classes, annotations, *_ = case
    moved = tmp_path / "elsewhere"
    shutil.copytree(STYLES / folder, moved)
    first, other = make(name, STYLES / folder, classes), make(name, moved, classes)
    assert first.digest("val") == other.digest("val")
    path = moved / annotations.format("P0861__1024__0___1648")
    path.write_text(path.read_text() + "\n")
    assert first.digest("val") != other.digest("val")
    image = next((moved / "images" / "val").iterdir())
    before = other.digest("val")
    image.write_bytes(image.read_bytes() + b"\0")
    assert other.digest("val") != before


def test_the_truth_itself_scores_one(case):
    name, folder, classes, _, _, num_objects, _ = case
    data = make(name, STYLES / folder, classes)
    truths = [picture.truth for picture in data.images("val")]
    found = [Detections(truth.boxes, np.full(len(truth.boxes), 0.9), truth.labels) for truth in truths]
    scores = data.score(found, truths)
    assert scores.map50 == pytest.approx(1.0)
    assert scores.num_detections == num_objects


def test_the_loader_gives_batches_of_the_deployed_size(case):
    name, folder, classes, *_ = case
    data = make(name, STYLES / folder, classes)
    batches = list(data.loader("val", INPUT, batch_size=2, augment=False, seed=0))
    assert sum(len(batch.images) for batch in batches) == len(data.images("val"))
    assert batches[0].images.shape[1:] == (3, 64, 96)
