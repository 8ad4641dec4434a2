"""What is installed: the pins and their wheels, and the wheel of the project itself."""

from __future__ import annotations

import ast
import configparser
import importlib.metadata
import json
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

from scripts.check_wheels import PYTHONS, pins

ROOT = Path(__file__).parents[2]
TOP_LEVEL = {"compress", "detectors"} | {path.stem for path in ROOT.glob("krimp.py")}
WHEELS = json.loads((Path(__file__).parent / "wheels.json").read_text())["aarch64"]
# Requirements that no file of ours imports.
BROUGHT_FOR = {
    "onnxscript": "torch.onnx.export(dynamo=True) imports it",
    "setuptools": "brevitas imports pkg_resources",
}
IMPORT_NAMES = {
    "onnx-ir": "onnx_ir",
    "opencv-python-headless": "cv2",
    "ruamel-yaml": "ruamel",
    "torch-pruning": "torch_pruning",
    "vl-convert-python": "vl_convert",
}


def setup_cfg():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def requirements(part):
    """Return the requirements of the base (part None) or of an extra."""
    parser = setup_cfg()
    text = parser["options"]["install_requires"] if part is None else parser["options.extras_require"][part]
    return [Requirement(line) for line in text.split("\n") if line]


def pinned():
    """Return name -> version of requirements.txt."""
    return {canonicalize_name(name): version for name, _, version in (pin.partition("==") for pin in all_pins())}


def all_pins():
    return pins(ROOT / "requirements.txt")


def wheels_of(name):
    return next(files for pin, files in WHEELS.items() if canonicalize_name(pin.partition("==")[0]) == name)


def closure(names):
    """Return the names of the distributions that these bring, themselves included, as they are installed here."""
    found, open_names = set(), set(names)
    while open_names:
        name = open_names.pop()
        found.add(name)
        needed = [Requirement(line) for line in importlib.metadata.requires(name) or []]
        here = {canonicalize_name(r.name) for r in needed if r.marker is None or r.marker.evaluate({"extra": ""})}
        open_names |= here - found
    return found


@pytest.mark.parametrize("part", [None, "compress", "geo", "sweep", "test"], ids=lambda part: part or "base")
def test_every_requirement_is_pinned_to_a_version_that_it_admits(part):
    versions = pinned()
    wrong = [str(r) for r in requirements(part) if versions.get(canonicalize_name(r.name)) not in r.specifier]
    assert wrong == []


@pytest.mark.parametrize("part", [None, "compress", "geo", "sweep", "ray"], ids=lambda part: part or "base")
def test_every_requirement_is_imported_somewhere(part):
    imported = set()
    for path in [*(ROOT / "compress").rglob("*.py"), *(ROOT / "detectors").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            imported |= {name.split(".")[0] for name in names}
    needed = {canonicalize_name(r.name) for r in requirements(part)} - BROUGHT_FOR.keys()
    assert {name for name in needed if IMPORT_NAMES.get(name, name) not in imported} == set()


def test_the_table_of_wheels_is_that_of_the_pins():
    assert set(WHEELS) == set(all_pins()), "run python scripts/check_wheels.py"


def test_the_deployed_side_installs_from_wheels_on_arm():
    """All that the base brings, on every Python: what runs on a drone needs no compiler there."""
    for name in closure({canonicalize_name(r.name) for r in requirements(None)}):
        files = wheels_of(name)
        for python in PYTHONS:
            tags = parse_wheel_filename(files[python])[3]
            cpython = f"cp{python.replace('.', '')}"
            assert any(tag.platform == "any" or tag.platform.endswith("aarch64") for tag in tags), (name, python)
            assert any(tag.interpreter == cpython or tag.abi in ("none", "abi3") for tag in tags), (name, python)


def test_the_pins_that_need_x86_are_named():
    """The README's sentence: none of the base and of `[compress]`."""
    assert [pin for pin, files in WHEELS.items() if None in files.values()] == []


def test_the_pythons_of_the_table_are_those_that_the_project_supports():
    classifiers = setup_cfg()["metadata"]["classifiers"]
    assert all(f"Programming Language :: Python :: {python}\n" in classifiers for python in PYTHONS)
    specifier = Requirement(f"krimp{setup_cfg()['options']['python_requires']}").specifier
    assert [f"3.{minor}" for minor in range(9, 17) if f"3.{minor}" in specifier] == list(PYTHONS)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Return the wheel of the tree, built in a copy of it."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("compress", "detectors", "recipes"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for path in [
        *ROOT.glob("*.py"),
        *(ROOT / name for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE")),
    ]:
        shutil.copy(path, source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*command, "--no-build-isolation", "--wheel-dir", folder, source], check=True)
    (path,) = folder.glob("krimp-*.whl")
    return path


