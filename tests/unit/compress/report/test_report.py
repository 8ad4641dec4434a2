"""The report: rows from artifacts, limits, markdown, charts, pictures, schema."""

from __future__ import annotations

import json
import math
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import cv2
import jsonschema
import numpy as np
import pytest
import torch

from compress import number_text as numbers
from compress.artifact import Artifact
from compress.dataset import Picture
from compress.kind import Kind
from compress.metrics.paired import save_resampled
from compress.report import charts, collect, document, markdown, pictures
from compress.report.requirements import Requirements, check_requirements
from compress.stage import StageContext
from compress.stages.report import Report

torch.set_num_threads(1)

CLASSES = ("person", "car", "bicycle")


def artifact(number, label, stage, kind, facts, lineage=(), root=Path("/out")):
    return Artifact(
        path=root / f"{number:02d}_{label}",
        stage=stage,
        label=label,
        kind=kind,
        key=f"{number:064x}",
        digest=f"{number + 100:064x}",
        facts=facts,
        seconds=12.5 * number,
        peak_memory_bytes=900_000_000,
        lineage=(*lineage, label),
    )


def score(number, of, map50, packed_bytes, **facts):
    scores = {
        "map50": map50,
        "ap_method": "area",
        "iou_threshold": 0.5,
        "ap_per_class": {"person": map50 + 0.05, "car": map50 - 0.05, "bicycle": None},
        "recall": 0.8,
        "precision": 0.7,
        "precision_score_threshold": 0.3,
        "num_detections": 4321,
        "num_images": 256,
        "map50_interval": [map50 - 0.02, map50 + 0.02],
        "extra": {"map50_voc07": map50 - 0.01},
    }
    facts = {"scores": scores, "split": "test", "of": of, "packed_bytes": packed_bytes} | facts
    return artifact(number, f"{of}_score", "evaluate", Kind.SCORES, facts)


def latencies(p50, p90, p99, mean):
    return {"latency_ms_p50": p50, "latency_ms_p90": p90, "latency_ms_p99": p99, "latency_ms_mean": mean}


def small_run(root=Path("/out")):
    """float -> pruned -> sparse -> qat -> onnx -> packed, as the pipeline would hand it over."""
    history = [
        {"epoch": e + 1, "losses": {"loss_cls": 1 / (e + 1), "loss_bbox": 0.6 / (e + 1)}, "lr": 0.01, "seconds": 60.0,
         "map50": 0.5 * (1 - 0.5**e) if e % 2 == 0 else None}
        for e in range(9)
    ]  # fmt: skip
    counts = {"params": 2_400_000, "macs": 1_800_000_000, "sparsity": 0.0, "parameters_bytes": 9_600_000}
    pruned = {"params": 1_100_000, "macs": 900_000_000, "sparsity": 0.0, "parameters_bytes": 4_400_000}
    latency = {
        "models": {
            "float_onnx": latencies(120.0, 125.0, 140.0, 121.0),
            "pack": latencies(48.0, 50.0, 55.0, 48.5),
        },
        "ratios": {"pack": {"speedup_p50": 2.5, "speedup_low": 2.4, "speedup_high": 2.6}},
        "reference": "float_onnx", "threads": 1, "warmup": 10, "runs": 50, "batch_size": 1, "image_size": [512, 640],
        "cpu": "Test CPU",
    }  # fmt: skip
    unfused = [{"name": "/head/deform", "reason": "DeformConv has no integer form"}]
    return [
        artifact(0, "float", "train", Kind.MODEL, counts | {"history": history}, root=root),
        score(1, "float", 0.56, 8_900_000),
        artifact(2, "float_onnx", "export_onnx", Kind.ONNX, {"onnx_bytes": 9_700_000}, ["float"], root=root),
        artifact(
            3, "prune_structured", "prune_structured", Kind.MODEL,
            pruned | {"not_pruned": {"head.cls": "classes are fixed", "head.box": "boxes are fixed"}}, ["float"],
            root=root,
        ),
        score(4, "prune_structured", 0.541, 4_000_000),
        artifact(
            5, "qat", "qat", Kind.QUANTIZED, pruned | {"sparsity": 0.61, "history": history},
            ["float", "prune_structured"], root=root,
        ),
        score(6, "qat", 0.55, 520_000),
        artifact(
            7, "export_onnx", "export_onnx", Kind.ONNX, {"onnx_bytes": 1_300_000, "unfused": unfused},
            ["float", "prune_structured", "qat"], root=root,
        ),
        artifact(
            8, "pack", "pack", Kind.PACKED, {"onnx_bytes": 1_300_000, "packed_bytes": 520_000},
            ["float", "prune_structured", "qat", "export_onnx"], root=root,
        ),
        score(9, "pack", 0.548, 520_000),
        artifact(10, "benchmark", "benchmark", Kind.LATENCY, latency),
    ]  # fmt: skip


