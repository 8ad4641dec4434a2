"""Splits without objects: told, or refused, before anything runs."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from compress import progress
from compress.cli.main import main
from compress.engine import pipeline
from compress.engine.objects import tell_objects
from compress.errors import DataError
from compress.recipe.loading import load_recipe

BOX = "10 10 40 10 40 30 10 30"
LABELS = {"both": f"{BOX} ship 0\n{BOX} plane 0\n", "ships": f"{BOX} ship 0\n", "none": "", "hard": f"{BOX} ship 1\n",
          "dontcare": f"{BOX} dontcare 0\n"}  # fmt: skip
NO_TEST = "data split 'test' has no object of the classes ship, plane: map, map75, map50 and recall cannot be measured"
STAGES = {
    "train": "{stage: train, training: {epochs: 1}}",
    "scored": "{stage: train, training: {epochs: 1, evaluate_every: 1}}",
    "untrained": "{stage: train, training: {epochs: 0, evaluate_every: 1}}",
    "evaluate": "{stage: evaluate, split: test}",
    "report": "{stage: report, split: test}",
    "sensitivity": "{stage: sensitivity}",
    "errors": "{stage: sensitivity, score: false}",
    "map": "{stage: report, split: test, require: {max_map_loss: 0.02, min_compression_ratio: 3}}",
    "old": "{stage: report, split: test, require: {max_map50_loss: 0.02}}",
    "size": "{stage: report, split: test, require: {min_compression_ratio: 3}}",
}


@pytest.fixture
def recipe(tmp_path):
    """Return a function that writes data and a recipe, and the recipe loaded."""

    def write(stages, *overrides, **splits):
        for split in ("train", "val", "test"):
            for part in ("images", "labelTxt"):
                (tmp_path / "data" / split / part).mkdir(parents=True)
            assert cv2.imwrite(str(tmp_path / "data" / split / "images" / "a.png"), np.zeros((64, 64, 3), np.uint8))
            (tmp_path / "data" / split / "labelTxt" / "a.txt").write_text(LABELS[splits.get(split, "both")])
        lines = "\n".join(f"  - {STAGES[name]}" for name in stages)
        path = tmp_path / "a.yaml"
        path.write_text(f"""
format_version: 2
name: objects
detector: {{plugin: dcfl, backbone: resnet18, base_channels: 8, channels: 16, classes: [ship, plane]}}
data: {{format: dota, root: {tmp_path / "data"}, image_size: [64, 64], ignore: [dontcare]}}
stages:
{lines}
""")
        return load_recipe(path, overrides)

    progress.clear_warnings()
    return write


def check(loaded, tmp_path):
    job = pipeline.Run(loaded, tmp_path / "out")
    job.check(job.decide_all())
    return [text for text in progress.collected_warnings() if "no object" in text]


def test_splits_with_objects_of_every_class_are_not_spoken_of(recipe, tmp_path):
    assert check(recipe(["scored", "evaluate", "map"]), tmp_path) == []


@pytest.mark.parametrize(
    ("stages", "split", "kind", "text"),
    [
        (["train"], "train", "none", "stages[0]: stage train: data split 'train' has no object of the classes ship,"),
        (["train"], "train", "hard", "so there is nothing to learn"),
        (["train"], "train", "dontcare", "so there is nothing to learn"),
        (["scored"], "val", "none", "so no score can choose the kept weights"),
        (["train", "map"], "test", "none", "so max_map_loss under `require:` cannot be measured"),
        (["train", "old"], "test", "dontcare", "so max_map50_loss under `require:` cannot be measured"),
    ],
)  # fmt: skip
def test_what_cannot_be_learned_chosen_or_required_is_refused(recipe, tmp_path, stages, split, kind, text):
    with pytest.raises(DataError) as caught:
        check(recipe(stages, **{split: kind}), tmp_path)
    assert text in str(caught.value)
    assert "Check data.root, the labels, data.ignore and the names of the classes" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("stages", "splits", "expected"),
    [
        (["train"], {"val": "none", "test": "none"}, []),  # not read, or not for its objects
        (["untrained"], {"train": "none", "val": "none"}, []),
        (["train", "evaluate"], {"test": "none"}, [NO_TEST]),
        (["train", "report"], {"test": "hard"}, [NO_TEST]),
        (["train", "sensitivity"], {"val": "none", "test": "none"}, [NO_TEST.replace("test", "val")]),
        (["train", "errors"], {"val": "none"}, []),
        (["train", "size"], {"test": "none"}, [NO_TEST]),
        (["train"], {"train": "ships"}, ["'train' has no object of class plane: it cannot be learned there"]),
        (["scored", "map"], {"val": "ships", "test": "ships"},
         ["'val' has no object of class plane: no mean counts it", "'test' has no object of class plane: no mean"]),
    ],
)  # fmt: skip
def test_what_stays_unknown_is_told_before_anything_runs(recipe, tmp_path, stages, splits, expected):
    told = check(recipe(stages, **splits), tmp_path)
    assert len(told) == len(expected)
    assert all(part in text for part, text in zip(expected, told, strict=True)), told
    assert not list((tmp_path / "out").glob("*/[0-9]*"))


def test_difficult_boxes_count_for_a_training_that_takes_them(recipe, tmp_path):
    loaded = recipe(["train"], "data.train_difficulty=1", train="hard")
    assert check(loaded, tmp_path) == ["data split 'train' has no object of class plane: it cannot be learned there."]


def test_a_data_set_that_cannot_count_is_not_asked():
    assert tell_objects(object(), [], str) == ([], [])


def test_the_plan_of_the_command_line_tells_it_too(recipe, tmp_path, capsys):
    recipe(["train", "map"], test="none")
    assert main(["plan", str(tmp_path / "a.yaml"), "--out", str(tmp_path / "out")]) == 3
    assert "so max_map_loss under `require:` cannot be measured" in capsys.readouterr().err
    Path(tmp_path / "a.yaml").write_text((tmp_path / "a.yaml").read_text().replace("max_map_loss: 0.02, ", ""))
    assert main(["plan", str(tmp_path / "a.yaml"), "--out", str(tmp_path / "out"), "--json"]) == 0
    out = capsys.readouterr()
    assert "data split 'test' has no object of the classes ship, plane" in out.err
    assert json.loads(out.out)["stages"]
