"""How far a run is: the file that it keeps, what is left, and what is told from another terminal."""

import fcntl
import json
import os
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import engine_fakes
import pytest

from compress import progress
from compress.cli.main import main
from compress.engine import pipeline
from compress.engine.decisions import Decision, changes_text
from compress.engine.status import FILE, RunStatus, StageStatus, StatusBoard, expected_seconds, read_status
from compress.engine.status_text import status_of, status_text
from compress.errors import DataError
from compress.recipe.loading import load_recipe


@pytest.fixture(autouse=True)
def engine_without_torch(fake_stages, monkeypatch):
    monkeypatch.setattr(pipeline, "preload", lambda detector, stages: None)


@pytest.fixture
def recipe_file(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(
        f"name: small\ndetector: {{plugin: '{engine_fakes.NAME}'}}\n"
        "stages:\n  - {stage: qat}\n  - {stage: export_onnx}\n  - {stage: report}\n"
    )
    return path


def decisions(recipe_file, out):
    return pipeline.Run(load_recipe(recipe_file), out).decide_all()


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def board(recipe_file, tmp_path):
    root = tmp_path / "out" / "small"
    root.mkdir(parents=True)
    clock = Clock()
    return StatusBoard.open(root, "small", decisions(recipe_file, tmp_path / "out"), clock), clock


def test_a_run_that_ends_says_so_and_of_every_stage_how_long_it_took(recipe_file, tmp_path, capsys):
    assert main(["run", str(recipe_file), "--out", str(tmp_path / "out")]) == 0
    status = read_status(tmp_path / "out" / "small")
    assert status.state == "done"
    assert {stage.state for stage in status.stages} == {"done"}
    assert main(["run", str(recipe_file), "--out", str(tmp_path / "out")]) == 0
    capsys.readouterr()
    assert main(["status", str(tmp_path / "out"), "--json"]) == 0  # the one run in it
    found = json.loads(capsys.readouterr().out)
    assert {stage["state"] for stage in found["stages"]} == {"cached"}
    assert found["seconds_left"] == 0


def test_the_speed_of_the_running_stage_and_what_stages_took_before_are_what_is_left(board):
    board, clock = board
    first, *others = [stage.label for stage in board.status.stages]
    known = {label: 30.0 for label in others}
    stages = tuple(replace(stage, expected_seconds=known.get(stage.label)) for stage in board.status.stages)
    board.status = replace(board.status, stages=stages)
    board.begin(first)
    clock.now += 10
    board.hear("train", 100, 1000, whole=True)
    clock.now += 20
    remark = board.hear("train", 300, 1000, whole=True)  # 200 steps in 20 s, 700 are left
    assert board.status.stage_seconds_left == pytest.approx(70)
    assert board.status.left() == (pytest.approx(70 + 30 * len(others)), [])
    assert remark.startswith("run: about ")
    assert read_status(board.root).share == pytest.approx(0.3)
    board.end(first, 100.0, cached=False)
    assert board.status.left()[0] == pytest.approx(30 * len(others))
    assert board.status.doing is None


def test_what_is_not_known_is_said_and_nothing_is_said_where_nothing_is_known(board):
    board, _ = board
    assert board.status.left_text() == ""
    stages = board.status.stages
    board.status = replace(board.status, stages=(replace(stages[0], expected_seconds=60.0), *stages[1:]))
    assert board.status.left_text() == f"run: about 1 min 00 s left and {len(stages) - 1} stages of unknown length"


def test_stages_to_come_take_what_others_of_their_type_took_and_trainings_by_their_epochs(tmp_path, monkeypatch):
    plan = {
        "first": ("evaluate", 0),
        "second": ("evaluate", 0),
        "train": ("train", 4),
        "tune": ("finetune", 6),
        "new": ("pack", 0),
    }
    made = {
        "first": SimpleNamespace(seconds=12.0, stage="evaluate", facts={}),
        "train": SimpleNamespace(seconds=99.0, stage="train", facts={"history": [{"seconds": 2.0}, {"seconds": 4.0}]}),
    }
    monkeypatch.setattr("compress.engine.status.find_folder", lambda root, label: label if label in made else None)
    monkeypatch.setattr("compress.engine.status.open_artifact", made.__getitem__)
    monkeypatch.setattr("compress.engine.status.TrainingFields", SimpleNamespace)
    found = expected_seconds(
        tmp_path,
        [
            SimpleNamespace(
                planned=SimpleNamespace(
                    label=label, stage=SimpleNamespace(stage=kind, training=SimpleNamespace(epochs=epochs))
                )
            )
            for label, (kind, epochs) in plan.items()
        ],
    )
    assert found == {"first": 12.0, "second": 12.0, "train": 99.0, "tune": 18.0}


def test_the_file_is_written_once_in_two_seconds_however_often_a_loop_tells(board):
    board, clock = board
    board.begin(board.status.stages[0].label)
    clock.now += 5
    for done in range(1, 50):
        board.hear("scan", done, 50)
    assert read_status(board.root).done == 1
    clock.now += 5
    board.hear("scan", 50, 50)
    assert read_status(board.root).done == 50


def test_a_disk_that_refuses_the_file_ends_no_run(board, monkeypatch):
    board, _ = board

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("compress.engine.status.write_whole", full)
    board.begin(board.status.stages[0].label)
    board.close("done")


def test_loops_of_a_child_are_heard_of_while_it_runs_and_nothing_after(recipe_file, tmp_path, monkeypatch):
    """A stage of the real engine, in its forked child: the file says what the loop is at."""
    monkeypatch.setattr("compress.engine.status.BEAT_S", 0.0)
    seen, root = [], tmp_path / "out" / "small"
    run = engine_fakes.stage_table.STAGES["qat"].run

    def slow(self, context):
        for _ in progress.track(range(5), "rounding"):
            time.sleep(0.1)
        return run(self, context)

    monkeypatch.setattr(engine_fakes.stage_table.STAGES["qat"], "run", slow)
    over = threading.Event()

    def watch():
        while not over.wait(0.02):
            status = read_status(root)
            if status is not None and status.doing is not None:
                seen.append((status.doing, status.total, status_of(root).state))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        assert main(["run", str(recipe_file), "--out", str(tmp_path / "out")]) == 0
    finally:
        over.set()
        watcher.join()
    assert ("rounding", 5, "running") in seen
    assert progress.tell("x", 1, 2) == ""


def test_a_stage_that_fails_is_named_with_its_error(recipe_file, tmp_path, capsys, monkeypatch):
    def broken(self, context):
        raise DataError("no more pictures")

    monkeypatch.setattr(engine_fakes.stage_table.STAGES["export_onnx"], "run", broken)
    assert main(["run", str(recipe_file), "--out", str(tmp_path / "out")]) != 0
    capsys.readouterr()
    assert main(["status", str(tmp_path / "out" / "small")]) == 0
    text = capsys.readouterr().out
    assert text.startswith("small: failed")
    assert "export_onnx  failed" in text
    assert "error: stage export_onnx: no more pictures" in text


def test_a_run_of_this_machine_that_does_not_hold_its_lock_was_killed(board):
    board, _ = board
    root = board.root
    assert status_of(root).state == "interrupted"
    descriptor = os.open(root / ".lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        assert status_of(root).state == "running"
    finally:
        os.close(descriptor)


def test_a_run_of_another_machine_is_told_by_its_last_sign(board):
    board, _ = board
    elsewhere = json.loads((board.root / FILE).read_text()) | {"host": "not-" + socket.gethostname(), "updated": 1000.0}
    (board.root / FILE).write_text(json.dumps(elsewhere))
    found = status_of(board.root)
    assert found.state == "running"
    assert "last sign 10 s ago" in status_text(found, now=1010.0)
    assert "may have been killed" in status_text(found, now=5000.0)


def test_a_folder_without_a_status_is_told_by_its_stages(recipe_file, tmp_path):
    assert main(["run", str(recipe_file), "--out", str(tmp_path / "out")]) == 0
    root = tmp_path / "out" / "small"
    (root / FILE).write_text("{")
    found = status_of(root)
    assert found.state == "not running"
    assert {stage.state for stage in found.stages} == {"done"}
    with pytest.raises(DataError, match="is no folder of a run"):
        status_of(tmp_path)


def test_the_running_stage_is_told_with_what_it_is_at():
    stages = (
        StageStatus("a", "00_a", "done", 61.0),
        StageStatus("b", "01_b", "running", 5.0),
        StageStatus("c", "02_c", "waiting"),
    )
    status = RunStatus("r", "running", "h", 7, 0.0, 10.0, stages, "look\x1b[2J", 3, 12, None, 15.0)
    lines = status_text(status, now=12.0).splitlines()
    assert lines[0] == "r: running on h, process 7 for 12 s, last sign 2.0 s ago"
    assert lines[1:4] == [
        "  00_a  done    1 min 01 s",
        "  01_b  running 7.0 s, look\\x1b[2J: 3/12 (25%), about 15 s left",
        "  02_c  waiting",
    ]


def test_what_changed_since_the_last_run_is_said_once_and_by_its_cause(recipe_file, tmp_path, capsys):
    out = str(tmp_path / "out")
    assert main(["run", str(recipe_file), "--out", out]) == 0
    assert "changed since" not in capsys.readouterr().out
    assert main(["run", str(recipe_file), "--out", out, "--set", "detector.channels=16"]) == 0
    (line,) = [one for one in capsys.readouterr().out.splitlines() if one.startswith("changed since the last run")]
    assert "detector.channels 8 -> 16 (" in line
    assert line.count("detector.channels") == 1
    assert "runs first" not in line


def test_what_was_never_made_or_was_asked_for_is_no_change(recipe_file, tmp_path):
    found = decisions(recipe_file, tmp_path / "out")
    assert changes_text(found) is None
    asked = [Decision(one.planned, "run", ("asked for by --from", "input train runs first"), {}) for one in found]
    assert changes_text(asked) is None


def test_status_of_nothing_is_told(tmp_path, capsys):
    assert main(["status", str(tmp_path / "nowhere")]) == 3
    assert "is no folder of a run" in capsys.readouterr().err
    assert Path(tmp_path).is_dir()
