"""Every recipe loads; every bad recipe is refused with the text that its first lines announce."""

import json
import re
from pathlib import Path
from typing import Literal, get_origin

import pytest

from compress.errors import RecipeError
from compress.recipe.loading import load_recipe
from compress.recipe.plan import make_plan
from compress.recipe.reference import stage_fields, stages_page
from compress.recipe.schema import json_schema
from compress.stages import STAGES

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
WITH_TIER = [
    pytest.param(path, marks=[pytest.mark.openmmlab] * ("plugin: openmmlab" in path.read_text())) for path in RECIPES
]
BAD = sorted((Path(__file__).parent / "bad").glob("*.yaml"))


@pytest.mark.parametrize("path", WITH_TIER, ids=lambda path: path.name)
def test_every_recipe_loads_and_its_order_is_legal(path):
    recipe = load_recipe(path, check_requires=False)
    assert recipe.name == path.stem
    assert make_plan(recipe.stages)[1] == []


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_every_recipe_opens_with_what_it_is_for_and_how_to_run_it(path):
    comment = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert len(comment) >= 2
    assert any(f"recipes/{path.name}" in line for line in comment)


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.name)
def test_every_bad_recipe_is_refused_with_exactly_the_announced_mistakes(path):
    expected = re.findall(r"^# expect: (.*)$", path.read_text(), flags=re.MULTILINE)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, check_requires=False)
    found = [problem.removeprefix(f"{path}:") for problem in caught.value.problems]
    assert len(found) == len(expected), "\n".join(found)
    for problem, start in zip(found, expected, strict=True):
        assert problem.startswith(start), "\n".join(found)


def test_the_committed_page_of_stages_is_the_generated_one():
    assert (ROOT / "recipes" / "README.md").read_text() == stages_page(), "run: make docs"


def test_the_committed_schema_is_the_generated_one():
    committed = json.loads((ROOT / "recipes" / "recipe.schema.json").read_text())
    assert committed == json.loads(json.dumps(json_schema())), "run: krimp schema -o recipes/recipe.schema.json"


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_every_recipe_fits_the_schema(path):
    import jsonschema

    from compress.recipe.yaml_reader import parse_yaml

    jsonschema.validate(parse_yaml(path.read_text(), path.name).data, json_schema())


@pytest.mark.parametrize("name", list(STAGES))
def test_every_stage_keeps_the_contract(name):
    stage = STAGES[name]
    assert stage.model_fields["stage"].annotation is not str
    assert stage.MAKES
    assert set(stage.NOT_AFTER) <= set(STAGES)
    assert set(stage.COSMETIC) <= {row.name for row in stage_fields(stage)}
    assert stage.__doc__
    undescribed = [name for name, field in stage.model_fields.items() if not _is_described(field)]
    assert undescribed == []


def _is_described(field):
    """A choice of names or a nested model speaks for itself."""
    return field.description or get_origin(field.annotation) is Literal or hasattr(field.annotation, "model_fields")
