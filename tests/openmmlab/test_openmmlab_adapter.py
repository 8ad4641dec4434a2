import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from small_detectors import CLASSES, SIZE, enliven, scene, small, smooth_images

from compress.errors import DetectorError
from compress.plugins import contract_faults, deploy_of
from detectors.openmmlab import deploy
from detectors.openmmlab.adapter import OpenMmlab
from detectors.openmmlab.config import OpenMmlabConfig, config_digest, find_config, shipped_configs
from detectors.openmmlab.networks import split

torch.set_num_threads(1)
RETINA = "rotated-retinanet-rbox-le90_r50_fpn_1x_dota"
FCOS = "rotated-fcos-le90_r50_fpn_1x_dota"
ATSS = "rotated-atss-le90_r50_fpn_1x_dota"
RTMDET = "rotated_rtmdet_tiny-3x-dota"
S2ANET = "s2anet-le135_r50_fpn_1x_dota"
CASCADE = "cascade-s2anet-le135_r50_fpn_1x_dota"
ORIENTED_RCNN = "oriented-rcnn-le90_r50_fpn_1x_dota"


def published(detector):
    """Return MMRotate's own detector of the same configuration, with weights that make a difference."""
    return enliven_published(detector._fresh_detector())


def enliven_published(whole):
    torch.manual_seed(0)
    for module in whole.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.3, 0.3)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    for name, parameter in whole.named_parameters():
        if "head" in name and parameter.dim() > 1:
            parameter.data.mul_(3)
    return whole.eval()


def save_published(whole, path):
    torch.save({"meta": {"epoch": 12}, "state_dict": whole.state_dict()}, path)
    return path


# ---- the recipe's part ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"config": "rotated-retinanet-rbox-le90_r50_fpn_1x_dotta"}, "Did you mean 'rotated-retinanet"),
        ({"config": "nothing/here.py"}, "no file 'nothing/here.py'"),
        ({"classes": []}, "classes"),
        ({"classes": ["a", "a"]}, "listed 2 times"),
        ({"classes": ["a b"]}, "white space"),
        ({"backbone": "vgg"}, "mobilenet_v2"),
        ({"base_channels": 16}, "only a replaced ResNet"),
        ({"chanels": 32}, "chanels"),
    ],
)
def test_wrong_settings_are_refused(fields, text):
    with pytest.raises(ValidationError, match=text):
        OpenMmlabConfig(**{"config": RETINA, "classes": ["a"]} | fields)


def test_an_option_that_does_not_fit_is_named():
    detector = small(RETINA, cfg_options={"bbox_head.type": "mmdet.NoSuchHead"})
    with pytest.raises(DetectorError, match="NoSuchHead"):
        detector.build()


def test_the_plugin_keeps_the_contract_and_imports_no_torch():
    assert contract_faults(OpenMmlab) == []
    code = "import sys, detectors.openmmlab.adapter, detectors.openmmlab.deploy; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_changed_configuration_changes_the_version_also_through_its_base(tmp_path):
    (tmp_path / "base.py").write_text("model = dict(type='A')\n")
    (tmp_path / "mine.py").write_text("_base_ = ['base.py']\nx = 1\n")
    before = config_digest(tmp_path / "mine.py")
    assert config_digest(tmp_path / "mine.py") == before
    (tmp_path / "base.py").write_text("model = dict(type='B')\n")
    assert config_digest(tmp_path / "mine.py") != before
    versions = {small(name).VERSION for name in (RETINA, FCOS)}
    assert len(versions) == 2


def test_shipped_configurations_are_found_by_name():
    assert len(shipped_configs()) > 80
    assert find_config(RETINA).is_file()


