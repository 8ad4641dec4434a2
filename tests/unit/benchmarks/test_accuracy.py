"""Model files scored side by side: what is written, what is found once, what is refused."""

import json
import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from benchmarks import accuracy
from compress.plugins import make_detector
from compress.recipe.loading import load_recipe
from detectors.geometry.detections import Detections

RECIPE = """
format_version: 2
name: small
detector: {{plugin: dcfl, backbone: resnet18, base_channels: 8, channels: 16, classes: [car, ship]}}
data: {{format: dota, root: {root}, image_size: [64, 64]}}
stages:
  - {{stage: train}}
"""
BOXES = np.array([[25, 17, 30, 14, 0], [25, 45, 30, 14, 0]], np.float32)


@pytest.fixture
def recipe(tmp_path):
    for part in ("images", "labelTxt"):
        (tmp_path / "data" / "val" / part).mkdir(parents=True)
    for index in range(6):
        cv2.imwrite(str(tmp_path / "data" / "val" / "images" / f"{index}.png"), np.zeros((64, 64, 3), np.uint8))
        lines = "10 10 40 10 40 24 10 24 car 0\n10 38 40 38 40 52 10 52 ship 0\n"
        (tmp_path / "data" / "val" / "labelTxt" / f"{index}.txt").write_text(lines)
    path = tmp_path / "a.yaml"
    path.write_text(RECIPE.format(root=tmp_path / "data"))
    return path


@pytest.fixture
def models(tmp_path, monkeypatch):
    """Two files that stand for a model that finds all and one whose boxes are off in half of the images."""
    looked = []

    class Fake:
        def __init__(self, forward, _deploy):
            self.name, self.seen = forward, 0

        def detect(self, _image):
            looked.append(self.name)
            self.seen += 1
            moved = BOXES.copy()
            moved[:, 0] += 2.5 * (self.name == "worse.onnx" and self.seen % 2)
            return Detections(moved, np.array([0.9, 0.8]), np.array([0, 1]))

    monkeypatch.setattr(accuracy, "Predictor", Fake)
    monkeypatch.setattr(accuracy, "onnx_forward", lambda path, _threads: path.name)
    for name in ("good.onnx", "worse.onnx"):
        (tmp_path / name).write_text(name)
    return SimpleNamespace(looked=looked, paths=[str(tmp_path / "good.onnx"), str(tmp_path / "worse.onnx")])


def call(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["accuracy.py", *map(str, arguments)])
    return accuracy.main()


def test_models_are_scored_with_paired_losses_and_pictures_are_looked_at_once(
    tmp_path, recipe, models, monkeypatch, capsys
):
    arguments = [recipe, *models.paths, "--detections", tmp_path / "kept"]
    assert call(monkeypatch, *arguments, "--record", tmp_path / "a.json") == 0
    assert len(models.looked) == 12
    record = json.loads((tmp_path / "a.json").read_text())
    good, worse = record["splits"]["val"]
    assert (good["model"], good["scores"]["map"], good["scores"]["num_objects"]) == ("good.onnx", 1.0, 12)
    assert worse["scores"]["map50"] == 1.0
    assert worse["map_loss"] == pytest.approx(1 - worse["scores"]["map"])
    assert 0 < worse["map_loss_interval"][0] < worse["map_loss"] < worse["map_loss_interval"][1]
    assert worse["map50_loss"] == 0
    assert str(tmp_path) not in json.dumps(record)
    assert "6 images, 12 objects" in capsys.readouterr().out
    assert call(monkeypatch, *arguments, "--record", tmp_path / "b.json") == 0
    assert len(models.looked) == 12
    again = json.loads((tmp_path / "b.json").read_text())["splits"]["val"]
    assert [row["scores"] for row in again] == [good["scores"], worse["scores"]]


def test_the_table_of_the_readme_is_made_of_the_record(tmp_path, recipe, models, monkeypatch):
    from scripts.update_readme import accuracy_table

    assert call(monkeypatch, recipe, *models.paths, "--record", tmp_path / "a.json") == 0
    record = json.loads((tmp_path / "a.json").read_text())
    text = accuracy_table(record, "val")
    assert "6 images, 12 objects; map: mAP50-95 as COCO defines it, rotated overlap, 100 detections" in text
    assert "| `good.onnx` | 1.000 (1.000 to 1.000) | 1.000 (1.000 to 1.000) | 1.000 (1.000 to 1.000) |" in text
    assert f"`worse.onnx` loses {record['splits']['val'][1]['map_loss']:.3f} map (" in text
    assert text.endswith("against `good.onnx`.")


def test_a_record_is_not_overwritten_and_other_files_and_missing_weights_are_refused(
    tmp_path, recipe, models, monkeypatch, capsys
):
    (tmp_path / "a.json").write_text("{}")
    assert call(monkeypatch, recipe, *models.paths, "--record", tmp_path / "a.json") != 0
    assert "records are not edited" in capsys.readouterr().err
    assert (tmp_path / "a.json").read_text() == "{}"
    (tmp_path / "model.pth").write_text("x")
    for model, text in ((tmp_path / "model.pth", "expected .onnx or .krimp"), ("float", "names no checkpoint")):
        assert call(monkeypatch, recipe, model) != 0
        assert text in capsys.readouterr().err


def test_the_checkpoint_of_a_recipe_is_a_model(tmp_path, recipe):
    loaded = load_recipe(recipe)
    detector = make_detector(loaded.detector, loaded.data)
    from safetensors.torch import save_file

    save_file(dict(detector.build().state_dict()), tmp_path / "w.safetensors")
    loaded = load_recipe(recipe, [f"detector.checkpoint={tmp_path / 'w.safetensors'}"])
    detector = make_detector(loaded.detector, loaded.data)
    found = accuracy.forward_of("float", detector, 1)(np.zeros((1, 3, 64, 64), np.float32))
    assert len(found) == len(detector.output_names())
    assert accuracy.digest_of("float", detector) == accuracy.digest_of(str(tmp_path / "w.safetensors"), detector)
