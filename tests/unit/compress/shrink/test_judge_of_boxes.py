"""What the judge of detectors says, held against what can be worked out by hand."""

import json
import subprocess
import sys

import colour_cells
import numpy as np
import pytest
import typer
from colour_cells import CELL, CLASSES, changed, corners
from typer.testing import CliRunner

from compress.cli.detecting import detect_command
from compress.errors import DataError, DetectorError
from compress.runtime.detect import open_predictor
from compress.shrink.judge import make_judge, metadata_of
from compress.shrink.judge.properties import preprocessing_of
from compress.shrink.pictures import Inputs, Preprocessing

PLAIN = Preprocessing((colour_cells.HEIGHT, colour_cells.WIDTH))
# Cells (row, column, label, brightness) of three pictures: none touches the right border, where boxes are cut.
SCENES = [
    [(0, 0, 0, 255), (2, 3, 0, 250), (4, 8, 1, 245), (0, 6, 1, 240)],
    [(1, 1, 0, 235), (3, 5, 1, 230), (5, 8, 0, 225)],
    [(0, 8, 1, 220), (5, 0, 1, 215), (2, 2, 0, 210), (2, 6, 0, 205)],
]
OBJECTS = sum(len(scene) for scene in SCENES)


@pytest.fixture
def path(tmp_path):
    return colour_cells.write(tmp_path / "cells.onnx")


@pytest.fixture
def network(tmp_path, path):
    return colour_cells.opened(path)


def pictures(folder, scenes=SCENES, scale=1, suffix=".png"):
    return [
        colour_cells.picture(folder / "pictures", f"scene{number}", scene, scale=scale, suffix=suffix)
        for number, scene in enumerate(scenes)
    ]


def coco(folder, scenes=SCENES, scale=1, names=CLASSES):
    """Write labels as COCO's JSON, by the scenes alone; category ids are not those of the labels."""
    rows = [(number, cell) for number, scene in enumerate(scenes) for cell in scene]
    annotations = []
    for identity, (number, (row, column, label, _)) in enumerate(rows):
        x1, y1, x2, y2 = corners(row, column, scale)
        box = [x1, y1, x2 - x1, y2 - y1]
        annotations.append({"id": identity, "image_id": number + 7, "category_id": 3 * label + 1, "bbox": box})
    document = {
        "images": [{"id": number + 7, "file_name": f"some/where/scene{number}.png"} for number in range(len(scenes))],
        "categories": [{"id": 3 * label + 1, "name": name} for label, name in enumerate(names)],
        "annotations": annotations,
    }
    path = folder / "labels.json"
    path.write_text(json.dumps(document))
    return path


def judge_of(network, path, files, preprocessing=PLAIN, **how):
    return make_judge(network, Inputs(network, files, preprocessing), model_path=path, **how)


def moved(dx):
    """Return a change of the boxes: dx px to the right."""
    return lambda boxes: boxes + np.array([dx, 0, 0, 0]).reshape(1, 4, 1)


def test_the_float_network_loses_nothing_and_a_moved_one_what_its_overlaps_say(tmp_path, path, network):
    judge = judge_of(network, path, pictures(tmp_path), labels=coco(tmp_path))
    assert judge.kind == "labels"
    same = judge(network.model)
    assert (same.loss, same.low, same.high) == (0, 0, 0)
    assert same.metrics == {"map": 1, "map75": 1, "map50": 1}
    assert same.relative_errors == {"boxes_and_scores": 0}
    assert same.cosines["boxes_and_scores"] == pytest.approx(1)
    # 2 px of 16: overlap 14 / 18 = 0.778, so right at 0.50, 0.55 ... 0.75: six thresholds of ten.
    verdict = judge(changed(network, "boxes", moved(2)))
    assert verdict.loss == pytest.approx(40)
    assert (verdict.low, verdict.high) == (pytest.approx(40), pytest.approx(40))
    assert verdict.metrics == {"map": pytest.approx(0.6), "map75": 1, "map50": 1}
    # 3 px: 13 / 19 = 0.684, right at four thresholds, and not at 0.75.
    assert judge(changed(network, "boxes", moved(3))).metrics == {"map": pytest.approx(0.4), "map75": 0, "map50": 1}


