"""What every plug-in promises before anything is built (compress/detector.py)."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cases import CLASSES, FOLDER, IGNORED, SIZE, cases_of
from pydantic import BaseModel, ValidationError

from compress.dataset import SkipsBatches
from compress.detector import HOOKS
from compress.plugins import DATASETS, available_plugins, contract_faults, find_dataset, find_plugin

HEAVY = {"torch", "torchvision", "onnx", "mmcv", "mmengine", "mmdet", "mmrotate", "brevitas", "onnxruntime"}
each_plugin = pytest.mark.parametrize("plugin", available_plugins())
each_format = pytest.mark.parametrize("form", available_plugins(DATASETS))


@each_plugin
def test_there_are_small_configurations_and_one_of_them_is_quick(plugin):
    assert any(not case.slow for case in cases_of(plugin)), f"{FOLDER / plugin}.yaml: every case is slow"


@each_plugin
def test_the_class_keeps_the_contract(plugin):
    kind = find_plugin(plugin)
    assert contract_faults(kind) == []
    assert plugin == kind.NAME
    assert isinstance(kind.VERSION, str)
    assert kind.VERSION
    assert isinstance(kind.REQUIRES, tuple)
    assert all(isinstance(name, str) for name in kind.REQUIRES)


@each_format
def test_the_class_of_a_data_set_keeps_the_contract(form):
    kind = find_dataset(form)
    assert contract_faults(kind, DATASETS) == []
    assert form == kind.NAME
    assert isinstance(kind.REQUIRES, tuple)


@pytest.mark.parametrize(
    "kind", [*map(find_plugin, available_plugins()), *map(find_dataset, available_plugins(DATASETS))], ids=str
)
def test_parts_of_the_recipe_are_frozen_models_that_refuse_unknown_fields_and_explain_theirs(kind):
    model = kind.CONFIG
    assert issubclass(model, BaseModel)
    assert model.model_config.get("frozen")
    assert [name for name, field in model.model_fields.items() if not field.description] == []
    with pytest.raises(ValidationError, match="no_such_field"):
        model.model_validate({"no_such_field": 1})


@each_plugin
def test_settings_survive_their_own_dump(plugin):
    kind = find_plugin(plugin)
    for case in cases_of(plugin):
        config = kind.CONFIG.model_validate({"classes": CLASSES} | case.detector)
        assert kind.CONFIG.model_validate(config.model_dump(mode="json")) == config
        data = case.dataset(kind.DATA, config.classes).config
        assert type(data).model_validate(data.model_dump(mode="json")) == data


@each_plugin
def test_adapter_settings_and_deployed_part_load_without_torch(plugin):
    case = next(case for case in cases_of(plugin) if not case.slow)
    code = f"""
import importlib, sys
from compress.plugins import find_plugin, make_detector
data = {{"image_size": ({SIZE}, {SIZE}), "ignore": ({IGNORED!r},)}} | {case.data!r}
make_detector({{"plugin": {plugin!r}, "classes": {CLASSES!r}}} | {case.detector!r}, data)
importlib.import_module(find_plugin({plugin!r}).DEPLOY)
found = {HEAVY!r} & set(sys.modules)
assert not found, found
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_readme_lists_every_hook():
    readme = Path(__file__).parents[2] / "detectors" / "README.md"
    if not readme.is_file():
        pytest.skip("a copy of the tree without the README")
    text = readme.read_text().partition("## Hooks")[2]
    listed = set(re.findall(r"^\| `(\w+)` \| `(\w+)` \|", text, flags=re.MULTILINE))
    assert listed == {(name, hook.__name__) for hook in HOOKS for name in members_of(hook)}
    assert all(f"`{name}" in text for name in members_of(SkipsBatches))


def members_of(protocol):
    return {name for name in {*vars(protocol), *inspect.get_annotations(protocol)} if not name.startswith("_")}
