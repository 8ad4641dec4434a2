"""Runs in MLflow and TensorBoard, held against the real libraries; what needs none is tried everywhere."""

import importlib.util
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "compare"))

from cells_on_disk import seal_stage

from compress.cli.main import main
from compress.curves import curves_in, curves_of
from compress.errors import DataError
from compress.kind import Kind
from compress.trackers.run_record import flat_texts, read_run

NEEDED = ("mlflow", "tensorboard")
missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
with_trackers = pytest.mark.skipif(bool(missing), reason=f"{missing} not installed: the extra `trackers`")

HISTORY = [
    {"epoch": 1, "losses": {"loss_cls": 2.0, "loss_bbox": 1.0}, "lr": 0.1, "seconds": 3.0, "map": None},
    {"epoch": 2, "losses": {"loss_cls": 1.5, "loss_bbox": 0.5}, "lr": 0.05, "seconds": 3.0, "map": 0.25},
]
REPORT = {
    "recipe": {"name": "demo", "seed": 3, "stages": [{"stage": "train", "training": {"epochs": 2}}, {"stage": "pack"}]},
    "recipe_digest": "abc", "created": "2026-11-29", "requirements_met": True,
    "environment": {"cpu": "c", "commit": "f00"},
}  # fmt: skip


def write_png(path):
    assert cv2.imwrite(str(path), np.full((4, 6, 3), 200, np.uint8))


@pytest.fixture
def run(tmp_path):
    root = tmp_path / "out" / "demo"
    seal_stage(root, 0, "train", "train", Kind.MODEL, {"params": 12, "history": HISTORY, "metric": None})
    scores = {"map": 0.25, "map_interval": [0.2, 0.3], "extra": {"recall small!": 0.5}, "ap_method": "area"}
    seal_stage(root, 1, "score", "evaluate", Kind.SCORES, {"of": "train", "scores": scores})
    times = {"models": {"pack": {"latency_ms_p50": 4.5}}, "threads": 1}
    seal_stage(root, 2, "bench", "benchmark", Kind.LATENCY, times)
    files = {"report.json": json.dumps(REPORT).encode(), "report.md": b"# It works", "picture_1.png": write_png}
    seal_stage(root, 3, "report", "report", Kind.REPORT, {}, files=files)
    return root


def test_a_run_is_read_from_its_folders(run):
    record = read_run(run)
    assert record.name == "demo"
    wanted = {"train/params": 12, "score/map": 0.25, "score/map_low": 0.2, "score/extra/recall small!": 0.5,
              "bench/pack/latency_ms_p50": 4.5, "bench/threads": 1, "train/seconds": 1}  # fmt: skip
    assert wanted.items() <= record.numbers.items()
    assert record.curves["train"][2] == {"loss/cls": 1.5, "loss/bbox": 0.5, "lr": 0.05, "seconds": 3.0, "map": 0.25}
    assert record.settings["stages.00_train.training.epochs"] == "2"
    assert sorted(path.name for path in record.files) == ["picture_1.png", "report.json", "report.md"]
    assert read_run(run).digest == record.digest


def test_another_run_has_another_digest(run):
    before = read_run(run).digest
    seal_stage(run, 0, "train", "train", Kind.MODEL, {"params": 13}, files={"a": b"b"})
    assert read_run(run).digest != before


def test_what_is_no_run_and_no_tracker_is_told(tmp_path, run, capsys):
    with pytest.raises(DataError, match="no finished stage"):
        read_run(tmp_path)
    assert main(["export-run", str(run)]) == 2
    assert "no tracker is named" in capsys.readouterr().err


def test_lists_of_stages_are_named_by_stage_and_other_lists_are_one_value():
    found = dict(flat_texts({"a": [1, 2], "stages": [{"stage": "qat", "name": "mine"}], "none": None, "empty": []}))
    assert found == {
        "a": "[1, 2]", "stages.00_mine.stage": "qat", "stages.00_mine.name": "mine", "none": "null", "empty": "[]"
    }  # fmt: skip


@pytest.mark.parametrize(("option", "package"), [("--mlflow", "mlflow"), ("--tensorboard", "tensorboard")])
def test_without_the_extra_it_is_said_what_to_install(run, tmp_path, capsys, monkeypatch, option, package):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == package else find(name, *rest))
    assert main(["export-run", str(run), option, str(tmp_path / "store")]) == 4
    assert 'pip install "krimp[trackers]"' in capsys.readouterr().err
    assert not (tmp_path / "store").exists()


