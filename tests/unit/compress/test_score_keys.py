"""What a metric decides has it in its key; what none decides keeps the key that it had before there was a choice."""

import pytest

from compress.engine.keys import KeyMaker, explain_change
from compress.plugins import make_detector
from compress.recipe.loading import load_recipe

RECIPE = """
format_version: 2
name: keys
detector: {plugin: dcfl, backbone: resnet18, base_channels: 8, channels: 16, classes: [ship]}
data: {format: dota, root: /nowhere, image_size: [64, 64]}
stages:
  - {stage: train, training: {epochs: 1}}
  - {stage: finetune, training: {epochs: 2, evaluate_every: 1}}
  - {stage: finetune, name: untrained, training: {epochs: 0, evaluate_every: 1}}
  - {stage: prune_structured, target: {macs: 0.7}}
  - {stage: qat, training: {epochs: 1, evaluate_every: 1}}
  - {stage: export_onnx}
  - {stage: evaluate, split: val}
  - {stage: sensitivity, from: prune_structured}
  - {stage: sensitivity, name: errors, from: prune_structured, score: false}
  - {stage: report, split: val}
"""
CHOSEN = {"finetune", "qat"}
SCORED = {"evaluate", "sensitivity"}


@pytest.fixture
def parts_of(tmp_path, monkeypatch):
    monkeypatch.setattr(KeyMaker, "_data_digest", lambda self, split: split)
    (tmp_path / "a.yaml").write_text(RECIPE)

    def parts(*overrides):
        recipe = load_recipe(tmp_path / "a.yaml", overrides)
        keys = KeyMaker(recipe, make_detector(recipe.detector, recipe.data))
        return {stage.label: keys.parts(stage, {}) for stage in recipe.stages}

    return parts


def differing(first, second):
    return {label for label in first if first[label] != second[label]}


def test_only_trainings_whose_weights_a_metric_chooses_have_it_in_their_key(parts_of):
    parts = parts_of()
    assert {label for label, of_stage in parts.items() if "metric" in of_stage["fields"]} == CHOSEN
    assert {label for label, of_stage in parts.items() if "scoring" in of_stage} == {*CHOSEN, *SCORED}
    assert not any("max_dets" in of_stage["data_config"] for of_stage in parts.values())


def test_map50_is_what_always_chose_and_its_key_is_the_old_one(parts_of):
    old = parts_of("stages.finetune.training.metric=map50", "stages.qat.training.metric=map50")
    assert not any("metric" in of_stage["fields"] for of_stage in old.values())
    assert {label for label, of_stage in old.items() if "scoring" in of_stage} == SCORED
    assert explain_change(old["finetune"], parts_of()["finetune"], {})[0] == "metric nothing -> map"


def test_a_field_that_was_added_later_is_in_no_key_until_it_is_set(parts_of):
    before, after = parts_of(), parts_of("data.value_range=[0, 4095]")
    assert not any("value_range" in of_stage["data_config"] for of_stage in before.values())
    assert all(of_stage["data_config"]["value_range"] == [0, 4095] for of_stage in after.values())


def test_how_many_detections_count_makes_only_new_what_was_scored_by_map(parts_of):
    before, after = parts_of(), parts_of("data.max_dets=300")
    assert differing(before, after) == {*CHOSEN, *SCORED}
    assert explain_change(before["evaluate"], after["evaluate"], {}) == ["data.max_dets 100 -> 300"]
    by_map50 = [f"stages.{label}.training.metric=map50" for label in CHOSEN]
    assert differing(parts_of(*by_map50), parts_of(*by_map50, "data.max_dets=300")) == SCORED
