"""`detectors/README.md`, tried word for word: its files written into a copy of the tree, its commands run there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
README = ROOT / "detectors" / "README.md"
pytestmark = pytest.mark.skipif(not README.is_file(), reason="a copy of the tree without the README")
LINKED = ("compress", "scripts", "pyproject.toml")


def files_and_commands(text):
    files = dict(re.findall(r"<!-- file: (\S+) -->\n```\w+\n(.*?)```", text, flags=re.DOTALL))
    blocks = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
    return files, [line for block in blocks for line in block.splitlines() if line.strip()]


def link(source, target, opened):
    """Link what is in a folder; folders that get files of their own are made, not linked."""
    target.mkdir()
    for path in source.iterdir():
        if path in opened:
            link(path, target / path.name, opened)
        elif path.suffix != ".md" and path.name != "__pycache__":
            (target / path.name).symlink_to(path)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Return a copy of the project, mostly links, with the example in it."""
    root = tmp_path_factory.mktemp("readme")
    for name in LINKED:
        (root / name).symlink_to(ROOT / name)
    files = files_and_commands(README.read_text())[0]
    opened = {parent for name in files for parent in Path(name).parents}
    link(ROOT / "detectors", root / "detectors", {ROOT / folder for folder in opened})
    shutil.copytree(
        ROOT / "tests" / "contract", root / "tests" / "contract", ignore=shutil.ignore_patterns("__pycache__")
    )
    for name, content in files.items():
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
    assert len(files) == 7
    assert len(commands) == 4
    assert sum(content.count("\n") for content in files.values()) < 400


def test_the_examples_files_keep_the_contract(tree):
    (command,) = [line for line in files_and_commands(README.read_text())[1] if "pytest" in line]
    assert re.search(r"\d{2,} passed", run(f"{command} -p no:cacheprovider", tree))


def test_the_examples_code_keeps_the_projects_style(tree):
    for command in ("check", "format --check"):
        run(f"{sys.executable} -m ruff {command} detectors/centres detectors/data/formats/table.py", tree)


def test_the_examples_data_set_keeps_the_contract_and_reads_a_folder(tree, tmp_path):
    (tmp_path / "set" / "train").mkdir(parents=True)
    for name in "ab":
        cv2.imwrite(str(tmp_path / "set" / "train" / f"{name}.png"), np.zeros((64, 96, 3), np.uint8))
    table = tmp_path / "set" / "train" / "boxes.csv"
    table.write_text("b,ship,10,20,40,30\na,ship,5,5,15,25\nb,plane,50,10,90,50\n")
    code = """
import sys
from compress.dataset import InputFormat
from compress.errors import DataError
from compress.plugins import DATASETS, contract_faults, find_dataset
from detectors.geometry.detections import Detections
kind = find_dataset("table")
assert contract_faults(kind, DATASETS) == []
data = kind(kind.CONFIG(root=sys.argv[1], image_size=(64, 96), merge={"plane": "ship"}), ["ship"])
assert kind.class_names(data.config) == ("plane", "ship")
print("counts", data.counts("train"), len(data.digest("train")))
pictures = list(data.images("train"))
print("boxes", [picture.truth.boxes.astype(float).round(2).tolist() for picture in pictures])
(batch,) = data.loader("train", InputFormat((0, 0, 0), (1, 1, 1), 32), batch_size=2, augment=False, seed=0)
assert batch.images.shape == (2, 3, 64, 96) and batch.names == ["a", "b"]
found = [Detections(p.truth.boxes, p.truth.labels + 1.0, p.truth.labels) for p in pictures]
print("map50", data.score(found, [picture.truth for picture in pictures]).map50)
with open(f"{sys.argv[1]}/train/boxes.csv", "a") as file:
    file.write("c,ship,1,1,5,5\\na,shp,1,1,5,5\\na,ship,1,1\\na,ship,200,1,300,9\\n")
try:
    data.check("train")
except DataError as error:
    print(error)
"""
    (tree / "read_table.py").write_text(code)
    output = run(f"python read_table.py {tmp_path / 'set'}", tree)
    assert "counts {'images': 2, 'boxes': 3, 'ignored_boxes': 0, 'ship': 3} 64" in output
    assert "boxes [[[10.0, 15.0, 20.0, 10.0, 1.57]], [[25.0, 25.0, 30.0, 10.0, 0.0], [70.0, 30.0, 40.0, 40.0," in output
    assert "map50 1.0" in output
    problems = [line.partition("boxes.csv:")[2] for line in output.splitlines() if "boxes.csv:" in line]
    assert [line[:1] for line in problems] == ["4", "5", "6", "7"]
    assert "there is no image 'c'" in problems[0]
    assert "unknown class 'shp'" in problems[1]
    assert "lies outside the image of 96 x 64 px" in problems[3]


@pytest.mark.slow
def test_the_example_is_trained_compressed_and_detects(tree):
    for command in files_and_commands(README.read_text())[1]:
        if "pytest" not in command:
            output = run(command, tree)
    assert "objects in 4 pictures" in output
    assert len(list((tree / "out" / "centres_found").glob("*.png"))) == 4