def rows_by_label(artifacts=None):
    return {row.label: row for row in collect.collect_rows(artifacts or small_run(), "test")}


def test_every_model_has_one_row_in_the_order_of_the_run():
    labels = [row.label for row in collect.collect_rows(small_run(), "test")]
    assert labels == ["float", "float_onnx", "prune_structured", "qat", "export_onnx", "pack"]


def test_a_row_gathers_what_the_stages_measured():
    row = rows_by_label()["pack"]
    assert (row.map50, row.recall, row.num_detections, row.scored_by) == (0.548, 0.8, 4321, "pack_score")
    assert row.compression_ratio == pytest.approx(9_600_000 / 520_000)
    assert (row.latency_ms_p50, row.speedup_p50) == (48.0, 2.5)
    assert row.ap_per_class == {"person": pytest.approx(0.598), "car": pytest.approx(0.498), "bicycle": None}
    assert row.after == "export_onnx"


def test_what_was_not_measured_is_null_and_a_dash():
    row = rows_by_label()["float_onnx"]
    assert row.map50 is row.macs is row.packed_bytes is row.compression_ratio is None
    made = a_document()
    head, lines = markdown.models_table(made)
    line = dict(zip(head, lines[1], strict=True))
    assert line["map50"] == line["MACs"] == line["compression_ratio"] == "—"
    assert line["latency p50"] == "120.0 ms"


def test_scores_of_another_split_are_left_out():
    rows = collect.collect_rows(small_run(), "val")
    assert all(row.map50 is None for row in rows)


def test_an_artifact_that_has_two_names_counts_once_and_in_its_place():
    artifacts = small_run()
    inputs = {"float_long": artifacts[3], "float": artifacts[0]} | {a.label: a for a in artifacts}
    assert [a.label for a in collect.in_order(inputs)] == [a.label for a in artifacts]


def test_layers_left_alone_come_with_their_reason():
    found = [(e.stage, e.what, e.layer, e.reason) for e in collect.collect_left_out(small_run())]
    assert ("prune_structured", "not pruned", "head.cls", "classes are fixed") in found
    assert ("export_onnx", "not fused", "/head/deform", "DeformConv has no integer form") in found


def check(**limits):
    rows = collect.collect_rows(small_run(), "test")
    return check_all(rows, **limits)


def check_all(rows, baseline="float", **limits):
    (entry,) = check_requirements(
        Requirements(**limits), rows, float_label="float", final_label="pack", baseline_label=baseline
    )
    return entry


@pytest.mark.parametrize(
    ("limits", "value", "ok"),
    [
        ({"min_float_map50": 0.5}, 0.56, True),
        ({"min_map50": 0.55}, 0.548, False),
        ({"max_map50_loss": 0.02}, 0.012, True),
        ({"max_map50_loss": 0.01}, 0.012, False),
        ({"min_compression_ratio": 10}, 18.46, True),
        ({"max_packed_bytes": "520kB"}, 520_000, True),
        ({"max_packed_bytes": "519kB"}, 520_000, False),
        ({"min_speedup": 3}, 2.5, False),
        ({"min_sparsity": 0.6}, 0.61, True),  # of qat: the packed row itself has none
        ({"min_macs_removed": 0.3}, 0.5, True),
    ],
)
def test_a_limit_is_compared_with_what_was_measured(limits, value, ok):
    entry = check(**limits)
    assert entry.value == pytest.approx(value, abs=0.01)
    assert entry.ok is ok


