"""The loader: the same for the same seed, whatever the workers; boxes follow the pixels; ignored boxes stay apart."""

import gc
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from compress.dataset import InputFormat
from compress.errors import DataError
from detectors.data.formats.dota import DotaData, DotaDataset
from detectors.data.synthetic import write_dataset
from detectors.data.synthetic_scenes import CLASSES, SceneSettings

HIT_UAV = Path(__file__).resolve().parents[5] / "shared" / "data" / "hit-uav"
torch.set_num_threads(1)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synthetic") / "set"
    write_dataset(folder, SceneSettings(seed=3, size=(96, 128), object_px=(6, 30), counts={"train": 8, "val": 2}))
    return folder


def data_of(root, **fields):
    return DotaData(root=str(root), image_size=(96, 128), ignore=("dontcare",), **fields)


def batches(data, split="train", *, augment=True, seed=0, batch_size=4, classes=CLASSES):
    pixels = InputFormat(mean=(10.0, 20.0, 30.0), std=(2.0, 4.0, 8.0), size_divisor=32)
    dataset = DotaDataset(data, classes)
    return list(dataset.loader(split, pixels, batch_size=batch_size, augment=augment, seed=seed))


def same(first, second):
    return all(
        a.names == b.names
        and torch.equal(a.images, b.images)
        and all(
            torch.equal(x, y)
            for key in ("boxes", "labels", "ignored")
            for x, y in zip(getattr(a, key), getattr(b, key), strict=False)
        )
        for a, b in zip(first, second, strict=True)
    )


def test_the_seed_alone_decides_order_and_augmentation(root):
    fields = {"crop_size": 64, "brightness_jitter": 0.1, "contrast_jitter": 0.1}
    first = batches(data_of(root, **fields), seed=5)
    np.random.seed(123)
    torch.manual_seed(99)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()
    assert same(first, batches(data_of(root, **fields), seed=5))
    assert np.array_equal(before[0], np.random.get_state()[1])
    assert torch.equal(before[1], torch.get_rng_state())
    assert not same(first, batches(data_of(root, **fields), seed=6))
    assert same(first, batches(data_of(root, num_workers=1, **fields), seed=5))


def test_without_augmentation_images_come_whole_sorted_normalized_rgb_with_the_truth_that_scoring_sees(root):
    found = batches(data_of(root), augment=False)
    names = [name for batch in found for name in batch.names]
    assert names == sorted(names)
    assert len(names) == 8
    first = found[0]
    _name, image, truth = next(iter(DotaDataset(data_of(root), CLASSES).images("train")))
    expected = (image[..., ::-1].astype(np.float32) - (10, 20, 30)) / (2, 4, 8)
    np.testing.assert_allclose(first.images[0].permute(1, 2, 0).numpy(), expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(first.boxes[0].numpy(), truth.boxes, atol=1e-3)
    assert np.array_equal(first.labels[0].numpy(), truth.labels)
    assert len(first.ignored[0]) == len(truth.ignored_boxes)


def test_boxes_have_the_longer_side_first_and_an_angle_in_le135(root):
    boxes = torch.cat([item for batch in batches(data_of(root, crop_size=64)) for item in batch.boxes])
    assert boxes.dtype == torch.float32
    assert len(boxes) > 10
    assert (boxes[:, 2] >= boxes[:, 3]).all()
    assert (boxes[:, 4] >= -np.pi / 4 - 1e-6).all()
    assert (boxes[:, 4] < 3 * np.pi / 4).all()


def marked_image(tmp_path, lines, size=(80, 100)):
    """Write one image in which every box of `lines` is filled with white on black."""
    folder = tmp_path / "marked" / "train"
    (folder / "images").mkdir(parents=True)
    (folder / "labelTxt").mkdir()
    image = np.zeros((*size, 3), np.uint8)
    for line in lines:
        points = np.array(line.split()[:8], float).reshape(4, 2)
        cv2.fillConvexPoly(image, np.round(points - 0.5).astype(np.int32), (255, 255, 255))
    cv2.imwrite(str(folder / "images" / "a.png"), image)
    (folder / "labelTxt" / "a.txt").write_text("\n".join(lines))
    return tmp_path / "marked"


def test_boxes_follow_the_pixels_through_crops_and_flips(tmp_path):
    corners = rectangle_corners(52.0, 40.0, 24.0, 10.0, 0.5)
    root = marked_image(tmp_path, [" ".join(f"{v:.3f}" for v in corners.reshape(-1)) + " ship 0"])
    for seed in range(12):
        data = data_of(root, crop_size=64, flip_probability=1 / 3, crop_object_probability=1.0)
        (batch,) = batches(data, seed=seed)
        white = (batch.images[0, 0] > 0).numpy()
        (box,) = batch.boxes[0].numpy()
        mask = np.zeros(white.shape, np.uint8)
        rect = ((box[0] - 0.5, box[1] - 0.5), (box[2], box[3]), np.degrees(box[4]))
        cv2.fillConvexPoly(mask, np.round(cv2.boxPoints(rect)).astype(np.int32), 1)
        overlap = (white & (mask > 0)).sum() / (white | (mask > 0)).sum()
        assert overlap > 0.8, (seed, overlap)


def rectangle_corners(x, y, length, width, angle):
    cosine, sine = np.cos(angle), np.sin(angle)
    local = np.array([[1, -1], [1, 1], [-1, 1], [-1, -1]]) * (length / 2, width / 2)
    return local @ np.array([[cosine, sine], [-sine, cosine]]) + (x, y)


def test_a_crop_drops_truth_with_its_centre_outside_and_keeps_visible_ignored_boxes(tmp_path):
    row = [
        f"{x} 10 {x + 20} 10 {x + 20} 20 {x} 20 {end}" for x, end in ((0, "ship 0"), (40, "ship 0"), (78, "dontcare 0"))
    ]
    data = data_of(marked_image(tmp_path, row), crop_size=(64, 50), flip_probability=0, crop_object_probability=0.5)
    for seed in range(20):
        (batch,) = batches(data, seed=seed)
        centres = batch.boxes[0][:, 0]
        assert ((centres >= 0) & (centres < 50)).all()
        for box in batch.ignored[0]:
            assert box[0] - box[2] / 2 < 50
        white = (batch.images[0, 0, :, :50] > 0).any(dim=0)
        covered = torch.zeros(50, dtype=bool)
        for box in [*batch.boxes[0], *batch.ignored[0]]:
            covered[max(0, int(box[0] - box[2] / 2)) : int(np.ceil(box[0] + box[2] / 2))] = True
        # What is white and unlabelled is less than half an object, cut at the border.
        assert (white & ~covered).sum() <= 11


def test_without_augmentation_every_image_has_the_deployed_size(root):
    def data(height, width):
        return DotaData(root=str(root), image_size=(height, width), ignore=("dontcare",))

    (whole,) = batches(data(96, 128), augment=False, batch_size=8)
    (windows,) = batches(data(64, 96), augment=False, batch_size=8)
    assert windows.images.shape == (8, 3, 64, 96)
    assert windows.names == whole.names
    for boxes, all_boxes in zip(windows.boxes, whole.boxes, strict=True):
        assert bool(len(boxes)) == bool(len(all_boxes))  # the window lies around an object
    (padded,) = batches(data(100, 200), augment=False, batch_size=8)
    assert padded.images.shape == (8, 3, 128, 224)
    assert torch.equal(padded.images[..., :96, :128], whole.images)


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.long)])
def test_an_image_damaged_in_the_middle_is_a_data_error(root, tmp_path, workers):
    shutil.copytree(root, tmp_path / "set")
    path = sorted((tmp_path / "set" / "val" / "images").iterdir())[0]
    content = bytearray(path.read_bytes())
    content[100:400] = bytes(300)
    path.write_bytes(content)
    with pytest.raises(DataError, match=path.name):
        batches(data_of(tmp_path / "set", num_workers=workers), "val", augment=False)
    gc.collect()  # torch waits 5 s for a worker that was left in the middle: here, not in another test


