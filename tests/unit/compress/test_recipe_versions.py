"""Recipes of version 1 are read as before, variants and defaults leave no copies, and an old file can be upgraded."""

from __future__ import annotations

import pytest

from compress.engine.keys import _fields
from compress.errors import RecipeError
from compress.recipe.loading import load_recipe
from compress.recipe.reference import stage_fields, stage_text, stages_page
from compress.recipe.upgrade import upgrade_text
from compress.stages import STAGES

HEAD = (
    "name: a\ndetector: {plugin: dcfl, classes: [ship]}\ndata: {format: dota, root: /nowhere, image_size: [64, 64]}\n"
)
OLD = (
    HEAD
    + """format_version: 1
stages:
  # first the baseline
  - {stage: train, epochs: 7, lr: 0.5}
  - {stage: prune_structured, target: {macs: 0.5}, recovery_epochs: 2, batch_size: 3}
  - {stage: prune_unstructured, sparsity: 0.5, schedule: one_shot, lr_schedule: cosine}   # then single weights
  - {stage: qat, epochs: 0}
"""
)


def load(tmp_path, text, *overrides, name="a.yaml"):
    path = tmp_path / name
    path.write_text(text)
    return load_recipe(path, overrides, check_requires=False)


def problems(tmp_path, text, *overrides):
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, text, *overrides)
    return [problem.replace(f"{tmp_path}/", "") for problem in caught.value.problems]


def test_flat_training_fields_of_version_1_are_read_into_their_block(tmp_path):
    train, pruned, sparse, qat = load(tmp_path, OLD).stages
    assert (train.training.epochs, train.training.lr) == (7, 0.5)
    assert (pruned.training.epochs, pruned.training.batch_size) == (2, 3)
    assert (sparse.schedule, sparse.training.schedule) == ("one_shot", "cosine")
    assert (qat.training.epochs, qat.training.optimizer) == (0, "adamw")


def test_a_recipe_that_names_no_version_may_use_either_form(tmp_path):
    flat = load(tmp_path, HEAD + "stages:\n  - {stage: train, epochs: 7}\n")
    block = load(tmp_path, HEAD + "stages:\n  - {stage: train, training: {epochs: 7}}\n")
    assert flat.stages == block.stages


def test_mistakes_of_a_version_1_recipe_are_told_under_the_names_that_it_uses(tmp_path):
    text = (
        HEAD
        + "stages:\n  - {stage: train, epochs: many, epoch: 3}\n  - {stage: prune_structured, recovery_epochs: -1}\n"
    )
    found = problems(tmp_path, text)
    assert any(p.startswith("a.yaml:5:28: stages[0].epochs: 'many'") for p in found)
    assert any("stages[0].epoch: unknown field 'epoch'. Did you mean 'epochs'?" in p for p in found)
    assert any("stages[1].recovery_epochs: -1" in p for p in found)


def test_a_contradiction_inside_the_block_is_told_at_the_stage_in_version_1_and_at_the_block_in_version_2(tmp_path):
    (old,) = problems(tmp_path, HEAD + "stages:\n  - {stage: train, patience: 2}\n")
    (new,) = problems(tmp_path, HEAD + "format_version: 2\nstages:\n  - {stage: train, training: {patience: 2}}\n")
    assert old.startswith("a.yaml:5:5: stages[0]: ")
    assert new.startswith("a.yaml:6:30: stages[0].training: ")
    assert "patience needs scores" in old
    assert "patience needs scores" in new


def test_a_flat_field_in_version_2_is_refused_with_its_place(tmp_path):
    (found,) = problems(tmp_path, HEAD + "format_version: 2\nstages:\n  - {stage: train, epochs: 3}\n")
    assert found.endswith(
        "stages[0].epochs: unknown field 'epochs'. It stands in a block: write training: {epochs: ...}."
    )


def test_overrides_name_fields_as_the_recipe_does(tmp_path):
    assert load(tmp_path, OLD, "stages.train.epochs=3").stages[0].training.epochs == 3
    assert load(tmp_path, OLD, "stages.train.training.epochs=4").stages[0].training.epochs == 4


def test_the_key_of_a_stage_is_the_same_in_both_versions(tmp_path):
    old, new = load(tmp_path, OLD), load(tmp_path, upgrade_text(OLD, "a.yaml"))
    assert [_fields(stage) for stage in old.stages] == [_fields(stage) for stage in new.stages]
    fields = _fields(old.stages[1])
    assert fields["recovery_epochs"] == 2
    assert {"training", "checkpoint_minutes", "stage", "name", "from"} & set(fields) == set()


def test_defaults_reach_every_stage_that_has_the_field_and_yield_to_its_own(tmp_path):
    text = HEAD + (
        "format_version: 2\ndefaults: {training: {batch_size: 3, lr: 0.25}, distill: {teacher: float}}\nstages:\n"
        "  - {stage: train, training: {lr: 0.5}}\n  - {stage: finetune, distill: null}\n  - {stage: qat}\n"
        "  - {stage: export_onnx}\n"
    )
    train, finetune, qat, _ = load(tmp_path, text).stages
    assert (train.training.batch_size, train.training.lr) == (3, 0.5)
    assert (finetune.training.lr, finetune.distill) == (0.25, None)
    assert (qat.training.batch_size, qat.distill.teacher) == (3, "float")


def test_a_wrong_default_is_told_once_and_where_it_stands(tmp_path):
    text = HEAD + (
        "format_version: 2\ndefaults: {training: {batch_size: 0}, bitwidth: 3}\nstages:\n"
        "  - {stage: train}\n  - {stage: finetune}\n"
    )
    found = problems(tmp_path, text)
    assert len(found) == 2
    assert found[0].startswith("a.yaml:5:35: defaults.training.batch_size: 0: ")
    assert "defaults.bitwidth: no stage of this recipe has a field 'bitwidth'." in found[1]


