"""Which detectors end in raw maps that can be decoded outside the graph, and what those maps are. Imports no torch.

A family is known by the class names in the configuration. Everything else (two-stage detectors, point sets)
takes the route `features`: backbone and neck are the network, the heads stay what they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Route = Literal["dense", "refine", "features"]

SCORES, BOXES, ANGLES, CENTERNESS = "cls_score", "bbox_pred", "angle_pred", "centerness"
# Class of the head -> its raw maps, in the order in which `loss_by_feat` takes them.
DENSE_HEADS: dict[str, tuple[str, ...]] = {
    "RetinaHead": (SCORES, BOXES),
    "RotatedRetinaHead": (SCORES, BOXES),
    "AngleBranchRetinaHead": (SCORES, BOXES, ANGLES),
    "RotatedATSSHead": (SCORES, BOXES, CENTERNESS),
    "RotatedFCOSHead": (SCORES, BOXES, ANGLES, CENTERNESS),
    "RotatedRTMDetHead": (SCORES, BOXES, ANGLES),
    "RotatedRTMDetSepBNHead": (SCORES, BOXES, ANGLES),
}
REFINED = "refined"  # prefix of what the earlier stages of a refining detector predict
OUTPUT_LAYERS = (
    "retina_cls", "retina_reg", "retina_angle_cls", "atss_cls", "atss_reg", "atss_centerness",
    "conv_cls", "conv_reg", "conv_angle", "conv_centerness", "rtm_cls", "rtm_reg", "rtm_ang", "rtm_obj",
)  # fmt: skip
UNTRAINABLE = "H2RBox"
NOT_DECODED = {
    "RoIHead": "its second stage reads regions of the feature maps, as many as the first one proposes",
    "R3Head": "its feature refinement samples the maps at the best of several anchors (rotated_feature_align)",
    "RepPointsHead": "its boxes are the hull of learned points",
    "CFAHead": "its boxes are the hull of learned points",
    "H2RBox": "it learns from horizontal boxes, with pairs of views of an image that the loader does not make",
}


@dataclass(frozen=True)
class Layout:
    """The raw outputs of a network.

    Attributes:
        route: 'dense' (one head), 'refine' (stages that align features to the boxes of the stage before), 'features'.
        exported: kinds of the exported maps; each kind has one map a level.
        training: kinds of the maps behind them that only the loss reads.
        reason: for 'features': why there is nothing to decode.
        learns: whether the plug-in's loader makes what its loss needs.
    """

    route: Route
    exported: tuple[str, ...]
    training: tuple[str, ...] = ()
    reason: str = ""
    learns: bool = True

    @property
    def export_refusal(self) -> str | None:
        """Return why the network cannot become ONNX and what to do, or None if it can."""
        if self.route != "features":
            return None
        return (
            f"export to ONNX is not supported for this detector: {self.reason}. "
            "Backbone and neck can be pruned and quantized; leave out export_onnx and what follows it."
        )

    @property
    def kinds(self) -> tuple[str, ...]:
        """Return all kinds in the order of the outputs."""
        return (*self.exported, *self.training)


def layout_of(model: Mapping[str, Any]) -> Layout:
    """Return the raw outputs of the detector that a configuration describes."""
    head = class_name(model.get("bbox_head"))
    if head in DENSE_HEADS and class_name(model) != "H2RBoxV2Detector":
        return Layout("dense", DENSE_HEADS[head])
    refine = list(model.get("bbox_head_refine") or [])
    aligned = all(
        class_name(stage) == "S2ARefineHead" and class_name(stage.get("frm_cfg")) == "AlignConv" for stage in refine
    )
    if refine and aligned and class_name(model.get("bbox_head_init")) == "S2AHead":
        earlier = tuple(range(len(refine)))
        boxes = tuple(f"{REFINED}_{BOXES}_{stage}" for stage in earlier)
        scores = tuple(f"{REFINED}_{SCORES}_{stage}" for stage in earlier)
        return Layout("refine", (SCORES, BOXES, *boxes), scores)
    names = " ".join(class_name(model.get(part)) for part in ("roi_head", "bbox_head", "bbox_head_init"))
    names = f"{class_name(model)} {names}"
    known = (why for part, why in NOT_DECODED.items() if part in names)
    reason = next(known, "this plug-in does not know how its head is decoded")
    return Layout("features", ("feature",), reason=reason, learns=UNTRAINABLE not in names)


def class_name(part: Any) -> str:
    """Return the class that a part names, without its scope."""
    return str(part.get("type", "")).rpartition(".")[2] if isinstance(part, Mapping) else ""