# ---- the network ----------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [RETINA, FCOS, ATSS, RTMDET, S2ANET, CASCADE])
def test_the_network_computes_what_mmrotate_computes_from_its_checkpoint(config, tmp_path):
    """Also in training mode the maps are these, FCOS's distances without the stride."""
    detector = small(config)
    whole = published(detector)
    model = detector.build()
    detector.load(model, save_published(whole, tmp_path / "published.pth"))
    model.eval()
    images = smooth_images(2, seed=5)
    theirs = images.flip(1) if detector._model_config.takes_bgr else images
    with torch.no_grad():
        raw = model(images)
        features = whole.neck(whole.backbone(theirs))
        outs = whole._forward(theirs) if detector.layout.route == "refine" else whole.bbox_head(features)
    if config == FCOS:
        strides = whole.bbox_head.strides
        outs = [outs[0], [m / s for m, s in zip(outs[1], strides, strict=True)], *outs[2:]]
    expected = [level for kind in outs for level in kind]
    assert len(expected) == len(outs) * len(detector._strides)
    for ours, wanted in zip(raw, expected, strict=False):
        assert float(wanted.std()) > 1e-6 or wanted.numel() < 40
        torch.testing.assert_close(ours, wanted, rtol=1e-3, atol=1e-4)


def test_a_checkpoint_of_another_network_is_refused_with_the_tensors_that_differ(tmp_path):
    path = save_published(published(small(RETINA)), tmp_path / "published.pth")
    other = small(RETINA, channels=64)
    with pytest.raises(DetectorError, match=r"34 tensors do not fit the model.*\n  neck\S+ is \(32, .*expected \(64, "):
        other.load(other.build(), path)


def test_weights_of_krimp_are_read_back(tmp_path):
    from safetensors.torch import save_file

    detector = small(RTMDET)
    model = enliven(detector.build())
    state = {name: value.clone() for name, value in model.state_dict().items()}
    save_file(state, tmp_path / "model.safetensors")
    again = detector.build()
    detector.load(again, tmp_path / "model")
    with torch.no_grad():
        for a, b in zip(model(detector.example_input()), again.eval()(detector.example_input()), strict=True):
            assert torch.equal(a, b)


def test_torchvision_backbone_weights_are_matched_by_position(tmp_path):
    from safetensors.torch import save_file
    from torchvision.models import mobilenet_v2

    torch.manual_seed(1)
    reference = mobilenet_v2(weights=None).eval()
    save_file(reference.state_dict(), tmp_path / "m.safetensors")
    detector = small(
        RETINA, backbone="mobilenet_v2", base_channels=64, backbone_weights=str(tmp_path / "m.safetensors")
    )
    images = smooth_images(1, seed=0)
    with torch.no_grad():
        ours = detector.build().eval().backbone(images)
        expected = images
        for number, layer in enumerate(reference.features[:18]):
            expected = layer(expected)
            if number == 3:
                torch.testing.assert_close(ours[0], expected)
    torch.testing.assert_close(ours[-1], expected)


def test_every_named_module_exists_and_every_output_has_a_name():
    for config in (RETINA, RTMDET, S2ANET, ORIENTED_RCNN):
        detector = small(config)
        model = detector.build().eval()
        named = [*detector.not_prunable(model), *detector.not_quantizable(model), *detector.distill_points(model)]
        for name in named:
            model.get_submodule(name)
        assert detector.distill_points(model)
        with torch.no_grad():
            raw = model(detector.example_input())
        assert len(raw) >= len(detector.output_names()) == len(set(detector.output_names()))


def test_given_weights_freeze_the_stem_and_keep_the_statistics_of_the_backbone():
    detector = small(RETINA, checkpoint="x.pth")
    model = detector.build()
    detector.set_train_mode(model)
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen
    assert all(name.startswith(("backbone.conv1.", "backbone.bn1.", "backbone.layer1.")) for name in frozen)
    norms = [m for n, m in model.named_modules() if isinstance(m, torch.nn.BatchNorm2d) and n.startswith("backbone")]
    assert not any(norm.training for norm in norms)