def test_nobody_asked_for_curves():
    assert curves_of("train") is None
    with curves_in(None):
        assert curves_of("train") is None


@with_trackers
@pytest.mark.trackers
def test_mlflow_holds_settings_numbers_curves_and_files_once(run, tmp_path, capsys):
    store = f"file:{tmp_path}/store"
    assert main(["export-run", str(run), "--mlflow", store]) == 0
    assert main(["export-run", str(run), "--mlflow", store]) == 0
    assert "was there already" in capsys.readouterr().out
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=store)
    (found,) = client.search_runs([client.get_experiment_by_name("demo").experiment_id])
    assert found.info.status == "FINISHED"
    assert found.data.params["stages.00_train.training.epochs"] == "2"
    assert found.data.metrics["score/map"] == 0.25
    assert found.data.metrics["score/extra/recall small_"] == 0.5
    curve = client.get_metric_history(found.info.run_id, "train/loss/cls")
    assert [(one.step, one.value) for one in curve] == [(1, 2.0), (2, 1.5)]
    assert {one.path for one in client.list_artifacts(found.info.run_id, "report")} == {
        "report/picture_1.png", "report/report.json", "report/report.md"
    }  # fmt: skip
    assert found.data.tags["krimp.recipe_digest"] == "abc"


@with_trackers
@pytest.mark.trackers
def test_a_store_that_cannot_be_reached_is_told(run, capsys):
    assert main(["export-run", str(run), "--mlflow", "nonsense://there"]) == 4
    assert "Check the address" in capsys.readouterr().err


def events(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder), size_guidance={"images": 0, "tensors": 0}).Reload()


@with_trackers
@pytest.mark.trackers
def test_tensorboard_reads_curves_texts_and_pictures(run, tmp_path, capsys):
    logs = tmp_path / "logs"
    assert main(["export-run", str(run), "--tensorboard", str(logs)]) == 0
    (root,) = logs.iterdir()
    curve = events(root / "train").Scalars("loss/cls")
    assert [(one.step, one.value) for one in curve] == [(1, 2.0), (2, 1.5)]
    found = events(root)
    assert [one.value for one in found.Scalars("score/map")] == [0.25]
    assert [(one.height, one.width) for one in found.Images("picture_1")] == [(4, 6)]
    (text,) = found.Tensors("report/text_summary")
    assert text.tensor_proto.string_val == [b"# It works"]
    assert found.SummaryMetadata("report/text_summary").plugin_data.plugin_name == "text"
    assert main(["export-run", str(run), "--tensorboard", str(logs)]) == 0
    assert "was there already" in capsys.readouterr().out
    assert len(list(root.glob("events*"))) == 1


@with_trackers
@pytest.mark.trackers
def test_curves_of_a_training_are_there_while_it_runs(tmp_path):
    with curves_in(tmp_path / "logs"):
        curves = curves_of("qat")
        curves.scalars({"loss": 0.5}, 3)
        curves.flush()
        assert [(one.step, one.value) for one in events(tmp_path / "logs" / "qat").Scalars("loss")] == [(3, 0.5)]
    assert curves_of("qat") is None


@with_trackers
@pytest.mark.trackers
def test_a_training_writes_the_losses_of_its_steps_and_epochs(tmp_path):
    from types import SimpleNamespace

    from compress.training.lines import TrainingProgress

    with curves_in(tmp_path / "logs"):
        lines = TrainingProgress("qat", SimpleNamespace(epochs=2), 4, 2)
        lines.step(SimpleNamespace(epoch=0, batch=1, step=1), {"loss_cls": 0.5, "loss_bbox": 0.25}, 0.01, 0.1)
        lines.epoch({"epoch": 1, "losses": {"loss_cls": 0.5}, "lr": 0.01, "seconds": 2.0, "map": 0.25, "map50": None})
        found = events(tmp_path / "logs" / "qat")  # while it runs
    assert [(one.step, one.value) for one in found.Scalars("step_loss/sum")] == [(1, 0.75)]
    assert [(one.step, one.value) for one in found.Scalars("map")] == [(1, 0.25)]
    assert set(found.Tags()["scalars"]) == {
        "step_loss/sum", "step_loss/cls", "step_loss/bbox", "step_lr", "loss/cls", "map", "lr", "seconds"
    }  # fmt: skip
