"""The suite judges any folder of its form: few quadrilaterals, turned squares, maps that differ in a prior.

Folders are made from the committed vectors: our code stands in for the published one, and one prior flips, as the
published float32 distances let one flip at the edge of K.
"""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from golden_cases import LEVELS, OWN_FOLDER
from golden_reference import best_ordered, box_of_quad, corners
from test_dcfl_golden_losses import RULES, batch_of, stored_maps, stored_raw

from detectors.dcfl.losses import dcfl_loss, normalizer

HERE = Path(__file__).parent
LOSS = "detector/own_r18w8_f16_d2/loss_64x64_two_one_empty"
SCENE = "assigner/o2_moved_128x96"
MODULES = ("manifest", "assigner", "geometry", "losses")


def arrays_of(name):
    with np.load(OWN_FOLDER / f"{name}.npz") as file:
        return {key: file[key] for key in file.files}


def write(folder, name, arrays, facts):
    path = folder / f"{name}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)
    path.with_suffix(".json").write_text(json.dumps(facts))
    shapes = {key: [str(value.dtype), list(value.shape)] for key, value in arrays.items()}
    data = path.read_bytes()
    manifest = folder / "manifest.json"
    files = json.loads(manifest.read_text())["files"] if manifest.is_file() else {}
    files[f"{name}.npz"] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data), "arrays": shapes}
    manifest.write_text(json.dumps({"kind": "other scenes", "files": files}))


def flipped_loss(flips):
    """Return the loss case as code would have stored it that takes some positives for negatives."""
    case = {key: torch.from_numpy(value) for key, value in arrays_of(LOSS).items()}
    maps = stored_maps(case)
    image, prior = (maps > 0).nonzero(as_tuple=True)
    assert len(image) > flips
    maps[image[:flips], prior[:flips]] = 0
    raw = [value.requires_grad_() for value in stored_raw(case)]
    losses = losses_of(raw, case, maps)
    sum(losses.values()).backward()
    total = {f"loss_{kind}_total": float(losses[f"loss_{kind}"]) for kind in ("cls", "bbox")}
    arrays = {key: value.numpy() for key, value in case.items()}
    arrays |= {f"assigned_gt_inds_{i}": one.numpy().astype(np.int16) for i, one in enumerate(maps)}
    arrays |= {name: np.float32(value) for name, value in total.items()}
    arrays["positives_per_image"] = (maps > 0).sum(dim=1).numpy()
    arrays["num_total_samples"] = normalizer(maps, by_image=True).numpy()
    for kind in ("cls", "bbox"):
        of_level = [per_level(raw, case, maps, level)[f"loss_{kind}"] for level in range(len(LEVELS))]
        arrays[f"loss_{kind}_per_level"] = np.array([float(value) for value in of_level], np.float32)
    for kind, start in (("cls_score", 0), ("bbox_pred", 5)):
        for level, value in zip(LEVELS, raw[start : start + 5], strict=True):
            arrays[f"grad_{kind}_p{level}"] = value.grad.numpy()
    facts = json.loads((OWN_FOLDER / f"{LOSS}.json").read_text())
    return arrays, facts | {"losses_recomputed_in_float64": total}


def losses_of(raw, case, maps):
    with mock.patch("detectors.dcfl.losses.assign_batch", return_value=maps):
        return dcfl_loss(raw, batch_of(case), RULES)


def per_level(raw, case, maps, level):
    """Return the losses of one level, divided as those of all: priors of the others are ignored."""
    sizes = [case[f"cls_score_p{n}"][0, 0].numel() for n in LEVELS]
    start = sum(sizes[:level])
    other = torch.full_like(maps, -1)
    other[:, start : start + sizes[level]] = maps[:, start : start + sizes[level]]
    share = normalizer(other, by_image=True) / normalizer(maps, by_image=True)
    return {name: value.detach() * share for name, value in losses_of(raw, case, other).items()}


def flipped_scene(flips):
    """Return an assigner case with the maps of float32 distances beside it, which differ in some candidates."""
    arrays = arrays_of(SCENE)
    for name in ("coarse_k16", "medium_k16_q12", "final_k16_q12_g06"):
        changed = arrays[f"s64_{name}"].copy()
        changed[np.flatnonzero(changed > 0)[:flips]] = 0
        arrays[f"f32_{name}"] = changed
    return arrays


