"""Anchors, networks, losses and detections against torchvision's own, on the same tensors."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import detection
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import batched_nms

from compress.quantization.graph import outputs_of
from detectors.data.formats.dota import DotaData, DotaDataset
from detectors.geometry.class_nms import class_nms
from detectors.torchvision import deploy
from detectors.torchvision.adapter import TorchvisionDetector
from detectors.torchvision.anchors import fcos_anchors, level_boxes, retinanet_anchors, ssd_boxes
from detectors.torchvision.config import MODELS, TorchvisionConfig
from detectors.torchvision.losses import centres_on, upright

CLASSES = ("a", "b", "c")
SIZE = 128
MAKERS = {
    "retinanet_resnet50_fpn": (detection.retinanet_resnet50_fpn, 0),
    "fcos_resnet50_fpn": (detection.fcos_resnet50_fpn, 0),
    "ssdlite320_mobilenet_v3_large": (detection.ssdlite320_mobilenet_v3_large, 1),
}


@pytest.fixture(autouse=True)
def seeded():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def make(model, size=SIZE, **fields):
    config = TorchvisionConfig(model=model, classes=CLASSES, **fields)
    return TorchvisionDetector(config, DotaDataset(DotaData(image_size=(size, size)), config.classes))


@pytest.fixture(scope="module", params=list(MAKERS))
def pair(request, tmp_path_factory):
    """Return torchvision's detector and ours with the same weights; outputs far from constant."""
    torch.manual_seed(1)
    maker, background = MAKERS[request.param]
    size = 320 if background else SIZE
    kwargs = {} if background else {"min_size": size, "max_size": size}
    theirs = maker(weights=None, weights_backbone=None, num_classes=len(CLASSES) + background, **kwargs)
    with torch.no_grad():
        for layer in (theirs if background else theirs.head).modules():
            if isinstance(layer, torch.nn.Conv2d):  # initial weights are so small that every output is its bias
                torch.nn.init.kaiming_normal_(layer.weight, a=1)
        if not background:
            theirs.head.classification_head.cls_logits.bias.fill_(-1)
            theirs.head.classification_head.cls_logits.weight.mul_(0.2)  # no score rounds to 1
            theirs.head.regression_head.bbox_reg.weight.mul_(0.1)
        for layer in theirs.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.running_mean.normal_(std=0.1)
                layer.running_var.uniform_(0.7, 1.3)
        if background:  # no class beyond the threshold for all of the 3,234 boxes
            for block in theirs.head.classification_head.module_list:
                block[1].weight.mul_(2)
    ours = make(request.param, size)
    path = tmp_path_factory.mktemp("weights") / "theirs.safetensors"
    save_file({name: value.clone() for name, value in theirs.state_dict().items()}, path)
    model = ours.build()
    ours.load(model, path)
    return SimpleNamespace(theirs=theirs.eval(), ours=ours, model=model.eval(), size=size)


