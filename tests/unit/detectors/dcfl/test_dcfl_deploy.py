"""The torch-free part of DCFL: pre-processing, decoding, and the published detections."""

import numpy as np
import pytest

from compress.errors import DetectorError
from detectors.dcfl import deploy

META = {
    "format_version": 1,
    "plugin": "dcfl",
    "image_size": [64, 96],
    "mean": [123.675, 116.28, 103.53],
    "std": [58.395, 57.12, 57.375],
    "classes": ["car", "ship"],
    "strides": [8, 16],
    "anchor_scale": 4,
    "score_threshold": 0.05,
    "nms_iou": 0.4,
    "nms_pre": 2000,
    "max_detections": 2000,
    "angle_version": "le135",
    "output_names": ["cls_score_p3", "cls_score_p4", "bbox_pred_p3", "bbox_pred_p4"],
    "size_divisor": 32,
}


def empty_raw(batch_size=1):
    sizes = [(8, 12), (4, 6)]
    return [np.full((batch_size, 2, *size), -9.0, np.float32) for size in sizes] + [
        np.zeros((batch_size, 5, *size), np.float32) for size in sizes
    ]


def test_preprocessing_swaps_to_rgb_normalizes_and_pads_with_zeros():
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    images = deploy.make_deploy(META).preprocess(image)
    assert images.shape == (1, 3, 64, 96)
    assert images.dtype == np.float32
    expected = (image[:, :, ::-1].astype(np.float32) - META["mean"]) / META["std"]
    np.testing.assert_allclose(images[0, :, :50, :70], expected.transpose(2, 0, 1), rtol=1e-5, atol=1e-6)
    assert not images[0, :, 50:].any()
    assert not images[0, :, :, 70:].any()
    assert deploy.make_deploy(META).preprocess(image, minimum_size=(100, 80)).shape == (1, 3, 128, 96)


def test_a_picture_of_another_type_is_refused():
    with pytest.raises(DetectorError, match=r"float32 \(4, 4, 3\)"):
        deploy.make_deploy(META).preprocess(np.zeros((4, 4, 3), np.float32))


def test_the_check_vector_of_the_coder_decodes():
    deltas = np.array([[0.1, -0.2, 0.3, -0.4, 0.05]])
    box = deploy.decode(deltas, np.array([0]), width=12, stride=8, meta=META)[0]
    np.testing.assert_allclose(box, [3.2, -6.4, 43.195482, 21.450241, 0.157080], atol=1e-6)
    moved = deploy.decode(deltas, np.array([2 * 12 + 5]), width=12, stride=8, meta=META)[0]
    np.testing.assert_allclose(moved - box, [40, 16, 0, 0, 0], atol=1e-9)


def test_sizes_are_clipped_and_angles_wrapped_into_le135():
    deltas = np.array([[0, 0, 99, -99, 0.75], [0, 0, 0, 0, -0.3]], float)
    boxes = deploy.decode(deltas, np.array([0, 0]), width=1, stride=8, meta=META)
    np.testing.assert_allclose(boxes[0, 2:], [32 * 62.5, 32 / 62.5, -np.pi / 4])
    np.testing.assert_allclose(boxes[1, 4], 0.7 * np.pi)


def test_an_object_at_a_cell_is_found_in_its_picture_and_class():
    raw = empty_raw(batch_size=2)
    raw[0][1, 1, 3, 4] = 2.0
    raw[2][1, :, 3, 4] = [0.125, 0.125, np.log(0.5), np.log(0.25), 0.25]
    first, second = deploy.postprocess(raw, META, image_size=(64, 96))
    assert len(first) == 0
    np.testing.assert_allclose(second.boxes, [[36, 28, 16, 8, np.pi / 4]], rtol=1e-6)
    np.testing.assert_allclose(second.scores, [1 / (1 + np.exp(-2))], rtol=1e-6)
    np.testing.assert_array_equal(second.labels, [1])


def test_centres_are_clamped_to_the_real_picture():
    raw = empty_raw()
    raw[0][0, 0, 7, 11] = 2.0
    raw[2][0, :2, 7, 11] = 3
    found = deploy.postprocess(raw, META, image_size=(50, 70))[0]
    np.testing.assert_array_equal(found.boxes[0, :2], [69, 49])


def test_a_score_must_be_strictly_above_the_threshold():
    raw = empty_raw()
    raw[0][0, 0, 2, 2] = 0.0  # a score of exactly one half
    assert len(deploy.postprocess(raw, META, image_size=(64, 96), score_threshold=0.5)[0]) == 0
    assert len(deploy.postprocess(raw, META, image_size=(64, 96), score_threshold=0.4999)[0]) == 1


@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_the_extreme_thresholds_work(threshold):
    found = deploy.postprocess(empty_raw(), META, image_size=(64, 96), score_threshold=threshold)[0]
    assert (len(found) > 0) == (threshold == 0)


def test_raw_outputs_that_do_not_fit_are_refused():
    with pytest.raises(DetectorError, match="3 arrays"):
        deploy.postprocess(empty_raw()[:3], META, image_size=(64, 96))
    with pytest.raises(DetectorError, match="level 0"):
        deploy.postprocess(empty_raw(), META | {"classes": ["one"]}, image_size=(64, 96))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"strides": None}, "strides missing"),
        ({"format_version": 9}, "format_version is 9"),
        ({"angle_version": "oc"}, "angle_version is 'oc'"),
    ],
)
def test_metadata_that_cannot_be_served_is_refused(change, text):
    meta = {key: value for key, value in (META | change).items() if value is not None}
    with pytest.raises(DetectorError, match=text):
        deploy.make_deploy(meta)
    deploy.make_deploy(META)


def test_windows_follow_the_metadata_and_an_overlap_that_does_not_fit_is_refused():
    assert {(w.height, w.width) for w in deploy.make_deploy(META).tile_windows((200, 300))} == {(64, 96)}
    with pytest.raises(DetectorError, match="0 to 63 px"):
        deploy.make_deploy(META).tile_windows((200, 300), overlap_px=64)
