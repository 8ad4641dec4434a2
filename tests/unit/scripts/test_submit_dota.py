"""From detections on patches to whole images, a submission and its score, end to end on a tree the tests make."""

import importlib.util
import json
import math
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

UNIT = Path(__file__).parents[1]
sys.path.append(str(UNIT / "detectors" / "data"))

from dota_tree import OVERLAP, SIZE, write_tree  # noqa: E402

from compress.cli.main import main  # noqa: E402
from compress.errors import DataError  # noqa: E402
from detectors.data import merging  # noqa: E402
from detectors.data.dota_release import CLASSES  # noqa: E402
from detectors.data.patches import Patch  # noqa: E402
from detectors.data.samples import Truth, quads_to_boxes  # noqa: E402
from detectors.geometry.detections import Detections  # noqa: E402
from detectors.geometry.text import to_records  # noqa: E402

NAMES = CLASSES["1.0"]


def submit(arguments):
    return main(["data", "submit", *arguments])


def prepare_dota(arguments):
    return main(["data", "prepare-dota", *arguments])


@pytest.fixture(scope="module", params=[("1.0",), ("0.5", "1.0")], ids=["one scale", "two scales"])
def tree(request, tmp_path_factory):
    root = tmp_path_factory.mktemp("dota")
    release = write_tree(root / "DOTA", splits=("val",))
    options = ["--size", str(SIZE), "--overlap", str(OVERLAP), "--processes", "1", "--scales", *request.param]
    assert prepare_dota([str(release), "--out", str(root / "patches"), *options]) == 0
    return release / "val" / "labelTxt-v1.0" / "labelTxt", root / "patches" / "val"


def perfect(patches, *, noise_px=0.0, seed=0):
    """Return detections.json of a detector that finds all that the labels of each patch name."""
    rng = np.random.default_rng(seed)
    images = []
    for path in sorted((patches / "labelTxt").iterdir()):
        rows = [line.split() for line in path.read_text().splitlines()]
        boxes = quads_to_boxes(np.array([row[:8] for row in rows], np.float32).reshape(-1, 8))
        boxes[:, :2] += rng.normal(0, 1, (len(boxes), 2)) * noise_px
        scores = rng.uniform(0.5, 1, len(boxes))
        found = Detections(boxes, scores, np.array([NAMES.index(row[8]) for row in rows], int))
        images.append({"name": path.stem, "width": SIZE, "height": SIZE, "detections": to_records(found, NAMES)})
    return {"classes": list(NAMES), "images": images, "failed": []}


def run(tmp_path, record, patches, *options):
    (tmp_path / "detections.json").write_text(json.dumps(record))
    arguments = ["--detections", str(tmp_path / "detections.json"), "--patches", str(patches)]
    code = submit([*arguments, "--out", str(tmp_path / "out"), *map(str, options)])
    scores = tmp_path / "out" / "scores.json"
    return code, json.loads(scores.read_text()) if scores.is_file() else None


@pytest.mark.parametrize("noise_px", [0.0, 0.5])
def test_perfect_detections_on_patches_give_perfect_whole_images(tree, tmp_path, noise_px):
    labels, patches = tree
    code, scores = run(tmp_path, perfect(patches, noise_px=noise_px), patches, "--labels", labels)
    assert code == 0
    assert scores["map50_voc07_11point"] == pytest.approx(1, abs=1e-6)
    assert scores["map50_area"] == pytest.approx(1, abs=1e-6)
    assert scores["map75"] == pytest.approx(1, abs=1e-6)
    assert 0.9 < scores["map"] <= 1
    assert scores["num_images"] == 5
    lines = [line for path in labels.iterdir() for line in path.read_text().splitlines()[2:]]
    assert scores["num_detections"] == len(lines)  # each object once, however many patches hold it


def test_without_merging_the_duplicates_cost_precision(tree, tmp_path):
    labels, patches = tree
    code, scores = run(tmp_path, perfect(patches, noise_px=0.5), patches, "--labels", labels, "--merge-iou", "1.0")
    assert code == 0
    assert scores["map50_area"] < 0.9


