"""Whatever a model file says of itself, it is refused in one line or it works; longer in scripts/fuzz_metadata.py."""

import copy
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compress.errors import DetectorError
from compress.plugins import load_deploy
from scripts import fuzz_metadata as attack

NAN, INF = float("nan"), float("inf")


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.randoms(use_true_random=False))
def test_hostile_metadata_is_refused_in_one_line_or_served_right(draw):
    name, meta = attack.hostile(draw)
    attack.check(meta, attack.VALID[name][1], draw)


@pytest.mark.parametrize("name", sorted(attack.VALID))
def test_the_metadata_that_is_changed_there_is_served_itself(name):
    meta, channels = attack.VALID[name]
    for seed in range(10):
        assert attack.check(copy.deepcopy(meta), channels, random.Random(seed)) == "served"


@pytest.mark.parametrize(
    ("name", "field", "value", "text"),
    [
        ("dcfl", "strides", [0, 8], "strides.0 is 0: input should be greater than or equal to 1"),
        ("dcfl", "strides", [8] * 10**6, "strides is .* at most 32 items"),
        ("dcfl", "score_threshold", NAN, "score_threshold is nan: input should be a finite number"),
        ("dcfl", "score_threshold", "0.5", "score_threshold is '0.5': input should be a valid number"),
        ("dcfl", "score_threshold", 2, "score_threshold is 2: input should be less than or equal to 1"),
        ("dcfl", "score_threshold", -0.5, "score_threshold is -0.5"),
        ("dcfl", "nms_iou", 0, "nms_iou is 0: input should be greater than 0"),
        ("dcfl", "mean", [1e300, 0, 0], "mean.0 is 1e.300"),
        ("ssdlite", "anchors", {"kind": "shares", "shares": [[[0.1, 0.1]] * 101] * 2}, "at most 100 items"),
        ("dcfl", "max_detections", -1, "max_detections is -1"),
        ("dcfl", "nms_pre", True, "nms_pre is True: input should be a valid integer"),
        ("dcfl", "std", [0, 1, 1], "std.0 is 0"),
        ("dcfl", "image_size", [10**5, 10**5], "image_size.0 is 100000"),
        ("dcfl", "image_size", [16384, 16384], "image_size: 16384 x 16384 px are more than"),
        ("dcfl", "size_divisor", 10**5, "size_divisor is 100000"),
        ("dcfl", "classes", ["a", "  "], "classes.1 is '  '"),
        ("dcfl", "classes", ["a" * 10**7], "classes.0 is 'aaa.* at most 256"),
        ("dcfl", "classes", ["\ud800"], "classes.0"),
        ("dcfl", "output_names", ["one"], "output_names has 1 names, expected 4"),
        ("dcfl", "format_version", 1.0, "format_version is 1.0"),
        ("retinanet", "num_levels", 3, "anchors: of .* levels, num_levels is 3"),
        ("ssdlite", "anchors", {"kind": "shares"}, "anchors.shares missing"),
        ("fcos", "anchors", {"kind": "\x1b[2J"}, r"anchors is .*\\x1b.*expected a kind of 'grid', 'shares'"),
        ("psc", "kinds", ["bbox_pred", "cls_score"], "kinds: expected cls_score, bbox_pred, angle_pred, centerness"),
        ("rotated_fcos", "angle_coder", {"kind": "none"}, "angle_coder: boxes around points need one"),
        ("rotated_fcos", "angle_coder", {"kind": "pseudo", "size": 1.0, "in_delta": False}, "size is 1.0"),
        ("yolox", "head", "os:system", "head is 'os:system', expected one of yolov8"),
        ("yolox", "settings", {"strides": [8] * 10**6}, "settings.strides is .* at most 32 items"),
        ("ssd", "settings", {"priors": [[NAN] * 4]}, "settings.priors.0.0 is nan: input should be a finite number"),
        ("yolov8", "resize", {"kind": "letterbox", "pad_value": -1}, "resize.pad_value is -1"),
        ("dcfl", "resize", {"kind": "none"}, "resize.kind is 'none': input should be 'letterbox' or 'stretch'"),
        ("dcfl", "channel_order", "\x1b[2J", r"channel_order is .*\\x1b"),
        ("rotated_retinanet", "strides", [8], "priors: corners of 2 levels, expected 1"),
    ],
)
def test_what_is_wrong_is_named_with_its_value(name, field, value, text):
    with pytest.raises(DetectorError, match=text) as caught:
        load_deploy(attack.VALID[name][0] | {field: value})
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000
