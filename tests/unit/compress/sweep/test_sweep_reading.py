"""A sweep file is read whole: every mistake with its place, the nearest name and what was expected."""

import re
from pathlib import Path

import pytest
from sweep_files import RECIPE, SWEEP, write_files

from compress.errors import RecipeError
from compress.sweep.model import Range
from compress.sweep.reading import load_sweep

ROOT = Path(__file__).parents[4]


def problems(folder, old, new, **files):
    """Return what is told of a sweep in which one text is replaced, without the name of the file."""
    assert old in SWEEP
    file = write_files(folder, SWEEP.replace(old, new), **files)
    with pytest.raises(RecipeError) as caught:
        load_sweep(file)
    return [text.removeprefix(f"{file}:") for text in caught.value.problems]


def test_a_right_sweep_names_its_recipe_its_file_and_its_values(tmp_path):
    loaded = load_sweep(write_files(tmp_path))
    assert loaded.recipe == tmp_path / "small.yaml"
    assert loaded.model == "pack"
    assert loaded.sweep.space["stages.qat.weight_bit_width"] == (3, 4, 5)
    assert loaded.sweep.batch == 4
    trial = loaded.recipe_with({"stages.qat.weight_bit_width": 3}, "one")
    assert (trial.name, trial.stages[5].weight_bit_width) == ("one", 3)


MACS = "space.stages.prune_structured.target.macs: "
BITS = "space.stages.qat.weight_bit_width: "
CASES = [
    ("bit_width: [3", "bitwidth: [3", "4:3: ", "unknown field 'weight_bitwidth'. Did you mean 'weight_bit_width'?"),
    ("stages.qat.", "stages.qta.", "4:3: ", "stages: there is no entry named 'qta'. Did you mean 'qat'?"),
    ("[3, 4, 5]", "[3, 4, 50]", "4:39: ", BITS + "stages[5].weight_bit_width: 50: expected less than or equal to 8."),
    ("high: 0.9", "high: 1.9", "5:57: ", MACS + "stages[2].target.macs: 1.9: expected less than or equal to 1."),
    ("high: 0.9", "high: 0.5", "5:40: ", "low 0.5 is not below high 0.5. Give one value as a list, [0.5]."),
    ("high: 0.9", "hihg: 0.9", "5:51: ", "macs.hihg: unknown field 'hihg'. Did you mean 'high'?"),
    ("low: 0.5", "low: 0, log: true", "5:40: ", "low 0 has no logarithm. Begin above 0, or leave `log` out."),
    ("[3, 4, 5]", "4", "4:32: ", "a list of values, such as [4, 5, 6], or a range, such as {low: 0.2, high: 0.8}."),
    ("[3, 4, 5]", "[3, 4, 3]", "4:32: ", BITS + "[3, 4, 3]: a value is given twice. Remove one."),
    ("[bytes, map]", "[bytes]", "6:13: ", "expected two or three of them, such as [bytes, map]."),
    ("map]", "mapp]", "6:21: ", "'mapp': expected 'bytes', 'ms', 'map', 'map75' or 'map50'. Did you mean 'map'?"),
    ("{trials: 8}", "{trails: 8}", "7:10: ", "budget.trails: unknown field 'trails'. Did you mean 'trials'?"),
    ("8}", "8}\nsampler: nsga", "8:10: ", "'nsga': expected 'nsga2', 'tpe' or 'grid'. Did you mean 'nsga2'?"),
    ("8}", "8}\nsampler: grid", "5:40: ", "needs to know the values between. Give `step`, or list the values."),
    ("8}", "8}\nstop: {after: fine, max_drop: {map: 5}}", "8:15: ", "makes a model. Did you mean 'finetune'?"),
    ("8}", "8}\nmodel: pakc", "8:8: ", "model: no stage named 'pakc' packs a file. Did you mean 'pack'?"),
    ("small.yaml", "smal.yaml", "2:9: ", "smal.yaml: there is no such file. Did you mean 'small.yaml'?"),
]


@pytest.mark.parametrize(("old", "new", "place", "told"), CASES)
def test_a_mistake_is_told_with_its_place_and_the_cure(tmp_path, old, new, place, told):
    found = problems(tmp_path, old, new)
    assert [text for text in found if text.startswith(place) and text.endswith(told)], found


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file(tmp_path):
    new = "[3, 44]\n  stages.qat.weight_bits: [1]\n  stages.fintune.training.epochs: [1]"
    assert [text.split(":")[0] for text in problems(tmp_path, "[3, 4, 5]", new)] == ["4", "5", "6"]


def test_a_recipe_that_packs_nothing_has_nothing_to_measure(tmp_path):
    recipe = RECIPE.replace("  - {stage: pack}\n", "").replace("models: [float_onnx, pack]", "models: [float_onnx]")
    (text,) = problems(tmp_path, "name: search", "name: search", recipe=recipe)
    assert "makes no packed file, so there is nothing to measure. Add `- {stage: pack}` to it." in text


def test_mistakes_of_the_recipe_are_those_that_krimp_run_tells(tmp_path):
    file = write_files(tmp_path, recipe=RECIPE.replace("stage: qat", "stage: qatt"))
    with pytest.raises(RecipeError, match=r"small.yaml:11:13: stages\[5\].stage: .*qatt"):
        load_sweep(file)


def test_overrides_are_of_the_recipe_in_every_trial(tmp_path):
    loaded = load_sweep(write_files(tmp_path), ["seed=7"])
    assert loaded.recipe_with({}, "one").seed == 7


def test_what_is_measured_depends_on_space_and_recipe_and_not_on_budget_workers_or_where_the_data_lies(tmp_path):
    first = load_sweep(write_files(tmp_path))
    more = SWEEP.replace("trials: 8", "trials: 9, hours: 2") + "workers: 3\n"
    assert load_sweep(write_files(tmp_path, more), ["data.root=elsewhere"]).identity() == first.identity()
    for change in (SWEEP.replace("[3, 4", "[2, 4"), SWEEP.replace("map]", "map50]")):
        assert load_sweep(write_files(tmp_path, change)).identity() != first.identity()
    assert load_sweep(write_files(tmp_path), ["seed=7"]).identity() != first.identity()


def test_a_stepped_range_ends_at_or_before_its_end_and_has_readable_values():
    assert Range(low=0.1, high=0.7, step=0.2).values == [0.1, 0.3, 0.5, 0.7]
    assert Range(low=2, high=9, step=3).values == [2, 5, 8]
    assert Range(low=1, high=4).values == [1, 2, 3, 4]
    assert Range(low=0.5, high=1).values is None
    assert Range(low=1, high=64, log=True).values is None


@pytest.mark.parametrize("path", sorted((ROOT / "recipes" / "sweeps").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_sweep_fits_its_recipe_is_found_by_its_name_and_says_how_to_run_it(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_sweep(Path(path.stem)).recipe.is_file()
    head = path.read_text().splitlines()[:2]
    assert head[0].startswith("# ")
    assert "krimp sweep recipes/sweeps/" in head[1]


def test_the_sweep_in_the_page_is_a_sweep(tmp_path):
    page = (ROOT / "recipes" / "sweeps" / "README.md").read_text()
    text = re.search(r"```yaml\n(name: .*?)```", page, flags=re.DOTALL)[1]
    file = tmp_path / "page.yaml"
    file.write_text(text.replace("../", f"{ROOT}/recipes/"))
    assert load_sweep(file).sweep.name == "budgets"