def test_an_image_without_objects_and_a_crop_larger_than_the_image_work(tmp_path):
    (batch,) = batches(data_of(marked_image(tmp_path, []), crop_size=256), seed=1)
    assert batch.images.shape == (1, 3, 96, 128)
    assert batch.boxes[0].shape == (0, 5)
    assert batch.ignored[0].shape == (0, 5)
    assert (batch.images[0, :, 80:] == 0).all()
    assert (batch.images[0, :, :, 100:] == 0).all()


def test_boxes_with_a_short_edge_are_dropped_only_on_request(tmp_path):
    root = marked_image(tmp_path, ["10 10 30 10 30 11.5 10 11.5 ship 0", "10 30 30 30 30 40 10 40 ship 0"])
    assert len(batches(data_of(root))[0].boxes[0]) == 2
    assert len(batches(data_of(root, min_edge_px=2))[0].boxes[0]) == 1


def test_a_batch_moves_to_a_device(root):
    (batch, *_) = batches(data_of(root))
    moved = batch.to("meta")
    assert moved.images.is_meta
    assert all(item.is_meta for item in [*moved.boxes, *moved.labels, *moved.ignored])
    assert moved.names == batch.names
    assert not batch.images.is_meta


@pytest.mark.skipif(not HIT_UAV.is_dir(), reason=f"HIT-UAV is not at {HIT_UAV}")
def test_hit_uav_validation_split_loads_with_the_published_counts():
    data = DotaData(
        root=str(HIT_UAV), image_size=(512, 640), ignore=("dontcare",), merge={"othervehicle": "car"}, crop_size=448
    )
    found = batches(data, "val", classes=("person", "car", "bicycle"), batch_size=16, augment=False)
    assert sum(len(batch) for batch in found) == 148
    assert sum(len(item) for batch in found for item in (*batch.boxes, *batch.ignored)) == 1391
    assert found[0].images.shape == (16, 3, 512, 640)


@pytest.mark.parametrize(("train_difficulty", "trained"), [(0, 1), (1, 2), (2, 3)])
def test_difficult_and_cut_objects_are_trained_on_only_if_wanted_and_never_scored(tmp_path, train_difficulty, trained):
    for part in ("images", "labelTxt"):
        (tmp_path / "train" / part).mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "train" / "images" / "a.png"), np.zeros((96, 128, 3), np.uint8))
    rows = [
        f"{x} 10 {x + 20} 10 {x + 20} 20 {x} 20 {name}" for x, name in ((5, "ship 0"), (40, "ship 1"), (75, "ship 2"))
    ]
    rows.append("5 50 25 50 25 60 5 60 dontcare 0")
    (tmp_path / "train" / "labelTxt" / "a.txt").write_text("\n".join(rows))
    data = data_of(tmp_path, train_difficulty=train_difficulty)
    (batch,) = batches(data, augment=False)
    assert len(batch.boxes[0]) == trained
    assert len(batch.ignored[0]) == 4 - trained
    _, _, truth = next(iter(DotaDataset(data, CLASSES).images("train")))
    assert (len(truth.boxes), len(truth.ignored_boxes)) == (1, 3)
