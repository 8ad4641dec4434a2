"""The comparison with other tools: rows that are kept, rows that failed, the table and the fronts."""

import json
import sys
from types import SimpleNamespace

import pytest

from benchmarks import peers
from benchmarks.peer_job import MADE, Made
from benchmarks.peer_methods import FLOAT, KRIMP, UNTRAINED, shipped
from benchmarks.peer_table import front, reason_of, table, verdicts
from benchmarks.peer_tools import spread

INPUTS = {"float.onnx": "aa", "images.npy": "bb"}


def row(size, score, speed, **more):
    """Return a row of a method that left a file."""
    sizes = {"disk_bytes": 2 * size, "krimp_bytes": size, "xz_bytes": size + 1}
    fields = {"map": score, "map50": 2 * score, "speedup": speed, "cpu_minutes": 1.5, "note": ""}
    return {**sizes, **fields, **more}


def leaves(folder, text="b"):
    """Return a command that leaves a file as a method does, and adds a line to `calls`."""
    made = json.dumps({"runs": "model.onnx", "stored_bytes": 7, "note": "a note"})
    code = (
        f"from pathlib import Path; f = Path({str(folder)!r}); (f / 'model.onnx').write_text({text!r});"
        f"(f / {MADE!r}).write_text({made!r}); (f / 'calls').open('a').write('x')"
    )
    return [sys.executable, "-c", code]


@pytest.fixture(autouse=True)
def packing(monkeypatch):
    """Pack nothing: a file of this test is no model."""
    monkeypatch.setattr(peers.codec, "is_packed", lambda _path: False)
    monkeypatch.setattr(peers.codec, "pack_file", lambda _source, _target: SimpleNamespace(packed_bytes=5))


def test_a_finished_row_is_not_made_again(tmp_path):
    folder = tmp_path / "nncf"
    first = peers.made_row(folder, INPUTS, leaves(folder), minutes=1)
    assert (first["disk_bytes"], first["krimp_bytes"], first["note"]) == (7, 5, "a note")
    assert peers.made_row(folder, INPUTS, leaves(folder), minutes=1) == first
    assert (folder / "calls").read_text() == "x"


def test_a_row_of_other_inputs_or_without_its_file_is_made_again(tmp_path):
    folder = tmp_path / "nncf"
    peers.made_row(folder, INPUTS, leaves(folder), minutes=1)
    peers.made_row(folder, INPUTS | {"float.onnx": "cc"}, leaves(folder), minutes=1)
    (folder / "model.onnx").unlink()
    peers.made_row(folder, INPUTS | {"float.onnx": "cc"}, leaves(folder), minutes=1)
    (folder / "row.json").write_text("{half")
    peers.made_row(folder, INPUTS | {"float.onnx": "cc"}, leaves(folder), minutes=1)
    assert (folder / "calls").read_text() == "xxxx"


def test_a_method_that_raises_is_a_row_with_the_reason_and_is_kept(tmp_path):
    folder = tmp_path / "modelopt"
    command = [sys.executable, "-c", "import no_such_tool"]
    failed = peers.made_row(folder, INPUTS, command, minutes=1)
    assert failed["failed"] == "ModuleNotFoundError: No module named 'no_such_tool'"
    assert peers.made_row(folder, INPUTS, leaves(folder), minutes=1) == failed
    assert "Traceback" in (folder / "said.txt").read_text()


def test_what_an_earlier_try_left_does_not_count(tmp_path):
    folder = tmp_path / "nncf"
    folder.mkdir()
    Made("model.onnx").write(folder)
    assert "without a word" in peers.made_row(folder, INPUTS, [sys.executable, "-c", ""], minutes=1)["failed"]


def test_a_method_that_takes_too_long_is_ended(tmp_path):
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    assert peers.made_row(tmp_path / "slow", INPUTS, command, minutes=0.01)["failed"] == "not done in 0.01 minutes"


def test_reasons_are_words():
    assert reason_of("a\nValueError: no\n\n", 1, minutes=1) == "ValueError: no"
    assert reason_of("", 3, minutes=1) == "exit code 3 without a word"
    assert reason_of("", -9, minutes=1) == "killed by signal 9; is there enough memory?"


def test_the_front_counts_the_smallest_form_and_leaves_out_failures():
    rows = {
        "float": row(100, 0.36, 1.0),
        "small": row(10, 0.30, 1.0, disk_bytes=9),
        "beaten": row(50, 0.30, 1.0),
        "fast": row(20, 0.29, 3.0),
        "gone": {"failed": "no"},
    }
    assert front(rows) == ["small", "float"]
    assert front(rows, with_time=True) == ["small", "fast", "float"]
    equal = {"a": row(10, 0.3, 1.0), "b": row(10, 0.3, 1.0)}
    assert front(equal) == ["a", "b"]


def test_who_beats_us_is_said():
    rows = {
        FLOAT: row(100, 0.40, 1.0),
        "peer": row(40, 0.36, 1.0),
        f"{KRIMP}a": row(50, 0.35, 2.0),
        f"{KRIMP}b": row(10, 0.35, 2.0),
        "gone": {"failed": "no"},
    }
    assert verdicts(rows, KRIMP, FLOAT) == [
        "front of bytes and map: krimp_b, peer, float",
        "  krimp_a is beaten in bytes and map by peer",
        "front of bytes, map and time: krimp_b, peer, float",
    ]


def test_the_table_has_a_line_for_each_method_and_the_reason_of_a_failure():
    interval = {"map_loss": 0.01, "map_loss_interval": (-0.002, 0.02), "speedup_low": 1.9, "speedup_high": 2.1}
    lines = table({"float": row(1000, 0.36, 1.0), "a": row(10, 0.35, 2.0, **interval), "b": {"failed": "no tool"}})
    _, reference, made, failed = lines.splitlines()
    assert "1,000" in reference
    assert reference.endswith("1.5")  # minutes of the processor
    assert "+1.00 (-0.20 to +2.00)" in made
    assert "2.00 (1.90 to 2.10)" in made
    assert failed.split(maxsplit=1) == ["b", "failed: no tool"]


def test_a_file_that_does_not_run_makes_its_row_a_failure(monkeypatch, tmp_path):
    def refuse(*_):
        raise peers.StageError("ONNX model: 2 inputs.")

    monkeypatch.setattr(peers, "find", refuse)
    made = row(1, 0.0, 1.0)
    assert peers.scored(made, None, tmp_path / "model.onnx", "val", tmp_path) is None
    assert made["failed"] == "its file does not run: ONNX model: 2 inputs."


def test_files_of_the_zoo_from_the_same_checkpoint_are_rows(tmp_path):
    for name in ("net.safetensors", "net.krimp", "net_small.krimp", "other.krimp"):
        (tmp_path / name).write_bytes(b"")
    job = SimpleNamespace(detector=SimpleNamespace(checkpoint_path=lambda: tmp_path / "net.safetensors"))
    methods = shipped(job)
    assert list(methods) == ["krimp_zoo_net", "krimp_zoo_net_small"]
    assert methods["krimp_zoo_net_small"](job).runs == str(tmp_path / "net_small.krimp")


def test_the_float_file_is_the_first_row():
    assert next(iter(UNTRAINED)) == FLOAT


def test_images_are_evenly_spread():
    assert spread(100, 5) == [0, 24, 49, 74, 99]
    assert spread(3, 5) == [0, 1, 2]