def test_a_number_that_was_not_measured_fails_its_limit():
    rows = collect.collect_rows([a for a in small_run() if a.kind is not Kind.LATENCY], "test")
    entry = check_all(rows, min_speedup=1)
    assert entry.value is None
    assert not entry.ok


def test_a_loss_counts_from_the_best_baseline():
    artifacts = [
        *small_run(),
        artifact(11, "float_long", "finetune", Kind.MODEL, {}, ["float"]),
        score(12, "float_long", 0.6, None),
    ]
    rows = collect.collect_rows(artifacts, "test", ["float_long"])
    best = collect.best_baseline(rows, ["float", "float_long"])
    assert best == "float_long"
    entry = check_all(rows, best, max_map50_loss=0.02)
    assert entry.value == pytest.approx(0.052)
    assert entry.how == "map50 of float_long - of pack"
    assert not entry.ok


def test_a_baseline_without_a_score_leaves_the_loss_unknown():
    artifacts = [*small_run(), artifact(11, "float_long", "finetune", Kind.MODEL, {}, ["float"])]
    rows = collect.collect_rows(artifacts, "test", ["float_long"])
    assert {row.map50_loss for row in rows} == {None}
    entry = check_all(rows, None, max_map50_loss=0.5)
    assert (entry.value, entry.ok) == (None, False)


def test_a_loss_has_the_interval_of_the_paired_bootstrap(tmp_path):
    """Both models err on the same images: unpaired intervals are wide, the paired one is narrow."""
    shared = np.random.default_rng(0).normal(0.56, 0.02, 1000)
    artifacts = small_run()
    for index, of, lost in ((1, "float", 0.0), (9, "pack", 0.012)):
        folder = tmp_path / of
        folder.mkdir()
        save_resampled(folder, shared - lost + np.random.default_rng(index).normal(0, 0.001, 1000))
        artifacts[index] = replace(artifacts[index], path=folder)
    rows = {row.label: row for row in collect.collect_rows(artifacts, "test")}
    low, high = rows["pack"].map50_loss_interval
    assert low < rows["pack"].map50_loss < high
    assert high - low == pytest.approx(4 * math.sqrt(2) * 0.001, rel=0.15)
    assert rows["float"].map50_loss is None  # nothing is lost against itself
    assert rows["qat"].map50_loss_interval is None  # its resamples were not kept
    entry = check_all(list(rows.values()), max_map50_loss=0.02)
    assert entry.interval == (low, high)
    text = markdown.render(a_document(rows=list(rows.values()), requirements=[entry], baseline_label="float"))
    assert f"{low:.3f} to {high:.3f}" in text
    assert "paired bootstrap" in text
    assert f"max_map50_loss: 0.012 [{low:.3f} to {high:.3f}]" in markdown.plain_table(a_document(requirements=[entry]))


def test_scores_of_different_images_are_not_paired(tmp_path):
    artifacts = small_run()
    for index, of in ((1, "float"), (9, "pack")):
        (tmp_path / of).mkdir()
        save_resampled(tmp_path / of, np.full(1000, 0.5))
        artifacts[index] = replace(artifacts[index], path=tmp_path / of)
    artifacts[9].facts["scores"]["num_images"] = 3
    row = next(row for row in collect.collect_rows(artifacts, "test") if row.label == "pack")
    assert row.map50_loss == pytest.approx(0.012)
    assert row.map50_loss_interval is None


def with_coco(artifacts, lost=0.0):
    """Return a run whose scores have map and map75 too; the packed model loses `lost` more of map than of map50."""
    for each in artifacts:
        if each.kind is Kind.SCORES:
            scores = each.facts["scores"]
            value = scores["map50"] - 0.2 - (lost if each.facts["of"] == "pack" else 0)
            scores |= {"map": value, "map75": value - 0.1, "max_dets": 100, "num_objects": 2380}
            scores |= {"map_interval": [value - 0.02, value + 0.02], "map75_interval": None}
            scores["map_per_class"] = {"person": value + 0.01, "car": value - 0.01, "bicycle": None}
            scores["map75_per_class"] = {"person": 0.2, "car": 0.1, "bicycle": None}
            scores["extra"] |= {"map_below_16px": 0.123}
    return artifacts


