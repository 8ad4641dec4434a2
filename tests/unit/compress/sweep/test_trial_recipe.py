"""A trial runs what its file comes from, and the looks at 'val' that measure it; nothing reads 'test'."""

from sweep_files import RECIPE, SWEEP, write_files

from compress.recipe.loading import load_recipe
from compress.sweep.reading import load_sweep
from compress.sweep.trial_recipe import trial_recipe


def trial(folder, sweep=SWEEP, recipe=RECIPE):
    """Return the recipe of a trial, loaded, and where its measurements lie."""
    loaded = load_sweep(write_files(folder, sweep, recipe))
    text, looks = trial_recipe(loaded.recipe_with({"stages.qat.weight_bit_width": 3}, "one"), loaded.sweep)
    file = folder / "one.yaml"
    file.write_text(text)
    return load_recipe(file), looks


def labels(recipe):
    return [stage.label for stage in recipe.stages]


def test_stages_that_do_not_lead_to_the_file_are_left_out_and_looks_are_put_in(tmp_path):
    recipe, looks = trial(tmp_path)
    path = ["prune_structured", "finetune", "qat", "export_onnx", "pack"]
    assert labels(recipe) == ["train", "sweep_float_val", *path, "sweep_val"]
    assert (recipe.name, recipe.stages[4].weight_bit_width, looks.reference) == ("one", 3, None)
    assert {split for stage in recipe.stages for split in stage.splits()} == {"train", "val"}


def test_a_time_is_taken_beside_the_float_file_that_the_recipe_has(tmp_path):
    recipe, looks = trial(tmp_path, SWEEP.replace("[bytes, map]", "[bytes, ms, map]"))
    assert labels(recipe)[:3] == ["train", "sweep_float_val", "float_onnx"]
    assert recipe.stages[-1].models == ("float_onnx", "pack")
    assert looks.reference == "float_onnx"


def test_a_recipe_without_a_float_file_gets_one_to_be_timed_beside(tmp_path):
    without = RECIPE.replace("  - {stage: export_onnx, name: float_onnx}\n", "").replace("float_onnx, ", "")
    recipe, looks = trial(tmp_path, SWEEP.replace("[bytes, map]", "[ms, map]"), without)
    assert recipe.stages[-1].models == ("sweep_float_onnx", "pack")
    assert recipe.stages[-2].from_ == "float"
    assert looks.reference == "sweep_float_onnx"


def test_a_float_model_that_is_loaded_is_scored_first(tmp_path):
    recipe, _ = trial(tmp_path, recipe=RECIPE.replace("  - {stage: train}\n", ""))
    assert labels(recipe)[:2] == ["sweep_float_val", "prune_structured"]


def test_the_look_in_passing_stands_behind_its_stage(tmp_path):
    recipe, _ = trial(tmp_path, SWEEP + "stop: {after: finetune, max_drop: {map: 5}}\n")
    found = labels(recipe)
    assert found[found.index("finetune") + 1] == "sweep_early_val"


def test_a_goal_is_searched_as_its_first_attempt(tmp_path):
    head, _, _ = RECIPE.partition("stages:")
    recipe = head + "goal: {ratio: 20, speedup: 1.5, max_drop: {map: 1}}\nstages: [{stage: train}]\n"
    sweep = SWEEP.replace("stages.prune_structured.target.macs: {low: 0.5, high: 0.9}", "goal.ratio: [15, 20]")
    recipe, _ = trial(tmp_path, sweep, recipe)
    path = ["prune_structured", "finetune", "qat", "export_onnx", "pack"]
    assert labels(recipe) == ["train", "sweep_float_val", *path, "sweep_val"]
    assert recipe.goal is None
