"""What a person says of a head and of pictures where nothing can be guessed."""

from __future__ import annotations

import json

import colour_cells
import cv2
import numpy as np
import pytest
from colour_cells import HEIGHT, WIDTH

from compress.cli.shrinking import _classes, _options, _reading
from compress.errors import DetectorError, StageError
from compress.pictures.decoding import AS_IT_IS, Reading
from compress.shrink.judge import make_judge, metadata_of
from compress.shrink.pictures import Inputs, Preprocessing

PLAIN = Preprocessing((HEIGHT, WIDTH), fit="stretch")
SCENE = [(0, 0, 0, 255), (0, 4, 1, 250), (2, 1, 0, 245), (4, 7, 1, 240), (1, 1, 0, 235), (3, 5, 1, 230), (5, 8, 0, 225)]


@pytest.fixture
def files(tmp_path):
    return [colour_cells.picture(tmp_path / "pictures", f"p{number}", SCENE) for number in range(2)]


def judge_of(path, files, *, reading=AS_IT_IS, **how):
    network = colour_cells.open_network(path)
    return make_judge(network, Inputs(network, files, PLAIN, reading), model_path=path, **how)


def meta_of(judge):
    return json.loads(metadata_of(judge)["krimp.deploy"])


def test_thresholds_and_settings_reach_the_head_and_the_file(tmp_path, files):
    path = colour_cells.write(tmp_path / "cells.onnx")
    options = {"score_threshold": 0.93, "nms_iou": 0.3, "normalized": False}
    judge = judge_of(path, files, head="yolov8", head_options=options)
    meta = meta_of(judge)
    assert (meta["score_threshold"], meta["nms_iou"], meta["settings"]["normalized"]) == (0.93, 0.3, False)
    (found,) = judge.deploy.postprocess(judge.reference.outputs(0), image_size=(HEIGHT, WIDTH))
    assert len(found) == sum(brightness > 0.93 * 255 for *_, brightness in SCENE)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"stride": [8]}, "stride"), ({"nms_iou": 7}, "nms_iou"), ({"normalized": "perhaps"}, "normalized")],
)
def test_options_that_the_head_does_not_have_are_told(tmp_path, files, options, words):
    path = colour_cells.write(tmp_path / "cells.onnx")
    with pytest.raises(DetectorError, match=rf"--head yolov8: .*{words}"):
        judge_of(path, files, head="yolov8", head_options=options)


def test_a_file_of_ours_takes_thresholds_and_the_head_that_it_names_its_settings(tmp_path, files):
    plain = colour_cells.write(tmp_path / "plain.onnx")
    properties = metadata_of(judge_of(plain, files, head="yolov8"))
    path = colour_cells.write(tmp_path / "cells.onnx", metadata=properties)
    meta = meta_of(judge_of(path, files, head_options={"nms_pre": 7, "normalized": True}))
    assert (meta["nms_pre"], meta["settings"]["normalized"]) == (7, True)


def test_a_range_of_deep_pictures_holds_in_the_file_too(tmp_path):
    path = colour_cells.write(tmp_path / "cells.onnx")
    files = []
    for number in range(2):
        shallow = cv2.imread(str(colour_cells.picture(tmp_path / "shallow", f"p{number}", SCENE)))
        files.append(tmp_path / f"deep{number}.png")
        assert cv2.imwrite(str(files[-1]), shallow.astype(np.uint16) * 4 + 300)
    judge = judge_of(path, files, reading=Reading((300.0, 1320.0)), head="yolov8")
    assert meta_of(judge)["value_range"] == [300.0, 1320.0]
    (found,) = judge.deploy.postprocess(judge.reference.outputs(0), image_size=(HEIGHT, WIDTH), score_threshold=0.5)
    assert len(found) == len(SCENE)
    assert "value_range" not in meta_of(judge_of(path, files, head="yolov8"))


def test_what_is_typed_becomes_values():
    given = ["strides=8,16,32", "decoded=true", "nms_iou=0.5", "scores=softmax"]
    assert _options(given) == {"strides": [8, 16, 32], "decoded": True, "nms_iou": 0.5, "scores": "softmax"}
    assert _classes("3") == ["class0", "class1", "class2"]
    assert _classes("car, van") == ["car", "van"]
    assert _reading("300,1320").value_range == (300.0, 1320.0)
    for wrong in (["strides"], ["=8"], ["a=1", "a=2"]):
        with pytest.raises(StageError, match=r"--head-option .*NAME=VALUE"):
            _options(wrong)
    with pytest.raises(StageError, match=r"--value-range '5,3'"):
        _reading("5,3")


def test_a_number_of_classes_stands_for_classes_without_names(tmp_path, files):
    path = colour_cells.write(tmp_path / "cells.onnx")
    assert judge_of(path, files, classes=_classes("2")).deploy.classes == ("class0", "class1")
    with pytest.raises(DetectorError, match="it would have 2 classes, the model has 3"):
        judge_of(path, files, head="yolov8", classes=_classes("3"))
