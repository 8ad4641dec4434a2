"""Write the committed vectors: python tests/golden/dcfl/make_vectors.py. Never run by a test.

The same form as the golden folder, made by float64 code that shares nothing with the plug-in: plain loops
(assigner_oracle.py), a network in bare operations (reference_network.py), the conventions in numpy
(golden_reference.py) and finite differences for every gradient.
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[2]), str(HERE), str(HERE.parents[1] / "unit" / "detectors" / "dcfl")]

import assigner_oracle as slow  # noqa: E402
from golden_cases import weight_by_name  # noqa: E402
from golden_reference import best_ordered, box_of_quad, corners, decoded, encoded, wrapped  # noqa: E402
from reference_network import STRIDES, Network, deformable, shapes  # noqa: E402

from detectors.dcfl.rules import published_rules  # noqa: E402  (numbers only)

OUT = HERE / "vectors"
RNG = np.random.default_rng(20261125)
ALPHA, GAMMA = 0.25, 2
slow.MARGIN = 1e-4  # the plug-in may compute in float32


def write(name, arrays, facts):
    path = OUT / f"{name}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    typed = {}
    for key, value in arrays.items():
        value = np.asarray(value)
        keep = key.endswith("_f64") or value.dtype.kind in "iub"
        typed[key] = value if keep else value.astype(np.float32)
    np.savez_compressed(path, **typed)
    path.with_suffix(".json").write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")


def boxes(count, extent, low=6.0, high=40.0):
    size = np.sort(RNG.uniform(low, high, (count, 2)), axis=1)[:, ::-1]
    place, angle = RNG.uniform(0, extent, (count, 2)), RNG.uniform(-np.pi / 4, 3 * np.pi / 4, (count, 1))
    return np.column_stack([place, size, angle]).astype(np.float32).astype(np.float64)


def priors_of(height, width):
    rows = []
    for stride in STRIDES:
        for i in range(-(-height // stride)):
            rows += [[j * stride, i * stride, 4 * stride, 4 * stride, 0.0] for j in range(-(-width // stride))]
    return np.array(rows)


def single(array):
    return np.asarray(array, np.float32).astype(np.float64)


def differences(function, point, step=1e-6):
    """Central differences of a scalar function of an array."""
    gradient = np.zeros_like(point)
    for index in np.ndindex(point.shape):
        sides = []
        for sign in (1, -1):
            moved = point.copy()
            moved[index] += sign * step
            sides.append(function(moved))
        gradient[index] = (sides[0] - sides[1]) / (2 * step)
    return gradient


def focal(logits, labels):
    probability = 1 / (1 + np.exp(-logits))
    hit = labels[:, None] == np.arange(logits.shape[1])
    right = np.where(hit, probability, 1 - probability)
    return -np.where(hit, ALPHA, 1 - ALPHA) * (1 - right) ** GAMMA * np.log(right)


def greedy(found, scores, threshold):
    kept = []
    for index in np.argsort(-scores, kind="stable"):
        if all(slow.iou(found[other], found[index]) < threshold for other in kept):
            kept.append(index)
    return np.array(kept, np.int64)


# ---- set A ------------------------------------------------------------------------------------------


def make_scene(name, size, count, shift, classes=3):
    """Draw until no decision is within rounding."""
    while True:
        grid = priors_of(*size)
        moved = grid.copy()
        moved[:, :2] += shift * RNG.normal(size=(len(grid), 2)) * grid[:, 2:3] / 8
        case = {
            "grid_priors": grid,
            "priors": single(moved),
            "gt_boxes": boxes(count, min(size)),
            "gt_labels": RNG.integers(0, classes, count),
            "bbox_deltas": single(0.3 * RNG.normal(size=(5, len(grid)))),
            "cls_logits": single(RNG.normal(size=(classes, len(grid))) - 3),
        }
        try:
            outputs = scene_outputs(case)
        except slow.AmbiguousError:
            continue
        counts = [-(-size[0] // s) * -(-size[1] // s) for s in STRIDES]
        write(name, {"image_size": np.array(size), "level_counts": np.array(counts)} | case | outputs, {"scene": name})
        return


def scene_outputs(case):
    truth, grid, moved = (case[key].tolist() for key in ("gt_boxes", "grid_priors", "priors"))
    deltas, logits = case["bbox_deltas"].T.tolist(), case["cls_logits"].T.tolist()
    out = {}
    for variant, rules in {
        "k16_q12_g06": published_rules(),
        "k16_q12_g08": published_rules(gauss_threshold=0.8),
        "k15_q13_g06": published_rules(15, 13),
        "k16_q12_g06_headcoder": published_rules(ranking="moved"),
        "k16_q12_g06_headcoder_grid": published_rules(ranking="grid"),
    }.items():
        steps = stages(truth, grid, moved, deltas, logits, rules)
        out[f"s64_final_{variant}"] = np.array(steps["final"], np.int16)
        out[f"s64_final_{variant}_topq_position"] = steps["position"]
        if variant == "k16_q12_g06":
            main = steps
    chosen, owner = main["chosen"], main["owner"]
    scores = np.array([[1 / (1 + slow.divergence(box, prior)) for prior in moved] for box in truth])
    order = np.argsort(-scores, axis=1, kind="stable")[:, :24]
    medium = np.where(np.array(owner) < 0, -1, 0)
    picked = np.array(chosen)[main["position"]].ravel()
    medium[picked] = np.array(owner)[picked]
    final = np.array(main["final"])
    return out | {
        "s64_coarse_k16": np.array(owner, np.int16),
        "s64_medium_k16_q12": medium.astype(np.int16),
        "s64_labels": np.where(final > 0, case["gt_labels"][final - 1], -1).astype(np.int16),
        "s64_max_similarity": scores.max(axis=0),
        "s64_similarity_matrix": scores,
        "s64_top24_index": order.astype(np.int32),
        "s64_top24_similarity": np.take_along_axis(scores, order, 1),
        "s64_candidate_index": np.array(chosen, np.int32),
        "s64_candidate_gt": np.array([owner[index] for index in chosen], np.int16),
        "s64_candidate_quality": [main["quality"][index] for index in chosen],
        "s64_topq_position": main["position"],
        "s64_topq_quality": main["topq_quality"],
        "s64_mixture_centre": main["centres"],
        "s64_candidate_gate": [
            slow.mixture(moved[i][:2], truth[owner[i] - 1], main["centres"][owner[i] - 1]) for i in chosen
        ],
    }


def stages(truth, grid, moved, deltas, logits, rules):
    """Everything between the stages, with the functions of the oracle."""
    owner = slow.coarse(truth, moved, rules.topk)
    chosen = [index for index, number in enumerate(owner) if number > 0]
    base, published = (grid if rules.ranking == "grid" else moved), rules.ranking == "published"
    quality = {}
    for index in chosen:
        box = slow.decoded(base[index], deltas[index], angle_unit=1 if published else np.pi, wrap=not published)
        quality[index] = slow.iou(box, truth[owner[index] - 1]) + max(1 / (1 + np.exp(-v)) for v in logits[index])
    picks = slow.picks_of(owner, quality, truth, rules)
    place = {index: position for position, index in enumerate(chosen)}
    own = [[owner[index] == number for index in row] for number, row in enumerate(picks, start=1)]
    return {
        "owner": owner,
        "chosen": chosen,
        "quality": quality,
        "position": np.array([[place[index] for index in row] for row in picks], np.int32),
        "topq_quality": [
            [quality[i] if mine else -100.0 for i, mine in zip(row, flags, strict=True)]
            for row, flags in zip(picks, own, strict=True)
        ],
        "centres": [np.mean([moved[index][:2] for index in row], axis=0) for row in picks],
        "final": slow.oracle(truth, grid, moved, deltas, logits, rules),
    }


# ---- set B ------------------------------------------------------------------------------------------


def flat(maps, kind):
    return np.concatenate(
        [maps[f"{kind}_p{level}"][0].reshape(maps[f"{kind}_p{level}"].shape[1], -1) for level in range(3, 8)], 1
    )


def forward(state, image, dilation):
    maps = Network(state, dilation).forward(torch.from_numpy(image)[None])
    return {key: single(value.numpy()) for key, value in maps.items()}


def make_detector(classes=3, dilation=2, size=(64, 64)):
    table = shapes(8, 16, classes)
    state = {name: weight_by_name(name, shape) for name, shape in table.items()}
    image = np.round(RNG.normal(size=(3, *size)) * 32) / 32
    maps = forward(state, image, dilation)
    count = sum(int(np.prod(s)) for n, s in table.items() if not n.endswith(("_mean", "_var", "_tracked")))
    facts = {
        "dilation_rate": dilation,
        "num_classes": classes,
        "image_size": list(size),
        "img_shape": [60, 58],
        "scale_factor": 1.5,
        "offset_abs_max": float(max(np.abs(maps[f"offset_p{level}"]).max() for level in range(3, 8))),
        "parameters": {"all": count, "shapes": table},
        "detection_settings": {
            "published": {"nms_pre": 2000, "score_thr": 0.05, "nms": {"iou_thr": 0.4}, "max_per_img": 2000},
            "small": {"nms_pre": 20, "score_thr": 0.02, "nms": {"iou_thr": 0.3}, "max_per_img": 12},
        },
    }
    found = {}
    for setting, values in facts["detection_settings"].items():
        found |= detections(maps, facts["img_shape"], setting, values)
    found["det_rescaled_boxes"] = found["det_published_boxes"] / np.array([1.5, 1.5, 1.5, 1.5, 1])
    write("detector/own_r18w8_f16_d2/forward_64x64", {"image": image[None]} | maps | found, facts)
    make_loss(state, dilation, size, table, facts)


def detections(maps, picture, setting, values):
    grid, rows, classes = priors_of(64, 64), [], flat(maps, "cls_score").shape[0]
    logits, deltas = flat(maps, "cls_score"), flat(maps, "bbox_pred")
    start = 0
    for level in range(3, 8):
        cells = np.arange(start, start + maps[f"cls_score_p{level}"][0, 0].size)
        start += len(cells)
        if len(cells) > values["nms_pre"]:
            cells = cells[np.argsort(-logits[:, cells].max(axis=0), kind="stable")[: values["nms_pre"]]]
        rows += cells.tolist()
    before = decoded(grid[rows], deltas[:, rows].T, "le135", image_size=picture)
    scores = 1 / (1 + np.exp(-logits[:, rows].T))
    row, label = np.nonzero(scores > values["score_thr"])
    kept = []
    for number in range(classes):
        mine = np.flatnonzero(label == number)
        kept += mine[greedy(before[row[mine]], scores[row[mine], number], values["nms"]["iou_thr"])].tolist()
    kept = sorted(kept, key=lambda index: -scores[row[index], label[index]])[: values["max_per_img"]]
    values |= {"boxes_before_nms": len(rows), "detections": len(kept)}
    return {
        f"pre_{setting}_boxes": before,
        f"pre_{setting}_scores": scores,
        f"det_{setting}_boxes": before[row[kept]],
        f"det_{setting}_scores": scores[row[kept], label[kept]],
        f"det_{setting}_labels": label[kept].astype(np.int16),
    }


def make_loss(state, dilation, size, table, facts):
    grid, classes = priors_of(*size), facts["num_classes"]
    while True:
        images = np.round(RNG.normal(size=(2, 3, *size)) * 32) / 32
        maps = [forward(state, image, dilation) for image in images]
        truths = [(boxes(4, 60, 8, 24), RNG.integers(0, classes, 4)), (boxes(0, 60), np.zeros(0, np.int64))]
        try:
            found = [loss_of(grid, one, *truth, size) for one, truth in zip(maps, truths, strict=True)]
        except slow.AmbiguousError:
            continue
        overlaps = np.concatenate([one["overlap"] for one in found])
        if len(overlaps) > 4 and ((overlaps == 0) | (overlaps > 0.03)).all() and (overlaps > 0.03).sum() > 3:
            break
    positives = [int((one["map"] > 0).sum()) for one in found]
    total = sum(max(1, count) for count in positives)
    arrays = {"images": images, "positives_per_image": np.array(positives), "num_total_samples": np.array(total)}
    for kind in ("cls_score", "bbox_pred", "offset"):
        arrays |= {f"{kind}_p{n}": np.concatenate([one[f"{kind}_p{n}"] for one in maps]) for n in range(3, 8)}
    for index, (one, truth) in enumerate(zip(found, truths, strict=True)):
        arrays |= {f"gt_boxes_{index}": truth[0], f"gt_labels_{index}": truth[1]}
        arrays |= {f"moved_priors_{index}": one["moved"], f"assigned_gt_inds_{index}": one["map"].astype(np.int16)}
    start = 0
    for n in range(3, 8):
        shape = arrays[f"cls_score_p{n}"].shape[2:]
        part = slice(start, start + shape[0] * shape[1])
        start = part.stop
        for kind, key in (("cls_score", "class_gradient"), ("bbox_pred", "box_gradient")):
            stacked = np.stack([one[key][part].T.reshape(-1, *shape) for one in found])
            arrays[f"grad_{kind}_p{n}"] = stacked / total
        for kind in ("cls", "bbox"):
            values = arrays.setdefault(f"loss_{kind}_per_level", [])
            values.append(sum(one[kind][part].sum() for one in found) / total)
    losses = {f"loss_{kind}_total": float(sum(arrays[f"loss_{kind}_per_level"])) for kind in ("cls", "bbox")}
    facts = {"dilation_rate": dilation, "parameters": {"shapes": table}, "parameter_gradient_l2_norms": {}}
    write(
        "detector/own_r18w8_f16_d2/loss_64x64_two_one_empty",
        arrays | losses,
        facts | {"losses_recomputed_in_float64": losses},
    )


def loss_of(grid, maps, truth, labels, size):
    """Map, losses and their gradients (not divided) of one picture."""
    logits, deltas, offsets = (flat(maps, kind).T for kind in ("cls_score", "bbox_pred", "offset"))
    factor = size[0] / 256 * grid[:, 2:3] / 32
    moved = grid.copy()
    moved[:, :2] += factor * offsets.reshape(-1, 9, 2).mean(axis=1)[:, ::-1]
    moved = single(moved)
    owner = np.array(
        slow.oracle(truth.tolist(), grid.tolist(), moved.tolist(), deltas.tolist(), logits.tolist(), published_rules())
    )
    classes = np.full(len(grid), logits.shape[1])
    classes[owner > 0] = labels[owner[owner > 0] - 1]
    live = (owner >= 0)[:, None]
    step = 1e-5
    gradient = (focal(logits + step, classes) - focal(logits - step, classes)) / (2 * step)
    box_loss, box_gradient, overlap = np.zeros(len(grid)), np.zeros((len(grid), 5)), []
    for index in np.flatnonzero(owner > 0):
        box = truth[owner[index] - 1]

        def value(delta, index=index, box=box):
            return -np.log(max(slow.iou(decoded(grid[index : index + 1], delta[None], "le135")[0], box), 1e-6))

        box_loss[index] = value(deltas[index])
        box_gradient[index] = differences(value, deltas[index])
        overlap.append(slow.iou(decoded(grid[index : index + 1], deltas[index : index + 1], "le135")[0], box))
    return {
        "map": owner,
        "moved": moved,
        "cls": (focal(logits, classes) * live).sum(axis=1),
        "bbox": box_loss,
        "class_gradient": gradient * live,
        "box_gradient": box_gradient,
        "overlap": np.array(overlap),
    }


# ---- set C ------------------------------------------------------------------------------------------


def make_training_parts():
    first, second = boxes(12, 64), boxes(15, 64)
    pairs = (
        np.array([[512.0, 512, 32, 32, 0], [0, 0, 32, 32, 0]]),
        np.array([[520.0, 508, 24, 10, 0.5], [0, 0, 8, 8, 0]]),
    )
    write(
        "parts/gjsd",
        {
            "r64_gt": first,
            "r64_priors": second,
            "r64_gjsd_f64": np.array([[slow.dual_divergence(a, b) for b in second] for a in first]),
            "check_prior_f64": pairs[0],
            "check_gt_f64": pairs[1],
            "check_gjsd_f64": np.array([slow.dual_divergence(a, b) for a, b in zip(pairs[1], pairs[0], strict=True)]),
        },
        {},
    )
    priors, deltas, truth = boxes(40, 80), single(RNG.normal(size=(40, 5))), boxes(40, 80)
    priors[::2, 4] = 0
    deltas[::8] *= 8
    write(
        "parts/coder",
        {
            "priors": priors,
            "deltas": deltas,
            "boxes": truth,
            "decode_head": decoded(priors, deltas, "le135"),
            "decode_head_clamped_60x90": decoded(priors, deltas, "le135", image_size=(60, 90)),
            "encode_head": encoded(priors, truth, "le135"),
            "decode_assigner_default": decoded(priors, deltas, "oc", angle_unit=1.0, along_prior=False),
        },
        {},
    )
    logits, labels = single(3 * RNG.normal(size=(40, 4))), RNG.integers(0, 5, 40)
    weights = (RNG.random(40) > 0.2).astype(np.float32)
    total = (focal(logits, labels) * weights[:, None]).sum() / 17
    slope = (focal(logits + 1e-5, labels) - focal(logits - 1e-5, labels)) / 2e-5 * weights[:, None] / 17
    arrays = {"logits": logits, "labels": labels, "weights": weights, "loss_elements": focal(logits, labels)}
    write("parts/focal", arrays | {"loss_sum_over_17": total, "grad_logits": slope}, {})
    write(
        "parts/priors",
        {"priors_40x72": priors_of(40, 72), "level_counts_40x72": np.array([45, 15, 6, 2, 1])},
        {"strides": list(STRIDES)},
    )
    make_overlaps()
    make_deformable()


def make_overlaps():
    first, kinds = boxes(80, 30), ["overlapping", "identical", "identical_turned_half", "contained", "zero_size"]
    second, kind = boxes(80, 30), np.arange(80) % 5
    second[kind == 1] = first[kind == 1]
    second[kind == 2] = first[kind == 2] + [0, 0, 0, 0, np.pi]
    second[kind == 3] = first[kind == 3] * [1, 1, 0.5, 0.5, 1]
    second[kind == 4, 2] = 0
    second = single(second)
    iou = np.array([slow.iou(a, b) for a, b in zip(first, second, strict=True)])
    common = iou * (first[:, 2] * first[:, 3] + second[:, 2] * second[:, 3]) / (1 + iou)
    iof = common / (first[:, 2] * first[:, 3])
    arrays = {"boxes1": first, "boxes2": second, "kind": kind.astype(np.int8), "official_iou": iou, "official_iof": iof}
    write("parts/rotated_iou", arrays | {"exact_iou_f64": iou, "exact_iof_f64": iof}, {"kinds": kinds})

    target = boxes(40, 30)
    predicted = single(target + RNG.normal(size=target.shape) * [2, 2, 2, 2, 0.2])
    exact = np.array([slow.iou(a, b) for a, b in zip(predicted, target, strict=True)])
    weight = RNG.random((40, 5)).astype(np.float32)
    forms = {"log": lambda v: -np.log(max(v, 1e-6)), "linear": lambda v: 1 - v, "square": lambda v: 1 - v * v}
    arrays = {"pred": predicted, "target": target, "weight": weight, "exact_iou_f64": exact}
    for name, form in forms.items():
        arrays[f"loss_{name}"] = [form(value) for value in exact]
        arrays[f"grad_pred_{name}"] = np.array(
            [differences(lambda p, t=t, f=form: f(slow.iou(p, t)), p) for p, t in zip(predicted, target, strict=True)]
        )
    arrays["grad_pred_log_run_in_float64_f64"] = arrays["grad_pred_log"]
    arrays["loss_log_weighted_over_23"] = (np.array(arrays["loss_log"]) * weight.mean(axis=1)).sum() / 23
    write("parts/rotated_iou_loss", arrays, {})


def make_deformable():
    parts = {
        "input": RNG.normal(size=(1, 2, 3, 4)),
        "offset": 1.5 * RNG.normal(size=(1, 18, 3, 4)),
        "mask": RNG.random((1, 9, 3, 4)),
        "weight": RNG.normal(size=(3, 2, 3, 3)),
    }
    parts = {key: single(value) for key, value in parts.items()}
    upstream = single(RNG.normal(size=(1, 3, 3, 4)))

    def output(values):
        return deformable(*(torch.from_numpy(values[key]) for key in ("input", "offset", "mask", "weight"))).numpy()

    arrays = {f"dcn0_{key}": value for key, value in parts.items()} | {
        "dcn0_upstream": upstream,
        "dcn0_output": output(parts),
    }
    for key, value in parts.items():
        arrays[f"dcn0_grad_{key}"] = differences(lambda v, key=key: (output(parts | {key: v}) * upstream).sum(), value)
    ring = np.array([[dy, dx] for dy in (-1, 0, 1) for dx in (-1, 0, 1)], np.float64).ravel()
    image, weight = single(RNG.normal(size=(1, 2, 6, 5))), single(RNG.normal(size=(3, 2, 3, 3)))
    for dilation in (2, 3):
        offset = np.broadcast_to(((dilation - 1) * ring)[None, :, None, None], (1, 18, 6, 5)).copy()
        values = {"input": image, "offset": offset, "mask": np.ones((1, 9, 6, 5)), "weight": weight}
        arrays |= {
            f"ring{dilation}_input": image,
            f"ring{dilation}_weight": weight,
            f"ring{dilation}_output": output(values),
        }
    write("parts/deform_conv", arrays, {})


def make_geometry_parts():
    quads = corners(boxes(240, 200, 1, 60)).reshape(-1, 8)
    row = np.arange(240)
    distorted = (row % 3 == 1) | (row % 4 == 3)
    quads[distorted] += RNG.normal(size=(distorted.sum(), 8))
    quads = single(quads)
    boxed, angles = box_of_quad(quads, "le135"), np.linspace(-10, 10, 77)
    loader, some = boxed.copy(), boxes(40, 100)
    loader[loader[:, 3] < 2] = np.nan
    write(
        "parts/polygons",
        {
            "quads": quads,
            "boxes": some,
            "angles_f64": angles,
            "dataset_le135_f64": loader,
            "tensor_le135": boxed,
            "to_poly_le135": corners(some).reshape(-1, 8),
            "to_poly_ordered_le135": best_ordered(corners(some))[0].reshape(-1, 8),
            "norm_angle_le135_f64": wrapped(angles, "le135"),
        },
        {},
    )
    plain, scores = boxes(60, 60), single(RNG.random(60))
    cells, table = boxes(20, 50), single(RNG.random((20, 4)))
    row, label = np.nonzero(table[:, :-1] > 0.3)
    kept = []
    for number in range(3):
        mine = np.flatnonzero(label == number)
        kept += mine[greedy(cells[row[mine]], table[row[mine], number], 0.4)].tolist()
    kept = np.array(sorted(kept, key=lambda index: -table[row[index], label[index]])[:15])
    write(
        "parts/nms",
        {
            "s0_boxes": plain,
            "s0_scores": scores,
            "s0_keep": greedy(plain, scores, 0.3),
            "m0_boxes": cells,
            "m0_scores_with_background": table,
            "m0_keep": kept,
            "m0_det_boxes": cells[row[kept]],
            "m0_det_scores": table[row[kept], label[kept]],
            "m0_det_labels": label[kept],
        },
        {"single": {"s0": {"iou_thr": 0.3}}, "multi": {"m0": {"iou_thr": 0.4, "score_thr": 0.3, "max_num": 15}}},
    )
    labels = RNG.integers(0, 2, 60).astype(np.int16)
    merged = {}
    for number in range(2):
        mine = np.flatnonzero(labels == number)
        rows = mine[greedy(plain[mine], scores[mine], 0.1)]
        merged[f"merged_class{number}"] = np.column_stack([plain[rows], scores[rows]])
    write("parts/merge", {"labels": labels, "boxes": plain, "scores": scores} | merged, {"iou_thr": 0.1, "classes": 2})


def make_map(images=4, classes=3):
    truth = boxes(24, 200, 10, 40)
    near = single(np.concatenate([truth, truth[:10]]) + RNG.normal(size=(34, 5)) * [2, 2, 2, 2, 0.05])
    arrays = {
        "gt_boxes": truth,
        "gt_image": RNG.integers(0, images, 24).astype(np.int16),
        "gt_label": RNG.integers(0, classes - 1, 24).astype(np.int16),  # the last class has no truth
        "gt_ignore": RNG.random(24) < 0.2,
        "det_boxes": np.concatenate([near, boxes(10, 200)]),
        "det_scores": single(RNG.permutation(np.linspace(0.05, 1, 44))),
    }
    follow = np.concatenate([np.arange(24), np.arange(10), RNG.integers(0, 24, 10)])
    arrays |= {"det_image": arrays["gt_image"][follow], "det_label": arrays["gt_label"][follow].copy()}
    arrays["det_label"][-3:] = classes - 1
    runs = {"voc07_050": {"eleven_points": True, "iou_thr": 0.5}, "area_050": {"eleven_points": False, "iou_thr": 0.5}}
    for run, settings in runs.items():
        results = [class_curve(arrays, label, images, settings["iou_thr"]) for label in range(classes)]
        precision, recall = zip(*(one[:2] for one in results), strict=True)
        average = [average_precision(p, r, settings["eleven_points"]) for p, r in zip(precision, recall, strict=True)]
        truths = np.array([one[2] for one in results])
        settings["mean_ap"] = float(np.mean(np.array(average)[truths > 0]))
        arrays |= {f"{run}_ap_f64": np.array(average), f"{run}_num_gts": truths}
        arrays[f"{run}_num_dets"] = np.array([len(r) for r in recall])
        for name, curves in (("recall", recall), ("precision", precision)):
            arrays[f"{run}_last_{name}_f64"] = np.array([curve[-1] if len(curve) else 0.0 for curve in curves])
            arrays |= {f"{run}_{name}_curve_class{label}_f64": np.array(curve) for label, curve in enumerate(curves)}
    write("parts/map", arrays, {"classes": classes, "images": images, "runs": runs})


def class_curve(arrays, label, images, threshold):
    """Precision and recall after each detection of one class, and its number of truths."""
    outcomes, truths = [], 0
    for image in range(images):
        wanted = np.flatnonzero((arrays["gt_image"] == image) & (arrays["gt_label"] == label))
        found = np.flatnonzero((arrays["det_image"] == image) & (arrays["det_label"] == label))
        truths += int((~arrays["gt_ignore"][wanted]).sum())
        used = set()
        for index in found[np.argsort(-arrays["det_scores"][found])]:
            overlap = [slow.iou(arrays["det_boxes"][index], arrays["gt_boxes"][w]) for w in wanted]
            best = int(np.argmax(overlap)) if overlap else -1
            outcome = (0, 1)
            if overlap and overlap[best] >= threshold:
                outcome = (0, 0) if arrays["gt_ignore"][wanted[best]] else (0, 1) if best in used else (1, 0)
                used.add(best)
            outcomes.append((arrays["det_scores"][index], *outcome))
    outcomes.sort(key=lambda row: -row[0])
    right, wrong = (np.cumsum([row[k] for row in outcomes]) for k in (1, 2))
    return right / np.maximum(right + wrong, 1), right / max(truths, 1), truths


def average_precision(precision, recall, eleven_points):
    if not len(recall):
        return 0.0
    best = [max([p for p, r in zip(precision, recall, strict=True) if r >= level], default=0.0) for level in recall]
    if eleven_points:
        levels = np.arange(0, 1.01, 0.1)
        return float(
            np.mean([max([p for p, r in zip(precision, recall, strict=True) if r >= t], default=0.0) for t in levels])
        )
    steps = np.diff(np.concatenate([[0.0], recall]))
    return float((steps * np.array(best)).sum())


def write_manifest():
    files = {}
    for path in sorted(OUT.rglob("*.npz")):
        with np.load(path) as file:
            arrays = {key: [str(file[key].dtype), list(file[key].shape)] for key in file.files}
        data = path.read_bytes()
        entry = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data), "arrays": arrays}
        files[path.relative_to(OUT).as_posix()] = entry
    text = json.dumps({"kind": "own", "made_with": "make_vectors.py, float64", "files": files}, separators=(",", ":"))
    (OUT / "manifest.json").write_text(text + "\n")


if __name__ == "__main__":
    make_scene("assigner/o1_mixed_96", (96, 96), 6, 0.0)
    make_scene("assigner/o2_moved_128x96", (128, 96), 9, 1.0)
    make_detector()
    make_training_parts()
    make_geometry_parts()
    make_map()
    write_manifest()
