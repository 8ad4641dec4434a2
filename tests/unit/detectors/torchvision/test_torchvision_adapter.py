"""Settings, published weights, freezing and metadata of the torchvision plug-in."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import nn
from torchvision.models import get_model
from torchvision.models.detection import retinanet_resnet50_fpn
from torchvision.ops.misc import FrozenBatchNorm2d

from compress.errors import DetectorError
from detectors.data.formats.dota import DotaData, DotaDataset
from detectors.data.samples import Truth
from detectors.torchvision import deploy
from detectors.torchvision.adapter import STAGES, TorchvisionDetector
from detectors.torchvision.checkpoint import coco_categories, pick_classes
from detectors.torchvision.config import DEFAULTS, MODELS, TorchvisionConfig


@pytest.fixture(autouse=True)
def seeded():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def make(model="retinanet_resnet18_fpn", classes=("car", "boat"), image_size=(128, 128), **fields):
    config = TorchvisionConfig(model=model, classes=classes, **fields)
    return TorchvisionDetector(config, DotaDataset(DotaData(image_size=image_size), classes))


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"classes": []}, "classes"),
        ({"classes": ["a", "a"]}, "listed 2 times"),
        ({"classes": ["a b"]}, "white space"),
        ({"model": "faster_rcnn"}, "retinanet_resnet50_fpn"),
        ({"std": (1, 0, 1)}, "above 0"),
        ({"channels": 40}, "multiple of 32"),
        ({"box_shares": (0.1, 0.9)}, "read by ssdlite only"),
        ({"model": "ssdlite320_mobilenet_v3_large", "channels": 64}, "read by retinanet and fcos only"),
        ({"model": "fcos_resnet18_fpn", "anchor_scale": 2}, "read by retinanet only"),
        ({"model": "ssdlite320_mobilenet_v3_large", "box_shares": (0.9, 0.1)}, "smallest < largest"),
        ({"backbone": "vgg"}, "backbone"),
    ],
)
def test_wrong_settings_are_refused(fields, text):
    with pytest.raises(ValidationError, match=text):
        make(**fields)


@pytest.mark.parametrize("name", MODELS)
def test_what_a_recipe_leaves_out_is_torchvisions(name):
    ours = make(name)
    defaults = DEFAULTS[MODELS[name].architecture]
    meta = ours.metadata()
    assert (meta["score_threshold"], meta["nms_iou"]) == (defaults.score_threshold, defaults.nms_iou)
    assert (meta["nms_pre"], meta["max_detections"]) == (defaults.nms_pre, defaults.max_detections)
    given = make(name, score_threshold=0.0, nms_iou=0.3, nms_pre=7, max_detections=5).metadata()
    assert [given[k] for k in ("score_threshold", "nms_iou", "nms_pre", "max_detections")] == [0.0, 0.3, 7, 5]


def test_defaults_are_those_of_torchvisions_constructors():
    from torchvision.models.detection import fcos_resnet50_fpn, ssdlite320_mobilenet_v3_large

    for maker, architecture in (
        (retinanet_resnet50_fpn, "retinanet"),
        (fcos_resnet50_fpn, "fcos"),
        (ssdlite320_mobilenet_v3_large, "ssdlite"),
    ):
        theirs, ours = maker(weights=None, weights_backbone=None), DEFAULTS[architecture]
        assert theirs.score_thresh == ours.score_threshold
        assert theirs.nms_thresh == ours.nms_iou
        assert theirs.topk_candidates == ours.nms_pre
        assert theirs.detections_per_img == ours.max_detections
        np.testing.assert_allclose([255 * value for value in theirs.transform.image_mean], ours.mean, atol=1e-3)
        np.testing.assert_allclose([255 * value for value in theirs.transform.image_std], ours.std, atol=1e-3)
        assert {m.eps for m in theirs.modules() if isinstance(m, nn.BatchNorm2d)} == {ours.norm_eps}


def test_plain_norms_compute_what_torchvisions_frozen_ones_do():
    frozen, plain = FrozenBatchNorm2d(8), nn.BatchNorm2d(8).eval()
    for name in ("weight", "bias", "running_mean", "running_var"):
        value = torch.rand(8) + 0.5
        getattr(frozen, name).copy_(value)
        getattr(plain, name).data.copy_(value)
    x = torch.randn(2, 8, 5, 5)
    torch.testing.assert_close(plain(x), frozen(x), rtol=1e-5, atol=1e-5)


def test_published_retinanet_was_made_without_epsilon():
    assert TorchvisionConfig(model="retinanet_resnet50_fpn", classes=("a",), weights="COCO_V1").eps == 0
    assert TorchvisionConfig(model="fcos_resnet50_fpn", classes=("a",), weights="COCO_V1").eps == 1e-5
    assert TorchvisionConfig(model="retinanet_resnet50_fpn", classes=("a",), norm_eps=1e-3).eps == 1e-3


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Return a file as torchvision publishes it: 91 classes, FrozenBatchNorm2d without counters."""
    torch.manual_seed(1)
    theirs = retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=91)
    state = {k: v.clone() for k, v in theirs.state_dict().items() if not k.endswith("num_batches_tracked")}
    path = tmp_path_factory.mktemp("published") / "retinanet.pth"
    torch.save(state, path)
    return path, state


