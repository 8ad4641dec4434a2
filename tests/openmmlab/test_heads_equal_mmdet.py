"""The heads for strangers' files against the code of MMDetection that made such files, on random outputs."""

import numpy as np
import pytest
import torch
from mmdet.models.dense_heads import DETRHead, RTMDetHead, YOLOXHead
from mmengine.config import ConfigDict
from torchvision.ops import box_convert

from compress.plugins import load_deploy

SIZE, STRIDES, CLASSES = (96, 160), (8, 16, 32), 3
IMAGE = [{"img_shape": SIZE, "scale_factor": (1.0, 1.0), "ori_shape": SIZE, "batch_input_shape": SIZE}]
TEST = ConfigDict(score_thr=0.3, nms_pre=100_000, min_bbox_size=-1, nms={"type": "nms", "iou_threshold": 0.5},
                  max_per_img=100_000)  # fmt: skip


def random(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def maps(channels, seed, scale=1.0):
    return [scale * random(1, channels, SIZE[0] // s, SIZE[1] // s, seed=seed + s) for s in STRIDES]


def decoded(head, raw, settings):
    meta = {
        "format_version": 1, "plugin": "heads", "head": head, "settings": settings, "image_size": list(SIZE),
        "mean": [0.0] * 3, "std": [255.0] * 3, "size_divisor": 1, "classes": ["one", "two", "three"],
        "score_threshold": 0.3, "nms_iou": 0.5, "nms_pre": 100_000, "max_detections": 100_000,
        "resize": {"kind": "stretch"}, "output_names": [str(number) for number in range(len(raw))],
    }  # fmt: skip
    (found,) = load_deploy(meta).postprocess([array.numpy() for array in raw], image_size=SIZE)
    return found


def check(found, wanted):
    """Compare with instances of MMDetection; what lies beyond the border alone is no object here."""
    high = torch.tensor([SIZE[1], SIZE[0], SIZE[1], SIZE[0]]).float()
    boxes = torch.minimum(wanted.bboxes.clamp(min=0), high)
    inside = ((boxes[:, 2:] - boxes[:, :2]) > 0.01).all(dim=1)
    boxes, scores, labels = boxes[inside], wanted.scores[inside], wanted.labels[inside]
    assert len(found) == len(boxes) > 10
    np.testing.assert_allclose(found.scores, scores, atol=1e-6)
    np.testing.assert_array_equal(found.labels, labels)
    np.testing.assert_allclose(found.boxes[:, :4], box_convert(boxes, "xyxy", "cxcywh"), atol=1e-3)


def test_yolox():
    head = YOLOXHead(CLASSES, 8, feat_channels=8, strides=STRIDES, test_cfg=TEST)
    # One class a cell above the threshold: MMDetection takes the best one only, here every class is a candidate.
    scores, boxes, objects = maps(CLASSES, 1, 0.1), maps(4, 2, 0.7), maps(1, 3, 2.0)
    scores = [torch.where(m == m.max(dim=1, keepdim=True).values, m + 1, m - 9) for m in scores]
    (wanted,) = head.predict_by_feat(scores, boxes, objects, batch_img_metas=IMAGE, cfg=TEST, with_nms=True)

    def flat(levels):
        return torch.cat([m.flatten(2).transpose(1, 2) for m in levels], dim=1)

    raw = torch.cat([flat(boxes), flat(objects).sigmoid(), flat(scores).sigmoid()], dim=2)  # as YOLOX exports it
    check(decoded("yolox", [raw], {"decoded": False, "strides": list(STRIDES)}), wanted)


def test_rtmdet():
    generator = {"type": "MlvlPointGenerator", "offset": 0, "strides": list(STRIDES)}
    head = RTMDetHead(
        CLASSES, 32, feat_channels=32, with_objectness=False, anchor_generator=generator, test_cfg=TEST,
        bbox_coder={"type": "DistancePointBBoxCoder"},
    )  # fmt: skip
    scores = maps(CLASSES, 4)
    distances = [m.exp() * stride for m, stride in zip(maps(4, 5), STRIDES, strict=True)]
    (wanted,) = head.predict_by_feat(scores, distances, batch_img_metas=IMAGE, cfg=TEST, with_nms=True)
    check(decoded("rtmdet", [*scores, *distances], {"form": "maps", "strides": list(STRIDES)}), wanted)


@pytest.mark.parametrize("form", ["softmax", "sigmoid"])
def test_detr(form):
    sigmoid = form == "sigmoid"
    loss = {"type": "FocalLoss" if sigmoid else "CrossEntropyLoss", "use_sigmoid": sigmoid}
    head = DETRHead(CLASSES, loss_cls=loss, test_cfg={"max_per_img": 50}, train_cfg=None)
    logits, boxes = 2 * random(1, 50, CLASSES + (not sigmoid), seed=6), random(1, 50, 4, seed=7).sigmoid()
    (wanted,) = head.predict_by_feat([logits], [boxes], batch_img_metas=IMAGE, rescale=False)
    wanted = wanted[torch.argsort(-wanted.scores, stable=True)]
    wanted = wanted[wanted.scores > 0.3]
    found = decoded("detr", [logits, boxes], {"scores": form, "background": "none" if sigmoid else "last"})
    check(found.take(np.arange(len(wanted))), wanted)
