"""Metadata as nobody should write it, and what must hold of a deployed part that takes it all the same.

    .venv/bin/python scripts/fuzz_metadata.py                 10 minutes
    .venv/bin/python scripts/fuzz_metadata.py --minutes 60 --seed 1000000

A case is the metadata of a real model with a few values replaced by hostile ones. It is refused with one DetectorError,
or it works: pictures become finite input of the promised size, and any raw outputs become finite boxes in plain JSON.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # run as a file: make the repository importable, not the folder of this script
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np

from compress.errors import DetectorError
from compress.plugins import load_deploy

Meta = dict[str, Any]
Shape = int | tuple[int, ...]  # channels of the maps of each level, or the whole shape of an output
SECONDS = 5.0  # of processor time for all that is done with one case
COMMON: Meta = {
    "format_version": 1,
    "image_size": [64, 96],
    "mean": [123.675, 116.28, 103.53],
    "std": [58.395, 57.12, 57.375],
    "size_divisor": 32,
    "classes": ["person", "car"],
    "score_threshold": 0.05,
    "nms_iou": 0.4,
    "nms_pre": 200,
    "max_detections": 50,
}
_NAMES = ("cls_score", "bbox_pred", "angle_pred", "centerness")


def _outputs(kinds: Sequence[str], levels: int) -> list[str]:
    return [f"{kind}_{level}" for kind in kinds for level in range(levels)]


def _openmmlab(priors: Meta, coder: Meta, angle_coder: Meta, kinds: Sequence[str]) -> Meta:
    own: Meta = {"config": "some", "strides": [8, 16], "kinds": list(kinds), "priors": priors, "coders": [coder]}
    own |= {"angle_coder": angle_coder, "min_box_px": 0.0, "output_names": _outputs(kinds, 2)}
    return COMMON | {"plugin": "openmmlab"} | own


_DELTAS = {
    "kind": "rbox", "size": 5, "means": [0.0] * 5, "stds": [1.0] * 5, "norm_factor": None, "edge_swap": True,
    "proj_xy": True, "angle_version": "le90",
}  # fmt: skip
_CORNERS = [[[-4.0 * s, -4.0 * s, 4.0 * s, 4.0 * s]] for s in (8, 16)]
_PSC = {"kind": "psc", "size": 6, "in_delta": False, "num_step": 3, "dual_freq": True, "thr_mod": 0.47}
_CSL = {"kind": "csl", "size": 180, "in_delta": True, "omega": 1.0, "range_deg": 180.0, "offset_deg": 90.0}
_ANCHORS = {"kind": "anchors", "corners": _CORNERS, "angle_version": "le90"}


def _head(name: str, *shapes: tuple[int, ...], **settings: Any) -> tuple[Meta, tuple[Shape, ...]]:
    own: Meta = {"plugin": "heads", "head": name, "settings": settings, "size_divisor": 1, "channel_order": "bgr"}
    own |= {"resize": {"kind": "letterbox", "pad_value": 114, "position": "center", "enlarge": True}}
    return COMMON | own | {"output_names": [f"output{number}" for number in range(len(shapes))]}, shapes


_PRIORS = [[4.0 * number, 0.0, 4.0 * number + 9, 8.0] for number in range(20)]
# Metadata, and the channels of the maps of each kind or the shapes of the outputs.
VALID: dict[str, tuple[Meta, tuple[Shape, ...]]] = {
    "dcfl": (
        COMMON
        | {"plugin": "dcfl", "strides": [8, 16], "anchor_scale": 4, "angle_version": "le135"}
        | {"output_names": _outputs(("cls_score", "bbox_pred"), 2)},
        (2, 5),
    ),
    "retinanet": (
        COMMON
        | {"plugin": "torchvision", "architecture": "retinanet", "input_size": [64, 96], "num_levels": 2}
        | {"anchors": {"kind": "grid", "sizes_px": [[32.0], [64.0]], "aspect_ratios": [[0.5, 1.0, 2.0]] * 2}}
        | {"output_names": _outputs(("cls_score", "bbox_pred"), 2)},
        (6, 12),
    ),
    "ssdlite": (
        COMMON
        | {"plugin": "torchvision", "architecture": "ssdlite", "input_size": [64, 96], "num_levels": 2}
        | {"anchors": {"kind": "shares", "shares": [[[0.2, 0.2], [0.3, 0.1]]] * 2}}
        | {"output_names": _outputs(("cls_score", "bbox_pred"), 2)},
        (6, 8),
    ),
    "fcos": (
        COMMON
        | {"plugin": "torchvision", "architecture": "fcos", "input_size": [64, 96], "num_levels": 2}
        | {"anchors": {"kind": "grid", "sizes_px": [[8.0], [16.0]], "aspect_ratios": [[1.0]] * 2}}
        | {"output_names": _outputs(("cls_score", "bbox_pred", "centerness"), 2)},
        (2, 4, 1),
    ),
    "rotated_retinanet": (_openmmlab(_ANCHORS, _DELTAS, {"kind": "none"}, _NAMES[:2]), (2, 5)),
    "csl": (_openmmlab(_ANCHORS, _DELTAS, _CSL, _NAMES[:3]), (2, 5, 180)),
    "rotated_fcos": (
        _openmmlab(
            {"kind": "points", "offset": 0.5, "distances_in_strides": True},
            {"kind": "distance", "size": 4, "angle_version": "le90"},
            {"kind": "pseudo", "size": 1, "in_delta": False},
            _NAMES,
        ),
        (2, 4, 1, 1),
    ),
    "psc": (
        _openmmlab(
            {"kind": "points", "offset": 0.0, "distances_in_strides": False},
            {"kind": "distance", "size": 4, "angle_version": "oc"},
            _PSC,
            _NAMES,
        ),
        (2, 4, 6, 1),
    ),
    "yolov8": _head("yolov8", (1, 6, 126), normalized=False),
    "yolo-obb": _head("yolo-obb", (1, 7, 126), normalized=True),
    "yolo-end2end": _head("yolo-end2end", (1, 30, 6)),
    "yolo-obb-end2end": _head("yolo-obb-end2end", (1, 30, 7), normalized=True),
    "yolov5": _head("yolov5", (1, 378, 7)),
    "yolox": _head("yolox", (1, 126, 7), decoded=False, strides=[8, 16, 32]),
    "rtmdet": _head(
        "rtmdet", (1, 2, 8, 12), (1, 2, 4, 6), (1, 4, 8, 12), (1, 4, 4, 6),
        form="maps", strides=[8, 16], offset=0.5, distances_in_strides=True, logits=True,
    ),
    "mmdeploy": _head("rtmdet", (1, 30, 5), (1, 30), form="detections"),
    "ssd": _head(
        "ssd", (1, 20, 4), (1, 20, 3), priors=_PRIORS, weights=[10.0, 10.0, 5.0, 5.0], order="boxes_scores",
        scores="softmax", background="first", normalized=False,
    ),
    "detr": _head("detr", (1, 25, 3), (1, 25, 4), order="scores_boxes", scores="softmax", background="last"),
    "fastestdet": _head("fastestdet", (1, 7, 4, 6)),
}  # fmt: skip
HOSTILE: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 7, 2**31, 10**18, -(10**18), 10**400, 0.0, -0.0, 0.5, 1.0, -5.0, 2.0, 1e-300, 1e300,
    float("nan"), float("inf"), float("-inf"), "", " ", "abc", "le90", "oc", "grid", "points", "1", "\x1b[2J\n",
    "\ud800", "a" * 10**6, [], [0], [-8], [8] * 10**5, [1e300], [None], [[]], [[1.0]], {}, {"a": 1}, {"kind": "none"},
    {"kind": "shares", "shares": []}, {"kind": ["grid"]}, [float("nan")] * 5, [16, 16], [10**5, 10**5], [0, 0],
)  # fmt: skip


def hostile(draw: random.Random) -> tuple[str, Meta]:
    """Return the name of a model and its metadata with one to three values replaced, taken out or put elsewhere."""
    name = draw.choice(sorted(VALID))
    meta = copy.deepcopy(VALID[name][0])
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        holder, key = _somewhere(meta, draw)
        action = draw.randrange(10)
        if action == 0 and isinstance(holder, dict):
            del holder[key]
        elif action == 1 and isinstance(holder, list):
            holder.insert(key, copy.deepcopy(holder[key]))
        elif action == 2 and isinstance(holder, list):
            del holder[key]
        elif action == 3:
            other, at = _somewhere(meta, draw)
            holder[key] = copy.deepcopy(other[at])
        else:
            holder[key] = copy.deepcopy(draw.choice(HOSTILE))
        if not meta:
            break
    return name, meta


def _somewhere(meta: Any, draw: random.Random) -> tuple[Any, Any]:
    """Return a list or an object inside, and the index or key of one of its values."""
    places, waiting = [], [meta]
    while waiting:
        holder = waiting.pop()
        for key in list(holder) if isinstance(holder, dict) else range(len(holder)):
            places.append((holder, key))
            if isinstance(holder[key], dict | list) and len(holder[key]) < 100:
                waiting.append(holder[key])
    return draw.choice(places)


def raw_outputs(channels: Sequence[Shape], draw: random.Random) -> list[np.ndarray]:
    """Return maps of two levels, or outputs of whole shapes, as a network gives them, broken ones among them."""
    numbers = np.random.default_rng(draw.randrange(1 << 30))
    kind = draw.randrange(6)
    maps = []
    for shape in channels:
        if isinstance(shape, tuple):
            maps.append((numbers.random(shape) * draw.choice((1, 1, 1, 100))).astype(np.float32))
        else:
            maps += [(numbers.standard_normal((1, shape, size, size)) * 4).astype(np.float32) for size in (6, 3)]
    if kind == 0:
        maps = [np.full_like(one, draw.choice((np.nan, np.inf, -np.inf, 1e30, -1e30))) for one in maps]
    elif kind == 1:
        at = draw.randrange(len(maps))
        one = maps[at]
        others: list[np.ndarray] = [one[0], one[:, :1], one.astype(np.int8), one[..., :1], one[:0]]
        maps[at] = draw.choice(others)
    elif kind == 2:
        maps = maps[: draw.randrange(len(maps) + 1)]
    return maps


def check(meta: Meta, channels: Sequence[Shape], draw: random.Random) -> str:
    """Try one case; return 'refused' or 'served'.

    Raises:
        DetectorError: never.
        AssertionError: what came out is wrong.
        Exception: the deployed part broke.
    """
    started = time.process_time()
    try:
        deploy = load_deploy(meta)
    except DetectorError as error:
        refusal = str(error)
        assert 0 < len(refusal) < 3000
        assert refusal.isprintable(), f"one line, nothing that a terminal acts upon: {refusal!r}"
        assert time.process_time() - started < SECONDS
        return "refused"
    picture = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    images = deploy.preprocess(picture)
    assert np.isfinite(images).all()
    windows = deploy.tile_windows((150, 150))
    assert 0 < len(windows) < 500
    try:
        (found,) = deploy.postprocess(raw_outputs(channels, draw), image_size=(40, 50))
    except DetectorError:
        return "served"
    both = deploy.merge([found] * len(windows), windows, image_size=(150, 150))
    for detections in (found, both):
        records = deploy.to_json(detections)
        json.dumps(records, allow_nan=False)
        assert all(record["class"] in meta["classes"] and 0 <= record["score"] <= 1 for record in records)
        text = deploy.to_text(detections)
        text.encode()
        assert len(text.splitlines()) == len(records)
    deploy.draw(picture, found, score_threshold=0.5)
    assert time.process_time() - started < SECONDS, "took too long"
    return "served"


def main() -> int:
    """Run until the time is over or something is found; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0, help="of the first case")
    options = parser.parse_args()
    counts: Counter[str] = Counter()
    end, seed = time.monotonic() + 60 * options.minutes, options.seed
    while time.monotonic() < end:
        draw = random.Random(seed)
        name, meta = hostile(draw)
        try:
            counts[check(meta, VALID[name][1], draw)] += 1
        except Exception as error:
            print(f"seed {seed}: {name}: {type(error).__name__}: {error}", flush=True)
            raise
        seed += 1
    print(f"{sum(counts.values())} cases: {dict(counts)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