@pytest.mark.parametrize(
    ("limits", "value", "ok", "how"),
    [
        ({"min_float_map": 0.35}, 0.36, True, "map of float"),
        ({"min_map": 0.33}, 0.318, False, "map of pack"),
        ({"max_map_loss": 0.05}, 0.042, True, "map of float - of pack"),
        ({"max_map_loss": 0.04}, 0.042, False, "map of float - of pack"),
        ({"min_float_map75": 0.3}, 0.26, False, "map75 of float"),
        ({"min_map75": 0.2}, 0.218, True, "map75 of pack"),
        ({"max_map75_loss": 0.01}, 0.042, False, "map75 of float - of pack"),
        ({"max_map50_loss": 0.02}, 0.012, True, "map50 of float - of pack"),
    ],
)
def test_limits_on_every_metric_are_compared_with_that_metric(limits, value, ok, how):
    rows = collect.collect_rows(with_coco(small_run(), lost=0.03), "test")
    best = collect.best_baselines(rows, ["float"])
    (entry,) = check_requirements(
        Requirements(**limits), rows, float_label="float", final_label="pack", baseline_label=best["map50"],
        baseline_labels=best,
    )  # fmt: skip
    assert (entry.value, entry.ok, entry.how) == (pytest.approx(value), ok, how)
    assert Requirements(**limits, min_speedup=2).of_accuracy() == list(limits)


def test_each_metric_has_its_own_best_baseline():
    long = score(12, "float_long", 0.6, None)
    artifacts = [*with_coco(small_run()), artifact(11, "float_long", "finetune", Kind.MODEL, {}, ["float"]), long]
    long.facts["scores"] |= {"map": 0.35, "map75": 0.3, "num_objects": 2380}
    rows = collect.collect_rows(artifacts, "test", ["float_long"])
    assert collect.best_baselines(rows, ["float", "float_long"]) == {
        "map": "float",
        "map75": "float_long",
        "map50": "float_long",
    }
    packed = next(row for row in rows if row.label == "pack")
    losses = (packed.map_loss, packed.map75_loss, packed.map50_loss)
    assert losses == pytest.approx((0.36 - 0.348, 0.3 - 0.248, 0.6 - 0.548))


def test_the_loss_of_map_has_the_interval_of_its_own_resamples(tmp_path):
    artifacts = with_coco(small_run())
    for index, of, lost in ((1, "float", 0.0), (9, "pack", 0.012)):
        (tmp_path / of).mkdir()
        save_resampled(tmp_path / of, np.linspace(0.3, 0.4, 1000) - lost, "map")
        save_resampled(tmp_path / of, np.linspace(0.5, 0.6, 1000) - 2 * lost)
        artifacts[index] = replace(artifacts[index], path=tmp_path / of)
    row = next(row for row in collect.collect_rows(artifacts, "test") if row.label == "pack")
    assert row.map_loss_interval == pytest.approx((0.012, 0.012))
    assert row.map50_loss_interval == pytest.approx((0.024, 0.024))
    assert row.map75_loss_interval is None


@pytest.mark.parametrize("told", ["counted", "by class", "both"])
@pytest.mark.parametrize("name", ["max_map_loss", "max_map75_loss", "max_map50_loss", "min_map", "min_map50"])
def test_a_limit_on_images_without_objects_fails_although_nothing_is_lost(told, name):
    artifacts = with_coco(small_run())
    for each in artifacts:
        if each.kind is Kind.SCORES:
            scores = each.facts["scores"]
            scores |= {"map": 0.0, "map75": 0.0, "map50": 0.0, "recall": 0.0}
            scores["num_objects"] = 0 if told != "by class" else None
            if told != "counted":
                scores["ap_per_class"] = dict.fromkeys(CLASSES)
    rows = collect.collect_rows(artifacts, "test")
    best = collect.best_baselines(rows, ["float"])
    (entry,) = check_requirements(
        Requirements(**{name: 1.0 if name.startswith("max") else 0.0}), rows, float_label="float", final_label="pack",
        baseline_label=best.get("map50"), baseline_labels=best,
    )  # fmt: skip
    assert (entry.value, entry.ok) == (None, False)
    assert all(row.map is row.map50 is row.recall is None for row in rows)


