"""The comparison of detectors on one budget: what it refuses, what it runs and keeps."""

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest

from benchmarks import detectors
from compress.errors import CompressError, StageError

RECIPE = """\
format_version: 1
name: {name}
detector: {{plugin: dcfl, backbone: resnet18, base_channels: 8, channels: {channels}, classes: [car], norm_eval: true}}
data: {{format: dota, root: null, image_size: [64, 64]}}
stages:
  - {{stage: train, epochs: {epochs}, batch_size: 2, lr: 0.01, warmup_steps: 2}}
  - {{stage: evaluate, split: val}}
"""


def write_data(root):
    rng = np.random.default_rng(0)
    for split, count in (("train", 3), ("val", 1), ("test", 1)):
        for part in ("images", "labelTxt"):
            (root / split / part).mkdir(parents=True)
        for index in range(count):
            cv2.imwrite(str(root / split / "images" / f"{index}.png"), rng.integers(0, 255, (64, 64, 3), np.uint8))
            (root / split / "labelTxt" / f"{index}.txt").write_text("10 10 24 10 24 20 10 20 car 0\n")
    return f"data.root={root}"


def write_recipe(folder, name, *, channels=8, epochs=1):
    path = folder / f"{name}.yaml"
    path.write_text(RECIPE.format(name=name, channels=channels, epochs=epochs))
    return path


@pytest.mark.openmmlab
def test_the_shipped_recipes_have_one_budget():
    detectors.same_budget(list(detectors.RECIPES), ["data.root=/somewhere"])


def test_another_budget_is_refused_with_the_field(tmp_path):
    recipes = [write_recipe(tmp_path, "one"), write_recipe(tmp_path, "two", epochs=2)]
    with pytest.raises(StageError, match=r"two.yaml: epochs is 2, and in one.yaml 1"):
        detectors.same_budget(recipes, ["data.root=/somewhere"])


def test_two_detectors_are_trained_scored_and_recorded(tmp_path):
    data = write_data(tmp_path / "data")
    recipes = [write_recipe(tmp_path, "narrow"), write_recipe(tmp_path, "wide", channels=16)]
    command = [sys.executable, "benchmarks/detectors.py", *map(str, recipes), "--out", str(tmp_path / "out")]
    command += ["--seeds", "3", "--set", data, "--record", str(tmp_path / "record.json")]
    done = subprocess.run(command, cwd=detectors.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads((tmp_path / "record.json").read_text())
    assert [(row["name"], row["seed"]) for row in record["runs"]] == [("narrow", 3), ("wide", 3)]
    assert record["runs"][0]["scored"]["params"] < record["runs"][1]["scored"]["params"]
    assert {"map50_below_16px", "map_below_16px"} <= set(record["runs"][0]["scored"]["scores"]["extra"])
    assert " map " in done.stdout
    assert record["overrides"] == ["data.root=data"]
    assert str(tmp_path) not in json.dumps(record)
    assert "narrow" in done.stdout.splitlines()[-2]
    again = subprocess.run(command, cwd=detectors.ROOT, capture_output=True, text=True, check=False)
    assert again.returncode == CompressError.exit_code
    assert "exists, and records are not edited" in again.stderr