BASE = HEAD + (
    "format_version: 2\nseed: 3\nstages:\n  - {stage: train, training: {epochs: 7, lr: 0.5}}\n"
    "  - {stage: export_onnx, name: out}\n  - {stage: pack}\n"
)
VARIANT = "format_version: 2\nbase: base.yaml\nname: b\n"


def test_a_variant_changes_fields_of_its_base_and_stages_by_their_label(tmp_path):
    (tmp_path / "base.yaml").write_text(BASE)
    text = VARIANT + "detector: {classes: [a, b]}\nstages:\n  train: {training: {epochs: 9}}\n"
    recipe = load(tmp_path, text)
    assert (recipe.name, recipe.seed) == ("b", 3)
    assert (recipe.detector["plugin"], recipe.detector["classes"]) == ("dcfl", ["a", "b"])
    assert (recipe.stages[0].training.epochs, recipe.stages[0].training.lr) == (9, 0.5)
    assert [stage.label for stage in recipe.stages] == ["train", "out", "pack"]


def test_null_takes_a_stage_out_and_a_list_replaces_all(tmp_path):
    (tmp_path / "base.yaml").write_text(BASE)
    head = "format_version: 2\nbase: base.yaml\nname: b\ndetector: {checkpoint: zoo/dcfl_mbv2_hituav}\nstages:"
    shorter = load(tmp_path, head + " {train: null, out: {opset: 20}}\n")
    assert [stage.label for stage in shorter.stages] == ["out", "pack"]
    assert shorter.stages[0].opset == 20
    assert [stage.label for stage in load(tmp_path, head + " [{stage: export_onnx}]\n").stages] == ["export_onnx"]


def test_a_base_of_version_1_and_a_base_of_a_base_are_read(tmp_path):
    (tmp_path / "old.yaml").write_text(OLD)
    (tmp_path / "middle.yaml").write_text("base: old.yaml\nseed: 5\n")
    recipe = load(tmp_path, "format_version: 2\nbase: middle.yaml\nname: c\nstages: {train: {training: {lr: 0.125}}}\n")
    assert (recipe.name, recipe.seed) == ("c", 5)
    assert (recipe.stages[0].training.epochs, recipe.stages[0].training.lr) == (7, 0.125)


def test_mistakes_are_told_in_the_file_that_makes_them(tmp_path):
    (tmp_path / "base.yaml").write_text(BASE.replace("epochs: 7", "epochs: -7"))
    text = VARIANT + "stages:\n  train: {training: {lr: fast}}\n  trian: {}\n  pack: 3\n"
    found = problems(tmp_path, text)
    assert any(p.startswith("base.yaml:7:39: stages[0].training.epochs: -7") for p in found)
    assert any(p.startswith("a.yaml:5:26: stages[0].training.lr: 'fast'") for p in found)
    assert any(
        "a.yaml:6:3: stages.trian: the base has no stage named 'trian'. Did you mean 'train'?" in p for p in found
    )
    assert any("a.yaml:7:9: stages.pack: 3: expected the fields to change, or null" in p for p in found)


def test_a_stage_that_was_taken_out_leaves_the_places_of_the_others_right(tmp_path):
    (tmp_path / "base.yaml").write_text(BASE.replace("{stage: pack}", "{stage: pack, speed: 3}"))
    (found,) = problems(
        tmp_path,
        "format_version: 2\nbase: base.yaml\ndetector: {checkpoint: zoo/dcfl_mbv2_hituav}\nstages: {train: null}\n",
    )
    assert found.startswith("base.yaml:9:19: stages[1].speed: unknown field 'speed'.")


def test_a_missing_base_and_a_circle_of_bases_are_refused(tmp_path):
    (found,) = problems(tmp_path, "base: gone.yaml\nname: b\n")
    assert found.startswith("a.yaml:1:7: base: ")
    assert "gone.yaml: there is no such file" in found
    (tmp_path / "b.yaml").write_text("base: a.yaml\n")
    (found,) = problems(tmp_path, "base: b.yaml\nname: b\n")
    assert "based on each other in a circle" in found
    (found,) = problems(tmp_path, "base: [b.yaml]\nname: b\n")
    assert "base: ['b.yaml']: expected the path of a recipe" in found


def test_upgrading_keeps_comments_and_meaning_and_a_second_time_changes_nothing(tmp_path):
    new = upgrade_text(OLD, "a.yaml")
    assert "format_version: 2" in new
    assert "# first the baseline" in new
    assert "# then single weights" in new
    assert "recovery_epochs" not in new
    assert load(tmp_path, new).stages == load(tmp_path, OLD, name="old.yaml").stages
    assert upgrade_text(new, "a.yaml") == new


@pytest.mark.parametrize("text", ["- 1\n", "a: 1\na: 2\n", "a: [\n"])
def test_what_is_no_recipe_is_not_upgraded(text):
    with pytest.raises(RecipeError):
        upgrade_text(text, "a.yaml")


def test_the_reference_has_every_field_with_meaning_default_and_bounds():
    rows = {row.name: row for row in stage_fields(STAGES["qat"])}
    assert rows["weight_bit_width"].value == "whole number >= 2 <= 8"
    assert rows["training.epochs"].default == "3"
    assert rows["training.lr"].value == "number > 0"
    assert rows["distill"].value == "block or null"
    assert rows["distill.teacher"].default == "float"
    for name, stage in STAGES.items():
        missing = [row.name for row in stage_fields(stage) if not row.meaning]
        assert missing == [], f"{name}: fields without a description"
        assert all(row.name in stage_text(name) for row in stage_fields(stage))
    assert all(f"\n## {name}\n" in stages_page() for name in STAGES)
