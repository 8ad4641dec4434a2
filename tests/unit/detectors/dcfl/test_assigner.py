"""The vectorized assigner against plain loops (assigner_oracle.py), on random and on adversarial scenes."""

import math

import pytest
import torch
from assigner_oracle import AmbiguousError, divergence, dual_divergence, oracle
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from detectors.dcfl import assigner as module
from detectors.dcfl.assigner import assign, best_of_each, best_of_each_published, coarse_candidates, inside_any, largest
from detectors.dcfl.gaussian import gaussian_distance, similarity, similarity_chunks
from detectors.dcfl.prior import grid_priors, move_priors
from detectors.dcfl.rules import Rules, published_rules

STRIDES = (8, 16, 32)
QUARTER = math.pi / 4


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def uniform(generator, *shape):
    return torch.rand(*shape, generator=generator, dtype=torch.float64)


def make_boxes(kind, count, generator):
    unit = uniform(generator, count, 5)
    angle = (unit[:, 4:] - 0.25) * math.pi
    if kind == "lattice":  # on the grid points, so that many priors are equally near
        place = (unit[:, :2] * 8).floor() * 8
        return torch.cat((place, 8 * 2 ** (unit[:, 2:4] * 3).floor(), (angle / QUARTER).round() * QUARTER), dim=1)
    if kind == "twins":  # each box twice
        half = make_boxes("mixed", max(1, count // 2), generator)
        return torch.cat((half, half))[:count]
    sizes = {"mixed": (4, 60), "tiny": (0.01, 3), "huge": (100, 4000), "thin": (1, 60), "outside": (4, 40)}[kind]
    size = sizes[0] * (sizes[1] / sizes[0]) ** unit[:, 2:4]
    if kind == "thin":
        size[:, 1] = 0.5
    place = unit[:, :2] * 64 + (200 if kind == "outside" else 0)
    return torch.cat((place, size, angle), dim=1)


def make_scene(seed, *, kind="mixed", count=5, predictions="random", spread=3.0):
    """Return boxes, grid, moved priors, deltas and logits in float64; spread 0 leaves the priors on the grid."""
    generator = torch.Generator().manual_seed(seed)
    grid = grid_priors([(8, 8), (4, 4), (2, 2)], STRIDES).double()
    moved = move_priors(grid, spread * (uniform(generator, len(grid), 2) - 0.5) * 2)
    boxes = make_boxes(kind, count, generator) if count else torch.zeros(0, 5, dtype=torch.float64)
    deltas = 0.6 * (uniform(generator, len(grid), 5) - 0.5)
    logits = 4 * (uniform(generator, len(grid), 3) - 0.8)
    if predictions == "equal":  # all quality is the same: far from every box, one score
        deltas[:] = torch.tensor([1000.0, 1000, -4, -4, 0])
        logits[:] = -1.0
    return boxes, grid, moved, deltas, logits


def expected_of(scene, rules):
    try:
        return torch.tensor(oracle(*(part.tolist() for part in scene), rules))
    except AmbiguousError:
        return None


rules_of_any_kind = st.builds(
    Rules,
    topk=st.sampled_from([1, 2, 6, 16, 200]),
    topq=st.sampled_from([1, 3, 12]),
    gauss_threshold=st.sampled_from([0.1, 0.6, 0.8, 3.0]),
    ranking=st.sampled_from(["grid", "moved", "published"]),
    fill_short_boxes=st.booleans(),
    gate_ignored=st.booleans(),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.filter_too_much], derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    kind=st.sampled_from(["mixed", "lattice", "twins", "tiny", "huge", "thin", "outside"]),
    count=st.integers(0, 7),
    predictions=st.sampled_from(["random", "equal"]),
    spread=st.sampled_from([0.0, 3.0, 40.0]),
    rules=rules_of_any_kind,
)
def test_equals_plain_loops(seed, kind, count, predictions, spread, rules):
    scene = make_scene(seed, kind=kind, count=count, predictions=predictions, spread=spread)
    expected = expected_of(scene, rules)
    assume(expected is not None)
    assert torch.equal(assign(*scene, rules), expected)


@pytest.mark.parametrize("rules", [Rules(6, 4, 0.8), published_rules(6, 4, 0.8)], ids=["default", "published"])
@pytest.mark.parametrize("seed", range(3))
def test_scenes_of_the_oracle_have_positives_and_ignored_priors(seed, rules):
    scene = make_scene(seed, count=6)
    found = assign(*scene, rules)
    assert (found > 0).any()
    assert torch.equal(found, expected_of(scene, rules))
    ignoring = make_scene(seed, kind="lattice", count=4, spread=0.0)
    assert (coarse_candidates(ignoring[0], ignoring[2], 2)[0] == -1).any()


@pytest.mark.parametrize("angle", [0.0, QUARTER, 0.3])
def test_priors_that_mirror_each_other_about_a_box_are_treated_alike(angle):
    grid = grid_priors([(8, 8)], [8])
    square = torch.tensor([[28.0, 28, 16, 16, angle]])  # in the middle of four priors
    owner, _ = coarse_candidates(square, grid, 1)
    assert (owner > 0).sum() == 4
    owner, _ = coarse_candidates(square, grid, 5)
    assert (owner > 0).sum() == 12


def test_distance_is_the_dual_divergence():
    boxes, grid, *_ = make_scene(7)
    found = gaussian_distance(boxes, grid[:40])
    for g, box in enumerate(boxes.tolist()):
        for p, prior in enumerate(grid[:40].tolist()):
            assert float(found[g, p]) == pytest.approx(dual_divergence(box, prior), abs=1e-8)
            assert divergence(box, prior) == pytest.approx(dual_divergence(box, prior), abs=1e-8)


def test_known_distances():
    pairs = [
        ((512.0, 512, 32, 32, 0), (520.0, 508, 24, 10, 0.5), 0.366283),
        ((0.0, 0, 32, 32, 0), (0.0, 0, 8, 8, 0), 0.753772),
        ((256.0, 256, 64, 64, 0), (300.0, 250, 120, 14, 2.0), 0.888),
    ]
    for prior, box, expected in pairs:
        assert float(gaussian_distance(torch.tensor([box]), torch.tensor([prior]))) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("num_pairs", [1, 200, 10**6])
@pytest.mark.parametrize("shapes", ["levels", "any"])
def test_similarity_in_parts_is_that_of_all_pairs(num_pairs, shapes):
    boxes, _, moved, *_ = make_scene(3, count=9)
    if shapes == "any":  # no two priors alike: the general form
        moved = moved + torch.rand(moved.shape, generator=torch.Generator().manual_seed(0))
    parts = [(start, part.clone()) for start, part in similarity_chunks(boxes, moved, num_pairs=num_pairs)]
    assert [start for start, _ in parts] == list(range(0, 9, len(parts[0][1])))
    torch.testing.assert_close(torch.cat([part for _, part in parts]), similarity(boxes, moved).float())


@pytest.mark.parametrize("fill", [False, True])
def test_parts_change_nothing(fill, monkeypatch):
    scene = make_scene(3, count=9)
    rules = Rules(6, 4, 0.8, fill_short_boxes=fill)
    expected = assign(*scene, rules)
    monkeypatch.setattr(module, "CHUNK_PAIRS", 2 * len(scene[1]))
    monkeypatch.setattr("detectors.dcfl.gaussian.CHUNK_PAIRS", {"cpu": (2 * len(scene[1]), 40)})
    assert torch.equal(assign(*scene, rules), expected)


@pytest.mark.parametrize("columns", [5, 160, 500, 1003])
def test_largest_entries_are_those_of_a_sort(columns):
    scores = torch.rand(7, columns, generator=torch.Generator().manual_seed(columns))
    scores[3] = (scores[3] * 4).round()  # many equal ones
    values, index = largest(scores, 5)
    assert torch.equal(values, scores.sort(dim=1, descending=True).values[:, :5])
    assert torch.equal(scores.gather(1, index), values)
    assert all(len(set(row.tolist())) == 5 for row in index)


def test_without_boxes_everything_is_negative():
    _, *rest = make_scene(0)
    assert (assign(torch.zeros(0, 5, dtype=torch.float64), *rest, Rules()) == 0).all()


def test_every_box_keeps_its_best_quality():
    owner = torch.tensor([2, 1, 1, 2, 1, 3])
    quality = torch.tensor([0.1, 0.5, 0.9, 0.8, 0.7, 0.0])
    assert best_of_each(owner, quality, 2).tolist() == [True, False, True, True, True, True]


def test_published_picks_fill_short_boxes_with_those_of_others():
    owner, quality = torch.tensor([2, 1, 1, 2, 1]), torch.tensor([0.1, 0.5, 0.9, 0.8, 0.7])
    picks = best_of_each_published(owner, quality, 2, 3)
    assert set(picks[0].tolist()) == {1, 2, 4}
    assert picks[1, :2].tolist() == [3, 0]
    assert owner[picks[1, 2]] == 1


def test_points_inside_a_turned_box():
    points = torch.tensor([[0.0, 0], [6, 6], [6, -6], [50, 50]])
    boxes = torch.tensor([[0.0, 0, 20, 4, math.pi / 4]])
    assert inside_any(points, boxes).tolist() == [True, True, False, False]
    widened = inside_any(points, torch.tensor([[49.0, 49, 0, 0, 0]]), min_half_px=4)
    assert widened.tolist() == [False, False, False, True]
    assert not inside_any(points, torch.zeros(0, 5)).any()
