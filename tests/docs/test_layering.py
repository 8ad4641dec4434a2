"""Who may import whom (CONTRIBUTING.md, "The picture"), and which modules must not load torch."""

from __future__ import annotations

import ast
import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("compress", "detectors", "benchmarks", "scripts", "tests")
FRAMEWORKS = ("mmcv", "mmengine", "mmdet", "mmrotate")
# What a plug-in may use of the engine.
FOR_PLUGINS = (
    "breakdown", "dataset", "detector", "errors", "json_text", "metrics", "pictures", "progress", "whole_file",
)  # fmt: skip
TORCH_FREE = (
    "compress.recipe.loading", "compress.cli.main", "compress.stage", "compress.artifact", "compress.engine.pipeline",
    "compress.stages", "compress.recipe.plan", "compress.engine.keys", "compress.engine.child", "compress.plugins",
    "compress.progress", "compress.engine.ranks", "compress.training.settings", "compress.codec",
    "compress.runtime.detect", "detectors.data.formats.dota", "detectors.data.formats.coco",
    "detectors.data.formats.yolo", "detectors.data.commands", "detectors.data.conversion", "detectors.data.submission",
    "detectors.dcfl.adapter", "detectors.dcfl.config", "detectors.dcfl.deploy",
    "detectors.heads.deploy", "detectors.heads.guessing", "detectors.heads.metadata",
    "detectors.heads.judging", "detectors.data.picture_labels",
)  # fmt: skip
# Modules below the ones that know recipes and stages: they must work without them.
ALGORITHMS = ("pruning", "quantization", "codec", "export", "metrics")
ENGINE = ("cli", "engine", "recipe", "stages", "actions")


def sources(*folders):
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def imports(path):
    """Return the dotted names that a file imports anywhere, also inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; name the package"
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names if node.module in PACKAGES)
    return names


def named(names, prefixes):
    return sorted(name for name in names if name.split(".")[0] in prefixes)


def name_of(path):
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", sources("compress"), ids=name_of)
def test_the_engine_knows_no_detector_no_script_and_no_framework(path):
    assert named(imports(path), (*PACKAGES[1:], *FRAMEWORKS)) == []


@pytest.mark.parametrize("path", sources("detectors", "scripts", "benchmarks"), ids=name_of)
def test_openmmlab_is_imported_by_its_own_plugin_alone(path):
    if not path.is_relative_to(ROOT / "detectors" / "openmmlab"):
        assert named(imports(path), FRAMEWORKS) == []


@pytest.mark.parametrize("path", sources("detectors"), ids=name_of)
def test_a_plugin_uses_the_contract_and_no_other_plugin(path):
    shared = {"geometry", "data", "weights"}
    own = path.relative_to(ROOT / "detectors").parts[0]
    for name in named(imports(path), ("detectors",)):
        parts = name.split(".")
        assert len(parts) > 1, f"import what is needed of {name}"
        assert parts[1] in {own, *shared}, f"{own} imports {name}"
        assert own not in shared or parts[1] in shared, f"{own} imports {name}"
    for name in named(imports(path), ("compress",)):
        parts = name.split(".")
        assert len(parts) == 1 or parts[1] in FOR_PLUGINS, f"{name} is not part of the contract"
    assert named(imports(path), ("benchmarks", "scripts", "tests")) == []


@pytest.mark.parametrize("path", sources(*(f"compress/{folder}" for folder in ALGORITHMS)), ids=name_of)
def test_algorithms_know_neither_recipes_nor_stages(path):
    found = [
        name for name in named(imports(path), ("compress",)) if name.split(".")[1:2] and name.split(".")[1] in ENGINE
    ]
    assert found == []


def test_only_the_command_line_imports_the_pipeline():
    users = {path for path in sources("compress") if any("compress.engine.pipeline" in name for name in imports(path))}
    assert {path.parent.name for path in users} <= {"cli", "engine"}


@pytest.mark.parametrize("module", TORCH_FREE)
def test_modules_of_the_base_install_load_without_torch(module):
    heavy = {"torch", "onnx", "mmcv", "mmrotate", "brevitas"}
    code = f"import sys, {module}; found = {heavy} & set(sys.modules); assert not found, found"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_shrinking_a_file_of_others_needs_onnx_and_no_torch():
    code = "import sys, compress.shrink.judge, compress.shrink.shrinking; assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_no_module_of_the_engine_is_named_like_a_library():
    own = {path.stem for path in (ROOT / "compress").iterdir() if path.suffix == ".py" or path.is_dir()} - {"__init__"}
    libraries = set(importlib.metadata.packages_distributions()) - set(PACKAGES)
    assert own & (set(sys.stdlib_module_names) | libraries) == set()
