"""`kill -9` at any moment loses nothing: the run that goes on ends with the same bytes as an undisturbed one.

KRIMP_KILLS sets how often the run with random moments is killed (default 6).
"""

import json
import os
import random
import re
import signal
import time

import pytest
from real_run import digests, draw_data, start, write_recipe

pytestmark = pytest.mark.slow
KILLS = int(os.environ.get("KRIMP_KILLS", "6"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Return the recipe, the digests of a run that nobody disturbed, and its seconds."""
    folder = tmp_path_factory.mktemp("undisturbed")
    recipe = write_recipe(folder / "small.yaml", draw_data(folder / "data"))
    began = time.monotonic()
    process = start(recipe, folder / "out")
    text, _ = process.communicate(timeout=900)
    assert process.returncode == 0, text
    return recipe, digests(folder / "out"), time.monotonic() - began


def test_a_run_killed_at_random_moments_ends_with_the_same_bytes(undisturbed, tmp_path):
    recipe, expected, seconds = undisturbed
    moments = random.Random(0)
    killed = 0
    while True:
        process = start(recipe, tmp_path / "out")
        try:
            # The first part of a run is imports; most kills should meet work that was begun.
            process.wait(timeout=moments.uniform(0.1, 0.8) * seconds if killed < KILLS else 900)
            break
        except Exception:  # noqa: BLE001 TimeoutExpired, or anything: the process must not outlive the test
            process.send_signal(signal.SIGKILL)
            process.communicate(timeout=60)  # ends only when the stage's own process is gone as well
            assert killed < KILLS
            killed += 1
    text, _ = process.communicate()
    assert process.returncode == 0, text
    assert killed > 0
    assert digests(tmp_path / "out") == expected


def test_a_training_killed_in_the_middle_of_an_epoch_goes_on_there(undisturbed, tmp_path):
    recipe, expected, _ = undisturbed
    process = start(recipe, tmp_path / "out", "--until", "train")
    batch = _wait_for_a_checkpoint_inside_an_epoch(process, tmp_path / "out" / "small" / ".scratch")
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    process = start(recipe, tmp_path / "out", "--until", "train")
    text, _ = process.communicate(timeout=900)
    assert process.returncode == 0, text
    step = int(re.search(r"train: resumed at epoch \d+, step (\d+)/", text)[1])
    assert step >= batch
    assert digests(tmp_path / "out") == {"train": expected["train"]}


def _wait_for_a_checkpoint_inside_an_epoch(process, scratch, timeout_s=300):
    from safetensors import SafetensorError, safe_open

    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        assert process.poll() is None, process.communicate()[0]
        for path in scratch.glob("train-*/training.safetensors"):
            try:
                with safe_open(path, framework="numpy") as file:
                    position = json.loads(file.metadata()["position"])
            except (OSError, SafetensorError):
                continue  # replaced while it was opened
            if position["batch"] > 0:
                return position["step"]
        time.sleep(0.02)
    raise AssertionError("no checkpoint inside an epoch was written")