def test_relative_error_and_cosine_are_those_of_all_pictures_together(tmp_path, path, network):
    files = pictures(tmp_path)
    verdict = judge_of(network, path, files, labels=coco(tmp_path))(changed(network, "boxes", moved(2)))
    scores = sum((brightness / 255) ** 2 for scene in SCENES for *_, brightness in scene)
    boxes = 3 * float((colour_cells.CENTRES.astype(np.float64) ** 2).sum())
    wanted = np.sqrt(3 * colour_cells.COUNT * 4 / (boxes + scores))
    assert verdict.relative_errors["boxes_and_scores"] == pytest.approx(wanted)
    product = boxes + scores + 3 * 2 * float(colour_cells.CENTRES[:, 0].sum())
    length = np.sqrt(boxes + scores + 3 * float((4 * colour_cells.CENTRES[:, 0] + 4).sum()))
    assert verdict.cosines["boxes_and_scores"] == pytest.approx(product / np.sqrt(boxes + scores) / length)


def test_a_class_that_a_network_forgets_is_lost_and_the_interval_knows_that_pictures_differ(tmp_path, path, network):
    judge = judge_of(network, path, pictures(tmp_path), labels=coco(tmp_path))
    forgets = changed(network, "colours", lambda colours: colours * np.array([1, 0]).reshape(2, 1, 1, 1))
    assert judge(forgets).loss == pytest.approx(50)
    # Scores below 220 / 255 lost: all of the third picture but none of the others.
    weak = changed(network, "colours", lambda colours: colours - (colours > 0) * 0.0)
    assert judge(weak).loss == 0
    verdict = judge(changed(network, "colours", lambda colours: colours * 0.0585))  # 220 / 255 of it is 0.0505
    assert verdict.low < verdict.loss < verdict.high
    assert verdict.loss > 5


def test_labels_are_in_pixels_of_pictures_that_are_letterboxed(tmp_path, path, network):
    files = pictures(tmp_path, scale=3)
    judge = judge_of(network, path, files, labels=coco(tmp_path, scale=3))
    assert judge.own.map == 1
    # 288 x 480 px and a bar of 48 px below: it is as wide as before, and lies lower in the input.
    import cv2

    for file in files:
        image = cv2.imread(str(file))
        cv2.imwrite(str(file), np.concatenate([image, np.zeros((96, *image.shape[1:]), np.uint8)]))
    # 384 x 480 px become 96 x 120 px: cells of 12 px meet no cell of the network, so boxes are found, but loosely.
    assert judge_of(network, path, files, labels=coco(tmp_path, scale=3)).own.map < 0.5
    stretched = Preprocessing(PLAIN.size, fit="stretch")
    high = judge_of(network, path, files, stretched, labels=coco(tmp_path, scale=3), head="yolov8")
    assert 0 < high.own.map < 0.5


@pytest.mark.parametrize("form", ["yolo", "dota"])
def test_text_labels_say_the_same(tmp_path, path, network, form):
    files = pictures(tmp_path, scale=2)
    folder = tmp_path / "labels"
    folder.mkdir()
    for number, scene in enumerate(SCENES):
        lines = []
        for row, column, label, _ in scene:
            x1, y1, x2, y2 = corners(row, column, 2)
            if form == "yolo":
                lines.append(f"{label} {(x1 + x2) / 640} {(y1 + y2) / 384} {(x2 - x1) / 320} {(y2 - y1) / 192}")
            else:
                lines.append(f"{x1} {y1} {x2} {y1} {x2} {y2} {x1} {y2} {CLASSES[label]} 0")
        (folder / f"scene{number}.txt").write_text("\n".join(lines))
    judge = judge_of(network, path, files, labels=folder, classes=CLASSES)
    assert f"({form}): 3 pictures, {OBJECTS} objects; the float network has 100.0 (100.0 to 100.0)" in judge.told
    assert "Head yolov8, guessed" in judge.told
    assert judge.own.map == 1
    assert judge(changed(network, "boxes", moved(2))).loss == pytest.approx(40)


def test_classes_without_an_order_are_asked_for(tmp_path, path, network):
    files, folder = pictures(tmp_path), tmp_path / "labelTxt"
    folder.mkdir()
    for number in range(3):
        (folder / f"scene{number}.txt").write_text("0 0 16 0 16 16 0 16 red 0\n32 0 48 0 48 16 32 16 green 0\n")
    with pytest.raises(DataError, match=r"no order of their classes green, red.*--classes"):
        judge_of(network, path, files, labels=folder)


def test_a_float_network_that_finds_nothing_of_the_labels_can_lose_nothing_and_is_refused(tmp_path, path, network):
    swapped = coco(tmp_path, names=CLASSES[::-1])
    with pytest.raises(DetectorError, match=r"finds next to nothing of it: mAP50 0.0000.*order of the classes"):
        judge_of(network, path, pictures(tmp_path), labels=swapped, classes=CLASSES)