def test_submission_is_the_servers_format_and_reads_back_to_the_same_score(tree, tmp_path, capsys):
    labels, patches = tree
    _, scores = run(tmp_path, perfect(patches), patches, "--labels", labels)
    path = tmp_path / "out" / "submission.zip"
    first = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == [f"Task1_{name}.txt" for name in NAMES]
        lines = archive.read("Task1_plane.txt").decode().splitlines()
    image, score, *corners = lines[0].split()
    assert (labels / f"{image}.txt").is_file()
    assert 0.5 <= float(score) <= 1
    assert len(corners) == 8
    truth = [line.split() for line in (labels / f"{image}.txt").read_text().splitlines()[2:]]
    boxes = quads_to_boxes(np.array([row[:8] for row in truth if row[8] == "plane"], np.float32))
    found = quads_to_boxes(np.array([corners], np.float32))[0]
    assert min(np.abs(boxes[:, :4] - found[:4]).max(axis=1)) < 0.1
    run(tmp_path, perfect(patches), patches, "--labels", labels)
    assert path.read_bytes() == first
    again = ["--submission", str(path), "--labels", str(labels), "--classes", *NAMES, "--out", str(tmp_path / "again")]
    assert submit([*again]) == 0
    assert json.loads((tmp_path / "again" / "scores.json").read_text())["map50_area"] == scores["map50_area"]


def test_patch_without_detections_record_is_an_error(tree, tmp_path, capsys):
    _, patches = tree
    record = perfect(patches)
    missing = record["images"].pop()["name"]
    record["images"].append({"name": "P9999__256__0___0", "width": 256, "detections": []})
    code, _ = run(tmp_path, record, patches)
    assert code == 3
    text = capsys.readouterr().err
    assert f"{missing}: no detections" in text
    assert "P9999__256__0___0: detections of a patch that is not in" in text
    assert not (tmp_path / "out" / "submission.zip").exists()


def test_merging_equals_plain_greedy_suppression_of_all_patches():
    from detectors.geometry.iou import rotated_iou_matrix

    rng = np.random.default_rng(1)
    parts = []
    for x, y, side in ((0, 0, 256), (192, 0, 256), (0, 0, 512)):
        count = 60
        boxes = np.stack(
            [*rng.uniform(0, 256, (2, count)), *rng.uniform(8, 40, (2, count)), rng.uniform(-0.7, 2.3, count)]
        )
        found = Detections(boxes.T, rng.uniform(0, 1, count), rng.integers(0, 3, count))
        parts.append(merging.PatchDetections(Patch("P0", side, x, y), 256, found))
    rows = []
    for part in parts:
        factor = part.patch.side_px / 256
        for box, score, label in zip(
            part.detections.boxes, part.detections.scores, part.detections.labels, strict=True
        ):
            x, y, w, h, angle = map(float, box)
            rows.append(
                ([x * factor + part.patch.x, y * factor + part.patch.y, w * factor, h * factor, angle], score, label)
            )
    rows.sort(key=lambda row: -row[1])
    kept = []
    for box, score, label in rows:
        rivals = [other for other, _, kind in kept if kind == label]
        if not rivals or rotated_iou_matrix([box], rivals).max() < 0.1:
            kept.append((box, score, label))
    (name, merged), *more = merging.merge_patches(reversed(parts)).items()
    assert (name, more) == ("P0", [])
    np.testing.assert_allclose(merged.boxes, [box for box, _, _ in kept], atol=1e-3)
    assert merged.labels.tolist() == [label for _, _, label in kept]


