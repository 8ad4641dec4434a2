"""The loader against one composed of MMRotate's data set and MMDetection's transforms: bit for bit, seed for seed."""

from contextlib import contextmanager

import cv2
import mmrotate.structures.bbox  # noqa: F401  (declares the box types qbox and rbox)
import numpy as np
import pytest
import torch
from mmcv.transforms import BaseTransform
from mmdet.datasets.transforms import LoadAnnotations
from mmdet.datasets.transforms import RandomFlip as MmdetFlip
from mmdet.structures.bbox import get_box_type
from mmrotate.datasets import DOTADataset
from mmrotate.datasets.transforms import ConvertBoxType

from compress.dataset import InputFormat
from detectors.data.augmentation import FLIPS, extents_of
from detectors.data.formats.dota import DotaData, DotaDataset
from detectors.data.labels import IGNORED
from detectors.data.samples import longer_side_first, minimum_rectangles, quads_to_boxes
from detectors.data.synthetic import write_dataset
from detectors.data.synthetic_scenes import CLASSES, SceneSettings

torch.set_num_threads(1)
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


class MmrotateDota(DOTADataset):
    """MMRotate's data set over checked samples; item i is drawn from NumPy's global generator, seeded with i."""

    def __init__(self, samples, transforms, seed, train_difficulty):
        self.samples, self.seed, self.train_difficulty = samples, seed, train_difficulty
        super().__init__(
            metainfo={"classes": tuple(CLASSES)}, ann_file="", pipeline=transforms, serialize_data=False, test_mode=True
        )

    def load_data_list(self):
        return [
            {
                "img_id": sample.name,
                "img_path": str(sample.image_path),
                "instances": [
                    {
                        "bbox": list(item.quad),
                        "bbox_label": item.label,
                        "ignore_flag": int(item.label == IGNORED or item.difficult > self.train_difficulty),
                    }
                    for item in sample.objects
                ],
            }
            for sample in self.samples
        ]

    def prepare_data(self, idx):
        with globally_seeded(self.seed, idx):
            return super().prepare_data(idx)


@contextmanager
def globally_seeded(*entropy):
    state = np.random.get_state()
    np.random.seed(np.random.SeedSequence(entropy).generate_state(4))
    yield
    np.random.set_state(state)


class LoadImage(BaseTransform):
    def transform(self, results):
        results["img"] = cv2.imread(results["img_path"])
        results["img_shape"] = results["ori_shape"] = results["img"].shape[:2]
        return results


class Crop(BaseTransform):
    """Windows around objects on MMDetection's box types."""

    def __init__(self, size, object_probability):
        self.size, self.object_probability = size, object_probability

    def transform(self, results):
        height, width = results["img"].shape[:2]
        boxes, ignored = results["gt_bboxes"], results["gt_ignore_flags"]
        extents = boxes.convert_to("hbox").tensor.numpy()
        targets = extents[~ignored]
        target = None
        if np.random.random() < self.object_probability and len(targets):
            target = targets[np.random.randint(len(targets))]
        top = start_of(height, self.size[0], None if target is None else (target[1], target[3]))
        left = start_of(width, self.size[1], None if target is None else (target[0], target[2]))
        image = results["img"][top : top + self.size[0], left : left + self.size[1]]
        results["img"], results["img_shape"] = image, image.shape[:2]
        boxes.translate_((-left, -top))
        limits = np.array([image.shape[1], image.shape[0]])
        centers = boxes.tensor[:, :2].numpy()
        extents = extents - np.array([left, top, left, top])
        inside = ((centers >= 0) & (centers < limits)).all(axis=1)
        visible = (extents[:, 2:] > 0).all(axis=1) & (extents[:, :2] < limits).all(axis=1)
        keep = np.where(ignored, visible, inside)
        results["gt_bboxes"] = boxes[torch.from_numpy(keep)]
        results["gt_bboxes_labels"] = results["gt_bboxes_labels"][keep]
        results["gt_ignore_flags"] = ignored[keep]
        return results


def start_of(length, window, target):
    margin = max(length - window, 0)
    low, high = 0, margin
    if target is not None:
        start, end = target
        if end - start > window:
            start = end = (start + end) / 2
        low = min(max(0, int(np.ceil(end - window))), margin)
        high = max(min(margin, int(np.floor(start))), low)
    return int(np.random.randint(low, high + 1))


class Jitter(BaseTransform):
    def __init__(self, brightness, contrast):
        self.brightness, self.contrast = brightness, contrast

    def transform(self, results):
        image = results["img"]
        factor = 1 + self.contrast * np.random.uniform(-1, 1)
        shift = 255 * self.brightness * np.random.uniform(-1, 1)
        table = np.clip((np.arange(256) - image.mean()) * factor + image.mean() + shift, 0, 255)
        results["img"] = np.round(table).astype(np.uint8)[image]
        return results


