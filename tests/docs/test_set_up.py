"""The set-up and the targets of the Makefile: what is installed when, and which tests belong to which tier."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"


@pytest.fixture
def demo(tmp_path):
    """Return a function that runs scripts/demo.sh with programs that only write down how they were called."""
    (tmp_path / "scripts").mkdir()
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / "scripts" / "demo.sh").write_text((ROOT / "scripts" / "demo.sh").read_text())

    def run(setup=0, data=0, recipe=0):
        (tmp_path / "scripts" / "setup.sh").write_text(f"echo setup >> calls\nexit {setup}\n")
        python = tmp_path / ".venv" / "bin" / "python"
        python.write_text(
            f'#!/bin/sh\necho "$@" >> calls\ncase "$1" in compress/run.py) exit {recipe};; *) exit {data};; esac\n'
        )
        python.chmod(0o755)
        done = subprocess.run(["bash", "scripts/demo.sh"], cwd=tmp_path, capture_output=True, text=True, check=False)
        return done, (tmp_path / "calls").read_text().splitlines()

    return run


def test_the_demo_sets_up_draws_data_runs_its_recipe_and_ends_with_a_line_of_times(demo):
    done, calls = demo()
    assert done.returncode == 0
    assert [call.split()[0] for call in calls] == ["setup", "scripts/make_synthetic.py", "compress/run.py"]
    assert calls[-1].split()[1] == "recipes/demo.yaml"
    last = done.stdout.splitlines()[-1]
    assert re.fullmatch(r"times: set-up \d+ s, data \d+ s, run \d+ s, total \d+ s", last)


def test_the_demo_ends_with_the_exit_code_of_its_run(demo):
    """It exits with 1 if a requirement of recipes/demo.yaml is missed."""
    done, _ = demo(recipe=1)
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1].startswith("times:")
    recipe = (ROOT / "recipes" / "demo.yaml").read_text()
    assert "require: {min_float_map50: 0.5, max_map50_loss: 0.03}" in recipe


@pytest.mark.parametrize(("failing", "calls"), [("setup", 1), ("data", 2)])
def test_the_demo_stops_at_the_first_part_that_fails(demo, failing, calls):
    done, made = demo(**{failing: 3})
    assert done.returncode == 3
    assert len(made) == calls


def make(*arguments):
    command = ["make", "--no-print-directory", "-n", *arguments]
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin"}  # without what make tells the tests that it runs
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("target", ["test", "test-fast", "check", "demo", "docs"])
def test_what_a_newcomer_runs_compiles_nothing(target):
    assert "openmmlab.sh" not in make(target)
    assert "--only-binary :all:" in (ROOT / "scripts" / "setup.sh").read_text()


@pytest.mark.parametrize("target", ["test", "test-fast"])
def test_tests_that_need_openmmlab_are_left_out_of_the_short_tiers(target):
    command = make(target)
    assert "--ignore=tests/openmmlab" in command
    assert '-m "not slow and not openmmlab"' in command


@pytest.mark.parametrize("target", ["test-openmmlab", "test-full"])
def test_the_tiers_with_openmmlab_install_it(target):
    commands = make(target).splitlines()
    assert commands[0] == "bash scripts/setup_openmmlab.sh"
    assert "--ignore" not in commands[-1]


def test_the_mark_of_openmmlab_comes_with_the_folder(request):
    (conftest,) = (p for p in request.config.pluginmanager.get_plugins() if getattr(p, "OPENMMLAB", None))
    marked = []

    def item(path):
        return SimpleNamespace(path=TESTS / path, add_marker=lambda mark: marked.append((path, mark.name)))

    conftest.pytest_collection_modifyitems([item("openmmlab/test_a.py"), item("unit/test_b.py")])
    assert marked == [("openmmlab/test_a.py", "openmmlab")]


def test_a_package_of_the_set_up_that_is_missing_fails_a_test_and_skips_none():
    here = Path(__file__)
    skipping = [
        path.relative_to(ROOT).as_posix()
        for path in sorted(TESTS.rglob("*.py"))
        if path != here and "importorskip" in path.read_text()
    ]
    assert skipping == []