def files_of(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_wheel_takes_its_top_level_names_and_no_others(wheel):
    names = {name.split("/")[0].removesuffix(".py") for name in files_of(wheel)}
    assert {name for name in names if not name.endswith(".dist-info")} == TOP_LEVEL


def test_no_other_package_of_the_set_up_has_a_name_of_the_wheel():
    owners = importlib.metadata.packages_distributions()
    assert {owner for name in TOP_LEVEL for owner in owners.get(name, [])} <= {"krimp"}


def test_the_wheel_holds_recipes_zoo_pages_and_the_mark_of_its_types(wheel):
    names = files_of(wheel)
    shipped = [path for path in (ROOT / "recipes").rglob("*.*") if path.suffix != ".md" and path.name[0] != "."]
    recipes = {f"compress/{path.relative_to(ROOT)}" for path in shipped}
    assert recipes <= names
    assert {"compress/py.typed", "compress/codec/FORMAT.md", "detectors/README.md"} <= names
    assert {path.relative_to(ROOT).as_posix() for path in (ROOT / "detectors").rglob("zoo/*")} <= names
    assert {path.relative_to(ROOT).as_posix() for path in (ROOT / "compress").rglob("templates/*")} <= names
    code = {
        path.relative_to(ROOT).as_posix() for part in ("compress", "detectors") for path in (ROOT / part).rglob("*.py")
    }
    assert {name for name in names if name.endswith(".py")} == code | {path.name for path in ROOT.glob("*.py")}


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Return the folder of programs of a new environment that has the wheel; other packages are those of this one."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, with_pip=False, symlinks=True)
    command = [sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install", "--no-deps"]
    subprocess.run([*command, "--quiet", "--disable-pip-version-check", wheel], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    # As plain folders: the files in them that would put this checkout on the path are not read.
    others = [entry for entry in sys.path if Path(entry).name == "site-packages"]
    (packages / "others.pth").write_text("\n".join(others) + "\n")
    return folder / "bin"


@pytest.mark.parametrize("recipe", ["demo", "recipes/demo.yaml"])
def test_an_installed_wheel_finds_the_shipped_recipes(installed, tmp_path, recipe):
    scenes = (
        "from pathlib import Path; from detectors.data.synthetic import write_dataset;"
        "from detectors.data.synthetic_scenes import SceneSettings; import compress; print(compress.__file__);"
        "counts = {'train': 2, 'val': 1, 'test': 1};"
        "write_dataset(Path('out/data/synthetic'), SceneSettings(seed=0, size=(256, 256), counts=counts))"
    )
    made = subprocess.run(
        [installed / "python", "-c", scenes], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert Path(made.stdout.split()[-1]).is_relative_to(installed.parent)
    command = [installed / "krimp", "run", recipe, "--dry-run", "--no-forecast"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "prune_structured" in done.stdout


def test_a_recipe_that_is_neither_a_file_nor_shipped_is_told_as_before(installed, tmp_path):
    done = subprocess.run([installed / "krimp", "plan", "demi.yaml"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert "demi.yaml: there is no such file." in done.stderr
