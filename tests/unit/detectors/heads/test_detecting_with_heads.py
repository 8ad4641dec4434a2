"""`krimp detect` on ONNX files that Krimp did not train, from the picture to the boxes in it."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import typer
import white_cells
from typer.testing import CliRunner

from compress.cli.detecting import detect_command
from compress.errors import DataError, DetectorError, StageError
from compress.predictor import Predictor
from compress.runtime.detect import open_predictor
from compress.runtime.session import open_session
from detectors.heads.guessing import guess_head
from detectors.heads.metadata import InputForm, Thresholds, head_metadata, in_brightness
from detectors.heads.options import Output

FASTESTDET = Path(__file__).resolve().parents[5] / "shared" / "models" / "FastestDet.onnx"
INPUT = (white_cells.HEIGHT, white_cells.WIDTH)


def metadata(head, *, resize=None, input_size=INPUT, **changes):
    _, _, outputs = white_cells.network(head)
    form = InputForm(resize=resize or {"kind": "letterbox"})
    made = head_metadata(
        head, white_cells.SETTINGS[head], classes=["lamp"], input_size=input_size, output_names=list(outputs),
        form=form, thresholds=Thresholds(score=0.7),
    )  # fmt: skip
    return made | changes


def picture_with(size, boxes):
    """Return a black picture with white boxes x1, y1, x2, y2."""
    image = np.zeros((*size, 3), np.uint8)
    for x1, y1, x2, y2 in boxes:
        image[y1:y2, x1:x2] = 255
    return image


def detect(tmp_path, model, image, *options):
    cv2.imwrite(str(tmp_path / "scene.png"), image)
    app = typer.Typer()
    app.command()(detect_command)
    arguments = [model, tmp_path / "scene.png", "--out", tmp_path / "out", *options]
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    (record,) = json.loads((tmp_path / "out" / "detections.json").read_text())["images"]
    return record


def bboxes(record):
    return sorted([round(side) for side in found["bbox"]] for found in record["detections"])


@pytest.mark.parametrize("head", white_cells.SETTINGS)
def test_every_white_cell_of_a_resized_picture_is_found_where_it_is(tmp_path, head):
    # 192 x 256 px become 96 x 128, with 16 px of padding left and right: cells of 32 px meet those of the input.
    wanted = [[0, 0, 32, 32], [96, 64, 128, 96], [224, 160, 256, 192]]
    model = white_cells.write(tmp_path / "model.onnx", head, metadata(head))
    record = detect(tmp_path, model, picture_with((192, 256), wanted))
    assert bboxes(record) == wanted
    assert record["num_windows"] == 1
    assert record["detections"][0]["class"] == "lamp"
    assert (tmp_path / "out" / "scene.png").is_file()


@pytest.mark.parametrize(
    ("resize", "size", "unit"),
    [
        ({"kind": "stretch"}, (288, 320), (32, 48)),
        ({"kind": "letterbox", "position": "corner", "pad_value": 0}, (192, 96), (32, 32)),
        ({"kind": "letterbox", "enlarge": False, "position": "corner"}, (48, 64), (16, 16)),
    ],
)
def test_other_ways_to_resize(tmp_path, resize, size, unit):
    wide, high = unit
    wanted = [[0, 0, wide, high], [wide, 2 * high, 2 * wide, 3 * high]]
    model = white_cells.write(tmp_path / "model.onnx", "yolov8", metadata("yolov8", resize=resize))
    assert bboxes(detect(tmp_path, model, picture_with(size, wanted))) == wanted


def test_what_lies_in_the_padding_alone_is_left_out(tmp_path):
    resize = {"kind": "letterbox", "pad_value": 255}
    model = white_cells.write(tmp_path / "model.onnx", "yolov8", metadata("yolov8", resize=resize))
    predictor = open_predictor(model)
    images = predictor.deploy.preprocess(picture_with((192, 256), []))
    assert images[0, :, :, :16].min() == images[0, :, :, -16:].min() == 1
    assert bboxes(detect(tmp_path, model, picture_with((192, 256), [(32, 32, 64, 64)]))) == [[32, 32, 64, 64]]


def test_tiles_are_resized_one_by_one(tmp_path):
    wanted = [[0, 0, 16, 16], [160, 96, 176, 112], [304, 176, 320, 192]]
    model = white_cells.write(tmp_path / "model.onnx", "yolov8", metadata("yolov8"))
    image = picture_with((192, 320), wanted)
    record = detect(tmp_path, model, image, "--tile", "96x160", "--overlap", "16")
    assert record["num_windows"] == 9
    assert all(box in bboxes(record) for box in wanted)
    assert bboxes(detect(tmp_path, model, image, "--tile", "192x320")) == []  # half a cell of the input is no lamp


def test_channels_brightness_and_scale_are_those_of_the_metadata(tmp_path):
    mean, std = in_brightness((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 1 / 255)
    meta = metadata("yolov8", mean=list(mean), std=list(std), channel_order="bgr")
    predictor = open_predictor(white_cells.write(tmp_path / "model.onnx", "yolov8", meta))
    image = np.random.default_rng(0).integers(0, 256, (*INPUT, 3), dtype=np.uint8)
    found = predictor.deploy.preprocess(image)
    wanted = (image / 255.0 - [0.406, 0.456, 0.485]) / [0.225, 0.224, 0.229]
    np.testing.assert_allclose(found[0], wanted.transpose(2, 0, 1), atol=1e-5)


def test_what_cannot_be_looked_at_is_told(tmp_path):
    model = white_cells.write(tmp_path / "model.onnx", "yolov8", metadata("yolov8"))
    with pytest.raises(DetectorError, match=r"overlap of 8 px needs tiles.*--tile"):
        open_predictor(model, overlap_px=8)
    with pytest.raises(DataError, match=r"20000 x 10000 px: too large.*--tile"):
        open_predictor(model).windows((10_000, 20_000))
    other = white_cells.write(tmp_path / "other.onnx", "yolov8", metadata("yolov8", input_size=(64, 64)))
    with pytest.raises(StageError, match="takes 96x160 px, its metadata makes 64x64 px"):
        open_predictor(other)


def test_scores_that_are_none_are_refused_instead_of_shown(tmp_path):
    model = white_cells.write(tmp_path / "model.onnx", "yolov8", metadata("yolov8", std=[1.0, 1.0, 1.0]))
    with pytest.raises(DetectorError, match=r"scores from 255 to 255, expected 0\.\.1"):
        open_predictor(model).detect(np.full((*INPUT, 3), 255, np.uint8))


@pytest.mark.parametrize("head", ["yolox", "detr", "fastestdet"])
def test_the_head_is_guessed_from_the_graph_and_one_picture(tmp_path, head):
    session = open_session(white_cells.write(tmp_path / "model.onnx", head))
    outputs = [Output(output.name, tuple(output.shape)) for output in session.get_outputs()]
    image = picture_with(INPUT, [(32, 32, 48, 48)])
    sample = session.run(None, {"images": image[None, :, :, ::-1].transpose(0, 3, 1, 2).astype(np.float32) / 255})
    found = guess_head(outputs, INPUT, num_classes=1, sample=sample)
    assert found.name == head, found.why
    assert found.settings == (white_cells.SETTINGS[head] if head != "detr" else found.settings)
    assert found.settings.get("scores", "sigmoid") == "sigmoid"


@pytest.mark.openmmlab  # its set-up has scikit-image, whose pictures are looked at
@pytest.mark.skipif(not FASTESTDET.is_file(), reason=f"{FASTESTDET} is absent")
def test_a_real_fastestdet_sees_what_is_in_the_pictures():
    from skimage import data

    session = open_session(FASTESTDET, threads=1)
    (output,) = session.get_outputs()
    guess = guess_head([Output(output.name, tuple(output.shape))], (352, 352))
    assert (guess.name, guess.num_classes) == ("fastestdet", 80), guess.why
    meta = head_metadata(
        guess.name, guess.settings, classes=[str(label) for label in range(80)], input_size=(352, 352),
        output_names=[output.name], form=InputForm(channel_order="bgr", resize={"kind": "stretch"}),
        thresholds=Thresholds(score=0.6, nms_iou=0.45),
    )  # fmt: skip
    from compress.plugins import load_deploy
    from compress.runtime.forwards import session_forward

    predictor = Predictor(session_forward(session), load_deploy(meta))
    # Labels of COCO: 0 person, 3 motorcycle, 15 cat. Boxes as a person draws them, px.
    for image, label, box in (
        (data.astronaut(), "0", (30, 0, 400, 512)),
        (data.chelsea(), "15", (0, 0, 430, 300)),
        (data.stereo_motorcycle()[0], "3", (90, 70, 670, 450)),
    ):
        found = predictor.deploy.to_json(predictor.detect(np.ascontiguousarray(image[..., ::-1])))
        assert found[0]["class"] == label
        assert overlap(found[0]["bbox"], box) > 0.8


def overlap(first, second):
    """Return intersection over union of two boxes x1, y1, x2, y2."""
    begin, end = np.maximum(first[:2], second[:2]), np.minimum(first[2:], second[2:])
    shared = np.prod(np.maximum(end - begin, 0))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return shared / (sum(areas) - shared)
