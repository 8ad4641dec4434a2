"""`--json`: one document on standard output, everything else on standard error."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import cv2
import engine_fakes
import numpy as np
import pytest

import krimp

ROOT = Path(__file__).parents[3]
ZOO = ROOT / "detectors" / "dcfl" / "zoo" / "dcfl_mbv2_hituav.krimp"
# A stage that prints in every way there is: from Python, from a program, and below Python.
NOISY = """
import os, subprocess, sys
import engine_fakes
from compress import progress
from compress.engine import pipeline
from compress.cli.main import main

def run(self, context):
    print("from python")
    subprocess.run(["echo", "from a program"], check=True)
    os.write(1, b"from below\\n")
    progress.say("a message")
    return {"not_a_number": float("nan"), "params": 5}

engine_fakes.install()
engine_fakes.FakeQat.run = run
pipeline.preload = lambda detector, stages: None
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def recipe_file(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"name: small\ndetector: {{plugin: '{engine_fakes.NAME}'}}\n"
        "stages:\n  - {stage: qat}\n  - {stage: export_onnx}\n  - {stage: report}\n"
    )
    return path


def krimp_command(*arguments):
    """Run a command in a process of its own, on the fake stages."""
    paths = [str(ROOT), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-c", NOISY, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def refuse_constant(name):
    raise AssertionError(f"{name} is not JSON")


def document(done):
    return json.loads(done.stdout, parse_constant=refuse_constant)


def test_plan_prints_one_document(recipe_file, tmp_path):
    done = krimp_command("plan", recipe_file, "--out", tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    printed = document(done)
    assert set(printed) == {"format_version", "recipe", "folder", "stages"}
    assert set(printed["stages"][0]) == {"label", "stage", "folder", "state", "reasons", "inputs"}
    assert [stage["state"] for stage in printed["stages"]] == ["run"] * 4
    again = krimp_command("run", recipe_file, "--out", tmp_path / "out", "--json", "--dry-run")
    assert document(again) == printed


def test_run_prints_one_document_whatever_a_stage_prints(recipe_file, tmp_path):
    done = krimp_command("run", recipe_file, "--out", tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    printed = document(done)
    assert set(printed) == {
        "format_version", "recipe", "folder", "stages", "report", "requirements", "requirements_met"
    }  # fmt: skip
    assert set(printed["stages"][0]) == {
        "label", "stage", "kind", "folder", "was_cached", "seconds", "peak_memory_bytes", "digest", "lineage", "facts"
    }  # fmt: skip
    assert printed["stages"][1]["facts"] == {"not_a_number": None, "params": 5}
    assert Path(printed["report"]).is_file()
    for text in ("from python", "from a program", "from below", "a message", "qat: done in"):
        assert text in done.stderr
    cached = document(krimp_command("run", recipe_file, "--out", tmp_path / "out", "--json"))
    assert all(stage["was_cached"] for stage in cached["stages"])


@pytest.mark.parametrize("command", ["plan", "run"])
def test_an_error_leaves_standard_output_empty_and_keeps_its_exit_code(command, recipe_file, tmp_path):
    done = krimp_command(command, recipe_file, "--out", tmp_path, "--json", "--set", "stages.qat.bitwidth=3")
    assert (done.returncode, done.stdout) == (2, "")
    assert "unknown field 'bitwidth'" in done.stderr


def test_a_failed_stage_leaves_standard_output_empty(recipe_file, tmp_path):
    fault = "stages.export_onnx.fault=stage error"
    done = krimp_command("run", recipe_file, "--out", tmp_path, "--json", "--set", fault)
    assert (done.returncode, done.stdout) == (4, "")
    assert "error: stage export_onnx: the numbers do not match" in done.stderr


def test_without_json_messages_stay_on_standard_output(recipe_file, tmp_path):
    done = krimp_command("run", recipe_file, "--out", tmp_path / "out")
    assert done.returncode == 0
    assert "a message" in done.stdout
    assert done.stderr == ""


def test_inspect_prints_a_list_of_tensors():
    done = krimp_command("inspect", ZOO, "--json")
    printed = document(done)
    assert done.returncode == 0
    assert [tensor["name"] for tensor in printed] == [tensor.name for tensor in krimp.inspect(ZOO)]
    assert set(printed[0]) == {
        "name", "dims", "data_type", "elements", "bit_width", "zeros", "entropy_bits_per_weight", "bits_per_weight",
        "original_bytes", "packed_bytes", "share", "coder",
    }  # fmt: skip
    assert all(math.isfinite(tensor["zeros"]) for tensor in printed)


def test_verify_prints_what_was_proved(tmp_path):
    import hashlib

    done = krimp_command("verify", ZOO, "--json")
    original = krimp.load(ZOO)
    assert document(done) == {
        "format_version": 1,
        "file": str(ZOO),
        "packed_bytes": ZOO.stat().st_size,
        "original_bytes": len(original),
        "sha256": hashlib.sha256(original).hexdigest(),
        "intact": True,
    }
    damaged = tmp_path / "damaged.krimp"
    damaged.write_bytes(ZOO.read_bytes()[:-1])
    done = krimp_command("verify", damaged, "--json")
    assert (done.returncode, done.stdout) == (5, "")
    assert done.stderr.startswith("error: ")


def test_detect_prints_what_it_writes(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((64, 64, 3), np.uint8))
    (tmp_path / "b.png").write_bytes(b"no picture")
    done = krimp_command("detect", ZOO, tmp_path / "a.png", "--out", tmp_path / "found", "--json")
    assert done.returncode == 0, done.stderr
    printed = document(done)
    assert printed == json.loads((tmp_path / "found" / "detections.json").read_text())
    assert {"format_version", "model", "plugin", "classes", "score_threshold", "images", "failed"} <= set(printed)
    assert "objects in 1 pictures" in done.stderr
    done = krimp_command("detect", ZOO, tmp_path, "--out", tmp_path / "found", "--json")
    assert done.returncode == 3
    assert [failed["file"] for failed in document(done)["failed"]] == [str(tmp_path / "b.png")]
    assert "1 of 2 pictures failed" in done.stderr
