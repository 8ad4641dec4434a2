"""Interleaved timing, its statistics, and inputs for strangers' models."""

import json
import time

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from benchmarks import latency as latency_script
from compress.errors import StageError
from compress.machine import latency_machine
from compress.runtime.latency import compare, measure_interleaved, random_inputs, speedup_of, summarize
from compress.runtime.session import open_session


def stranger(path, inputs):
    """A model that passes its inputs through."""
    nodes = [helper.make_node("Identity", [name], [f"{name}_out"]) for name in inputs]
    values = {name: helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()}
    outs = [helper.make_tensor_value_info(f"{name}_out", kind, shape) for name, (kind, shape) in inputs.items()]
    graph = helper.make_graph(nodes, "stranger", list(values.values()), outs)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def test_models_take_turns_and_the_first_place_rotates():
    order = []
    calls = {name: (lambda name=name: order.append(name)) for name in "abc"}
    ticks = []
    times = measure_interleaved(calls, warmup=1, runs=3, tick=ticks.append)
    assert ["".join(order[i : i + 3]) for i in range(0, 12, 3)] == ["cab", "abc", "bca", "cab"]
    assert ticks == [1, 2, 3, 4]
    assert all(times[name].shape == (3,) for name in "abc")


def test_percentiles_and_mean_of_known_times():
    row = summarize(np.arange(1, 102, dtype=float))
    assert row["latency_ms_p50"] == 51
    assert row["latency_ms_p90"] == 91
    assert row["latency_ms_p99"] == 100
    assert row["latency_ms_mean"] == 51
    assert row["latency_ms_min"] == 1


def test_the_speedup_interval_holds_the_truth_and_shared_noise_does_not_widen_it():
    rng = np.random.default_rng(0)
    noise = rng.lognormal(0, 0.3, 60)
    ratio = speedup_of(10 * noise, 5 * noise)
    assert ratio == {"speedup_p50": 2.0, "speedup_low": 2.0, "speedup_high": 2.0}
    apart = speedup_of(10 * rng.lognormal(0, 0.1, 60), 5 * rng.lognormal(0, 0.1, 60))
    assert apart["speedup_low"] < 2 < apart["speedup_high"]


def test_a_slower_function_shows_a_speedup_below_one():
    result = compare({"quick": lambda: None, "slow": lambda: time.sleep(0.002)}, warmup=1, runs=5)
    assert result["reference"] == "quick"
    assert result["ratios"]["slow"]["speedup_p50"] < 0.5
    assert result["models"]["slow"]["latency_ms_p50"] >= 2


def test_any_input_gets_its_shape_and_type(tmp_path):
    path = stranger(
        tmp_path / "stranger.onnx",
        {
            "image": (TensorProto.FLOAT, ["n", 3, "h", "w"]),
            "nhwc": (TensorProto.UINT8, [1, "h", "w", 3]),
            "ids": (TensorProto.INT64, ["n", "length"]),
            "half": (TensorProto.FLOAT16, [1, 4]),
            "flag": (TensorProto.BOOL, []),
        },
    )
    session = open_session(path, threads=1)
    feeds = random_inputs(session, image_size=(10, 12), batch_size=2)
    assert {name: (array.dtype.name, array.shape) for name, array in feeds.items()} == {
        "image": ("float32", (2, 3, 10, 12)),
        "nhwc": ("uint8", (1, 10, 12, 3)),
        "ids": ("int64", (2, 1)),
        "half": ("float16", (1, 4)),
        "flag": ("bool", ()),
    }
    session.run(None, feeds)
    again = random_inputs(session, image_size=(10, 12), batch_size=2)
    assert all(np.array_equal(feeds[name], again[name]) for name in feeds)


def test_an_open_or_contradicted_picture_size_is_an_error(tmp_path):
    opened = open_session(stranger(tmp_path / "o.onnx", {"x": (TensorProto.FLOAT, [1, 3, "h", "w"])}))
    with pytest.raises(StageError, match="--image-size"):
        random_inputs(opened)
    fixed = open_session(stranger(tmp_path / "f.onnx", {"x": (TensorProto.FLOAT, [1, 3, 8, 8])}))
    with pytest.raises(StageError, match="is fixed"):
        random_inputs(fixed, image_size=(16, 16))


def test_the_environment_is_json():
    facts = json.loads(json.dumps(latency_machine()))
    assert facts["cpu"]
    assert facts["versions"]["onnxruntime"]


def test_the_script_measures_files_side_by_side(model_file, write_model, tmp_path, capsys, white_cells):
    import cv2

    other = write_model(tmp_path / "other.onnx")
    cv2.imwrite(str(tmp_path / "picture.png"), white_cells((128, 160), [(4, 4)]))
    record_file = tmp_path / "records" / "latency.json"
    arguments = [str(model_file), str(other), "--warmup", "1", "--runs", "4", "--end-to-end"]
    assert latency_script.main([*arguments, "--image", str(tmp_path / "picture.png"), "--json", str(record_file)]) == 0
    record = json.loads(record_file.read_text())
    assert list(record["network"]["models"]) == ["model.onnx", "other.onnx"]
    assert set(record["end_to_end"]["ratios"]) == {"other.onnx"}
    assert record["inputs"]["model.onnx"]["images"] == ["float32", 1, 3, 128, 160]
    assert record["files"]["other.onnx"]["bytes"] == other.stat().st_size
    assert "speedup over model.onnx" in capsys.readouterr().out


def test_the_script_explains_what_is_missing(tmp_path, capsys):
    path = stranger(tmp_path / "o.onnx", {"x": (TensorProto.FLOAT, [1, 3, "h", "w"])})
    assert latency_script.main([str(path)]) == 4
    assert "--image-size H W" in capsys.readouterr().err
    assert latency_script.main([str(path), "--image-size", "8", "8", "--runs", "3", "--end-to-end"]) == 4
    assert "--image FILE" in capsys.readouterr().err
