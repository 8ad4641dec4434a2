"""The forecast: what a plan would leave, measured before anything is trained, and checked by the report."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compress.cli.main import main
from compress.engine import forecast as engine
from compress.engine import pipeline
from compress.recipe.loading import load_recipe
from compress.report.collect import measured_files
from compress.report.document import Row
from compress.report.forecast import Forecast, LayerForecast, ModelForecast, by_part, compared
from compress.runtime.profile import BETWEEN, seconds_by_layer


def foresee(recipe_file, out, *overrides, **options):
    job = pipeline.Run(load_recipe(recipe_file, overrides), out, **options)
    return job.forecast(job.decide_all())


@pytest.mark.long
def test_plan_tells_what_the_stages_would_leave_and_keeps_it(recipe_file, tmp_path, capfd):
    out = tmp_path / "out"
    assert main(["plan", str(recipe_file), "--out", str(out)]) == 0
    text = capfd.readouterr().out
    assert "forecast (fresh weights, so no bytes but those asked for, nothing trained; 1 thread" in text
    assert "of export_onnx, by part:" in text
    written = (out / "dry" / engine.FILE).read_bytes()
    assert main(["plan", str(recipe_file), "--out", str(out), "--json"]) == 0
    found = json.loads(capfd.readouterr().out)["forecast"]
    assert (out / "dry" / engine.FILE).read_bytes() == written
    (model,) = found["models"]
    assert model["label"] == "export_onnx"
    assert model["latency_ms"] > 0
    layers = {layer["name"]: layer for layer in model["layers"]}
    assert {"stem", "body", "head"} <= layers.keys()
    # MACs: 0.6 of stem 3 * 16 * 9, body 16 * 16 * 9 and head 16 * 4 at 96 x 128, as widths of eight allow
    assert model["macs"] <= 0.61 * 96 * 128 * (3 * 16 * 9 + 16 * 16 * 9 + 16 * 4)
    assert model["macs"] == sum(layer["macs"] for layer in model["layers"])
    groups = {group["root"]: group for group in found["groups"]}
    assert (groups["body"]["width"], groups["body"]["layers"]) == (16, 1)
    assert groups["body"]["narrowest"] < 16
    whole, *less = found["budgets"]
    assert whole["macs"] == 1
    assert less
    for before, after in zip([whole, *less], less, strict=False):
        for name in ("macs", "params", "packed_bytes"):
            assert after[name] < before[name]
    assert whole["params"] == 3 * 16 * 9 + 16 + 16 * 16 * 9 + 16 + 16 * 4 + 4
    assert "what budgets would leave, in int8, untrained:" in text
    assert layers["body"]["latency_ms"] > layers["head"]["latency_ms"]
    assert layers["body"]["packed_bytes"] > layers["head"]["packed_bytes"] > 0


@pytest.mark.long
def test_bytes_follow_the_recipe_and_its_weights(recipe_file, tmp_path):
    dense, sparse, asked, ratio = (
        foresee(recipe_file, tmp_path / name, *overrides).models[-1]
        for name, overrides in [
            ("dense", ["stages.prune_unstructured.sparsity=0.05"]),
            (
                "sparse",
                ["stages.prune_unstructured.sparsity=0.9", "stages.prune_unstructured.max_sparsity_per_layer=0.95"],
            ),
            ("asked", ["stages.qat.rate={packed_bytes: 12345}"]),
            ("ratio", ["stages.qat.rate={ratio: 10}"]),
        ]
    )
    assert sparse.packed_bytes < dense.packed_bytes - 100
    assert (dense.asked_bytes, asked.asked_bytes) == (False, True)
    assert asked.packed_bytes == 12345
    assert ratio.packed_bytes == pytest.approx(4 * (3 * 16 * 9 + 16 + 16 * 16 * 9 + 16 + 16 * 4 + 4) / 10, rel=0.1)
    assert {layer.packed_bytes for layer in asked.layers} == {None}


def test_another_machine_asks_anew_and_none_without_torch(recipe_file, tmp_path, monkeypatch):
    calls = []

    def child(action, work, *, label, seed, limit_s):
        calls.append(label)
        return {"refused": None, "weights": "fresh", "models": [], "unfused": []}

    monkeypatch.setattr(engine, "in_quiet_child", child)
    out = tmp_path / "out"
    assert isinstance(foresee(recipe_file, out), Forecast)
    assert isinstance(foresee(recipe_file, out), Forecast)
    assert len(calls) == 1
    monkeypatch.setattr(engine, "cpu_name", lambda: "another")
    assert foresee(recipe_file, out).cpu == "another"
    assert len(calls) == 2
    (out / "dry" / engine.FILE).write_text('{"key": 1, "forecast": {"models": 3}}')
    assert engine.read_forecast(out / "dry") is None
    assert foresee(recipe_file, out).cpu == "another"
    monkeypatch.setattr(engine.importlib.util, "find_spec", lambda name: None)
    assert "not installed here" in foresee(recipe_file, tmp_path / "other")
    monkeypatch.undo()
    monkeypatch.setattr(engine, "in_quiet_child", lambda *_, **__: {"refused": "qat: why"})
    assert foresee(recipe_file, tmp_path / "other") == "qat: why"
    assert not (tmp_path / "other").exists()
    assert foresee(recipe_file, out, until="train") is None


def test_a_rehearsal_that_takes_too_long_is_given_up(recipe_file, plugin, tmp_path, monkeypatch):
    plugin("__import__('time').sleep(30)")
    monkeypatch.setattr(engine, "LIMIT_S", 1)
    assert "SIGALRM" in foresee(recipe_file, tmp_path / "out")


def model_of(**fields):
    values = {"label": "onnx", "params": 1, "macs": 1, "packed_bytes": 1000, "asked_bytes": False, "latency_ms": 10.0}
    return ModelForecast(**values | {"layers": []} | fields)


def test_the_report_sets_forecast_beside_measurement():
    rows = [
        Row(label="float_onnx", stage="export_onnx", kind="onnx", packed_bytes=9000, latency_ms_p50=30.0),
        Row(label="onnx", stage="export_onnx", kind="onnx", packed_bytes=1300),
        Row(label="pack", stage="pack", kind="packed", after="onnx", packed_bytes=1100, latency_ms_p50=9.0),
    ]
    measured = measured_files(rows)
    assert measured["onnx"] == {"packed_bytes": 1100.0, "latency_ms": 9.0}
    found = Forecast(weights="checkpoint", threads=1, cpu="x", models=[model_of(), model_of(label="gone")], unfused=[])
    checks = compared(found, measured)
    assert [(one.model, one.what, round(one.off, 3)) for one in checks] == [
        ("onnx", "packed_bytes", 0.1),
        ("onnx", "latency_ms", -0.1),
    ]
    fresh = found.model_copy(update={"weights": "fresh", "unfused": [{"layer": "head", "reason": "why"}]})
    assert [one.what for one in compared(fresh, measured)] == ["latency_ms"]
    assert "1.00 kB" in str(found)
    assert "1.00 kB" not in str(fresh)
    assert "head: why" in str(fresh)
    asked = fresh.model_copy(update={"models": [model_of(asked_bytes=True)]})
    assert [one.what for one in compared(asked, measured)] == ["packed_bytes", "latency_ms"]
    assert "1.00 kB (asked for)" in str(asked)


def test_parts_add_up():
    layers = [
        LayerForecast(name=name, params=1, macs=2, packed_bytes=size, latency_ms=0.5)
        for name, size in (("backbone.a", 5), ("head.b", None), ("backbone.c", 7), ("head.d", 1))
    ]
    parts = {part.name: part for part in by_part(layers)}
    assert (parts["backbone"].packed_bytes, parts["backbone"].macs, parts["backbone"].latency_ms) == (12, 4, 1.0)
    assert parts["head"].packed_bytes is None


def test_time_goes_to_the_layers_whose_weights_a_kernel_reads(tmp_path):
    rng = np.random.default_rng(0)
    shapes = {"wide": (64, 64, 3, 3), "thin": (4, 64, 1, 1)}
    tensors = [numpy_helper.from_array(rng.normal(size=s).astype(np.float32), f"{n}.weight") for n, s in shapes.items()]
    nodes = [
        helper.make_node("Conv", ["images", "wide.weight"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Erf", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "thin.weight"], ["y"]),
    ]
    image = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 64, 64, 64])
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 64, 64])
    graph = helper.make_graph(nodes, "net", [image], [output], tensors)
    path = tmp_path / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9), path)
    seconds = seconds_by_layer(
        path,
        np.zeros((1, 64, 64, 64), np.float32),
        threads=1,
        layer_of=lambda name: next((layer for layer in shapes if name.startswith(f"{layer}.")), ""),
    )
    assert seconds.keys() == {"wide", "thin", BETWEEN}
    assert seconds["wide"] > seconds["thin"] > 0
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.long
def test_a_plan_that_prunes_to_a_size_is_forecast_at_that_size(recipe_file, tmp_path):
    def params(target):
        overrides = [f"stages.prune_structured.target={{{target}}}", "stages.prune_structured.round_to=2"]
        return foresee(recipe_file, tmp_path / target.split(":")[0], *overrides).models[-1].params

    assert params("packed_bytes: 3kB") < params("params: 0.9")
