"""Runs that share their stages: each is made once, whoever needs it, and what is timed is timed alone."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from compress.artifact import damage, find_folder, open_artifact
from compress.engine import pipeline
from compress.engine.sharing import SharedFolder
from compress.recipe.loading import load_recipe

ROOT = Path(__file__).parents[3]
PROGRAM = """
import sys, engine_fakes
from pathlib import Path
from compress.engine import pipeline
from compress.engine.sharing import SharedFolder
from compress.recipe.loading import load_recipe
engine_fakes.install()
pipeline.preload = lambda detector, stages: None  # the fakes need no torch, whose import takes seconds
recipe, out, *overrides = sys.argv[1:]
shared = SharedFolder(Path(out) / "shared")
pipeline.run(load_recipe(recipe, overrides), Path(out), wait=True, rehearse=False, workshop=shared)
"""


@pytest.fixture(autouse=True)
def engine_without_torch(fake_stages, monkeypatch):
    monkeypatch.setattr(pipeline, "preload", lambda detector, stages: None)


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("""
name: first
detector: {plugin: "engine_fakes:FakeDetector"}
stages:
  - {stage: train}
  - {stage: finetune, distill: {teacher: train}}
  - {stage: qat, bit_width: 6}
  - {stage: export_onnx}
  - {stage: benchmark, models: [export_onnx]}