def test_class_layers_of_a_published_detector_are_picked_by_name(published):
    path, state = published
    model = make("retinanet_resnet50_fpn", ("boat", "tractor", "car"), weights=str(path)).build()
    theirs = state["head.classification_head.cls_logits.bias"].view(9, 91)
    weights = state["head.classification_head.cls_logits.weight"].view(9, 91, 256, 3, 3)
    ours = model.head.classification_head.cls_logits
    names = coco_categories()
    for index, name in ((0, "boat"), (2, "car")):
        assert torch.equal(ours.bias.view(9, 3)[:, index], theirs[:, names.index(name)])
        assert torch.equal(ours.weight.view(9, 3, 256, 3, 3)[:, index], weights[:, names.index(name)])
    fresh = ours.weight.view(9, 3, 256, 3, 3)[:, 1]
    assert not any(torch.equal(fresh, weights[:, known]) for known in range(91))
    name = "backbone.body.layer4.2.conv3.weight"
    assert torch.equal(model.state_dict()[name], state[name])


def test_ssd_picks_its_background_too():
    ours = make("ssdlite320_mobilenet_v3_small", ("car",)).build()
    name = "head.classification_head.module_list.0.1.bias"
    state = {name: torch.arange(6 * 91, dtype=torch.float32)}
    found = pick_classes(ours, state, coco_categories(), ("car",))[name].view(6, 2)
    assert found[:, 0].tolist() == [91.0 * box for box in range(6)]
    assert found[:, 1].tolist() == [91.0 * box + coco_categories().index("car") for box in range(6)]


def test_a_published_detector_with_a_tensor_too_few_is_refused(published, tmp_path):
    _, state = published
    path = tmp_path / "short.pth"
    torch.save({k: v for k, v in state.items() if k != "backbone.fpn.extra_blocks.p7.weight"}, path)
    with pytest.raises(DetectorError, match=r"missing backbone\.fpn\.extra_blocks\.p7\.weight"):
        make("retinanet_resnet50_fpn", weights=str(path)).build()