def test_the_report_tells_map_first_and_names_images_objects_and_classes_without_truth():
    rows = collect.collect_rows(with_coco(small_run(), lost=0.03), "test")
    best = collect.best_baselines(rows, ["float"])
    absent = collect.classes_without_truth(rows)
    told = a_document(
        rows=rows, baseline_label=best["map50"], baseline_labels=best, classes_without_truth=absent, requirements=[]
    )
    assert absent == ["bicycle"]
    text = markdown.render(told)
    for expected in (
        "Split `test`, 256 images, 2,380 objects. No object of the classes `bicycle`: no mean counts them.",
        "at most 100 detections of a class in an image",
        "method `area` at IoU >= 0.5",
        "map 0.360 -> 0.318, map75 0.260 -> 0.218, map50 0.560 -> 0.548 on `test` (loss of map against `float` 0.042",
        "| **pack** | 0.3180 | 0.298 to 0.338 | 0.042 | — | 0.2180 | 0.5480 |",
        "map:\n\n| model | person | car | bicycle |",
        "| pack | 0.328 | 0.308 | — |",
        "map_below_16px",
        "loss: map of `float`, map75 of `float`, map50 of `float`, the best float model",
        "## Losses by metric",
    ):
        assert expected in text, expected
    plain = markdown.plain_table(told).splitlines()[0].split()
    assert plain[:5] == ["model", "map", "loss", "map75", "map50"]
    jsonschema.validate(json.loads(document.dump(told)), json.loads(document.SCHEMA_FILE.read_text()))


def test_a_report_on_images_without_objects_says_that_nothing_is_measured():
    artifacts = small_run()
    for each in artifacts:
        if each.kind is Kind.SCORES:
            each.facts["scores"] |= {"ap_per_class": dict.fromkeys(CLASSES), "num_objects": 0}
    rows = collect.collect_rows(artifacts, "test")
    text = markdown.render(a_document(rows=rows, classes_without_truth=collect.classes_without_truth(rows)))
    assert "Split `test`, 256 images, 0 objects." in text
    assert "**No object of any class (`person`, `car`, `bicycle`): map, map75, map50 and recall cannot" in text


def a_document(**changes):
    artifacts = small_run()
    fields = {
        "name": "dcfl_mbv2_hituav",
        "created": "2026-01-01T00:00:00+00:00",
        "split": "test",
        "seed": 0,
        "recipe": {},
        "recipe_digest": "0" * 64,
        "float_label": "float",
        "final_label": "pack",
        "rows": collect.collect_rows(artifacts, "test"),
        "stages": collect.stage_records(artifacts),
        "benchmarks": {"benchmark": artifacts[-1].facts},
        "histories": collect.collect_histories(artifacts),
        "left_out": collect.collect_left_out(artifacts),
    }
    return document.Document(**(fields | changes))


def test_the_json_is_read_back_and_fits_the_committed_schema():
    text = document.dump(a_document(environment={"load": math.nan}))
    jsonschema.validate(json.loads(text), json.loads(document.SCHEMA_FILE.read_text()))
    assert document.parse(text).row("pack").map50 == 0.548
    assert json.loads(text)["environment"]["load"] is None


def test_the_committed_schema_is_the_one_of_the_code():
    assert document.SCHEMA_FILE.read_text() == document.schema_text()


def test_the_schema_refuses_an_unknown_field():
    broken = json.loads(document.dump(a_document())) | {"mAP": 0.5}
    with pytest.raises(jsonschema.ValidationError, match="mAP"):
        jsonschema.validate(broken, json.loads(document.SCHEMA_FILE.read_text()))


def test_markdown_states_method_threshold_ratio_and_reasons():
    text = markdown.render(a_document())
    for expected in (
        "method `area` at IoU >= 0.5",
        "precision @ score 0.3",
        "9,600,000 bytes",
        "| **pack** | 0.5480 | 0.528 to 0.568 |",
        "| float_onnx (export_onnx) |",
        "48.0 ms (2.50x as fast as `float_onnx`)",
        "18.46",
        "2.50x (2.40 to 2.60)",
        "threads 1, batch_size 1, warmup 10, runs 50, image (H x W) 512x640",
        "boxes are fixed (1: `head.box`)",
        "map50_voc07",
    ):
        assert expected in text, expected


