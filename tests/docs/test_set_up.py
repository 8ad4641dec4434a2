"""The set-up and the targets of the Makefile: what is installed when, and which tests belong to which tier."""

from __future__ import annotations

import os
import re
import subprocess
import sys
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
    """It exits with 1 if the goal of recipes/demo.yaml is missed."""
    done, _ = demo(recipe=1)
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1].startswith("times:")
    recipe = (ROOT / "recipes" / "demo.yaml").read_text()
    assert "goal: {ratio: 20, speedup: 1.5, max_drop: {map: 3}, epochs: 6}" in recipe


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


@pytest.mark.parametrize(("target", "more"), [("test", ""), ("test-fast", " and not long")])
def test_tests_that_need_openmmlab_are_left_out_of_the_short_tiers(target, more):
    command = make(target)
    assert "--ignore=tests/openmmlab" in command
    assert f'-m "not slow and not openmmlab{more}"' in command


@pytest.mark.parametrize("target", ["test-openmmlab", "test-full"])
def test_the_tiers_with_openmmlab_install_it(target):
    commands = make(target).splitlines()
    assert commands[0] == "bash scripts/setup_openmmlab.sh"
    assert "--ignore" not in commands[-1]


def test_the_marks_come_with_the_places(request):
    (conftest,) = (p for p in request.config.pluginmanager.get_plugins() if getattr(p, "OPENMMLAB", None))
    marked = []

    def item(path):
        return SimpleNamespace(path=TESTS / path, add_marker=lambda mark: marked.append((path, mark.name)))

    conftest.pytest_collection_modifyitems([item("openmmlab/test_a.py"), item("unit/test_b.py"), item("fuzz/c.py")])
    assert marked == [("openmmlab/test_a.py", "openmmlab"), ("fuzz/c.py", "long")]


def test_the_places_of_long_tests_exist(request):
    (conftest,) = (p for p in request.config.pluginmanager.get_plugins() if getattr(p, "OPENMMLAB", None))
    assert [place for place in (*conftest.LONG, conftest.OPENMMLAB) if not place.exists()] == []


def test_a_package_of_the_set_up_that_is_missing_fails_a_test_and_skips_none():
    here = Path(__file__)
    skipping = [
        path.relative_to(ROOT).as_posix()
        for path in sorted(TESTS.rglob("*.py"))
        if path != here and "importorskip" in path.read_text()
    ]
    assert skipping == []


@pytest.fixture
def ci(tmp_path):
    """Return a function that runs .ci/run with a `make` that only answers as the tests would."""
    (tmp_path / ".ci").mkdir()
    (tmp_path / ".ci" / "run").write_text((ROOT / ".ci" / "run").read_text())
    (tmp_path / "bin").mkdir()
    make = tmp_path / "bin" / "make"

    def run(failing=""):
        make.write_text(
            "#!/bin/bash\n"
            "echo $2 >> calls\n"
            'case "$2" in test) echo "7 passed in 1.50s (0:00:01)";; test-openmmlab) echo "3 passed in 2.00s";; esac\n'
            f'[ "$2" != "{failing}" ] || {{ echo "make: *** [Makefile:1: $2] Error 1"; exit 2; }}\n'
        )
        make.chmod(0o755)
        for name in ("apt-get", "sudo"):  # whatever this machine lacks: the test installs nothing
            (make.parent / name).symlink_to("/bin/true")
        environment = os.environ | {"PATH": f"{make.parent}:{os.environ['PATH']}", "PYTHON": sys.executable}
        command = ["bash", ".ci/run"]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        return done, (tmp_path / "calls").read_text().split()

    return run


def test_ci_runs_every_part_and_its_last_lines_are_the_summaries_of_the_tests(ci):
    done, calls = ci()
    assert done.returncode == 0, done.stderr
    assert calls == ["check", "test", "setup-openmmlab", "test-openmmlab"]
    assert done.stdout.splitlines()[-2:] == ["7 passed in 1.50s (0:00:01)", "3 passed in 2.00s"]


@pytest.mark.parametrize("failing", ["check", "test", "setup-openmmlab", "test-openmmlab"])
def test_ci_fails_with_any_part_and_runs_the_others_all_the_same(ci, failing):
    done, calls = ci(failing)
    assert done.returncode == 1
    assert calls == ["check", "test", "setup-openmmlab", "test-openmmlab"]
    assert f"failed: {failing}" in done.stdout
    assert done.stdout.splitlines()[-1] == "3 passed in 2.00s"