def pictures(size, count=2):
    rng = np.random.default_rng(3)
    coarse = rng.uniform(0, 255, (count, size // 16, size // 16, 3))
    return np.repeat(np.repeat(coarse, 16, axis=1), 16, axis=2).astype(np.uint8)


@pytest.mark.parametrize("size", [(128, 128), (160, 224), (320, 320)])
@pytest.mark.parametrize("kind", ["retinanet", "fcos", "ssd"])
def test_anchors_are_those_of_torchvision(kind, size):
    if kind == "ssd":
        shapes = [(-(-size[0] // s), -(-size[1] // s)) for s in (16, 32, 64, 128, 256, 512)]
        generator, description = DefaultBoxGenerator([[2, 3]] * 6, 0.2, 0.95), ssd_boxes(0.2, 0.95, 6)
    else:
        shapes = [(-(-size[0] // s), -(-size[1] // s)) for s in (8, 16, 32, 64, 128)]
        description = retinanet_anchors(4) if kind == "retinanet" else fcos_anchors()
        sides = detection.retinanet._default_anchorgen() if kind == "retinanet" else None
        generator = sides or AnchorGenerator(((8,), (16,), (32,), (64,), (128,)), ((1.0,),) * 5)
    images = ImageList(torch.zeros(1, 3, *size), [size])
    (wanted,) = generator(images, [torch.zeros(1, 1, *shape) for shape in shapes])
    found = np.concatenate(level_boxes(json.loads(json.dumps(description)), shapes, size, size))
    np.testing.assert_array_equal(found, wanted.numpy())


def test_default_boxes_keep_their_pixels_in_a_smaller_training_crop():
    whole = level_boxes(ssd_boxes(0.1, 0.5, 6), [(8, 8)], (128, 128), (128, 128))[0]
    crop = level_boxes(ssd_boxes(0.1, 0.5, 6), [(4, 4)], (64, 64), (128, 128))[0]
    np.testing.assert_allclose(crop[:6], whole[:6], atol=1e-5)


def test_names_of_all_tensors_are_torchvisions(pair):
    theirs, ours = ({n: tuple(v.shape) for n, v in m.state_dict().items()} for m in (pair.theirs, pair.model))
    assert ours == theirs


def test_raw_maps_are_the_outputs_of_torchvisions_head(pair):
    images = pair.ours.example_input(2)
    raw = outputs_of(pair.model, images)
    with torch.no_grad():
        wanted = pair.theirs.head(list(pair.theirs.backbone(images).values()))
    levels = pair.ours.metadata()["num_levels"]
    for index, kind in enumerate(pair.ours.config.spec.kinds):
        maps = [level.numpy() for level in raw[index * levels : (index + 1) * levels]]
        width = wanted[kind].shape[2]
        for n in range(2):
            found = np.concatenate([deploy.rows(level[n], width) for level in maps])
            np.testing.assert_allclose(found, wanted[kind][n].numpy(), rtol=1e-4, atol=1e-4)


def test_detections_are_those_of_torchvision_from_the_pixels_on(pair):
    meta = pair.ours.metadata()
    for picture in pictures(pair.size):
        raw = outputs_of(pair.model, torch.from_numpy(deploy.make_deploy(meta).preprocess(picture)))
        (found,) = deploy.postprocess([r.numpy() for r in raw], meta, image_size=picture.shape[:2])
        rgb = torch.from_numpy(picture[..., ::-1].copy()).permute(2, 0, 1).float() / 255
        with torch.no_grad():
            (wanted,) = pair.theirs([rgb])
        assert len(found) == len(wanted["boxes"]) >= 50
        labels = found.labels + (meta["architecture"] == "ssdlite")
        np.testing.assert_allclose(found.scores, wanted["scores"].numpy(), atol=1e-5)
        boxes = np.array([record["bbox"] for record in deploy.make_deploy(meta).to_json(found)])
        alike = labels[:, None] == wanted["labels"].numpy()[None]
        alike &= np.abs(found.scores[:, None] - wanted["scores"].numpy()[None]) < 1e-4
        alike &= np.abs(boxes[:, None] - wanted["boxes"].numpy()[None]).max(axis=2) < 0.1
        assert alike.any(axis=0).all()
        assert alike.any(axis=1).all()


def test_detections_from_the_same_raw_maps_are_exactly_torchvisions(pair):
    meta = pair.ours.metadata()
    generator = torch.Generator().manual_seed(5)
    shapes = [tuple(value.shape) for value in outputs_of(pair.model, pair.ours.example_input(1))]
    raw = [torch.randn(shape, generator=generator) for shape in shapes]
    levels, kinds = meta["num_levels"], pair.ours.config.spec.kinds
    if "fcos" in meta["architecture"]:
        raw = [value.abs() if levels <= n < 2 * levels else value for n, value in enumerate(raw)]
    arrays = [value.numpy() for value in raw]
    (found,) = deploy.postprocess(arrays, meta, image_size=(pair.size, pair.size - 20))
    widths = [len(CLASSES) + (meta["architecture"] == "ssdlite"), 4, 1]
    per_kind = {
        kind: [
            torch.from_numpy(deploy.rows(array[0], width).copy())[None]
            for array in arrays[i * levels : (i + 1) * levels]
        ]
        for i, (kind, width) in enumerate(zip(kinds, widths, strict=False))
    }
    shapes2 = [array.shape[2:] for array in arrays[:levels]]
    anchors = level_boxes(meta["anchors"], shapes2, (pair.size, pair.size), (pair.size, pair.size))
    anchors = [torch.from_numpy(a) for a in anchors]
    size = [(pair.size, pair.size - 20)]
    if meta["architecture"] == "ssdlite":
        joined = {kind: torch.cat(parts, dim=1) for kind, parts in per_kind.items()}
        (wanted,) = pair.theirs.postprocess_detections(joined, [torch.cat(anchors)], size)
    else:
        (wanted,) = pair.theirs.postprocess_detections(per_kind, [anchors], size)
    assert len(found) == len(wanted["boxes"]) == meta["max_detections"]
    np.testing.assert_array_equal(found.labels + (meta["architecture"] == "ssdlite"), wanted["labels"].numpy())
    np.testing.assert_allclose(found.scores, wanted["scores"].numpy(), rtol=1e-5)
    boxes = np.array([record["bbox"] for record in deploy.make_deploy(meta).to_json(found)])
    np.testing.assert_allclose(boxes, wanted["boxes"].numpy(), atol=2e-3)


def test_losses_are_those_of_torchvision(pair):
    boxes = [torch.tensor([[10.0, 20, 60, 50], [70, 70, 100, 110], [5, 5, 25, 25]]), torch.zeros(0, 4)]
    labels = [torch.tensor([0, 2, 1]), torch.zeros(0, dtype=torch.int64)]
    images = torch.rand(2, 3, pair.size, pair.size)
    rotated = [torch.from_numpy(deploy.centre_boxes(b.numpy())) for b in boxes]
    shift = int(pair.ours.config.spec.architecture == "ssdlite")
    targets = [{"boxes": b, "labels": n + shift} for b, n in zip(boxes, labels, strict=True)]
    values = pair.ours.config.values
    mean, std = (torch.tensor(rgb).view(1, 3, 1, 1) / 255 for rgb in (values.mean, values.std))
    batch = SimpleNamespace(images=(images - mean) / std, boxes=rotated, labels=labels, ignored=[torch.zeros(0, 5)] * 2)
    with torch.no_grad():
        found = pair.ours.loss(pair.model, tuple(pair.model(batch.images)), batch)
        pair.theirs.training = True  # of the outer module only: norms stay in evaluation mode
        try:
            wanted = pair.theirs(list(images), targets)
        finally:
            pair.theirs.training = False
    names = {"loss_cls": "classification", "loss_bbox": "bbox_regression", "loss_ctrness": "bbox_ctrness"}
    assert {names[name] for name in found} == set(wanted)
    for name, value in found.items():
        torch.testing.assert_close(value, wanted[names[name]], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [n for n in MODELS if "resnet18" in n or "small" in n])
def test_an_ignored_box_gives_no_negative_and_takes_no_positive(name):
    ours = make(name)
    shapes = [tuple(value.shape) for value in outputs_of(ours.build().eval(), ours.example_input(1))]
    truth, ignored = torch.tensor([[40.0, 40, 30, 24, 0]]), torch.tensor([[90.0, 90, 40, 40, 0]])

    def gradient(ignored_boxes):
        raw = [torch.zeros(shape, requires_grad=True) for shape in shapes]
        batch = SimpleNamespace(
            images=torch.zeros(1, 3, SIZE, SIZE), boxes=[truth], labels=[torch.tensor([1])], ignored=[ignored_boxes]
        )
        losses = ours.loss(None, tuple(raw), batch)
        sum(losses.values()).backward()
        count = ours.metadata()["num_levels"]
        finest = raw[0].grad[0].abs().sum(0)
        boxes = sum(float(value.grad.abs().sum()) for value in raw[count:] if value.grad is not None)
        return finest, boxes

    (plain, boxes), (spared, boxes_with) = gradient(torch.zeros(0, 5)), gradient(ignored)
    assert boxes == pytest.approx(boxes_with)
    cells = len(spared)
    step = SIZE / cells
    inside = slice(int(75 / step) + 1, int(105 / step))
    assert float(spared[inside, inside].sum()) == 0
    if "ssdlite" not in name:  # SSD takes only the hardest negatives
        assert float(plain[inside, inside].min()) > 0
    assert float(spared.sum()) > 0


def test_suppression_is_torchvisions():
    generator = torch.Generator().manual_seed(2)
    low = torch.rand(800, 2, generator=generator) * 100
    boxes = torch.cat([low, low + 5 + 30 * torch.rand(800, 2, generator=generator)], dim=1)
    scores, labels = torch.rand(800, generator=generator), torch.randint(0, 3, (800,), generator=generator)
    for threshold in (0.3, 0.5, 0.55):
        wanted = batched_nms(boxes, scores, labels, threshold).numpy()
        found = class_nms(boxes.numpy(), scores.numpy(), labels.numpy(), iou_threshold=threshold, max_detections=10**6)
        np.testing.assert_array_equal(found, wanted)
        first = class_nms(boxes.numpy(), scores.numpy(), labels.numpy(), iou_threshold=threshold, max_detections=7)
        np.testing.assert_array_equal(first, wanted[:7])


def test_suppression_of_nothing_and_of_points():
    assert len(class_nms(np.zeros((0, 4)), np.zeros(0), np.zeros(0), iou_threshold=0.5, max_detections=5)) == 0
    points = np.full((3, 4), 7.0)
    kept = class_nms(points, np.array([0.1, 0.3, 0.2]), np.zeros(3), iou_threshold=0.5, max_detections=5)
    assert kept.tolist() == [1, 2, 0]


def test_rotated_boxes_become_the_rectangles_around_them():
    boxes = torch.tensor([[50.0, 40, 20, 10, 0], [50, 40, 20, 10, np.pi / 2], [50, 40, 10, 10, np.pi / 4]])
    half = 10 / 2**0.5
    wanted = torch.tensor([[40.0, 35, 60, 45], [45, 30, 55, 50], [50 - half, 40 - half, 50 + half, 40 + half]])
    torch.testing.assert_close(upright(boxes), wanted, rtol=0, atol=1e-4)


def test_centres_on_regions_are_found():
    anchors = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30]])
    assert centres_on(anchors, torch.tensor([[4.0, 4, 6, 6]])).tolist() == [True, False]
    assert centres_on(anchors, torch.zeros(0, 4)).tolist() == [False, False]
