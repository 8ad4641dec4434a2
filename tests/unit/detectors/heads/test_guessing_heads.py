"""Which head the outputs of a stranger's network are taken for, and where nothing is chosen."""

import numpy as np
import pytest

from detectors.heads.exporter import ExporterFacts, exporter_facts
from detectors.heads.guessing import guess_head
from detectors.heads.options import Output

SIZE = (640, 640)
PYRAMID = [(80, 80), (40, 40), (20, 20)]


def guess(*shapes, size=SIZE, **known):
    return guess_head([Output(f"output{n}", shape) for n, shape in enumerate(shapes)], size, **known)


def scores(*shape):
    return np.random.default_rng(0).random(shape) ** 4


def pixels(*shape):
    return np.random.default_rng(1).random(shape) * 600


def cells_of_yolox(boxes=8400):
    return np.random.default_rng(2).standard_normal((1, boxes, 4))


@pytest.mark.parametrize(
    ("shapes", "known", "name", "num_classes"),
    [
        ([(1, 84, 8400)], {"num_classes": 80}, "yolov8", 80),
        ([("batch", 84, 8400)], {"facts": ExporterFacts("detect")}, "yolov8", 80),
        ([(1, 20, 8400)], {"facts": ExporterFacts("obb")}, "yolo-obb", 15),
        ([(1, 20, 8400)], {"num_classes": 15}, "yolo-obb", 15),
        ([(1, 25200, 85)], {}, "yolov5", 80),
        ([(1, 300, 7)], {"num_classes": 15}, "yolo-obb-end2end", 15),
        ([(1, 300, 6)], {"num_classes": 80}, "yolo-end2end", 80),
        ([(1, 300, 84)], {}, "detr", 80),
        ([(1, 100, 5), (1, 100)], {}, "rtmdet", None),
        ([(1, 80, *g) for g in PYRAMID] + [(1, 4, *g) for g in PYRAMID], {}, "rtmdet", 80),
        ([(1, 3, *g) for g in [*PYRAMID, (10, 10), (5, 5)]] + [(1, 5, *g) for g in [*PYRAMID, (10, 10), (5, 5)]], {},
         "dcfl", 3),
        ([(1, 100, 92), (1, 100, 4)], {"num_classes": 91}, "detr", 91),
        ([(1, 85, 40, 40)], {}, "fastestdet", 80),
    ],
)  # fmt: skip
def test_shapes_and_what_is_known_decide(shapes, known, name, num_classes):
    found = guess(*shapes, **known)
    assert (found.name, found.num_classes) == (name, num_classes), found.why
    assert found.why
    assert found.options[0].head == name


@pytest.mark.parametrize(
    ("shape", "sample", "name", "settings"),
    [
        ((1, 84, 8400), np.concatenate([pixels(1, 4, 8400), scores(1, 80, 8400)], 1), "yolov8", {}),
        ((1, 20, 8400), np.concatenate([pixels(1, 4, 8400), scores(1, 15, 8400), 3 * scores(1, 1, 8400) - 0.8], 1),
         "yolo-obb", {}),
        ((1, 8400, 85), np.concatenate([cells_of_yolox(), scores(1, 8400, 81)], 2), "yolox",
         {"decoded": False, "strides": [8, 16, 32]}),
        ((1, 300, 6), np.concatenate([pixels(1, 300, 4), scores(1, 300, 1), np.full((1, 300, 1), 7)], 2),
         "yolo-end2end", {}),
        ((1, 300, 6), scores(1, 300, 6), "detr", {"scores": "probabilities", "background": "none"}),
    ],
)  # fmt: skip
def test_values_of_one_picture_decide_where_shapes_do_not(shape, sample, name, settings):
    without = guess(shape)
    assert without.name is None
    assert "fit several heads" in without.why
    assert len(without.options) > 1
    found = guess(shape, sample=[sample])
    assert (found.name, found.settings) == (name, settings), found.why
    assert "Not " in found.why


@pytest.mark.parametrize("form", ["softmax", "sigmoid"])
def test_two_outputs_of_detr(form):
    logits = np.random.default_rng(3).standard_normal((1, 300, 81)) * 4
    known = {"num_classes": 80 if form == "softmax" else 81}
    found = guess((1, 300, 81), (1, 300, 4), sample=[logits, scores(1, 300, 4)], **known)
    assert found.name == "detr", found.why
    assert found.settings["scores"] == form
    assert found.settings["order"] == "scores_boxes"
    assert guess((1, 300, 81), (1, 300, 4), sample=[logits, scores(1, 300, 4)]).name is None  # 80 or 81 classes


