"""How often 'val' was looked at, and what was seen there."""

from pathlib import Path

import numpy as np

from compress.artifact import Artifact
from compress.kind import Kind
from compress.metrics.paired import save_resampled
from compress.report.looks import Look, Looks, collect_looks, looks_rows, looks_sentence


def artifact(folder: Path, label: str, kind: Kind, **facts) -> Artifact:
    (folder / label).mkdir()
    return Artifact(folder / label, label, label, kind, "", "", facts, 0.0, 0, (label,))


def score(folder: Path, of: str, value: float, split: str = "val") -> Artifact:
    found = artifact(folder, f"{of}_{split}", Kind.SCORES, of=of, split=split, scores={"map": value}, packed_bytes=5000)
    save_resampled(found.path, np.linspace(value - 0.01, value + 0.01, 50), "map")
    return found


def test_looks_of_training_guards_and_evaluations_are_counted_and_test_is_not(tmp_path):
    seen = {"points": 0.4, "interval": [0.1, 0.7], "middle": 0.4, "limit": 0.5}
    guard = {"looks": [{"packed_bytes": 4000, "holds": True, "losses": {"map": seen}}]}
    history = [{"epoch": 1, "map": None, "map50": None}, {"epoch": 2, "map": 0.3}, {"epoch": 3, "map50": 0.5}]
    looks = collect_looks([
        artifact(tmp_path, "finetune", Kind.MODEL, history=history),
        artifact(tmp_path, "round_weights", Kind.QUANTIZED, guard=guard),
        score(tmp_path, "float_onnx", 0.40),
        score(tmp_path, "pack", 0.38),
        score(tmp_path, "pack", 0.30, split="test"),
    ])  # fmt: skip
    assert (looks.in_training, looks.count) == (2, 5)
    assert [look.of for look in looks.others] == ["round_weights", "float_onnx", "pack"]
    assert looks.others[1].losses == {}
    lost = looks.others[2].losses["map"]
    assert round(lost.points, 6) == 2
    assert np.allclose(lost.interval, 2)
    assert looks_rows(looks)[1:] == [
        ["round_weights", "round_weights", "4.00 kB", "0.40 [0.10 to 0.70]"],
        ["float_onnx_val", "float_onnx", "5.00 kB", "—"],
        ["pack_val", "pack", "5.00 kB", "2.00 [2.00 to 2.00]"],
    ]
    assert looks_sentence(looks).startswith(
        "Split `val` was looked at 5 times, 2 of them to choose weights in training."
    )


def test_a_run_that_never_looked_says_nothing():
    assert looks_sentence(collect_looks([])) == ""
    assert looks_sentence(Looks(others=[Look(stage="a", of="b")])).startswith("Split `val` was looked at once")
