"""The vectorised assigner against plain loops written from detectors/dcfl/README.md, section 4."""

import math

import pytest
import torch

from detectors.dcfl import assigner as module
from detectors.dcfl.assigner import AssignerSettings, assign, best_of_each, gaussian_distance, inside_any
from detectors.dcfl.coder import decode
from detectors.dcfl.prior import grid_priors, move_priors
from detectors.dcfl.rotated_iou import rotated_iou

STRIDES = (8, 16, 32)


@pytest.fixture(autouse=True)
def seeded():
    torch.set_num_threads(1)


def make_scene(seed, num_boxes=5):
    generator = torch.Generator().manual_seed(seed)
    grid = grid_priors([(8, 8), (4, 4), (2, 2)], STRIDES)
    moved = move_priors(grid, 3 * torch.randn(len(grid), 2, generator=generator))
    unit = torch.rand(num_boxes, 5, generator=generator)
    size = 6 + 24 * unit[:, 2:3], 5 + 8 * unit[:, 3:4]
    boxes = torch.cat((4 + 56 * unit[:, :2], *size, (unit[:, 4:] - 0.25) * math.pi), dim=1)
    deltas = 0.3 * torch.randn(len(grid), 5, generator=generator)
    logits = torch.randn(len(grid), 3, generator=generator)
    return boxes, grid, moved, deltas, logits


def covariance(box):
    _, _, w, h, angle = (float(value) for value in box)
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]], dtype=torch.float64)
    return turn @ torch.diag(torch.tensor([w * w / 4, h * h / 4], dtype=torch.float64)) @ turn.T


def slow_divergence(box, prior):
    """The definition: Gaussians' dual geometric Jensen-Shannon divergence with alpha 1/2."""
    first, second = covariance(box), covariance(prior)
    precision1, precision2 = first.inverse(), second.inverse()
    mean1, mean2 = box[:2].double(), prior[:2].double()
    middle = (0.5 * precision1 + 0.5 * precision2).inverse()
    mean = middle @ (0.5 * precision1 @ mean1 + 0.5 * precision2 @ mean2)
    quadratic = 0.5 * mean1 @ precision1 @ mean1 + 0.5 * mean2 @ precision2 @ mean2 - mean @ middle.inverse() @ mean
    volume = torch.log(first.det() ** 0.5 * second.det() ** 0.5 / middle.det())
    return 0.5 * float(quadratic + volume)


def slow_assign(boxes, grid, moved, deltas, logits, settings):
    count = len(grid)
    scores = [[1 / (1 + slow_divergence(box, moved[p])) for p in range(count)] for box in boxes]
    owner = [0] * count
    for g in range(len(boxes)):
        for p in sorted(range(count), key=lambda p, g=g: -scores[g][p])[: settings.topk]:
            owner[p] = g + 1
    for p in range(count):
        if owner[p] == 0 and max(row[p] for row in scores) >= 0.8:
            owner[p] = -1
    for g, box in enumerate(boxes):
        own = [p for p in range(count) if owner[p] == g + 1]
        quality = {}
        for p in own:
            overlap = float(rotated_iou(decode(grid[p : p + 1], deltas[p : p + 1]), box[None]))
            quality[p] = overlap + float(logits[p].sigmoid().max())
        best = sorted(own, key=lambda p, quality=quality: -quality[p])[: settings.topq]
        if not own:
            continue
        centre = torch.stack([moved[p, :2] for p in best]).double().mean(dim=0)
        precision = covariance(box).inverse()
        for p in own:
            gate = 0.0
            for weight, mean in ((0.7, box[:2].double()), (0.3, centre)):
                gap = moved[p, :2].double() - mean
                gate += weight * math.exp(-0.5 * float(gap @ precision @ gap))
            if p not in best or gate < math.exp(-settings.gauss_threshold):
                owner[p] = 0
    return torch.tensor(owner)


@pytest.mark.parametrize("seed", range(4))
def test_equals_plain_loops(seed):
    scene = make_scene(seed)
    settings = AssignerSettings(topk=6, topq=4, gauss_threshold=0.8)
    found = assign(*scene, settings)
    assert (found > 0).any()
    assert torch.equal(found, slow_assign(*scene, settings))


def test_distance_is_the_dual_divergence():
    boxes, grid, *_ = make_scene(7)
    found = gaussian_distance(boxes.double(), grid[:40].double())
    for g, box in enumerate(boxes):
        for p in range(40):
            assert float(found[g, p]) == pytest.approx(slow_divergence(box, grid[p]), abs=1e-8)


def test_known_distances():
    pairs = [
        ((512.0, 512, 32, 32, 0), (520.0, 508, 24, 10, 0.5), 0.366283),
        ((0.0, 0, 32, 32, 0), (0.0, 0, 8, 8, 0), 0.753772),
        ((256.0, 256, 64, 64, 0), (300.0, 250, 120, 14, 2.0), 0.888),
    ]
    for prior, box, expected in pairs:
        assert float(gaussian_distance(torch.tensor([box]), torch.tensor([prior]))) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("compat", [False, True])
def test_chunks_change_nothing(compat, monkeypatch):
    scene = make_scene(3, num_boxes=9)
    settings = AssignerSettings(6, 4, 0.8, compat=compat)
    expected = assign(*scene, settings)
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", 2 * len(scene[1]))
    assert torch.equal(assign(*scene, settings), expected)


def test_without_boxes_everything_is_negative():
    _, *rest = make_scene(0)
    assert (assign(torch.zeros(0, 5), *rest, AssignerSettings()) == 0).all()


def test_every_box_keeps_its_best_quality():
    owner = torch.tensor([2, 1, 1, 2, 1, 3])
    quality = torch.tensor([0.1, 0.5, 0.9, 0.8, 0.7, 0.0])
    assert best_of_each(owner, quality, 2).tolist() == [True, False, True, True, True, True]


def test_points_inside_a_turned_box():
    points = torch.tensor([[0.0, 0], [6, 6], [6, -6], [50, 50]])
    boxes = torch.tensor([[0.0, 0, 20, 4, math.pi / 4]])
    assert inside_any(points, boxes).tolist() == [True, True, False, False]
    assert inside_any(points, torch.tensor([[49.0, 49, 0, 0, 0]]), min_half_px=4).tolist() == [
        False,
        False,
        False,
        True,
    ]
    assert not inside_any(points, torch.zeros(0, 5)).any()