def test_a_layer_that_runs_on_several_levels_is_named_once():
    reason = "offsets stay float"
    nodes = [
        {"stage": "export", "what": "not fused", "layer": f"head/Conv{n}", "reason": reason} for n in ("", "_1", "_2")
    ]
    text = markdown.render(a_document(left_out=nodes))
    assert "- `export`, not fused: offsets stay float (3: 3 x `head/Conv`)" in text


def test_the_export_section_states_the_parity_with_its_limit():
    stages = collect.stage_records(small_run())
    stages[2].facts["parity"] = {"worst": 0.0061, "limit": 0.03, "images": 4, "split": "val"}
    assert "| float_onnx | 9.70 MB | — | 0.610 % | 3.0 % | 4 of `val` |" in markdown.render(a_document(stages=stages))


def test_every_table_line_has_as_many_cells_as_its_head():
    table = []
    for line in [*markdown.render(a_document()).splitlines(), ""]:
        if line.startswith("|"):
            table.append(line.replace("\\|", "").count("|"))
        else:
            assert len(set(table)) <= 1
            table = []


def test_the_plain_table_names_missed_limits():
    missed = document.Requirement(name="min_speedup", limit=3, value=2.5, ok=False, how="p50")
    text = markdown.plain_table(a_document(requirements=[missed]))
    assert "MISSED min_speedup: 2.500 (limit 3; p50)" in text
    assert max(len(line) for line in text.splitlines()) < 160


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (numbers.size_text(520_000), "520 kB"),
        (numbers.size_text(9_600_000), "9.60 MB"),
        (numbers.size_text(12), "12 B"),
        (numbers.size_text(None), "—"),
        (numbers.count_text(1_800_000_000), "1.80 G"),
        (numbers.count_text(9999), "9999"),
        (numbers.share_text(0.615), "61.5 %"),
        (numbers.fixed_text(0.0), "0.000"),
        (numbers.duration_text(3.14), "3.1 s"),
        (numbers.duration_text(59.7), "1 min 00 s"),
        (numbers.duration_text(7500), "2 h 05 min"),
    ],
)
def test_numbers_read_as_people_write_them(text, expected):
    assert text == expected


def test_charts_are_written_and_skipped_without_numbers(tmp_path):
    made = a_document()
    assert charts.draw_results(made.rows, tmp_path / "results.png", final_label="pack")
    charts.draw_training("qat", made.histories["qat"], tmp_path / "training.png")
    charts.draw_training("qat", made.histories["qat"][1:2], tmp_path / "one_epoch.png")
    assert {p.read_bytes()[1:4] for p in tmp_path.iterdir()} == {b"PNG"}
    assert not charts.draw_results(
        [row for row in made.rows if row.label == "float_onnx"], tmp_path / "x", final_label=None
    )


def test_lines_of_the_chart_follow_the_models_that_a_model_was_made_from():
    artifacts = [
        *small_run(),
        artifact(11, "float_long", "finetune", Kind.MODEL, {}, ["float"]),
        score(12, "float_long", 0.6, None),
    ]
    rows = {row.label: row for row in collect.collect_rows(artifacts, "test")}
    parents = {label: charts._scored_parent(row, list(rows.values())) for label, row in rows.items()}
    named = {label: parent.label if parent else None for label, parent in parents.items()}
    assert named["float_long"] == "float"  # a branch, not what follows the packed model
    assert named["pack"] == "qat"  # export_onnx was not scored
    assert named["float"] is None


def test_panels_of_unequal_height_stand_side_by_side():
    joined = pictures.side_by_side([np.zeros((4, 3, 3), np.uint8), np.zeros((2, 5, 3), np.uint8)])
    assert joined.shape == (4, 3 + pictures.GAP_PX + 5, 3)
    assert (joined[3, -1] == 255).all()


def images(split):
    for i in range(9):
        yield Picture(f"a/b {i}.png", np.full((32, 40, 3), 10 * i, np.uint8), None)


class PictureDetector:
    NAME = "tiny"
    DEPLOY = "krimp_test_deploy"
    data = SimpleNamespace(images=images)

    def metadata(self):
        return {}