def test_turned_boxes_are_judged_by_what_they_share(tmp_path, path, network):
    # The second channel is the angle: green of 200 / 255 rad is an eighth of a turn, as nearly as makes no difference.
    angle = 200 / 255
    scene = [(row, column, 0, 250 - row) for row in (1, 3) for column in range(1, 9, 2)]
    files = pictures(tmp_path, [scene] * 2)
    import cv2

    for file in files:
        image = cv2.imread(str(file))
        image[..., 1] = 200
        cv2.imwrite(str(file), image)
    lines = []
    for row, column, *_ in scene:
        turned = [np.array([-1, -1, 1, 1]) * CELL / 2, np.array([-1, 1, 1, -1]) * CELL / 2]
        x = np.cos(angle) * turned[0] - np.sin(angle) * turned[1] + (column + 0.5) * CELL
        y = np.sin(angle) * turned[0] + np.cos(angle) * turned[1] + (row + 0.5) * CELL
        lines.append(" ".join(str(value) for pair in zip(x, y, strict=True) for value in pair) + " ship 0")
    folder = tmp_path / "labelTxt"
    folder.mkdir()
    for number in range(2):
        (folder / f"scene{number}.txt").write_text("\n".join(lines))
    straight = changed(network, "colours", lambda colours: colours * np.array([1, 0]).reshape(2, 1, 1, 1))
    for labels in (folder, None):
        judge = judge_of(network, path, files, labels=labels, head="yolo-obb")
        assert judge(network.model).metrics["map"] == 1
        # Two squares an eighth of a turn apart share 2 (sqrt 2 - 1) = 0.828 of one: overlap 0.707, five thresholds.
        assert judge(straight).loss == pytest.approx(50)


def test_classes_are_merged_and_others_ignored(tmp_path, path, network):
    names = ("scarlet", "green")
    labels = coco(tmp_path, names=names)
    judge = judge_of(network, path, pictures(tmp_path), labels=labels, classes=["red+scarlet", "green"])
    assert judge.own.map == 1
    ignoring = judge_of(network, path, pictures(tmp_path), labels=labels, classes=["red", "Green"])
    assert "scarlet of the labels is no class of the network: ignored" in ignoring.told
    assert ignoring.own.map == 1  # red boxes lie on ignored ones: neither right nor wrong


def test_labels_without_a_head_that_fits_say_which_could_be_named(tmp_path):
    from onnx import helper

    flat = [helper.make_node("Flatten", ["boxes_and_scores"], ["flat"])]
    path = colour_cells.write(tmp_path / "flat.onnx", suffix=flat, last=("flat", [1, 6 * colour_cells.COUNT]))
    network = colour_cells.open_network(path)
    with pytest.raises(
        DetectorError, match=r"none was guessed. No built-in head has the outputs flat .*yolov8\|.*dcfl"
    ):
        judge_of(network, path, pictures(tmp_path), labels=coco(tmp_path))
    with pytest.raises(DetectorError, match=r"--head yolov8: raw outputs: \(1, 360\)"):
        judge_of(network, path, pictures(tmp_path), labels=coco(tmp_path), head="yolov8")
    with pytest.raises(DetectorError, match=r"no head 'yolo8'. Did you mean 'yolov8'"):
        judge_of(network, path, pictures(tmp_path), head="yolo8")
    judge = judge_of(network, path, pictures(tmp_path))
    assert judge.kind == "outputs"
    assert "No detections are compared: No built-in head" in judge.told


def test_one_picture_without_evidence_does_not_keep_the_head_from_being_guessed(tmp_path, path, network):
    red = [(0, 0, 0, 255)]
    either = judge_of(network, path, pictures(tmp_path, [red]))  # green scores of 0 may be angles
    assert (either.kind, metadata_of(either)) == ("outputs", {})
    assert "fit several heads" in either.told
    assert "Head yolov8, guessed" in judge_of(network, path, pictures(tmp_path, [red, *SCENES])).told