def test_without_given_weights_everything_learns():
    detector = small(RETINA)
    model = detector.build().eval()
    detector.set_train_mode(model)
    assert all(p.requires_grad for p in model.parameters())
    assert all(module.training for module in model.modules())


# ---- the loss -------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [RETINA, FCOS, ATSS, RTMDET, S2ANET])
def test_cells_in_an_ignored_box_teach_nothing(config):
    detector = small(config)
    model = enliven(detector.build())
    with torch.no_grad():
        raw = [one.clamp(-3, 3) for one in model(smooth_images(1, seed=0))]
    hidden = torch.tensor([[64.0, 64.0, 64.0, 48.0, 0.0]])
    batch = SimpleNamespace(
        images=smooth_images(1, seed=0),
        boxes=[torch.tensor([[20.0, 20.0, 24.0, 16.0, 0.3]])],
        labels=[torch.tensor([1])],
        ignored=[hidden],
    )

    def score_gradient(ignored):
        batch.ignored = [ignored]
        leaves = [one.clone().requires_grad_() for one in raw]
        sum(detector.loss(model, tuple(leaves), batch).values()).backward()
        return split(leaves, len(detector.layout.kinds))[0][0].grad[0]

    inside = np.s_[:, 6:10, 5:11]  # cells of 8 px in the middle of the box
    assert float(score_gradient(torch.zeros(0, 5))[inside].abs().min()) > 0
    masked = score_gradient(hidden)
    assert float(masked[inside].abs().max()) == 0
    assert float(masked[:, :2].abs().max()) > 0


def test_an_image_without_objects_gives_finite_losses():
    for config in (RETINA, FCOS, RTMDET, S2ANET):
        detector = small(config)
        model = enliven(detector.build())
        batch = scene(number=1)
        batch.boxes, batch.labels, batch.ignored = (
            [torch.zeros(0, 5)],
            [torch.zeros(0, dtype=torch.long)],
            [torch.zeros(0, 5)],
        )
        total = sum(detector.loss(model, tuple(model(batch.images)), batch).values())
        assert bool(torch.isfinite(total))
        total.backward()


def test_the_rotated_iou_loss_is_the_published_formula_on_every_device():
    from mmrotate.models.losses import RotatedIoULoss

    from detectors.geometry.iou import pairwise_iou
    from detectors.openmmlab.losses import PortableIoULoss

    boxes = torch.tensor([[10.0, 10, 8, 4, 0.2], [30, 30, 10, 6, 1.0]])
    moved = boxes + torch.tensor([1.0, 0.5, 1, 0.5, 0.1])
    overlap = torch.from_numpy(pairwise_iou(boxes.double().numpy(), moved.double().numpy())).float()
    weight = torch.tensor([0.5, 2.0])
    for mode, expected in (("log", -overlap.log()), ("linear", 1 - overlap), ("square", 1 - overlap**2)):
        loss = PortableIoULoss(RotatedIoULoss(mode=mode, loss_weight=3.0))(boxes, moved, weight, avg_factor=4.0)
        torch.testing.assert_close(loss, 3.0 * (weight * expected).sum() / 4, rtol=1e-4, atol=1e-5)


def pairs_of_boxes(number, dtype):
    generator = torch.Generator().manual_seed(0)
    box = torch.rand(number, 5, generator=generator, dtype=dtype)
    box[:, 2:4] = 5 + 40 * box[:, 2:4]
    box[:, 4] = torch.pi * (box[:, 4] - 0.5)
    moved = box + torch.randn(number, 5, generator=generator, dtype=dtype)
    moved[:, 2:4].clamp_(min=1)
    return box, moved


