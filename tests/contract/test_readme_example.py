"""`detectors/README.md`, tried word for word: its files written into a copy of the tree, its commands run there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

ROOT = Path(__file__).parents[2]
README = ROOT / "detectors" / "README.md"
pytestmark = pytest.mark.skipif(not README.is_file(), reason="a copy of the tree without the README")
LINKED = ("compress", "scripts", "pyproject.toml")


def files_and_commands(text):
    files = dict(re.findall(r"<!-- file: (\S+) -->\n```\w+\n(.*?)```", text, flags=re.DOTALL))
    blocks = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
    return files, [line for block in blocks for line in block.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Return a copy of the project, mostly links, with the example in it."""
    root = tmp_path_factory.mktemp("readme")
    for name in LINKED:
        (root / name).symlink_to(ROOT / name)
    (root / "detectors").mkdir()
    for path in (ROOT / "detectors").iterdir():
        if path.suffix != ".md":
            (root / "detectors" / path.name).symlink_to(path)
    shutil.copytree(
        ROOT / "tests" / "contract", root / "tests" / "contract", ignore=shutil.ignore_patterns("__pycache__")
    )
    for name, content in files_and_commands(README.read_text())[0].items():
        target = root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        assert not target.exists(), f"{name} exists already: the example must be new"
        target.write_text(content)
    return root


def run(command, tree):
    """Run one line of the README as a reader in the tree would."""
    folder = str(Path(sys.executable).parent)
    environment = os.environ | {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(tree)}
    environment.pop("PYTEST_CURRENT_TEST", None)
    done = subprocess.run(command, shell=True, cwd=tree, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def test_the_text_has_files_and_commands():
    files, commands = files_and_commands(README.read_text())
    assert len(files) == 6
    assert len(commands) == 4
    assert sum(content.count("\n") for content in files.values()) < 400


def test_the_examples_files_keep_the_contract(tree):
    (command,) = [line for line in files_and_commands(README.read_text())[1] if "pytest" in line]
    assert re.search(r"\d{2,} passed", run(f"{command} -p no:cacheprovider", tree))


def test_the_examples_code_keeps_the_projects_style(tree):
    pytest.importorskip("ruff")
    run(f"{sys.executable} -m ruff check detectors/centres", tree)
    run(f"{sys.executable} -m ruff format --check detectors/centres", tree)


@pytest.mark.slow
def test_the_example_is_trained_compressed_and_detects(tree):
    for command in files_and_commands(README.read_text())[1]:
        if "pytest" not in command:
            output = run(command, tree)
    assert "objects in 4 pictures" in output
    assert len(list((tree / "out" / "centres_found").glob("*.png"))) == 4
