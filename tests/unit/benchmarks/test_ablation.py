"""Recipes with one pass left out: which there are, what they change, and that cached folders are taken along."""

import argparse
import json

import pytest

from benchmarks import ablation
from benchmarks.ablation_variants import (
    WHOLE,
    document_of,
    epochs_of,
    on_the_way,
    shortened,
    variant_name,
    variants,
)
from compress.errors import StageError
from compress.recipe.loading import load_recipe

RECIPE = ablation.DEFAULT
SET = ["data.root=/data"]


@pytest.fixture(scope="module")
def recipe():
    return load_recipe(RECIPE, SET)


def load_variant(recipe, tmp_path, changes):
    path = tmp_path / "variant.yaml"
    path.write_text(json.dumps(document_of(recipe, RECIPE, "variant", changes)))
    return load_recipe(path, SET)


def stages_of(recipe, tmp_path, changes):
    return {one.label: one for one in load_variant(recipe, tmp_path, changes).stages}


def test_every_variant_is_a_recipe_that_loads(recipe, tmp_path):
    for name, changes in variants(recipe).items():
        assert "pack" in stages_of(recipe, tmp_path, changes), name


def test_passes_that_the_recipe_has_not_are_no_variants(recipe):
    names = list(variants(recipe))
    assert names[0] == WHOLE
    assert "no_masks" not in names  # one_pass masks nothing
    assert "nearest_rounding" not in names  # with a rate the price rounds
    assert {"no_pruning", "no_finetune", "no_distillation", "no_rate", "full_names"} <= set(names)


def test_a_pass_is_off_and_the_rest_stays(recipe, tmp_path):
    found = variants(recipe)
    stages = stages_of(recipe, tmp_path, found["no_pruning"])
    assert "prune_structured" not in stages
    assert stages["finetune"].training.epochs == 6
    stages = stages_of(recipe, tmp_path, found["no_distillation"])
    assert stages["finetune"].distill is None
    assert stages["qat"].distill is None
    assert stages["qat"].rate is not None
    assert stages_of(recipe, tmp_path, found["no_rate"])["qat"].rate is None
    assert stages_of(recipe, tmp_path, found["full_names"])["export_onnx"].names == "full"
    assert not stages_of(recipe, tmp_path, found["no_equalization"])["qat"].chosen().equalize


def test_what_the_packed_file_does_not_come_from_is_left_out(recipe, tmp_path):
    """A report has every model scored on the split 'test', which must not be read to choose."""
    assert on_the_way(recipe) == {"float", "prune_structured", "finetune", "qat", "export_onnx", "pack"}
    assert set(stages_of(recipe, tmp_path, {})) == on_the_way(recipe) - {"float"}


def test_trainings_are_shortened_all_or_by_label(recipe, tmp_path):
    changes = variants(recipe)["no_distillation"]
    stages = stages_of(recipe, tmp_path, shortened(recipe, changes, epochs_of(["qat=0"])))
    assert (stages["finetune"].training.epochs, stages["qat"].training.epochs) == (6, 0)
    assert stages["qat"].distill is None
    short = shortened(recipe, {"finetune": None}, epochs_of(["2"]))
    assert short["finetune"] is None
    assert short["qat"] == {"training": {"epochs": 2}}
    assert shortened(recipe, changes, {}) == changes


def test_epochs_are_numbers():
    assert epochs_of(["3", "qat=0"]) == {"": 3, "qat": 0}
    with pytest.raises(StageError, match=r"--epochs qat=x: expected a number"):
        epochs_of(["qat=x"])


def test_runs_of_other_lengths_have_other_folders():
    assert variant_name("net", "no_rate", {}) == "net-no_rate"
    assert variant_name("net", "no_rate", {"": 3, "qat": 0}) == "net-no_rate-all_3-qat_0"


def test_sealed_folders_are_copied_once_whatever_their_number(tmp_path):
    source, target = tmp_path / "whole", tmp_path / "variant"
    for root, name in ((source, "01_finetune"), (source, "02_qat"), (target, "00_finetune"), (source, ".scratch/x")):
        (root / name).mkdir(parents=True)
        (root / name / ablation.MANIFEST).write_text(str(root))
    (source / "03_half").mkdir()
    ablation.copy_cached(source, target)
    assert sorted(path.parent.name for path in target.glob(f"*/{ablation.MANIFEST}")) == ["00_finetune", "02_qat"]
    assert (target / "02_qat" / ablation.MANIFEST).read_text() == str(source)


def test_a_failed_variant_is_a_row_and_the_others_go_on(monkeypatch, tmp_path):
    class Detector:
        pass

    def packed(_self, name):
        if name == "no_rate":
            raise StageError("the run failed")
        path = tmp_path / f"{name}.krimp"
        path.write_bytes(b"x" * (200 if name == "full_names" else 100))
        return path

    score = argparse.Namespace(map=0.3, map75=0.2, map50=0.7, **{f"{one}_resampled": None for one in ablation.METRICS})
    monkeypatch.setattr(ablation, "make_detector", lambda *_: Detector())
    monkeypatch.setattr(ablation.Ablation, "packed", packed)
    monkeypatch.setattr(ablation.Ablation, "scores", lambda *_: score)
    words = ["--set", SET[0], "--out", str(tmp_path), "--only", "no_rate", "full_names"]
    record = ablation.measure(ablation.parser().parse_args(words))
    assert record["rows"]["no_rate"] == {"failed": "the run failed"}
    assert record["rows"]["full_names"]["packed_bytes"] == 200
    lines = ablation.table(record["rows"]).splitlines()
    assert lines[2].endswith("failed: the run failed")
    assert "+100.0 %" in lines[3]


def test_variants_that_do_not_exist_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(ablation, "make_detector", lambda *_: None)
    with pytest.raises(StageError, match=r"no_such: no such variant\. There are as_it_is, no_pruning"):
        ablation.measure(ablation.parser().parse_args(["--set", SET[0], "--only", "no_such", "--out", str(tmp_path)]))