@pytest.mark.parametrize(
    ("model", "backbone", "layer", "name"),
    [
        ("retinanet_resnet18_fpn", "resnet18", "layer3.0.conv1.weight", "body.layer3.0.conv1.weight"),
        ("ssdlite320_mobilenet_v3_large", "mobilenet_v3_large", "features.5.block.1.0.weight", None),
        ("ssdlite320_mobilenet_v3_large", "mobilenet_v3_large", "features.13.block.1.0.weight", None),
        ("ssdlite320_mobilenet_v3_large", "mobilenet_v3_large", "features.14.block.2.fc1.bias", None),
        ("retinanet_mobilenet_v3_large_fpn", "mobilenet_v3_large", "features.5.block.1.0.weight", None),
    ],
)
def test_a_classifier_gives_every_tensor_of_the_backbone(model, backbone, layer, name, tmp_path):
    state = get_model(backbone, weights=None).state_dict()
    path = tmp_path / "classifier.safetensors"
    save_file({key: value.clone() for key, value in state.items()}, path)
    # The tail of a classifier is twice as wide as a detector's.
    fields = {"weights": str(path)} | ({"reduced_tail": False} if "ssdlite" in model else {})
    ours = make(model, **fields).build()
    values = [value for value in ours.backbone.state_dict().values() if value.shape == state[layer].shape]
    assert any(torch.equal(value, state[layer]) for value in values)
    if name:
        assert torch.equal(ours.backbone.state_dict()[name], state[layer])
    save_file({k: v.clone() for k, v in state.items() if k != layer}, path)
    with pytest.raises(DetectorError, match="missing"):
        make(model, **fields).build()


def test_entries_that_torchvision_does_not_have_are_refused():
    with pytest.raises(DetectorError, match="no 'IMAGENET1K_V7' for resnet18"):
        make(weights="IMAGENET1K_V7").build()
    with pytest.raises(DetectorError, match="no 'COCO_V1' for retinanet_resnet18_fpn"):
        make(weights="COCO_V1").build()


@pytest.mark.parametrize("name", MODELS)
def test_frozen_stages_are_the_first_layers_and_norms_of_pretrained_pyramids_stay(name):
    ours = make(name, frozen_stages=2)
    model = ours.build()
    ours.set_train_mode(model)
    frozen = [n for n, p in model.named_parameters() if not p.requires_grad]
    in_order = [n for n, _ in model.named_parameters()]
    assert 0 < len(frozen) < len(in_order)
    assert set(frozen) == set(in_order[: len(frozen)])
    pretrained = TorchvisionConfig(model=name, classes=("a",), checkpoint="x")
    is_ssd = MODELS[name].architecture == "ssdlite"
    assert (pretrained.num_frozen_stages, pretrained.keeps_norms) == ((0, False) if is_ssd else (1, True))


@pytest.mark.parametrize("name", ["mobilenet_v3_large", "mobilenet_v3_small"])
def test_stages_of_mobilenets_begin_where_torchvision_strides(name):
    features = get_model(name, weights=None).features
    strided = [index for index, block in enumerate(features) if getattr(block, "_is_cn", False)]
    assert [stage[0] for stage in STAGES[name]][1:] == strided
    assert STAGES[name][-1][-1] == len(features) - 1


def test_truth_becomes_axis_aligned():
    truth = Truth(
        np.array([[10, 20, 8, 4, np.pi / 2]], np.float32), np.array([0]), np.array([[30, 30, 6, 6, 0.0]], np.float32)
    )
    found = make().adapt_truth(truth)
    np.testing.assert_allclose(found.boxes, [[10, 20, 4, 8, 0]], atol=1e-5)
    np.testing.assert_allclose(found.ignored_boxes, [[30, 30, 6, 6, 0]], atol=1e-5)
    assert found.boxes.dtype == np.float32


def test_example_input_is_padded_like_a_deployed_image():
    ours = make(image_size=(100, 130))
    assert ours.example_input().shape == (1, 3, 128, 160)
    assert ours.metadata()["input_size"] == [128, 160]
    picture = np.zeros((100, 130, 3), np.uint8)
    assert deploy.make_deploy(ours.metadata()).preprocess(picture, minimum_size=(100, 130)).shape == (1, 3, 128, 160)


def test_boxes_of_another_architecture_are_refused_in_metadata():
    meta = make().metadata()
    with pytest.raises(DetectorError, match="architecture is 'yolo'"):
        deploy.make_deploy(meta | {"architecture": "yolo"})