def mmrotate_items(data, *, augment, seed):
    """Yield image, boxes, labels, ignored boxes and name as MMRotate's classes give them, in the order of the seed."""
    steps = [LoadImage(), LoadAnnotations(with_bbox=True, box_type="qbox"), ConvertBoxType({"gt_bboxes": "rbox"})]
    if not augment:
        steps.append(Crop(data.image_size, 1.0))
    else:
        steps += [Crop(data.crop, data.crop_object_probability)] if data.crop else []
        steps.append(MmdetFlip(prob=[data.flip_probability] * 3, direction=list(FLIPS)))
        steps += [Jitter(data.brightness_jitter, data.contrast_jitter)] if data.brightness_jitter else []
    dataset = MmrotateDota(DotaDataset(data, CLASSES).samples("train"), steps, seed, data.train_difficulty)
    count = len(dataset)
    for index in np.random.default_rng(seed).permutation(count) if augment else range(count):
        found = dataset[int(index)]
        boxes, ignored = longer_side_first(found["gt_bboxes"].tensor.numpy()), found["gt_ignore_flags"]
        kept = ~ignored & (boxes[:, 3] >= data.min_edge_px)
        labels = found["gt_bboxes_labels"]
        yield found["img"], boxes[kept], labels[kept], boxes[ignored], found["img_id"]


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """Return two data sets: scenes of turned objects, and upright boxes on whole pixels, where every bound is a tie."""
    scenes = tmp_path_factory.mktemp("scenes") / "set"
    write_dataset(scenes, SceneSettings(seed=8, size=(120, 160), object_px=(5, 40), counts={"train": 10}))
    upright = tmp_path_factory.mktemp("upright")
    for part in ("images", "labelTxt"):
        (upright / "train" / part).mkdir(parents=True)
    rng = np.random.default_rng(2)
    for number in range(8):
        cv2.imwrite(str(upright / "train" / "images" / f"{number}.png"), rng.integers(0, 256, (90, 110, 3), np.uint8))
        rows = []
        for left, top, width, height in rng.integers((0, 0, 2, 2), (100, 80, 40, 40), (12, 4)):
            right, bottom = left + width, top + height
            corners = f"{left} {top} {right} {top} {right} {bottom} {left} {bottom}"
            rows.append(f"{corners} {rng.choice([*CLASSES, 'dontcare'])} {rng.integers(0, 3)}")
        (upright / "train" / "labelTxt" / f"{number}.txt").write_text("\n".join(rows if number else []))
    return {"scenes": scenes, "upright": upright}


FIELDS = {
    "whole": {"flip_probability": 1 / 3},
    "cropped": {"crop_size": 64},
    "everything": {
        "crop_size": (48, 72),
        "crop_object_probability": 0.5,
        "flip_probability": 0.3,
        "brightness_jitter": 0.2,
        "contrast_jitter": 0.4,
        "train_difficulty": 1,
        "min_edge_px": 4,
    },
}


@pytest.mark.parametrize("seed", [0, 1, 7, 123456789])
@pytest.mark.parametrize("fields", FIELDS)
@pytest.mark.parametrize("root", ["scenes", "upright"])
@pytest.mark.parametrize("augment", [True, False])
def test_the_loader_gives_the_pixels_and_boxes_that_mmrotates_classes_give(roots, root, fields, augment, seed):
    data = DotaData(root=str(roots[root]), image_size=(64, 96), ignore=("dontcare",), **FIELDS[fields])
    expected = list(mmrotate_items(data, augment=augment, seed=seed))
    pixels = InputFormat(MEAN, STD, size_divisor=32)
    loader = DotaDataset(data, CLASSES).loader("train", pixels, batch_size=3, augment=augment, seed=seed)
    found = [
        (batch.images[i], batch.boxes[i], batch.labels[i], batch.ignored[i], batch.names[i])
        for batch in loader
        for i in range(len(batch))
    ]
    assert len(found) == len(expected) > 0
    for (pixels, boxes, labels, ignored, name), (image, true_boxes, true_labels, true_ignored, id_) in zip(
        found, expected, strict=True
    ):
        assert name == id_
        height, width = image.shape[:2]
        rgb = torch.from_numpy(np.ascontiguousarray(image[..., ::-1].transpose(2, 0, 1))).float()
        mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in (MEAN, STD))
        assert torch.equal(pixels[:, :height, :width], (rgb - mean) / std)
        assert not pixels[:, height:].any()
        assert not pixels[:, :, width:].any()
        assert np.array_equal(boxes.numpy(), true_boxes)
        assert np.array_equal(labels.numpy(), true_labels)
        assert np.array_equal(ignored.numpy(), true_ignored)


def random_quads(count, seed):
    rng = np.random.default_rng(seed)
    sides, angles = rng.uniform(1, 80, (count, 2)), rng.uniform(-np.pi, np.pi, count)
    local = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])[None] * sides[:, None] / 2
    turn = np.stack([np.cos(angles), -np.sin(angles), np.sin(angles), np.cos(angles)], 1).reshape(-1, 2, 2)
    points = local @ turn.transpose(0, 2, 1) + rng.uniform(0, 1000, (count, 1, 2)) + rng.normal(0, 0.3, (count, 4, 2))
    return points.reshape(count, 8).astype(np.float32)


def test_quadrilaterals_become_the_rectangles_of_mmrotate():
    quads = random_quads(2000, 5)
    quads[:4] = [[0, 0, 10, 0, 10, 20, 0, 20], [0, 0, 20, 0, 20, 10, 0, 10], [5, 0, 10, 5, 5, 10, 0, 5], [0] * 8]
    (_, qbox), (_, rbox) = get_box_type("qbox"), get_box_type("rbox")
    theirs = qbox(torch.from_numpy(quads)).convert_to("rbox")
    assert np.array_equal(minimum_rectangles(quads).astype(np.float32), theirs.tensor.numpy())
    turned = rbox(theirs.tensor.clone()).regularize_boxes("le135").numpy()
    ours = quads_to_boxes(quads)
    np.testing.assert_allclose(ours[:, :4], turned[:, :4], rtol=1e-6)
    distance = np.abs(ours[:, 4] - turned[:, 4])
    clear = np.abs(ours[:, 2] - ours[:, 3]) > 1e-3  # of a square either side is the longer one
    assert np.minimum(distance, np.pi - distance)[clear].max() < 1e-6
    assert np.array_equal(extents_of(theirs.tensor).numpy(), theirs.convert_to("hbox").tensor.numpy())