def many_pictures(tmp_path, brightness=255):
    """Return pictures with 5 red and 5 green objects each, 60 in all."""
    scene = [(2 * (n // 5), 2 * (n % 5), n % 2, brightness) for n in range(10)]
    return pictures(tmp_path, [scene] * 6)


def test_agreement_is_whole_for_the_float_network_and_what_overlaps_say_for_a_moved_one(tmp_path, path, network):
    judge = judge_of(network, path, many_pictures(tmp_path))
    assert judge.kind == "agreement"
    assert "above score 0.3: 6 pictures, 60 objects; the float network has 100 by definition" in judge.told
    same = judge(network.model)
    assert (same.loss, same.low, same.high, same.metrics["map"]) == (0, 0, 0, 1)
    assert judge(changed(network, "boxes", moved(2))).loss == pytest.approx(40)
    forgets = changed(network, "colours", lambda colours: colours * np.array([1, 0]).reshape(2, 1, 1, 1))
    assert judge(forgets).loss == pytest.approx(50)


def test_the_score_of_agreement_goes_down_where_few_objects_score_more(tmp_path, path, network):
    judge = judge_of(network, path, many_pictures(tmp_path, brightness=45))  # 0.176
    assert "above score 0.15 (lowered from 0.3: fewer than 50 score more): 6 pictures, 60 objects" in judge.told
    few = judge_of(network, path, pictures(tmp_path, [[(0, 0, 0, 255)]]), head="yolov8")
    assert few.kind == "outputs"
    assert "finds 1 objects above 0.05 in 1 pictures, expected at least 10" in few.told
    assert "krimp.deploy" in metadata_of(few)  # it is a detector all the same


def test_a_network_whose_scores_are_none_has_lost_all(tmp_path, path, network):
    judge = judge_of(network, path, pictures(tmp_path), labels=coco(tmp_path))
    verdict = judge(changed(network, "colours", lambda colours: 2 * colours))
    assert verdict.loss == verdict.low == verdict.high == 100
    assert verdict.metrics == {"map": 0, "map75": 0, "map50": 0}
    assert "expected 0..1" in verdict.problem
    assert verdict.relative_errors["boxes_and_scores"] > 0


def test_what_the_judge_sees_is_what_krimp_detect_finds(tmp_path, path, network):
    import cv2

    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (123, 301, 3), np.uint8)
    noise[40:70, 60:200, 2] = 255
    (tmp_path / "pictures").mkdir()
    cv2.imwrite(str(tmp_path / "pictures" / "noise.png"), noise)
    for preprocessing in (
        Preprocessing(PLAIN.size, mean=(0.1, 0.2, 0.0), std=(0.9, 1.1, 1.0)),
        Preprocessing(PLAIN.size, bgr=True, fit="stretch", mean=(0.1, 0.2, 0.0)),
        Preprocessing(PLAIN.size, corner=True, pad_value=30),
    ):
        file = tmp_path / "pictures" / "noise.png"
        judge = judge_of(network, path, [file], preprocessing, head="yolov8")
        small = colour_cells.write(tmp_path / "small.onnx", metadata=metadata_of(judge))
        folder = tmp_path / f"found_{preprocessing.fit}_{preprocessing.corner}"
        app = typer.Typer()
        app.command()(detect_command)
        result = CliRunner().invoke(app, [str(small), str(file), "--out", str(folder)])
        assert result.exit_code == 0, result.output
        (record,) = json.loads((folder / "detections.json").read_text())["images"]
        predictor = open_predictor(small)
        assert preprocessing_of(predictor.deploy.meta)(noise) == pytest.approx(preprocessing(noise), abs=1e-6)
        outputs, size = judge.reference.outputs(0), judge.reference.sizes[0]
        (wanted,) = judge.deploy.postprocess(outputs, image_size=size)
        found = record["detections"]
        assert len(found) > 3
        assert [one["label"] for one in found] == wanted.labels.tolist()
        np.testing.assert_allclose([one["box"] for one in found], wanted.boxes, atol=1e-2)
        np.testing.assert_allclose([one["score"] for one in found], wanted.scores, atol=1e-4)


def test_metadata_of_the_file_itself_is_taken_and_kept(tmp_path, path, network):
    files = pictures(tmp_path)
    first = metadata_of(judge_of(network, path, files, labels=coco(tmp_path)))
    own = json.loads(first["krimp.deploy"]) | {"score_threshold": 0.9, "classes": ["rot", "green"]}
    file = colour_cells.write(tmp_path / "own.onnx", metadata={"krimp.deploy": json.dumps(own)})
    judge = judge_of(network, file, files, labels=coco(tmp_path), classes=["rot+red", "green"])
    assert "The file's own metadata (plug-in heads)" in judge.told
    assert metadata_of(judge) == {"krimp.deploy": json.dumps(own)}
    bright = [cell for scene in SCENES for cell in scene if cell[3] / 255 > 0.9]
    assert judge.own.num_detections == len(bright)
    with pytest.raises(DataError, match="red, green are named, the file's metadata has rot, green"):
        judge_of(network, file, files, classes=["red", "green"])
    other = Preprocessing(PLAIN.size, fit="stretch")
    assert json.loads(metadata_of(judge_of(network, file, files, other))["krimp.deploy"])["resize"] == {
        "kind": "stretch"
    }


def test_pictures_that_enter_pixel_by_pixel_are_padded_with_zeros_and_may_not_be_larger(tmp_path, network):
    meta = {
        "format_version": 1, "plugin": "dcfl", "image_size": [96, 160], "mean": [100.0, 110.0, 120.0],
        "std": [50.0, 60.0, 70.0], "size_divisor": 32, "classes": ["red"], "score_threshold": 0.05, "nms_iou": 0.4,
        "nms_pre": 2000, "max_detections": 2000, "output_names": ["a", "b"], "strides": [8], "anchor_scale": 4.0,
        "angle_version": "le135",
    }  # fmt: skip
    entering = preprocessing_of(meta)
    small = np.random.default_rng(0).integers(0, 256, (60, 100, 3), np.uint8)
    made = entering(small)
    assert made.shape == (1, 3, 96, 160)
    wanted = (small[..., ::-1] - np.array(meta["mean"])) / np.array(meta["std"])
    np.testing.assert_allclose(made[0, :, :60, :100], wanted.transpose(2, 0, 1), atol=1e-6)
    assert not made[..., 60:, :].any()
    assert not made[..., 100:].any()
    (file,) = pictures(tmp_path, SCENES[:1], scale=2)
    with pytest.raises(
        DataError, match=r"scene0.png: picture of 320x192 px: the network looks at windows of 160x96 px"
    ):
        Inputs(network, [file], entering).one(file)


OWN = """
from detectors.heads.head import Candidates

def decode(raw, settings, request):
    found = []
    for one in raw[0]:
        rows = one.T
        label = rows[:, 4:].argmax(axis=1)
        score = rows[:, 4:].max(axis=1)
        kept = score > request.threshold
        low, high = rows[:, :2] - rows[:, 2:4] / 2, rows[:, :2] + rows[:, 2:4] / 2
        import numpy as np
        found.append(Candidates(np.concatenate([low, high], axis=1)[kept], score[kept], label[kept]))
    return found

def broken(raw, settings, request):
    raise KeyError("bias")

def odd(raw, settings, request):
    return raw

number = 3
"""


def test_code_of_ones_own_decodes_if_it_may_and_is_never_stored(tmp_path, path, network, monkeypatch):
    (tmp_path / "my_decoding.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("KRIMP_ALLOW_CODE", raising=False)
    files, labels = pictures(tmp_path), coco(tmp_path)
    with pytest.raises(DetectorError, match=r"--head: 'my_decoding:decode' imports the module.*--allow-code"):
        judge_of(network, path, files, labels=labels, head="my_decoding:decode")
    assert "my_decoding" not in sys.modules
    judge = judge_of(network, path, files, labels=labels, head="my_decoding:decode", allow_code=True)
    assert judge.own.map == 1
    assert judge(changed(network, "boxes", moved(2))).loss == pytest.approx(40)
    assert metadata_of(judge) == {}
    assert "Head my_decoding:decode, code of one's own." in judge.told
    for name, text in (("broken", "fails: KeyError: 'bias'"), ("odd", "Candidates"), ("number", "expected a function")):
        with pytest.raises(DetectorError, match=text):
            judge_of(network, path, files, labels=labels, head=f"my_decoding:{name}", allow_code=True)


def test_nothing_on_the_way_imports_torch(tmp_path, path):
    colour_cells.picture(tmp_path / "pictures", "scene0", SCENES[0])
    code = f"""
import sys
from pathlib import Path
from compress.shrink.judge import make_judge
from compress.shrink.network import open_network
from compress.shrink.pictures import find_inputs, guessed_preprocessing
from compress.pictures.decoding import AS_IT_IS
path = Path({str(path)!r})
network = open_network(path)
judging = find_inputs(network, Path({str(tmp_path / "pictures")!r}), guessed_preprocessing(network), AS_IT_IS)
judge = make_judge(network, judging, model_path=path, labels=Path({str(coco(tmp_path, SCENES[:1]))!r}))
judge(network.model)
print(judge.kind, "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["labels", "False"], done.stdout


def test_cells_are_as_the_tests_say():
    assert CELL == 16
    assert OBJECTS == 11
