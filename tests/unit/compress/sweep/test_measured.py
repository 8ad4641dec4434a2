"""What a trial came to is read from its folders; it is given up only by what it surely lost."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from compress.artifact import Artifact, new_folder, seal
from compress.errors import StageError
from compress.kind import Kind
from compress.metrics.paired import save_resampled
from compress.sweep import worker
from compress.sweep.crew import LocalCrew, Order
from compress.sweep.measured import hopeless_text, read_measured
from compress.sweep.trial_recipe import EARLY_LOOK, FLOAT_LOOK, LOOK, TIMING, Looks
from compress.sweep.worker import Answer, Task, read_answer, run_task


def make(root, number, label, kind, facts, *, score=None, file=None):
    folder = new_folder(root, f"{number:02d}_{label}")
    if score is not None:
        save_resampled(folder, score + np.linspace(-0.02, 0.02, 100), "map")
        facts = {"scores": {"map": score, "map50": None, "map_interval": [score - 0.1, score + 0.1]}}
    if file is not None:
        (folder / "model.krimp").write_bytes(file)
    seal(Artifact(folder, label, label, kind, "k", "", facts, 0.0, 0, (label,)), root=root, name=folder.name)


def trial(root, *, float_map=0.6, early_map=0.5):
    make(root, 0, FLOAT_LOOK, Kind.SCORES, {}, score=float_map)
    make(root, 1, EARLY_LOOK, Kind.SCORES, {}, score=early_map)
    make(root, 2, "pack", Kind.PACKED, {}, file=b"x" * 1234)
    make(root, 3, LOOK, Kind.SCORES, {}, score=0.55)
    latency = {"float_onnx": {"latency_ms_p50": 20.0}, "pack": {"latency_ms_p50": 8.0}}
    make(root, 4, TIMING, Kind.LATENCY, {"models": latency})
    return root


def test_bytes_scores_and_times_are_those_of_the_file(tmp_path):
    found = read_measured(trial(tmp_path), Looks("pack", "float_onnx"))
    assert [found.value(name) for name in ("bytes", "ms", "map")] == [1234, 8.0, 0.55]
    assert (found.reference_ms, found.reference.values) == (20.0, {"map": 0.6})
    assert found.score.intervals["map"] == pytest.approx((0.45, 0.65))


def test_an_objective_that_cannot_be_measured_says_so(tmp_path):
    found = read_measured(trial(tmp_path), Looks("pack", None))
    with pytest.raises(StageError, match="objective map50: cannot be measured on split 'val'"):
        found.value("map50")
    with pytest.raises(StageError, match="objective ms: cannot be measured"):
        found.value("ms")


@pytest.mark.parametrize(("points", "is_hopeless"), [(5, True), (9.9, True), (10.1, False), (20, False)])
def test_a_trial_is_given_up_where_the_whole_interval_lies_beyond_the_limit(tmp_path, points, is_hopeless):
    text = hopeless_text(trial(tmp_path), {"map": points})
    assert (text is not None) == is_hopeless
    assert not is_hopeless or text.startswith("given up: lost map 10.00 (10.00 to 10.00) of ")


def test_a_metric_that_the_data_does_not_measure_gives_nothing_up(tmp_path):
    assert hopeless_text(trial(tmp_path), {"map50": 0.0}) is None


def task(tmp_path, **changes):
    fields = {
        "name": "t", "recipe": "t.yaml", "out": str(tmp_path), "shared": str(tmp_path / "shared"), "source": "none",
        "answer": str(tmp_path / "t.answer.json"), "until": None, "limits": {}, "allow_code": False,
        "here": str(tmp_path),
    }  # fmt: skip
    return Task(**{**fields, **changes})


def test_a_hopeless_trial_stops_at_the_look_in_passing(tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr(worker, "run_recipe", lambda *given, until, **how: ran.append(until))
    trial(tmp_path / "t")
    assert run_task(task(tmp_path, limits={"map": 5.0})).state == "stopped"
    assert ran == [EARLY_LOOK]
    assert run_task(task(tmp_path, limits={"map": 20.0})).state == "done"
    assert ran == [EARLY_LOOK, EARLY_LOOK, None]


def test_a_recipe_that_cannot_work_is_an_answer_and_no_crash(tmp_path, monkeypatch):
    def fail(*given, **how):
        raise StageError("stage qat: the numbers do not match.")

    monkeypatch.setattr(worker, "run_recipe", fail)
    answer = run_task(task(tmp_path))
    assert (answer.state, answer.text) == ("failed", "stage qat: the numbers do not match.")


@pytest.mark.parametrize(
    ("state", "until", "asked", "is_enough"),
    [("done", None, LOOK, True), ("done", LOOK, LOOK, True), ("done", LOOK, None, False), ("failed", LOOK, None, True)],
)
def test_an_answer_to_a_part_is_none_to_the_whole(tmp_path, state, until, asked, is_enough):
    file = tmp_path / "answer.json"
    file.write_text(json.dumps({"state": state, "text": "", "seconds": 1, "cpu_seconds": 1, "until": until}))
    assert (read_answer(file, asked) is not None) == is_enough
    assert isinstance(read_answer(file, until), Answer)


def test_a_worker_answers_in_its_file_and_says_what_it_does_in_its_log(tmp_path):
    file = tmp_path / "t.task.json"
    file.write_text(json.dumps(vars(task(tmp_path))))
    crew, ended = LocalCrew(1), []
    crew.start(Order("t", file))
    end = time.monotonic() + 120
    while not ended and time.monotonic() < end:
        ended = crew.wait()
    assert ended == [Order("t", file)]
    answer = read_answer(tmp_path / "t.answer.json", None)
    assert (answer.state, answer.text) == ("failed", "t.yaml: there is no such file.")


PARENT = """
import sys, time
from pathlib import Path
from compress.sweep import crew
crew.sys.executable = sys.argv[1]
print(crew.start_worker(Path(sys.argv[2])).pid, flush=True)
time.sleep(60)
"""


def test_a_worker_does_not_outlive_who_started_it(tmp_path):
    """The recipe is a pipe that nobody writes to, so the worker waits for ever."""
    os.mkfifo(tmp_path / "t.yaml")
    file = tmp_path / "t.task.json"
    file.write_text(json.dumps(vars(task(tmp_path))))
    root = str(Path(__file__).parents[4])
    command = [sys.executable, "-c", PARENT, sys.executable, str(file)]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": root})
    number = int(parent.stdout.readline())
    time.sleep(3)  # until it has asked the kernel for it
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    end = time.monotonic() + 60
    while _is_alive(number):
        assert time.monotonic() < end
        time.sleep(0.1)


def _is_alive(number):
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