""")
    return path


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def run(recipe, out, *overrides, shared=True):
    workshop = SharedFolder(out / "shared") if shared else None
    return pipeline.run(load_recipe(recipe, overrides), out, rehearse=False, workshop=workshop)


def start(recipe, out, *overrides):
    folders = [str(ROOT), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}
    command = [sys.executable, "-c", PROGRAM, str(recipe), str(out), *overrides]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def end(*processes):
    for process in processes:
        text, _ = process.communicate(timeout=120)
        assert process.returncode == 0, text


def makers(out, name):
    """Return label -> number of the process that made the stage, of all stages that a run sees."""
    folders = sorted((out / name).glob("[0-9]*"))
    assert [damage(folder) for folder in folders] == [None] * len(folders)
    return {artifact.label: artifact.facts["pid"] for artifact in map(open_artifact, folders)}


def wait_until(condition, *processes, timeout_s=60):
    end = time.monotonic() + timeout_s
    while not condition():
        assert [process.poll() for process in processes] == [None] * len(processes)
        assert time.monotonic() < end
        time.sleep(0.02)


def begun(out, label):
    return lambda: list(out.glob(f"shared/{label}-*/.scratch/{label}-*/started"))


def test_runs_that_agree_up_to_a_stage_make_it_once(recipe, out):
    run(recipe, out)
    run(recipe, out, "name=second", "stages.qat.bit_width=4")
    first, second = makers(out, "first"), makers(out, "second")
    assert {label for label in first if first[label] == second[label]} == {"train", "finetune"}
    run(recipe, out, "name=third", "stages.qat.bit_width=4")
    assert makers(out, "third") == second


def test_shared_stages_are_those_of_a_run_for_itself(recipe, out, tmp_path):
    alone = [result.artifact.digest for result in run(recipe, tmp_path / "alone", shared=False)]
    assert [result.artifact.digest for result in run(recipe, out)] == alone


def test_a_run_for_itself_takes_over_the_folder_of_one_among_others(recipe, out):
    run(recipe, out)
    made = makers(out, "first")
    assert [result.was_cached for result in run(recipe, out, shared=False)] == [True] * 5
    run(recipe, out, "stages.qat.bit_width=4", shared=False)
    now = makers(out, "first")
    assert {label for label in now if now[label] == made[label]} == {"train", "finetune"}
    assert not (out / "first" / "02_qat").is_symlink()
    run(recipe, out, "name=other")
    assert makers(out, "other") == made  # what lies behind the links was not touched


def test_what_a_run_for_itself_has_made_is_taken_from_it_and_not_touched(recipe, out, tmp_path):
    run(recipe, tmp_path / "alone", shared=False)
    made = makers(tmp_path / "alone", "first")
    shared = SharedFolder(out / "shared", (tmp_path / "alone" / "first",))
    loaded = load_recipe(recipe, ["name=second", "stages.qat.bit_width=4"])
    pipeline.run(loaded, out, rehearse=False, workshop=shared)
    now = makers(out, "second")
    assert {label for label in now if now[label] == made[label]} == {"train", "finetune"}
    run(recipe, tmp_path / "alone", "stages.train.epochs=2", shared=False)
    assert makers(out, "second") == now


def test_what_a_run_has_made_another_way_is_made_again(recipe, out, tmp_path):
    """A manifest says through which stages its artifact came; those have other names here."""
    recipe.write_text(recipe.read_text().replace(", distill: {teacher: train}", ""))
    other = tmp_path / "b.yaml"
    other.write_text(recipe.read_text().replace("{stage: train}", "{stage: train, name: base}"))
    run(other, tmp_path / "alone", shared=False)
    shared = SharedFolder(out / "shared", (tmp_path / "alone" / "first",))
    pipeline.run(load_recipe(recipe, []), out, rehearse=False, workshop=shared)
    folder = out / "first" / "01_finetune"
    assert open_artifact(folder).key == open_artifact(tmp_path / "alone" / "first" / "01_finetune").key
    assert open_artifact(folder).lineage == ("train", "finetune")


def test_only_what_is_timed_is_made_alone(recipe, out, monkeypatch):
    asked = []
    enter = SharedFolder.at_work

    def at_work(self, *, alone=False):
        asked.append(alone)
        return enter(self, alone=alone)

    monkeypatch.setattr(SharedFolder, "at_work", at_work)
    run(recipe, out)
    assert asked == [*[False] * 15, True]  # once to begin, and for each stage to decide, to look for it and to make it


def test_the_folder_can_be_moved(recipe, out, tmp_path):
    run(recipe, out)
    out.rename(tmp_path / "elsewhere")
    assert [result.was_cached for result in run(recipe, tmp_path / "elsewhere")] == [True] * 5


def test_a_shared_stage_that_is_damaged_is_made_again(recipe, out):
    run(recipe, out)
    (out / "first" / "01_finetune" / "sub" / "content.txt").write_text("other")
    results = run(recipe, out)
    assert [result.was_cached for result in results] == [True, False, True, True, True]
    assert damage(find_folder(out / "first", "finetune")) is None


def test_who_needs_a_stage_that_is_being_made_waits_for_it(recipe, out):
    first = start(recipe, out, "stages.train.sleep_s=1", "stages.benchmark.sleep_s=0.5")
    wait_until(begun(out, "train"), first)
    second = start(recipe, out, "name=second", "stages.qat.bit_width=4")
    third = start(recipe, out, "name=third")
    end(first, second, third)
    assert makers(out, "third") == makers(out, "first")
    assert makers(out, "second")["train"] == makers(out, "first")["train"]


def test_who_waits_for_a_process_that_is_killed_goes_on_where_that_was(recipe, out):
    first = start(recipe, out, "stages.train.sleep_s=60")
    wait_until(begun(out, "train"), first)
    second = start(recipe, out, "name=second")
    wait_until((out / "second" / ".lock").exists, first, second)
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=60)
    end(second)
    assert open_artifact(out / "second" / "00_train").facts["resumed"]
    run(recipe, out)
    assert makers(out, "first") == makers(out, "second")


def test_what_is_timed_waits_until_nobody_works_and_keeps_others_waiting(tmp_path):
    folder, seen = SharedFolder(tmp_path), []
    inside, leave = threading.Event(), threading.Event()

    def work():
        with folder.at_work():
            seen.append("work")
            inside.set()
            leave.wait(20)
            seen.append("end of work")

    def enter(text, alone):
        with folder.at_work(alone=alone):
            seen.append(text)
            time.sleep(0.1)
            seen.append(f"end of {text}")

    threads = [threading.Thread(target=work)]
    threads[0].start()
    assert inside.wait(20)
    enter("other work", alone=False)  # two may work at once
    for text, alone in (("timing", True), ("late work", False)):
        threads.append(threading.Thread(target=enter, args=(text, alone)))
        threads[-1].start()
        time.sleep(0.3)
    assert seen == ["work", "other work", "end of other work"]
    leave.set()
    for thread in threads:
        thread.join(20)
    assert seen[3:] == ["end of work", "timing", "end of timing", "late work", "end of late work"]