def few_polygons():
    """Return ten quadrilaterals, and boxes of which half are squares turned by an eighth, begun at any corner."""
    arrays = arrays_of("parts/polygons")
    arrays |= {"quads": arrays["quads"][:10], "dataset_le135_f64": arrays["dataset_le135_f64"][:10]}
    arrays["tensor_le135"] = box_of_quad(arrays["quads"], "le135").astype(np.float32)
    boxes = arrays["boxes"][:8].astype(np.float64)
    boxes[::2, 2:] = [[20, 20, np.pi / 4]] * 4
    points = best_ordered(corners(boxes))[0]
    points[::2] = np.roll(points[::2], 1, axis=1)
    arrays |= {"boxes": boxes.astype(np.float32), "to_poly_le135": corners(boxes).reshape(-1, 8)}
    arrays["to_poly_ordered_le135"] = points.reshape(-1, 8)
    return arrays


def judged(folder, *modules):
    environment = os.environ | {"KRIMP_GOLDEN_DIR": str(folder), "OMP_NUM_THREADS": "1"}
    paths = [str(HERE / f"test_dcfl_golden_{module}.py") for module in modules]
    command = [sys.executable, "-m", "pytest", "-rA", "-p", "no:cacheprovider", "-k", "not own", *paths]
    done = subprocess.run(command, cwd=HERE.parents[2], env=environment, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    return {word: [line for line in lines if line.startswith(word)] for word in ("PASSED", "FAILED")}, done.stdout


def test_a_folder_of_other_scenes_passes(tmp_path):
    write(tmp_path, "detector/other_r18/loss_a", *flipped_loss(1))
    write(tmp_path, "assigner/z1_other", flipped_scene(2), {"scene": "z1"})
    write(tmp_path, "parts/polygons", few_polygons(), {})
    results, text = judged(tmp_path, *MODULES)
    assert not results["FAILED"], text
    passed = "\n".join(results["PASSED"])
    for expected in (
        "test_losses_and_gradients_from_stored_head_outputs[detector/other_r18/loss_a]",
        "test_gradients_of_the_whole_forward[detector/other_r18/loss_a]",
        "test_losses_of_every_level_from_stored_maps[detector/other_r18/loss_a]",
        "test_coarse_map_is_the_published_one[assigner/z1_other:f32_coarse_k16]",
        "test_boxes_of_quadrilaterals_in_the_loader_form[parts/polygons:dataset_le135_f64]",
        "test_corners_of_boxes[parts/polygons:to_poly_ordered_le135]",
    ):
        assert expected in passed, expected


def test_more_flips_than_rounding_explains_and_wrong_numbers_beside_a_flip_fail(tmp_path):
    write(tmp_path, "detector/other_r18/loss_many", *flipped_loss(3))
    arrays, facts = flipped_loss(1)
    arrays["loss_cls_total"] = arrays["loss_cls_total"] * np.float32(1 + 1e-4)
    write(tmp_path, "detector/other_r18/loss_wrong", arrays, facts)
    arrays, facts = flipped_loss(1)
    row = np.argwhere(np.abs(arrays["grad_bbox_pred_p3"]).sum(axis=1) > 0)[0]
    arrays["grad_bbox_pred_p3"][row[0], :, row[1], row[2]] *= np.float32(1.01)
    write(tmp_path, "detector/other_r18/loss_gradient", arrays, facts)
    write(tmp_path, "assigner/z2_many", flipped_scene(3), {"scene": "z2"})
    arrays = few_polygons()
    arrays["to_poly_ordered_le135"] = arrays["to_poly_ordered_le135"] + 1e-3
    write(tmp_path, "parts/polygons", arrays, {})
    results, text = judged(tmp_path, *MODULES)
    failed = "\n".join(results["FAILED"])
    for expected in (
        "test_moved_priors_maps_and_divisor[detector/other_r18/loss_many]",
        "test_losses_and_gradients_from_stored_head_outputs[detector/other_r18/loss_many]",
        "test_losses_and_gradients_from_stored_head_outputs[detector/other_r18/loss_wrong]",
        "test_losses_and_gradients_from_stored_head_outputs[detector/other_r18/loss_gradient]",
        "test_coarse_map_is_the_published_one[assigner/z2_many:f32_coarse_k16]",
        "test_corners_of_boxes[parts/polygons:to_poly_ordered_le135]",
    ):
        assert expected in failed, text


@pytest.mark.parametrize("clear", [True, False])
def test_a_float64_map_may_differ_only_where_rounding_decides(clear):
    from golden_cases import scene
    from golden_rounding import assert_map

    from detectors.dcfl.rules import published_rules

    case = scene(f"own/{SCENE}")
    expected = case["s64_coarse_k16"].long()
    found = expected.clone()
    found[(found > 0).nonzero()[0]] = 0
    if clear:
        with pytest.raises(AssertionError):
            assert_map(found, expected, "s64", case, published_rules())
        return
    best = case["s64_top24_similarity"].clone()
    best[0, 16] = best[0, 15] - 1e-7  # the box could as well take the next prior
    assert_map(found, expected, "s64", case | {"s64_top24_similarity": best}, published_rules())