@pytest.mark.parametrize("fun", ["log1p", "sqrt"])
def test_the_kullback_leibler_loss_is_the_published_one(fun):
    """In double precision, where rounding leaves enough of the published determinant."""
    from mmrotate.models.losses import GDLoss_v1

    from detectors.openmmlab.losses import use_closed_form

    theirs, ours = (GDLoss_v1("kld", fun=fun, tau=1.5, loss_weight=3.0) for _ in range(2))
    use_closed_form(ours)
    found = []
    for loss in (theirs, ours):
        pred, target = pairs_of_boxes(50, torch.float64)
        weight = torch.ones(50)
        weight[::7] = 0
        values = loss(pred.requires_grad_(), target, weight, avg_factor=8.0).flatten()
        found.append((values, *torch.autograd.grad(values.sum(), pred)))
    torch.testing.assert_close(found[1], found[0], rtol=1e-6, atol=1e-8)


def test_the_kullback_leibler_loss_is_finite_for_boxes_without_extent_where_the_published_one_is_not():
    from mmrotate.models.losses import GDLoss_v1

    from detectors.openmmlab.losses import use_closed_form

    loss = GDLoss_v1("kld", fun="log1p")
    pred, target = pairs_of_boxes(500, torch.float32)
    pred[:, 2] = 0
    pred[::3, 3] = 0
    weight = torch.ones(500)
    assert not bool(torch.isfinite(loss(pred, target, weight)).all())
    use_closed_form(loss)
    values = loss(pred.requires_grad_(), target, weight)
    assert bool(torch.isfinite(values).all())
    assert bool(torch.isfinite(torch.autograd.grad(values.sum(), pred)[0]).all())
    assert float(values.detach().min()) > 0.7  # far from any target


def test_forty_steps_on_one_image_learn_it():
    detector = small(RETINA)
    model = detector.build()
    images = 0.1 * torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([[40.0, 48, 40, 16, 0.4], [88.0, 80, 28, 24, 1.5]])
    for x, y, *_ in boxes.tolist():
        images[:, :, int(y) - 8 : int(y) + 8, int(x) - 12 : int(x) + 12] += 2
    batch = SimpleNamespace(images=images, boxes=[boxes], labels=[torch.tensor([0, 1])], ignored=[torch.zeros(0, 5)])
    detector.set_train_mode(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    history = []
    for _ in range(40):
        total = sum(detector.loss(model, model(batch.images), batch).values())
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10)
        optimizer.step()
        history.append(float(total.detach()))
    assert min(history[-5:]) < history[0] / 3


# ---- two-stage detectors --------------------------------------------------------------------------


def test_two_stage_detectors_are_scored_by_their_own_heads():
    detector = small(ORIENTED_RCNN)
    model = enliven(detector.build())
    with torch.no_grad():
        raw = [one.numpy() for one in model(smooth_images(1, seed=0))]
    found = deploy_of(detector).postprocess(raw, image_size=(SIZE, SIZE), score_threshold=0.0)
    assert len(found) == 1
    assert len(found[0]) > 0
    assert found[0].boxes.shape[1] == 5
    assert set(found[0].labels) <= set(range(len(CLASSES)))


def test_the_recipes_threshold_and_overlap_reach_the_heads_that_decode_in_torch():
    detector = small(ORIENTED_RCNN, score_threshold=0.01, nms_iou=0.9)
    used = detector.build().heads.detector.roi_head.test_cfg
    assert (used.score_thr, used.nms) == (0.01, {"type": "nms_rotated", "iou_threshold": 0.9})
    meta = detector.metadata()
    assert (meta["score_threshold"], meta["nms_iou"]) == (0.01, 0.9)
    assert small(ORIENTED_RCNN).metadata()["score_threshold"] == 0.05


@pytest.mark.parametrize("config", [RETINA, S2ANET])
def test_the_recipes_threshold_and_overlap_reach_the_metadata(config):
    meta = small(config, score_threshold=0.01, nms_iou=0.9).metadata()
    assert (meta["score_threshold"], meta["nms_iou"]) == (0.01, 0.9)


def test_metadata_of_a_two_stage_detector_is_refused_by_the_deployed_side():
    with pytest.raises(DetectorError, match="missing"):
        deploy.make_deploy(small(ORIENTED_RCNN).metadata())