@pytest.mark.parametrize("share", [False, True])
def test_decoded_boxes_of_ssd(share):
    begin = scores(1, 3000, 2)
    boxes = np.concatenate([begin, begin + 0.1], axis=2) * (1 if share else 300)
    classes = np.random.default_rng(4).dirichlet(np.ones(21), (1, 3000))
    found = guess((1, 3000, 4), (1, 3000, 21), size=(300, 300), sample=[boxes, classes])
    assert (found.name, found.num_classes) == ("ssd", 20), found.why
    assert found.settings["normalized"] is share
    assert found.settings["scores"] == "probabilities"


def test_boxes_relative_to_unknown_priors_are_not_guessed():
    deltas = np.random.default_rng(5).standard_normal((1, 3000, 4))
    found = guess((1, 3000, 4), (1, 3000, 21), size=(300, 300), sample=[deltas, deltas.repeat(6, 2)[..., :21] * 3])
    assert found.name is None
    assert "relative to priors" in found.why


def test_a_head_that_is_named_is_asked_for_its_settings_alone():
    assert guess((1, 20, 8400), named="yolo-obb").num_classes == 15
    assert guess((1, 20, 8400), named="yolov8").num_classes == 16
    levels = [(80, 80), (40, 40)]
    shapes = [(1, 3, *g) for g in levels] + [(1, 5, *g) for g in levels]
    assert guess(*shapes).name is None
    found = guess(*shapes, named="dcfl")
    assert (found.num_classes, found.settings["strides"]) == (3, [8, 16])
    assert "Assumed: priors of 4 strides" in found.why
    odd = guess((1, 84, 8401), num_classes=80, named="yolov8")
    assert (odd.name, odd.settings, odd.num_classes) == ("yolov8", {}, 80)
    assert "do not say how many classes yolov8 has" in guess((1, 84, 8401), named="yolov8").why
    assert "no maps of scores and boxes of every level" in guess((1, 84, 8400), named="dcfl").why
    assert "fit yolox in several ways" in guess((1, 8400, 85), named="yolox").why


@pytest.mark.parametrize(
    ("shapes", "text"),
    [
        ([(1, 1000)], "No built-in head has the outputs output0 (1, 1000) for an input of 640x640 px"),
        ([(1, 1, 640, 640)], "No built-in head"),
        ([(1, 84, 8401)], "No built-in head"),
        ([(1, 116, 8400), (1, 32, 160, 160)], "No built-in head"),
    ],
)
def test_where_none_fits_the_reason_is_in_words(shapes, text):
    found = guess(*shapes)
    assert found.name is None
    assert text in found.why
    assert found.options == ()


def test_outputs_against_every_head_are_told_one_by_one():
    found = guess((1, 84, 8400), num_classes=3)
    assert found.name is None
    assert "Not yolov8 (80 classes): it would have 80 classes, the model has 3." in found.why
    assert "Not yolo-obb (79 classes)" in found.why


def test_tasks_that_are_no_detection_are_not_decoded():
    assert "'segment'" in guess((1, 84, 8400), facts=ExporterFacts("segment")).why


def test_shapes_without_fixed_sizes_need_a_sample():
    assert guess(("batch", 84, "boxes"), size=None).name is None
    sample = np.concatenate([pixels(1, 4, 8400), scores(1, 80, 8400)], 1)
    assert guess(("batch", 84, "boxes"), sample=[sample]).name == "yolov8"


def test_what_ultralytics_writes_is_read_and_nothing_else():
    facts = exporter_facts({"task": "obb", "names": "{0: 'plane', 1: 'ship'}", "stride": "32"})
    assert facts == ExporterFacts("obb", ("plane", "ship"))
    for names in ("{1: 'a'}", "[", "__import__('os')", "{0: 1}", "{0: ' '}", "(" * 10_000, "{0: 'a'}" * 100_000, "7"):
        assert exporter_facts({"names": names}).classes == (), names[:20]
    assert len(exporter_facts({"names": str(dict.fromkeys(range(1000), "a" * 50))}).classes) == 1000
    assert exporter_facts({"names": str(dict.fromkeys(range(5000), "a" * 50))}).classes == ()  # too long to be parsed
    assert exporter_facts({}) == ExporterFacts()


def test_a_small_input_with_few_cells_is_not_taken_for_queries():
    assert [option.head for option in guess((1, 84, 525), size=(160, 160)).options] == ["yolov8", "yolo-obb"]
    assert guess((1, 84, 525), size=(160, 160), num_classes=80).name == "yolov8"
