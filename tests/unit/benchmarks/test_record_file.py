"""Every benchmark refuses a record that is there before it measures; a record opens alike and holds no home."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.record_file import head, refuse_existing, write_record
from compress.errors import CompressError

ROOT = Path(__file__).parents[3]
# script -> the arguments that make it measure, its record aside
SCRIPTS = {
    "ablation.py": ([], "--record"),
    "accuracy.py": (["no.yaml", "float"], "--record"),
    "assigner.py": (["--boxes", "2"], "--out"),
    "codec.py": ([], "--out"),
    "codec_bounds.py": (["--no-installed"], "--out"),
    "dcfl_quirks.py": (["--all", "--data", "none"], "--record"),
    "detectors.py": ([], "--record"),
    "latency.py": (["no.onnx"], "--json"),
    "peers.py": (["no.yaml"], "--record"),
    "post_training.py": (["no.yaml"], "--record"),
    "rate_rounding.py": (["no.yaml"], "--record"),
    "shrink.py": (["no.onnx", "--data", "none"], "--record"),
    "silu.py": ([], "--json"),
    "size.py": (["no.onnx"], "--json"),
}


@pytest.mark.long
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_benchmark_refuses_an_existing_record_before_it_measures(tmp_path, script):
    arguments, option = SCRIPTS[script]
    (tmp_path / "a.json").write_text("mine")
    command = [sys.executable, f"benchmarks/{script}", *arguments, option, str(tmp_path / "a.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1
    assert "a.json: exists, and records are not edited. Choose another name." in done.stderr
    assert (tmp_path / "a.json").read_text() == "mine"


def test_the_list_of_this_test_names_every_benchmark_that_writes_a_record():
    writers = {path.name for path in (ROOT / "benchmarks").glob("*.py") if "write_record(" in path.read_text()}
    assert writers - {"record_file.py", "record.py"} == set(SCRIPTS)  # record.py has tests of its own


def test_a_record_opens_alike_holds_no_home_and_makes_its_folder(tmp_path):
    path = tmp_path / "new" / "a.json"
    told = "map against /home/someone/val/labels (dota): 3 / 4 km/h of http://x.org/a/b, /2"
    rows = [{"path": "/tmp/x/y.krimp", "told": told}]
    write_record(path, head("size") | {"file": "/home/someone/model.onnx", "rows": rows})
    record = json.loads(path.read_text())
    assert (record["format_version"], record["benchmark"], record["file"]) == (1, "size", "model.onnx")
    assert record["rows"] == [{"path": "y.krimp", "told": told.replace("/home/someone/val/", "")}]
    assert {"cpu", "versions", "commit"} <= set(record["environment"])
    with pytest.raises(CompressError, match="records are not edited"):
        write_record(path, record)


def test_no_record_wanted_refuses_and_writes_nothing_and_a_link_is_something(tmp_path):
    refuse_existing(None)
    write_record(None, {})
    (tmp_path / "link.json").symlink_to(tmp_path / "gone.json")
    with pytest.raises(CompressError, match="records are not edited"):
        refuse_existing(tmp_path / "link.json")
