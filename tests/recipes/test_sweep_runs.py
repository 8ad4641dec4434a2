"""A sweep with real stages, killed in the middle: it ends with the same front, and does nothing twice."""

import json
import signal
import subprocess
import sys

import pytest
from real_run import ROOT
from sweep_run import PROGRAM, end_sweep, front_of, made, start_sweep, wait_for_files, write_sweep


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """Return the sweep, and the folder of a run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("calm")
    sweep = write_sweep(folder)
    text = end_sweep(start_sweep(sweep, folder / "out", "--workers", "2"))
    assert "2 finished" in text
    return sweep, folder / "out"


def test_stages_that_trials_agree_in_are_made_once(calm):
    labels = [name.rpartition("-")[0] for name in made(calm[1])]
    assert {label: labels.count(label) for label in labels} == {
        "train": 1, "sweep_float_val": 1, "qat": 2, "export_onnx": 2, "pack": 2, "sweep_val": 2,
    }  # fmt: skip


def test_a_sweep_killed_in_the_middle_ends_with_the_same_front_and_makes_nothing_twice(calm, tmp_path):
    sweep, out = calm
    process = start_sweep(sweep, tmp_path / "out", "--workers", "2")
    wait_for_files(tmp_path / "out" / "tiny" / "shared", "export_onnx-*/[0-9]*/manifest.json", process)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)  # ends only when the workers and their stages are gone as well
    before = made(tmp_path / "out")
    assert len(before) < len(made(out))
    end_sweep(start_sweep(sweep, tmp_path / "out", "--workers", "2"))
    after = made(tmp_path / "out")
    assert {name: after[name] for name in before} == before
    assert {name: digest for name, (digest, _) in after.items()} == {n: digest for n, (digest, _) in made(out).items()}
    assert front_of(tmp_path / "out") == front_of(out)


def test_the_recipe_of_a_point_runs_from_what_the_sweep_made(calm):
    _, out = calm
    number = json.loads((out / "tiny" / "front.json").read_text())["front"][0]
    recipe = out / "tiny" / "points" / f"tiny_{number:03d}.yaml"
    command = [sys.executable, "-c", PROGRAM, "run", str(recipe), "--out", str(out / "tiny" / "trials"), "--json"]
    done = subprocess.run(command, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [stage["was_cached"] for stage in json.loads(done.stdout)["stages"]] == [True] * 4
