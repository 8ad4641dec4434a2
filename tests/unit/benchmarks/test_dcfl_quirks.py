"""The comparison of DCFL's quirks: what it compares, and one short run of it."""

import argparse
import json
from dataclasses import asdict

import cv2
import numpy as np

from benchmarks import dcfl_quirks
from detectors.dcfl.rules import published_rules


def test_each_configuration_differs_from_the_default_by_one_rule():
    base = asdict(dcfl_quirks.CONFIGURATIONS["default"])
    for name, rules in dcfl_quirks.CONFIGURATIONS.items():
        changed = {key for key, value in asdict(rules).items() if value != base[key]}
        assert len(changed) == (5 if name == "compat" else 0 if name == "default" else 1), name
    assert dcfl_quirks.CONFIGURATIONS["compat"] == published_rules()


def write_data(root):
    rng = np.random.default_rng(0)
    for split, count in (("train", 5), ("val", 1)):
        for part in ("images", "labelTxt"):
            (root / split / part).mkdir(parents=True)
        for index in range(count):
            cv2.imwrite(str(root / split / "images" / f"{index}.png"), rng.integers(0, 255, (64, 64, 3), np.uint8))
            (root / split / "labelTxt" / f"{index}.txt").write_text("10 10 40 10 40 24 10 24 car 0\n")


def test_run_is_kept_and_not_repeated(tmp_path, monkeypatch):
    monkeypatch.setattr(dcfl_quirks, "CROP_PX", 64)
    write_data(tmp_path / "data")
    options = argparse.Namespace(data=tmp_path / "data", out=tmp_path / "out", steps=2, backbone_weights=None)
    row = dcfl_quirks.run(options, "5 fillers", 3)
    assert row["rules"]["fill_short_boxes"] is True
    assert row["steps"] == 2
    assert 0 <= row["map"] <= row["map50"] + 1e-9 <= 1 + 1e-9
    (kept,) = (tmp_path / "out").glob("*/row.json")
    kept.write_text(json.dumps(json.loads(kept.read_text()) | {"map50": 0.25}))
    again = dcfl_quirks.run(options, "5 fillers", 3)
    assert again["map50"] == 0.25
    text = dcfl_quirks.table([row | {"name": "default", "map50": 0.2}, again])
    assert "+0.0500 over 1" in text
