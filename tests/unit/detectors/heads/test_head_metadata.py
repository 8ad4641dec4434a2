"""What the metadata of a foreign model may say, and what is refused; a head of one's own."""

import json
from pathlib import Path

import numpy as np
import pytest
from published_heads import SIZE, meta_of

from compress.errors import DetectorError
from compress.plugins import available_plugins, load_deploy
from detectors.geometry.metadata import Bounded
from detectors.heads.deploy import deploy_with
from detectors.heads.head import Candidates, Head
from detectors.heads.metadata import InputForm, Thresholds, head_metadata
from detectors.heads.registry import HEADS


@pytest.mark.parametrize("name", HEADS)
def test_every_head_is_served_with_its_default_settings(name):
    least, _ = HEADS[name].num_outputs
    deploy = load_deploy(json.loads(json.dumps(meta_of(name, num_outputs=least))))
    assert deploy.axis_aligned is not HEADS[name].rotated
    with pytest.raises(DetectorError, match="this head reads"):
        deploy.postprocess([np.zeros((1, 7, 1, 9), np.float32)] * least, image_size=SIZE)
    with pytest.raises(DetectorError, match=f"{least - 1} arrays; krimp.deploy promises {least}"):
        deploy.postprocess([np.zeros((1, 7, 1, 9), np.float32)] * (least - 1), image_size=SIZE)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"head": "yolo99"}, "head is 'yolo99', expected one of yolov8, yolo-end2end"),
        ({"head": "os:system"}, "head is 'os:system', expected one of"),
        ({"resize": None}, "resize is None"),
        ({"resize": {"kind": "crop"}}, "resize.kind is 'crop'"),
        ({"resize": {"kind": "letterbox", "pad_value": 300}}, "resize.pad_value is 300"),
        ({"channel_order": "gbr"}, "channel_order is 'gbr'"),
        ({"settings": {"normalized": "yes"}}, "settings.normalized is 'yes'"),
        ({"settings": None}, "settings is None"),
        ({"head": "yolox", "settings": {"strides": [0]}}, "settings.strides.0 is 0"),
        ({"head": "ssd", "settings": {}}, "output_names has 1 names, head ssd reads 2"),
        ({"head": "ssd", "settings": {"priors": [[0.0] * 4] * 200_000}}, "settings.priors is .* at most 131072"),
        ({"head": "ssd", "settings": {"weights": [0.0] * 4}}, "settings.weights.0 is 0.0"),
        ({"format_version": 2}, "format_version is 2"),
    ],
)
def test_what_does_not_fit_is_named_with_its_value(change, text):
    with pytest.raises(DetectorError, match=text) as caught:
        load_deploy(meta_of("yolov8") | change)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("field", ["head", "settings", "resize", "nms_pre"])
def test_nothing_may_be_missing(field):
    with pytest.raises(DetectorError, match=f"{field} missing"):
        load_deploy({key: value for key, value in meta_of("yolov8").items() if key != field})


def test_a_plugin_that_is_only_deployed_is_none_that_a_recipe_can_train():
    assert "heads" not in available_plugins()
    with pytest.raises(DetectorError, match=r"which is not installed here\. Did you mean 'heads'"):
        load_deploy(meta_of("yolov8") | {"plugin": "head"})


def test_metadata_of_dcfl_is_that_of_its_own_plugin():
    settings = {"strides": [8, 16], "anchor_scale": 4.0, "angle_version": "le135"}
    deploy = load_deploy(
        head_metadata(
            "dcfl", settings, classes=["ship"], input_size=(96, 160), output_names=["a", "b", "c", "d"],
            form=InputForm(resize=None), thresholds=Thresholds(),
        )
    )  # fmt: skip
    assert deploy.meta["plugin"] == "dcfl"
    assert deploy.resize is None


class Shift(Bounded):
    """Settings of the head below."""

    by_px: float


def own(raw, settings, request):
    """Report one box a picture, at a place that the settings name."""
    place = settings.by_px if isinstance(settings, Shift) else 0.0
    boxes = np.float32([[place, 0, place + 10, 10], [place, 1, place + 10, 11]])
    return [Candidates(boxes, np.float32([0.8, 0.9]), np.array([1, 1])) for _ in raw[0]]


def test_a_head_of_ones_own_is_a_function_or_has_settings_of_its_own():
    meta = meta_of("mine:own", {"by_px": 20.0}, resize={"kind": "stretch"})
    raw = [np.zeros((1, 2), np.float32)]
    (found,) = deploy_with(meta, own).postprocess(raw, image_size=(48, 80))
    np.testing.assert_allclose(found.boxes, [[2.5, 3, 5, 5, 0]])  # the other one is suppressed
    (found,) = deploy_with(meta, Head(own, Shift, "", "", suppressed=False)).postprocess(raw, image_size=SIZE)
    np.testing.assert_allclose(found.boxes[:, 0], [25, 25])
    with pytest.raises(DetectorError, match=r"settings.by_px missing"):
        deploy_with(meta | {"settings": {}}, Head(own, Shift, "", ""))
    with pytest.raises(DetectorError, match="expected one of yolov8"):
        load_deploy(meta)  # a file alone never names code


def test_broken_numbers_give_no_boxes_and_break_nothing():
    table = np.full((1, 7, 8), np.nan, np.float32)
    table[0, :, 1] = [20, 20, 1e30, 5, 0.9, 0, 0]
    table[0, :, 2] = [20, 20, -5, 5, 0.9, 0, 0]
    table[0, :, 3] = [20, 20, 10, 5, np.nan, 0.9, 0]
    deploy = load_deploy(meta_of("yolov8"))
    (found,) = deploy.postprocess([table], image_size=SIZE)
    np.testing.assert_allclose(found.boxes, [[20, 20, 10, 5, 0]])
    assert found.labels.tolist() == [1]
    for odd in (table[:0], table.astype(bool), np.float32(0.5)):
        with pytest.raises(DetectorError, match="expected one batch of numbers"):
            deploy.postprocess([np.asarray(odd)], image_size=SIZE)


def test_the_readme_lists_every_head_with_what_it_reads():
    text = (Path(__file__).parents[4] / "detectors" / "heads" / "README.md").read_text()
    for name, head in HEADS.items():
        assert f"| `{name}` | {head.outputs} | {head.exported_by} |" in text
