"""A record keeps what the run said of itself, tells nothing of a home folder, and is written once."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from compress.artifact import Artifact, new_folder, seal
from compress.errors import StageError
from compress.kind import Kind

FILE = Path(__file__).parents[3] / "benchmarks" / "record.py"
_spec = importlib.util.spec_from_file_location("benchmarks_record", FILE)
record = sys.modules["benchmarks_record"] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(record)


def put(root, number, label, kind, facts, files):
    name = f"{number:02d}_{label}"
    folder = new_folder(root, name)
    for file, text in files.items():
        (folder / file).write_text(text)
    draft = Artifact(
        path=folder, stage=label, label=label, kind=kind, key="k", digest="", facts=facts, seconds=1.0,
        peak_memory_bytes=1, lineage=(label,), key_parts={},
    )  # fmt: skip
    return seal(draft, root=root, name=name)


@pytest.fixture
def run(tmp_path):
    put(tmp_path / "demo", 0, "train", Kind.MODEL, {"params": 7, "note": "/home/someone/file.txt"}, {"model.txt": "w"})
    return tmp_path / "demo"


def make(run):
    return record.make_record(run, split="test", recipe=None, note="")


def test_without_a_report_the_record_says_that_the_machine_is_that_of_the_moment(run):
    made = make(run)
    assert (made["float"], made["environment_is_of"]) == ("train", "record")
    assert made["rows"][0]["params"] == 7
    assert made["environment"]["cpu"]


def test_date_machine_and_commit_are_those_that_the_report_of_the_run_states(run):
    report = {
        "created": "2026-01-01T00:00:00+00:00",
        "environment": {"commit": "c"},
        "recipe_digest": "d",
        "recipe": {},
    }
    put(run, 1, "report", Kind.REPORT, {}, {"report.json": json.dumps(report)})
    made = make(run)
    assert (made["date"], made["recipe_digest"]) == ("2026-01-01T00:00:00+00:00", "d")
    assert (made["environment"], made["environment_is_of"]) == ({"commit": "c"}, "run")


def test_a_record_holds_no_absolute_path_and_is_never_overwritten(run, tmp_path, monkeypatch, capsys):
    target = tmp_path / "record.json"
    monkeypatch.setattr(sys, "argv", ["record.py", str(run), "--out", str(target)])
    assert record.main() == 0
    assert "/home" not in target.read_text()
    before = target.read_text()
    assert record.main() == 1
    assert "records are not edited" in capsys.readouterr().err
    assert target.read_text() == before


def test_a_folder_without_artifacts_and_a_damaged_artifact_are_refused(run, tmp_path):
    with pytest.raises(StageError, match="no artifact"):
        make(tmp_path / "empty")
    (run / "00_train" / "model.txt").write_text("changed")
    with pytest.raises(StageError, match="damaged"):
        make(run)