def test_difficult_objects_are_neither_found_nor_missed(tmp_path):
    (tmp_path / "P0.txt").write_text("10 10 30 10 30 20 10 20 ship 1\n50 10 70 10 70 20 50 20 ship 0\n")
    truths = merging.read_truths(tmp_path, ["ship", "plane"])
    both = Detections(np.array([[20, 15, 20, 10, 0], [60, 15, 20, 10, 0]]), np.array([0.9, 0.8]), np.array([0, 0]))
    assert merging.score_images({"P0": both}, truths, ["ship", "plane"]).map50 == 1
    assert math.isnan(merging.score_images({}, truths, ["ship", "plane"]).ap_per_class["plane"])
    with pytest.raises(DataError, match=r"1 images with detections have no labels, e\.g\. P1"):
        merging.score_images({"P1": both}, truths, ["ship", "plane"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"images": [{"name": "P0"}]}', "KeyError"),
        ("{", "expected detections.json"),
        ('{"classes": ["ship"], "images": [], "failed": [{"error": "a.png: 3 bytes"}]}', "a.png: 3 bytes"),
        ('{"classes": ["ship"], "images": [{"name": "P0", "width": 8, "detections": []}]}', "P0: no patch name"),
    ],
)
def test_wrong_detection_files_are_refused(text, expected, tmp_path, capsys):
    (tmp_path / "detections.json").write_text(text)
    assert submit(["--detections", str(tmp_path / "detections.json"), "--out", str(tmp_path / "out")]) == 3
    assert expected in capsys.readouterr().err


def test_wrong_submissions_are_refused_with_file_and_line(tmp_path, capsys):
    (tmp_path / "Task1_ship.txt").write_text("P0 0.5 1 2 3 4 5 6 7 8\nP0 0.5 1 2\n")
    (tmp_path / "P0.txt").write_text("")
    options = ["--submission", str(tmp_path), "--labels", str(tmp_path), "--out", str(tmp_path / "out"), "--classes"]
    assert submit([*options, "ship"]) == 3
    assert "Task1_ship.txt:2: 4 columns, expected image score" in capsys.readouterr().err
    assert submit([*options, "plane"]) == 3
    assert "Task1_plane.txt" in capsys.readouterr().err


# ---- with a model -----------------------------------------------------------------------------------------------


@pytest.fixture
def lamps(tmp_path):
    """Return a folder with a model that reports a box where an 8 x 8 px cell is white, and patches with such cells."""
    spec = importlib.util.spec_from_file_location("runtime_model", UNIT / "compress" / "runtime" / "conftest.py")
    model = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(model)
    model.head_like_onnx(tmp_path / "model.onnx", model.META | {"image_size": [128, 128]})
    images, labels = tmp_path / "DOTA" / "val" / "images", tmp_path / "DOTA" / "val" / "labelTxt"
    images.mkdir(parents=True)
    labels.mkdir()
    for name in ("P0", "P1"):
        image = np.zeros((200, 304, 3), np.uint8)
        lines = []
        for x, y in ((40, 48), (112, 96), (120, 16), (248, 160)):  # the second and third lie in two patches or more
            image[y : y + 8, x : x + 8] = 255
            corners = cv2.boxPoints(((x + 4, y + 4), (16, 8), math.degrees(0.3))).reshape(-1)
            lines.append(f"{' '.join(f'{v:.2f}' for v in corners)} lamp 0\n")
        cv2.imwrite(str(images / f"{name}.png"), image)
        (labels / f"{name}.txt").write_text("".join(lines))
    options = ["--size", "128", "--overlap", "40", "--processes", "1", "--classes", "lamp", "ship"]
    assert prepare_dota([str(tmp_path / "DOTA"), "--out", str(tmp_path / "patches"), *options]) == 0
    return tmp_path


def with_model(folder, *options):
    arguments = ["--model", folder / "model.onnx", "--patches", folder / "patches" / "val", "--out", folder / "out"]
    return submit([*map(str, arguments), "--threads", "1", *map(str, options)])


def test_model_file_looks_at_every_patch_and_whole_images_are_scored(lamps):
    assert with_model(lamps, "--labels", lamps / "DOTA" / "val" / "labelTxt") == 0
    scores = json.loads((lamps / "out" / "scores.json").read_text())
    assert scores["map50_area"] == pytest.approx(1)
    assert scores["num_detections"] == 8


