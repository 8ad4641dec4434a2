"""What the prose promises: targets, files, commands and recipes that README, CONTRIBUTING and the Makefile name."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "SECURITY", "RELEASE")),
    ROOT / "compress" / "DESIGN.md",
]
TOP_FOLDERS = ("compress", "detectors", "recipes", "benchmarks", "tests", "scripts")


def makefile_targets():
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_make_targets_named_in_the_text_exist(page):
    named = set(re.findall(r"(?:`|^    )make ([a-z-]+)", page.read_text(), flags=re.MULTILINE))
    assert named <= makefile_targets()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_named_in_the_text_exist(page):
    named = re.findall(rf"\b((?:{'|'.join(TOP_FOLDERS)})/[\w./-]*\w\.(?:py|md|yaml|json|sh))\b", page.read_text())
    missing = sorted({name for name in named if "<" not in name and "yours" not in name and not (ROOT / name).exists()})
    assert missing == []


def test_commands_named_in_the_readme_exist():
    named = set(re.findall(r"(?<![\w.])krimp ([a-z]+)\b", (ROOT / "README.md").read_text()))
    answer = subprocess.run(
        [sys.executable, "-c", "from compress.cli.main import main; main(['--help'])"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert answer.returncode == 0
    assert {name for name in named if not re.search(rf"\b{name}\b", answer.stdout)} == set()


def make(*arguments):
    """Return what make prints, also where make itself runs these tests (it would announce the folder)."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", "--no-print-directory", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout


def test_make_help_lists_every_target():
    text = make("help")
    assert {line.split()[0] for line in text.splitlines()} == makefile_targets()


def test_the_top_of_the_tree_holds_only_the_agreed_folders():
    tracked = subprocess.run(["git", "ls-files"], capture_output=True, text=True, cwd=ROOT, check=True).stdout
    folders = {line.split("/")[0] for line in tracked.splitlines() if "/" in line}
    assert folders <= {*TOP_FOLDERS, ".ci", ".github"}
    assert {*TOP_FOLDERS} <= folders


def test_every_recipe_says_how_to_run_it():
    for recipe in sorted((ROOT / "recipes").glob("*.yaml")):
        head = recipe.read_text().splitlines()[:4]
        assert head[0].startswith("# "), recipe.name
        assert any("run.py" in line or "make demo" in line for line in head), recipe.name


def test_generated_tables_of_the_readme_are_up_to_date():
    done = subprocess.run([sys.executable, "scripts/update_readme.py", "--check"], cwd=ROOT)
    assert done.returncode == 0, "run make docs"


def test_a_record_becomes_a_table_and_unmeasured_numbers_stay_dashes():
    sys.path.insert(0, str(ROOT / "scripts"))
    from update_readme import results_table

    row = {"label": "float", "map50": 0.5, "map50_interval": [0.4, 0.6], "params": 10, "macs": 20, "sparsity": 0.0}
    row |= {
        "parameters_bytes": 40,
        "packed_bytes": 30,
        "compression_ratio": 1.3,
        "latency_ms_p50": None,
        "speedup_p50": None,
    }
    silent = row | {"label": "middle", "map50": None}
    record = {
        "name": "n",
        "date": "2026-01-01",
        "split": "test",
        "environment": {"cpu": "c"},
        "float": "float",
        "note": "",
    }
    table = results_table(record | {"rows": [row, silent]})
    assert "`float` | 0.500 (0.400 to 0.600)" in table
    assert "| 1.0 | — |" in table
    assert "middle" not in table
    coco = {"map": 0.3, "map_interval": [0.2, 0.4], "map75": 0.25, "map75_interval": None, "max_dets": 100}
    table = results_table(record | {"rows": [row | coco, row | {"label": "old"}]})
    assert "| model | map (95 % interval) | map75 | map50 (95 % interval) | params |" in table
    assert "`float` | 0.300 (0.200 to 0.400) | 0.250 | 0.500 (0.400 to 0.600) | 10 |" in table
    assert "`old` | — | — | 0.500 (0.400 to 0.600) | 10 |" in table
    losses = {"kind": "packed", "map_loss": 0.02, "map_loss_interval": [0.01, 0.03], "map50_loss": -0.01}
    best = {"baselines": {"map": "float", "map50": "longer"}, "baseline": "longer"}
    table = results_table(record | best | {"rows": [row | coco, row | coco | losses | {"label": "pack"}]})
    assert "`pack` loses 0.020 map (0.010 to 0.030, paired bootstrap over images) and gains 0.010 map50" in table
    assert table.endswith("against the best float model, `float` and `longer`.")


def test_the_recipe_in_the_readme_is_a_recipe(tmp_path):
    from compress.recipe.loading import load_recipe

    text = (ROOT / "README.md").read_text()
    path = tmp_path / "readme.yaml"
    goal, stages, _ = re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)
    path.write_text(goal)
    assert load_recipe(path).goal.speedup == 2
    path.write_text(re.sub("goal: .*\n", stages, goal))
    assert [stage.stage for stage in load_recipe(path).stages][-2:] == ["pack", "report"]


def test_pages_name_only_what_a_reader_can_open():
    private = re.compile(r"\b(ENGINE|DCFL|STYLE|ANCHORS)\.md\b|golden README|/work/")
    listed = subprocess.run(["git", "ls-files", "*.md", "*.py", "*.yaml"], capture_output=True, text=True, cwd=ROOT)
    here = Path(__file__).relative_to(ROOT).as_posix()
    pages = [name for name in listed.stdout.split() if name != here and (ROOT / name).is_file()]
    assert [name for name in pages if private.search((ROOT / name).read_text())] == []


def test_the_workflow_in_the_readme_calls_the_gate_as_it_is():
    from ruamel.yaml import YAML
    from typer.main import get_command

    from compress.cli.main import app

    text = (ROOT / "README.md").read_text()
    steps = YAML(typ="safe").load(re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)[2])
    (line,) = [step["run"] for step in steps if "krimp gate" in step["run"]]
    command = get_command(app).get_command(None, "gate")
    options = {option for parameter in command.params for option in parameter.opts}
    assert set(re.findall(r"--[a-z-]+", line)) <= options
    assert "if" in steps[-1]  # the summary is told whatever the verdict