@pytest.fixture
def _deploy(monkeypatch):
    deploy = SimpleNamespace(
        image_size=(16, 20),
        preprocess=lambda image, *, minimum_size: image.transpose(2, 0, 1)[None].astype(np.float32),
        postprocess=lambda raw, *, image_size, score_threshold: [[1, 2, 3]],
        tile_windows=lambda size, **_: [(0, 0, size[1], size[0])],
        merge=lambda parts, windows, *, image_size: parts[0],
        draw=lambda image, found: image,
    )
    module = ModuleType("krimp_test_deploy")
    module.make_deploy = lambda meta: deploy
    monkeypatch.setitem(sys.modules, "krimp_test_deploy", module)
    monkeypatch.setattr("compress.actions.report.forward_of", lambda *_, **__: lambda images: [images])


def run_report(tmp_path, detector=None, **fields):
    artifacts = small_run(tmp_path)
    folder = tmp_path / "11_report"
    folder.mkdir()
    context = StageContext(
        name="report",
        folder=folder,
        scratch=tmp_path / "scratch",
        inputs={"float": artifacts[0]} | {a.label: a for a in artifacts},
        detector=detector or PictureDetector(),
        seed=7,
        device="cpu",
        record={"name": "tiny", "seed": 7, "device": "cpu"},
    )
    return Report(**fields).run(context), folder


@pytest.mark.usefixtures("_deploy")
def test_the_stage_writes_json_markdown_charts_and_pictures(tmp_path):
    facts, folder = run_report(tmp_path, pictures=2)
    made = document.parse((folder / "report.json").read_text())
    assert sorted(p.name for p in folder.iterdir()) == sorted(facts["files"])
    assert [p.num_detections for p in made.pictures] == [{"float": 3, "pack": 3}] * 2
    assert all(f"]({name})" in (folder / "report.md").read_text() for name in facts["files"] if name.endswith(".png"))
    assert facts["requirements_met"] is True
    assert "pack" in facts["table"]
    assert made.environment["versions"]["torch"]
    assert "/" not in made.pictures[0].image


@pytest.mark.usefixtures("_deploy")
def test_a_missed_limit_is_written_down_and_does_not_stop_the_report(tmp_path):
    facts, folder = run_report(tmp_path, pictures=0, require={"min_compression_ratio": 100, "max_map50_loss": 0.03})
    assert facts["requirements_met"] is False
    assert [entry["ok"] for entry in facts["requirements"]] == [True, False]
    assert "**NO**" in (folder / "report.md").read_text()


def test_a_plugin_that_cannot_draw_costs_a_line_not_the_report(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "krimp_test_deploy", ModuleType("krimp_test_deploy"))
    _, folder = run_report(tmp_path)
    made = document.parse((folder / "report.json").read_text())
    assert made.pictures == []
    assert "no pictures: plug-in 'tiny': krimp_test_deploy has no function make_deploy(meta). Add it." in made.warnings


@pytest.mark.usefixtures("_deploy")
def test_the_pictures_are_the_first_ones_of_the_split(tmp_path):
    _, folder = run_report(tmp_path, pictures=3)
    assert sorted(path.name for path in folder.glob("picture_*.png")) == [
        f"picture_{i + 1}_b_{i}.png" for i in range(3)
    ]
    panel = cv2.imread(str(folder / "picture_3_b_2.png"))[pictures.CAPTION_PX :, :40]
    assert (panel == 20).all()


def test_names_in_a_report_can_hold_neither_cells_nor_lines_nor_html(tmp_path):
    evil = "a|b\n# forged <img src=x onerror=alert(1)> [x](http://evil) \x1b[2J"
    rows = [row.model_copy(update={"ap_per_class": {evil: 0.5}, "extra_scores": {}}) for row in a_document().rows]
    picture = document.Picture(file="pictures/0.png", image=evil, num_detections={"float": 1}, score_threshold=0.3)
    text = markdown.render(a_document(rows=rows, pictures=[picture], warnings=[evil]))
    assert "forged" in text
    assert not any(line.startswith("# forged") for line in text.splitlines())
    assert not re.search(r"(?<!\\)<img", text)
    assert not re.search(r"(?<!\\)\[x\]\(http", text)
    assert all(line.isprintable() for line in text.splitlines())
    (line,) = (line for line in text.splitlines() if line.startswith("| model |") and "forged" in line)
    assert len(re.findall(r"(?<!\\)\|", line)) == 3
