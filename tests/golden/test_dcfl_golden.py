"""DCFL against numbers made with the published code, read from KRIMP_GOLDEN_DIR (default ../shared/golden/dcfl)."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from detectors.dcfl.assigner import (
    AssignerSettings,
    assign,
    best_of_each_published,
    candidate_quality,
    coarse_candidates,
    gaussian_distance,
    mixture_gate,
    similarity,
)
from detectors.dcfl.checkpoint import from_published_names
from detectors.dcfl.coder import decode, encode
from detectors.dcfl.deform import ModulatedDeformConv
from detectors.dcfl.losses import assign_batch, dcfl_loss, flatten_raw, focal_loss, iou_loss, normaliser
from detectors.dcfl.network import DcflNetwork
from detectors.dcfl.prior import grid_priors, level_shapes
from detectors.dcfl.rotated_iou import rotated_iou

FOLDER = Path(os.environ.get("KRIMP_GOLDEN_DIR", Path(__file__).parents[3] / "shared" / "golden" / "dcfl"))
STRIDES = (8, 16, 32, 64, 128)
LEVELS = (3, 4, 5, 6, 7)
PUBLISHED = AssignerSettings(16, 12, 0.6, compat=True, ranking="published")
SCENES = sorted(path.stem for path in (FOLDER / "assigner").glob("*.npz"))
NETWORKS = {"r18w16_f32_d3": ("resnet18", 16, 3), "r50w8_f32_d4": ("resnet50", 8, 4)}
FORWARDS = [
    f"{net}/{path.stem}" for net in NETWORKS for path in sorted((FOLDER / "detector" / net).glob("forward*.npz"))
]
LOSSES = [f"{net}/{path.stem}" for net in NETWORKS for path in sorted((FOLDER / "detector" / net).glob("loss*.npz"))]

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"no golden numbers in {FOLDER}; set KRIMP_GOLDEN_DIR")


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def read(name):
    with np.load(FOLDER / f"{name}.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


def facts(name):
    return json.loads((FOLDER / f"{name}.json").read_text())


def assert_near(found, expected, *, absolute=0.0, relative=0.0):
    torch.testing.assert_close(found, expected.to(found.dtype), atol=absolute, rtol=relative)


def angle_gap(first, second):
    gap = (first - second) % np.pi
    return torch.minimum(gap, np.pi - gap).max()


def scene(name):
    case = read(f"assigner/{name}")
    case |= {"deltas": case["bbox_deltas"].T.contiguous(), "logits": case["cls_logits"].T.contiguous()}
    return case


def assigned(case, settings):
    return assign(case["gt_boxes"], case["grid_priors"], case["priors"], case["deltas"], case["logits"], settings)


@pytest.mark.parametrize("name", SCENES)
@pytest.mark.parametrize(
    ("variant", "settings"),
    [
        ("final_k16_q12_g06", PUBLISHED),
        ("final_k16_q12_g08", AssignerSettings(16, 12, 0.8, compat=True, ranking="published")),
        ("final_k15_q13_g06", AssignerSettings(15, 13, 0.6, compat=True, ranking="published")),
        ("final_k16_q12_g06_headcoder", AssignerSettings(16, 12, 0.6, compat=True, ranking="moved")),
        ("final_k16_q12_g06_headcoder_grid", AssignerSettings(16, 12, 0.6, compat=True, ranking="grid")),
    ],
)
def test_compat_map_is_the_published_one(name, variant, settings):
    case = scene(name)
    expected = case[f"s64_{variant}"].long()
    assert (assigned(case, settings) != expected).sum() == 0


@pytest.mark.parametrize("name", SCENES)
def test_coarse_map_and_steps_of_the_ranking_are_the_published_ones(name):
    case = scene(name)
    boxes, priors = case["gt_boxes"], case["priors"]
    if len(boxes) == 0:
        return
    owner, best = coarse_candidates(boxes, priors, 16, ties=True)
    assert (owner != case["s64_coarse_k16"].long()).sum() == 0
    assert_near(best, case["s64_max_similarity"], absolute=1e-5)
    chosen = case["s64_candidate_index"].long()
    number = case["s64_candidate_gt"].long()
    own = boxes[number - 1]
    quality = candidate_quality(
        own, priors[chosen], case["deltas"][chosen], case["logits"][chosen], published_angle=True
    )
    assert_near(quality, case["s64_candidate_quality"], absolute=1e-5)
    picks = best_of_each_published(number, case["s64_candidate_quality"], len(boxes), 12)
    kept = torch.zeros(len(priors), dtype=torch.int64)
    kept[chosen[picks.flatten()]] = number[picks.flatten()]
    medium = torch.where(case["s64_coarse_k16"] < 0, case["s64_coarse_k16"].long(), kept)
    assert (medium != case["s64_medium_k16_q12"].long()).sum() == 0
    centres = priors[chosen[picks], :2].mean(dim=1)
    assert_near(centres, case["s64_mixture_centre"], absolute=1e-3)
    gate = mixture_gate(priors[chosen, :2], own, case["s64_mixture_centre"][number - 1])
    assert_near(gate, case["s64_candidate_gate"], absolute=1e-5)


@pytest.mark.parametrize("name", SCENES)
def test_default_map_differs_only_where_a_quirk_is_repaired(name):
    case = scene(name)
    expected = case["s64_final_k16_q12_g06_headcoder_grid"].long()
    found = assigned(case, AssignerSettings(16, 12, 0.6))
    if len(case["gt_boxes"]) == 0:
        assert (found == 0).all()
        return
    chosen, number = case["s64_candidate_index"].long(), case["s64_candidate_gt"].long()
    owned = torch.bincount(number, minlength=len(case["gt_boxes"]) + 1)
    allowed = case["s64_coarse_k16"] < 0
    # Fillers are foreign candidates, chosen whatever their quality; a tie at rank K brings more candidates.
    allowed[chosen[owned[number] < 12]] = True
    allowed[chosen[owned[number] > 16]] = True
    positions = case["s64_final_k16_q12_g06_headcoder_grid_topq_position"].long()
    row = torch.arange(1, len(positions) + 1)[:, None]
    filler = number[positions] != row
    allowed[chosen[positions[filler]]] = True
    # A restored candidate also shifts the sample centre of the row that took it, never of its owner.
    assert not ((found != expected) & ~allowed).any()


@pytest.mark.parametrize("size", [64, 256, 1024, 4096])
def test_gaussian_distance(size):
    case = read("parts/gjsd")
    boxes, priors, expected = case[f"r{size}_gt"], case[f"r{size}_priors"], case[f"r{size}_gjsd_f64"]
    assert_near(gaussian_distance(boxes.double(), priors.double()), expected, absolute=1e-8)
    assert_near(similarity(boxes, priors), 1 / (1 + expected), absolute=1e-5)


def test_coder():
    case = read("parts/coder")
    for key, options in [("decode_head", {}), ("decode_head_clamped_600x900", {"image_size": (600, 900)})]:
        found = decode(case["priors"], case["deltas"], **options)
        assert_near(found[:, :4], case[key][:, :4], absolute=1e-4, relative=1e-5)
        assert angle_gap(found[:, 4], case[key][:, 4]) < 1e-5
    straight = case["priors"][:, 4] == 0
    found = decode(case["priors"], case["deltas"], angle_factor=1.0, wrap=False)[straight]
    expected = case["decode_assigner_default"][straight]
    assert_near(found[:, :4], expected[:, :4], absolute=1e-4, relative=1e-5)
    assert angle_gap(found[:, 4], expected[:, 4]) < 1e-5
    found = encode(case["priors"], case["boxes"])
    assert_near(found, case["encode_head"], absolute=1e-5, relative=1e-5)


def test_priors():
    case = read("parts/priors")
    for key, expected in case.items():
        if key.startswith("priors_"):
            height, width = (int(side) for side in key.removeprefix("priors_").split("x"))
            shapes = level_shapes((height, width), STRIDES)
            assert [h * w for h, w in shapes] == case[f"level_counts_{height}x{width}"].tolist()
            assert_near(grid_priors(shapes, STRIDES), expected, absolute=1e-4)


def test_focal_loss_and_its_gradient():
    case = read("parts/focal")
    logits = case["logits"].clone().requires_grad_()
    labels = torch.where(case["weights"] > 0, case["labels"], -1)
    assert set(case["weights"].unique().tolist()) <= {0.0, 1.0}
    elements = focal_loss(logits, labels)
    assert_near(elements, case["loss_elements"] * (labels >= 0)[:, None], absolute=1e-5)
    total = elements.sum() / 17
    total.backward()
    assert_near(total, case["loss_sum_over_17"], relative=1e-5)
    assert_near(logits.grad, case["grad_logits"], absolute=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rotated_iou(dtype):
    case = read("parts/rotated_iou")
    found = rotated_iou(case["boxes1"].to(dtype), case["boxes2"].to(dtype))
    assert_near(found, case["exact_iou_f64"], absolute=1e-6)


def test_iou_loss_and_its_gradient():
    case = read("parts/rotated_iou_loss")
    predicted = case["pred"].double().requires_grad_()
    found = iou_loss(predicted, case["target"].double())
    expected = -case["exact_iou_f64"].clamp(min=1e-6).log()
    assert_near(found, expected, absolute=1e-5)
    weight = case["weight"].double().mean(dim=1)
    found.sum().backward()
    clear = (case["exact_iou_f64"] > 0.05) & (case["exact_iou_f64"] < 0.9999)
    reference = case["grad_pred_log_run_in_float64_f64"]
    error = (predicted.grad - reference).norm(dim=1) / reference.norm(dim=1).clamp(min=1e-12)
    assert error[clear].max() < 1e-4
    assert predicted.grad.isfinite().all()
    assert_near((found.detach() * weight).sum() / 23, case["loss_log_weighted_over_23"], relative=2e-3)


@pytest.mark.parametrize("key", ["dcn0", "dcn1", "dcn2"])
def test_deformable_layer_and_its_gradients(key):
    case = read("parts/deform_conv")
    layer = ModulatedDeformConv(6, 8)
    layer.weight.data = case[f"{key}_weight"].clone()
    inputs = {name: case[f"{key}_{name}"].clone().requires_grad_() for name in ("input", "offset", "mask")}
    found = layer(*inputs.values())
    assert_near(found, case[f"{key}_output"], absolute=1e-5)
    found.backward(case[f"{key}_upstream"])
    for name, value in inputs.items():
        assert_near(value.grad, case[f"{key}_grad_{name}"], absolute=2e-5, relative=1e-5)
    assert_near(layer.weight.grad, case[f"{key}_grad_weight"], absolute=2e-5, relative=1e-5)


@pytest.mark.parametrize("dilation", [2, 3, 4])
def test_constant_ring_of_offsets_is_a_dilated_convolution(dilation):
    case = read("parts/deform_conv")
    weight, image = case[f"ring{dilation}_weight"], case[f"ring{dilation}_input"]
    found = torch.nn.functional.conv2d(image, weight, padding=dilation, dilation=dilation)
    assert_near(found, case[f"ring{dilation}_output"], absolute=1e-5)


def network(folder):
    backbone, width, dilation = NETWORKS[folder]
    model = DcflNetwork(backbone, 15, channels=32, dilation=dilation, base_channels=width)
    model.load_state_dict(from_published_names(read(f"detector/{folder}/weights")))
    return model.eval()


@pytest.mark.parametrize("name", FORWARDS)
def test_forward(name):
    case = read(f"detector/{name}")
    model = network(name.split("/")[0])
    seen = {}
    for level in range(5):
        model.neck.fpn_convs[level].register_forward_hook(
            lambda _, __, out, key=f"fpn_p{level + 3}": seen.update({key: out})
        )
    with torch.no_grad():
        raw = model(case["image"])
    names = [f"{kind}_p{level}" for kind in ("cls_score", "bbox_pred", "offset") for level in LEVELS]
    for key, value in [*zip(names, raw, strict=True), *seen.items()]:
        assert_near(value, case[key], absolute=1e-3)


def batch_of(case, count):
    return SimpleNamespace(
        boxes=[case[f"gt_boxes_{i}"] for i in range(count)],
        labels=[case[f"gt_labels_{i}"] for i in range(count)],
        ignored=[torch.zeros(0, 5) for _ in range(count)],
    )


def stored_raw(case):
    return [case[f"{kind}_p{level}"].clone() for kind in ("cls_score", "bbox_pred", "offset") for level in LEVELS]


@pytest.mark.parametrize("name", LOSSES)
def test_losses_and_gradients_from_stored_head_outputs(name):
    case, info = read(f"detector/{name}"), facts(f"detector/{name}")
    raw = [value.requires_grad_() for value in stored_raw(case)]
    count = len(case["images"])
    flat = flatten_raw(raw, compat=True)
    for index in range(count):
        assert_near(flat.moved[index], case[f"moved_priors_{index}"], absolute=1e-4)
    batch = batch_of(case, count)
    maps = assign_batch(flat, batch, PUBLISHED)
    for index, found in enumerate(maps):
        wrong = (found != case[f"assigned_gt_inds_{index}"].long()).sum()
        assert wrong <= max(2, 0.0005 * len(found))
    assert normaliser(maps, compat=True) == case["num_total_samples"]
    losses = dcfl_loss(raw, batch, PUBLISHED)
    assert_near(losses["loss_cls"].detach(), case["loss_cls_total"], relative=1e-5)
    assert_near(losses["loss_bbox"].detach(), case["loss_bbox_total"], relative=1e-4)
    exact = info["losses_recomputed_in_float64"]
    assert float(losses["loss_bbox"]) == pytest.approx(exact["loss_bbox_total"], rel=1e-5)
    sum(losses.values()).backward()
    found = flatten_raw([value.grad for value in raw[:10]] + raw[10:]).deltas
    expected = flatten_raw(raw[:5] + [case[f"grad_bbox_pred_p{level}"] for level in LEVELS] + raw[10:]).deltas
    published = torch.stack([case[f"assigned_gt_inds_{i}"] for i in range(count)]).long()
    positive = (published > 0) & (published == maps)
    assert (found[maps <= 0] == 0).all()
    error = (found - expected).norm(dim=2) / expected.norm(dim=2).clamp(min=1e-9)
    assert error[positive].max() < 1e-3


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_of_the_whole_forward(name):
    case = read(f"detector/{name}")
    folder = name.split("/")[0]
    model = network(folder)
    losses = dcfl_loss(model(case["images"]), batch_of(case, len(case["images"])), PUBLISHED)
    sum(losses.values()).backward()
    own = dict(model.named_parameters())
    loose = {"backbone": 5e-2, "neck": 2e-2, "conv_offset": 2e-2, "convs.0": 2e-2, "convs.2": 2e-2}
    for key in [key for key in case if key.startswith("grad:")]:
        parameter = next(iter(from_published_names({key.removeprefix("grad:"): case[key]})))
        limit = 1e-3
        if folder.startswith("r50"):
            limit = next((value for part, value in loose.items() if part in parameter), 1e-3)
        error = (own[parameter].grad - case[key]).norm() / case[key].norm()
        assert error < limit, parameter