def test_krimp_detects_own_output_gives_the_same_submission(lamps):
    from compress.runtime.detect import Results, detect, find_images, open_predictor

    assert with_model(lamps) == 0
    mine = (lamps / "out" / "submission.zip").read_bytes()
    predictor = open_predictor(lamps / "model.onnx", threads=1)
    detect(predictor, find_images([lamps / "patches" / "val" / "images"]), Results(lamps / "found", pictures=False))
    options = ["--detections", lamps / "found" / "detections.json", "--patches", lamps / "patches" / "val"]
    assert submit([*map(str, options), "--out", str(lamps / "other")]) == 0
    assert (lamps / "other" / "submission.zip").read_bytes() == mine


def test_detection_goes_on_after_a_kill_and_refuses_another_model(lamps, capsys, monkeypatch):
    from detectors.data import submission

    assert with_model(lamps) == 0
    path = lamps / "out" / "detections.jsonl"
    whole = path.read_text()
    lines = whole.splitlines(keepends=True)
    path.write_text("".join(lines[:4]) + lines[4][:25])  # killed while it wrote the fourth record
    looked_at = []
    read = submission.read_image
    monkeypatch.setattr(submission, "read_image", lambda file: (looked_at.append(file.stem), read(file))[1])
    assert with_model(lamps) == 0
    assert len(looked_at) == len(lines) - 4
    assert path.read_text() == whole
    assert with_model(lamps, "--score", "0.5") == 3
    assert "made with score_threshold = None, now it is 0.5" in capsys.readouterr().err
    shutil.copy(lamps / "model.onnx", lamps / "keep.onnx")
    content = bytearray((lamps / "model.onnx").read_bytes())
    (lamps / "model.onnx").write_bytes(content.replace(b"head_like", b"head_lake"))
    assert with_model(lamps) == 3
    assert "made with model_sha256" in capsys.readouterr().err


def test_options_that_need_each_other_are_told(tmp_path, capsys):
    assert submit(["--model", "m.onnx", "--out", str(tmp_path / "out")]) == 3
    assert "--model: needs --patches" in capsys.readouterr().err
    assert submit(["--submission", "x.zip", "--out", str(tmp_path / "out")]) == 3
    assert "needs --labels and --classes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("script", "name"),
    [("make_synthetic", "synthetic"), ("prepare_dota", "prepare-dota"), ("prepare_diorr", "prepare-diorr"),
     ("submit_dota", "submit")],
)  # fmt: skip
def test_help_teaches_with_examples(script, name):
    command = [sys.executable, str(UNIT.parents[1] / "scripts" / f"{script}.py"), "--help"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert f"krimp data {name} " in text.partition("Options:")[0].partition("\n\n")[2]
    assert "--out" in text


def test_a_submission_is_never_written_over_files_of_somebodys(tmp_path):
    from detectors.data.submission import resume_records

    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "submission.zip").write_bytes(b"precious")
    assert submit(["--detections", str(tmp_path / "none.json"), "--out", str(tmp_path / "out")]) == 3
    assert (tmp_path / "out" / "submission.zip").read_bytes() == b"precious"
    records = tmp_path / "detections.jsonl"
    records.write_bytes(b"precious, one line without its end")
    with pytest.raises(DataError, match="is no record of an earlier run"):
        resume_records(records, {"model": "a"})
    assert records.read_bytes().startswith(b"precious")
    records.write_bytes(b'{"mod')  # of a run that was killed as it began
    assert resume_records(records, {"model": "a"}) == set()


def test_a_whole_image_may_hold_more_objects_of_a_class_than_coco_counts():
    boxes = np.column_stack(
        [np.arange(150) * 30 + 20, np.full(150, 50), np.full(150, 20), np.full(150, 10), np.zeros(150)]
    )
    truth = Truth(boxes.astype(np.float32), np.zeros(150, np.int64), np.zeros((0, 5), np.float32))
    found = Detections(boxes, np.linspace(0.9, 0.5, 150), np.zeros(150))
    scores = merging.score_images({"P0": found}, {"P0": truth}, ["ship"])
    assert (scores.map, scores.map50, scores.max_dets) == (1, 1, 150)
