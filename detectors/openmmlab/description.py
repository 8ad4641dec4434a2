"""What deployment must know of a detector's priors and coders, read off the built heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from compress.errors import DetectorError

RBOX, HBOX, DISTANCE = "DeltaXYWHTRBBoxCoder", "DeltaXYWHTHBBoxCoder", "DistanceAnglePointCoder"


def describe(heads: Sequence[Any], test_cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of the metadata that depends on the heads, JSON-able.

    Args:
        heads: the one head, or those of a refining detector in order.
        test_cfg: of the configuration.

    Raises:
        DetectorError: a coder, a prior or a suppression that `decode.py` does not know.
    """
    nms = dict(test_cfg.get("nms") or {"type": "nms_rotated", "iou_threshold": 0.1})
    if str(nms.get("type", "nms_rotated")) != "nms_rotated":
        raise DetectorError(f"detector.config: test_cfg.nms is {nms['type']!r}; expected 'nms_rotated'.")
    if not getattr(heads[-1], "use_sigmoid_cls", True):
        raise DetectorError("detector.config: the classes compete in a softmax; expected a sigmoid each.")
    coders = [_coder(head.bbox_coder) for head in heads]
    return {
        "strides": [int(stride[0]) for stride in heads[0].prior_generator.strides],
        "priors": _priors(heads[0], coders[0]),
        "coders": coders,
        "angle_coder": _angle_coder(heads[-1]),
        "nms_pre": int(test_cfg["nms_pre"]),
        "max_detections": int(test_cfg["max_per_img"]),
        "min_box_px": max(float(test_cfg.get("min_bbox_size", 0)), 0.0),
        "score_threshold": float(test_cfg["score_thr"]),
        "nms_iou": float(nms.get("iou_threshold", 0.1)),
    }


def _coder(coder: Any) -> dict[str, Any]:
    name = type(coder).__name__
    if name == DISTANCE:
        return {"kind": "distance", "size": 4, "angle_version": coder.angle_version}
    if name not in (RBOX, HBOX) or coder.add_ctr_clamp:
        raise DetectorError(
            f"detector.config: box coder {name} is not known to the deployed code; expected {RBOX}, {HBOX} (without "
            f"add_ctr_clamp) or {DISTANCE}."
        )
    return {
        "kind": "rbox" if name == RBOX else "hbox",
        "size": 5,
        "means": [float(value) for value in coder.means],
        "stds": [float(value) for value in coder.stds],
        "norm_factor": None if not coder.norm_factor else float(coder.norm_factor),
        "edge_swap": bool(coder.edge_swap),
        "proj_xy": bool(getattr(coder, "proj_xy", False)),
        "angle_version": coder.angle_version,
    }


def _priors(head: Any, coder: Mapping[str, Any]) -> dict[str, Any]:
    generator = head.prior_generator
    if coder["kind"] == "distance":
        return {
            "kind": "points",
            "offset": float(generator.offset),
            "distances_in_strides": bool(getattr(head, "norm_on_bbox", False)),
        }
    return {
        "kind": "anchors",
        # Corners and single precision, because MMRotate's rounding decides which way a square anchor is turned.
        "corners": [level.tolist() for level in generator.base_anchors],
        "angle_version": getattr(generator, "angle_version", None),
    }


def _angle_coder(head: Any) -> dict[str, Any]:
    coder = getattr(head, "angle_coder", None)
    if coder is None:
        return {"kind": "none"}
    common = {"size": int(coder.encode_size), "in_delta": bool(getattr(head, "use_encoded_angle", True))}
    name = type(coder).__name__
    if name == "PseudoAngleCoder":
        return {"kind": "pseudo", **common}
    if name == "CSLCoder":
        own = {"omega": coder.omega, "range_deg": coder.angle_range, "offset_deg": coder.angle_offset}
        return {"kind": "csl", **common, **{key: float(value) for key, value in own.items()}}
    if name == "PSCCoder":
        own = {"num_step": int(coder.num_step), "dual_freq": bool(coder.dual_freq), "thr_mod": float(coder.thr_mod)}
        return {"kind": "psc", **common, **own}
    raise DetectorError(f"detector.config: angle coder {name} is not known; expected pseudo, CSL or PSC.")
