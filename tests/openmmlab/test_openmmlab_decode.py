"""The torch-free decoding against MMRotate's own `predict_by_feat` on the same raw maps."""

import numpy as np
import pytest
import torch
from small_detectors import SIZE, small

from detectors.openmmlab import deploy
from detectors.openmmlab.networks import split

torch.set_num_threads(1)

CONFIGS = (
    "rotated-retinanet-rbox-le90_r50_fpn_1x_dota",
    "rotated-retinanet-rbox-le135_r50_fpn_1x_dota",
    "rotated-retinanet-rbox-oc_r50_fpn_1x_dota",
    "rotated-retinanet-hbox-le90_r50_fpn_1x_dota",
    "rotated-retinanet-hbox-oc_r50_fpn_1x_dota",
    "rotated-retinanet-rbox-le90_r50_fpn_csl-gaussian_amp-1x_dota",
    "rotated-retinanet-rbox-le90_r50_fpn_psc-dual_amp-1x_dota",
    "rotated-retinanet-rbox-le90_r50_fpn_psc_rr-6x_hrsc",
    "rotated-fcos-le90_r50_fpn_1x_dota",
    "rotated-fcos-hbox-le90_r50_fpn_csl-gaussian_1x_dota",
    "rotated-fcos-hbox-le90_r50_fpn_psc-dual_1x_dota",
    "rotated-atss-le90_r50_fpn_1x_dota",
    "rotated_rtmdet_tiny-3x-dota",
    "s2anet-le135_r50_fpn_1x_dota",
    "cascade-s2anet-le135_r50_fpn_1x_dota",
)


def random_maps(detector, seed, mean_logit):
    """Return raw maps; the mean of the class scores before the sigmoid decides how many detections there are."""
    model = detector.build().eval()
    with torch.no_grad():
        shapes = [one.shape for one in model(detector.example_input(2))]
    generator = torch.Generator().manual_seed(seed)
    maps = []
    for kind, levels in zip(detector.layout.kinds, split(shapes, len(detector.layout.kinds)), strict=True):
        for shape in levels:
            noise = torch.randn(shape, generator=generator)
            if "cls_score" in kind:
                noise = noise * 1.5 + mean_logit
            elif "bbox_pred" in kind:
                positive = detector.metadata()["priors"]["kind"] == "points"
                noise = (1 + noise.abs()) * (8 if "rtmdet" in detector.config.config else 1) if positive else noise / 3
            maps.append(noise)
    return maps


def published(detector, maps, **settings):
    """Return MMRotate's boxes, scores and labels of each image for raw maps."""
    layout, heads = detector.layout, detector._loss_heads
    head = heads[-1]
    kinds = split(maps, len(layout.kinds))
    metas = [{"img_shape": (SIZE, SIZE), "scale_factor": (1, 1)}] * len(maps[0])
    with torch.no_grad():
        if layout.route == "refine":
            rois = heads[0].filter_bboxes(kinds[-len(heads) + 1], kinds[2])
            for stage in range(1, len(heads) - 1):
                rois = heads[stage].refine_bboxes(kinds[1 + stage], kinds[2 + stage], rois=rois)
            return arrays(head.predict_by_feat(*kinds[:2], rois=rois, batch_img_metas=metas, **settings))
        named = dict(zip(layout.kinds, kinds, strict=True))
        if type(head).__name__ == "RotatedFCOSHead":  # in evaluation its own forward multiplies by the stride
            named["bbox_pred"] = [m * s for m, s in zip(named["bbox_pred"], head.strides, strict=True)]
        ordered = [named[kind] for kind in ("cls_score", "bbox_pred", "angle_pred", "centerness") if kind in named]
        return arrays(head.predict_by_feat(*ordered, batch_img_metas=metas, **settings))


def arrays(results):
    boxes = [getattr(one.bboxes, "tensor", one.bboxes).numpy() for one in results]
    factors = [one.get("score_factors") for one in results]
    scores = [one.scores if f is None else one.scores * f for one, f in zip(results, factors, strict=True)]
    return [(b, s.numpy(), one.labels.numpy()) for b, s, one in zip(boxes, scores, results, strict=True)]


def above(results, threshold):
    """Return results without the scores at or below the threshold. MMRotate asks it of the class score alone."""
    return [tuple(column[scores > np.float32(threshold)] for column in (b, scores, k)) for b, scores, k in results]


def assert_same(found, expected):
    """Compare (boxes, scores, labels) as sets."""
    assert len(found[0]) == len(expected[0])
    table, wanted = (np.column_stack([b, 100 * s, 1000 * k]) for b, s, k in (found, expected))
    partner = np.abs(table[:, None] - wanted[None]).max(axis=2).argmin(axis=0)
    assert len(set(partner)) == len(wanted)
    np.testing.assert_allclose(table[partner], wanted, rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("config", CONFIGS)
def test_every_candidate_equals_that_of_mmrotate(config, monkeypatch):
    detector = small(config)
    maps = random_maps(detector, seed=1, mean_logit=-4.5)
    meta = detector.metadata()
    deploy.make_deploy(meta)
    monkeypatch.setattr(deploy, "rotated_nms", lambda boxes, *_, **__: np.arange(len(boxes)))
    exported = [one.numpy() for one in maps[: len(detector.output_names())]]
    ours = deploy.postprocess(exported, meta | {"max_detections": 100_000}, image_size=(SIZE, SIZE))
    theirs = above(published(detector, maps, with_nms=False), meta["score_threshold"])
    for found, expected in zip(ours, theirs, strict=True):
        assert len(expected[0]) > 50
        assert_same((found.boxes, found.scores, found.labels), expected)


@pytest.mark.parametrize("config", CONFIGS)
def test_detections_after_suppression_equal_those_of_mmrotate(config):
    """With so many candidates that mmcv's single precision decides no pair at the threshold."""
    detector = small(config)
    dense = detector.metadata()["priors"]["kind"] == "anchors" and len(detector.metadata()["priors"]["corners"][0]) > 1
    maps = random_maps(detector, seed=3, mean_logit=-7 if dense else -4.5)
    meta = detector.metadata()
    exported = [one.numpy() for one in maps[: len(detector.output_names())]]
    ours = deploy.postprocess(exported, meta, image_size=(SIZE, SIZE))
    for found, expected in zip(ours, above(published(detector, maps), meta["score_threshold"]), strict=True):
        assert len(expected[0]) > 10
        assert_same((found.boxes, found.scores, found.labels), expected)
        assert np.all(np.diff(found.scores) <= 0)


@pytest.mark.parametrize("config", [one for one in CONFIGS if "fcos" in one or "atss" in one])
def test_the_threshold_is_asked_of_the_final_score_after_mmrotate_has_chosen(config):
    """So few candidates are allowed that some which centreness lowers below the threshold take the place of others."""
    detector = small(config, cfg_options={"test_cfg.nms_pre": 30})
    maps = random_maps(detector, seed=3, mean_logit=-4.5)
    meta = detector.metadata()
    theirs = published(detector, maps)
    ours = deploy.postprocess([one.numpy() for one in maps], meta, image_size=(SIZE, SIZE))
    kept = above(theirs, meta["score_threshold"])
    for found, expected, whole in zip(ours, kept, theirs, strict=True):
        assert 0 < len(expected[0]) < len(whole[0])
        assert_same((found.boxes, found.scores, found.labels), expected)
        assert found.scores.min() > meta["score_threshold"]
