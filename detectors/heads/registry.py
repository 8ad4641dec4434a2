"""The built-in heads by name."""

from __future__ import annotations

from detectors.heads.fastestdet import fastestdet
from detectors.heads.head import Head, NoSettings
from detectors.heads.pairs import DetrSettings, SsdSettings, detr, ssd
from detectors.heads.rtmdet import RtmdetSettings, rtmdet
from detectors.heads.yolo import YoloSettings, end2end, obb_end2end, yolo_obb, yolov5, yolov8
from detectors.heads.yolox import YoloxSettings, yolox

HEADS: dict[str, Head] = {
    "yolov8": Head(
        yolov8,
        YoloSettings,
        "`(N, 4+C, A)` or `(N, A, 4+C)`: cx, cy, w, h, a score for each class",
        "Ultralytics: YOLOv8, v9, 11, 12, and 26 with `end2end=False`",
    ),
    "yolo-end2end": Head(
        end2end,
        YoloSettings,
        "`(N, K, 6)`: x1, y1, x2, y2, score, class",
        "Ultralytics: YOLOv10 and 26; others with `nms=True`",
        suppressed=False,
    ),
    "yolo-obb": Head(
        yolo_obb,
        YoloSettings,
        "`(N, 4+C+1, A)` or transposed: as `yolov8`, the angle (radians) last",
        "Ultralytics: YOLOv8-obb, 11-obb",
        rotated=True,
    ),
    "yolo-obb-end2end": Head(
        obb_end2end,
        YoloSettings,
        "`(N, K, 7)`: cx, cy, w, h, score, class, angle",
        "Ultralytics: YOLO26-obb",
        rotated=True,
        suppressed=False,
    ),
    "yolov5": Head(
        yolov5,
        YoloSettings,
        "`(N, A, 5+C)`: cx, cy, w, h, objectness, a score for each class",
        "YOLOv5, YOLOv7 without its own suppression",
    ),
    "yolox": Head(
        yolox,
        YoloxSettings,
        "`(N, A, 5+C)`: as `yolov5`; the box as offsets in cells, or `decoded`",
        "YOLOX's `export_onnx.py` (with `--decode_in_inference`: `decoded`)",
    ),
    "rtmdet": Head(
        rtmdet,
        RtmdetSettings,
        "`dets (N, K, 5)`, `labels (N, K)`; or maps: L of class scores, then L of distances to four sides",
        "MMDeploy (`dets`, `labels`: any of its upright detectors), MMDetection's RTMDet without its decoding",
        num_outputs=(2, 64),
    ),
    "ssd": Head(
        ssd,
        SsdSettings,
        "boxes `(N, P, 4)` and scores `(N, P, C+1)`, decoded or relative to `priors`",
        "torchvision's SSD head before its decoding; SSD in most other frameworks",
        num_outputs=(2, 2),
    ),
    "detr": Head(
        detr,
        DetrSettings,
        "logits `(N, Q, C+1)` and boxes `(N, Q, 4)`; or one `(N, Q, 4+C)`",
        "DETR (softmax, Hugging Face), Deformable DETR and RT-DETR (sigmoid), Ultralytics' RT-DETR (one output)",
        suppressed=False,
        num_outputs=(1, 2),
    ),
    "fastestdet": Head(
        fastestdet,
        NoSettings,
        "`(N, 5+C, h, w)`: objectness, box, class scores of each cell",
        "FastestDet",
    ),
}
