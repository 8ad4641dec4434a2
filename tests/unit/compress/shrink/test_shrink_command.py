"""`krimp shrink` as a person types it, on a network and pictures of this test's own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from colour_cells import write as write_detector
from onnx import TensorProto, helper, numpy_helper
from small_nets import SIDE, write_net, write_pictures

from compress import codec
from compress.cli.main import main
from compress.shrink import shrinking
from compress.shrink.network import open_network
from compress.shrink.observe import session_of

NAMES = ("net.small.onnx", "net.krimp", "net.shrink.md", "net.shrink.json", "net.input.png")


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    folder = tmp_path_factory.mktemp("given")
    return write_net(folder / "net.onnx"), write_pictures(folder / "pictures")


@pytest.fixture(scope="module")
def shrunk(given, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    assert main(["shrink", *map(str, (given[0], "--data", given[1], "--out", out))]) == 0
    return out


def run(given, out, *more):
    return main(["shrink", str(given[0]), "--data", str(given[1]), "--out", str(out), *more])


def report(out):
    return json.loads((out / "net.shrink.json").read_text())


def test_it_leaves_a_small_file_its_packed_form_and_a_report(given, shrunk):
    assert sorted(one.name for one in shrunk.iterdir() if not one.name.startswith(".")) == sorted(NAMES)
    told = report(shrunk)
    assert codec.load(shrunk / "net.krimp") == (shrunk / "net.small.onnx").read_bytes()
    assert told["packed_bytes"] == (shrunk / "net.krimp").stat().st_size
    assert told["ratio"] > 2.5
    assert told["judge"]["kind"] == "outputs"
    assert told["preprocessing"].startswith(f"letterbox to {SIDE}x{SIDE} px, RGB")
    words = (shrunk / "net.shrink.md").read_text()
    assert "It cannot prove" in words or "cannot" in words
    assert "**taken**" in words
    shown = cv2.imread(str(shrunk / "net.input.png"))
    assert shown.shape[1] > 2 * SIDE


def test_the_reported_loss_is_that_of_the_file(given, shrunk):
    told = report(shrunk)
    network = open_network(given[0])
    small = session_of(onnx.load(shrunk / "net.small.onnx"))
    whole = session_of(network.model)
    pictures = sorted(given[1].iterdir())[1::2]
    errors = {}
    for name in network.outputs:
        difference = power = 0.0
        for file in pictures:
            feed = {"images": letterboxed(file)}
            (one,), (other,) = small.run([name], feed), whole.run([name], feed)
            difference += float(((one - other) ** 2).sum(dtype=np.float64))
            power += float((other**2).sum(dtype=np.float64))
        errors[name] = (difference / power) ** 0.5
    assert told["verdict"]["relative_errors"] == pytest.approx(errors, rel=1e-3)
    assert 0 < told["verdict"]["loss"] == pytest.approx(100 * np.mean(list(errors.values())), rel=1e-3)


def letterboxed(file):
    picture = cv2.imread(str(file))
    high, wide = picture.shape[:2]
    factor = min(SIDE / high, SIDE / wide)
    inner = round(high * factor), round(wide * factor)
    canvas = np.full((SIDE, SIDE, 3), 114, np.uint8)
    top, left = (SIDE - inner[0]) // 2, (SIDE - inner[1]) // 2
    canvas[top : top + inner[0], left : left + inner[1]] = cv2.resize(picture, inner[::-1])
    return np.ascontiguousarray(canvas[:, :, ::-1].transpose(2, 0, 1)[None] / np.float32(255), np.float32)


def test_repeating_it_works_and_a_file_of_somebody_is_kept(given, shrunk, capfd):
    before = {name: (shrunk / name).read_bytes() for name in NAMES if not name.endswith((".json", ".md"))}
    assert run(given, shrunk) == 0
    assert {name: (shrunk / name).read_bytes() for name in before} == before
    (shrunk / "net.krimp").write_bytes(b"mine")
    assert run(given, shrunk) == 3
    assert "net.krimp: there already" in capfd.readouterr().err
    assert (shrunk / "net.krimp").read_bytes() == b"mine"
    assert run(given, shrunk, "--force", "--weights-only") == 0


def test_a_size_and_a_loss_are_held(given, tmp_path):
    assert run(given, tmp_path, "--bytes", "4500", "--max-drop", "60") == 0
    told = report(tmp_path)
    assert 4500 * 0.98 <= told["packed_bytes"] <= 4500
    assert told["verdict"]["loss"] <= 60
    assert run(given, tmp_path / "loss", "--max-drop", "2") == 0
    assert report(tmp_path / "loss")["verdict"]["loss"] <= 2
    assert report(tmp_path / "loss")["packed_bytes"] > told["packed_bytes"]


@pytest.mark.parametrize(
    "asked", [("--bytes", "3500", "--max-drop", "0.5"), ("--max-drop", "0.001"), ("--bytes", "300")]
)
def test_what_nothing_holds_says_what_comes_nearest_and_writes_nothing(given, tmp_path, capfd, asked):
    assert run(given, tmp_path, *asked) == 1
    words = capfd.readouterr().err
    assert "Nothing was written" in words
    assert "with" in words
    assert not [one for one in tmp_path.iterdir() if one.name in NAMES]


def test_integers_that_are_slower_are_not_taken_and_it_is_said_why(given, tmp_path, monkeypatch):
    monkeypatch.setattr(shrinking.Shrinker, "fastest", lambda self, models: {"float": 10.0, "integers": 11.0})
    assert run(given, tmp_path) == 0
    told = report(tmp_path)
    assert not told["form"]["integers"]
    assert "integers are not faster here: 11.0 ms in integers, 10.0 ms in float" in told["form"]["why"]
    assert told["form"]["kernels"]["integers"]
    graph = onnx.load(tmp_path / "net.small.onnx").graph
    assert {node.op_type for node in graph.node} & {"QuantizeLinear", "DequantizeLinear"} == set()
    assert told["ratio"] > 3  # the codec finds integers and steps in the floats


def test_integers_that_are_faster_are_taken(given, tmp_path, monkeypatch):
    monkeypatch.setattr(shrinking.Shrinker, "fastest", lambda self, models: {"float": 10.0, "integers": 5.0})
    assert run(given, tmp_path) == 0
    told = report(tmp_path)
    assert told["form"]["integers"]
    graph = onnx.load(tmp_path / "net.small.onnx").graph
    stored = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    weights = [value for value in stored.values() if value.dtype == np.int8 and value.ndim == 4]
    assert len(weights) == 6
    assert max(np.abs(value).max() for value in weights) <= 63


def test_a_target_that_cannot_be_run_here_is_not_timed(given, tmp_path):
    assert run(given, tmp_path, "--target", "tensorrt") == 0
    told = report(tmp_path)
    assert told["latency"] is None
    assert "not run here" in (tmp_path / "net.shrink.md").read_text()
    graph = onnx.load(tmp_path / "net.small.onnx").graph
    stored = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    nodes = [node for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert nodes
    for node in nodes:
        if len(node.input) > 2:
            zero = stored[node.input[2]]
            assert zero.dtype != np.uint8
            assert not zero.any()


def test_arrays_are_fed_to_networks_of_several_inputs(tmp_path):
    rng = np.random.default_rng(0)
    shapes = {"left": [1, 24], "right": [1, 24]}
    weights = {name: rng.standard_normal((24, 48)).astype(np.float32) for name in ("a", "b")}
    nodes = [
        helper.make_node("MatMul", ["left", "a"], ["l"]),
        helper.make_node("MatMul", ["right", "b"], ["r"]),
        helper.make_node("Add", ["l", "r"], ["s"]),
        helper.make_node("Relu", ["s"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "two",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 48])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "net.onnx")
    (tmp_path / "arrays").mkdir()
    for number in range(6):
        values = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
        np.savez(tmp_path / "arrays" / f"{number}.npz", **values)
    given = tmp_path / "net.onnx", tmp_path / "arrays"
    assert run(given, tmp_path / "out", "--max-drop", "10") == 0
    assert report(tmp_path / "out")["preprocessing"] is None
    assert not (tmp_path / "out" / "net.input.png").exists()
    assert run(given, tmp_path / "again", "--bgr") == 3  # says nothing of arrays
    np.savez(tmp_path / "arrays" / "0.npz", left=np.zeros((1, 23), np.float32), right=np.zeros((1, 24), np.float32))
    assert run(given, tmp_path / "again") == 3


def test_boxes_are_judged_and_krimp_detect_runs_the_small_file(tmp_path):
    model = write_detector(tmp_path / "net.onnx")
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    rng = np.random.default_rng(0)
    for number in range(12):
        cells = (rng.random((6, 10, 3)) < 0.3).astype(np.uint8) * rng.integers(100, 255, (6, 10, 1), np.uint8)
        cells[:, :, 0] = 0
        cv2.imwrite(str(pictures / f"{number}.png"), np.kron(cells, np.ones((16, 16, 1), np.uint8)))
    assert run((model, pictures), tmp_path / "out", "--head", "yolov8", "--max-drop", "5") == 0
    told = report(tmp_path / "out")
    assert told["judge"]["kind"] == "agreement"
    assert told["judge"]["unit"] == "points of mAP50-95"
    found = tmp_path / "found"
    small = tmp_path / "out" / "net.krimp"
    assert main(["detect", str(small), str(pictures), "--out", str(found), "--no-pictures"]) == 0
    record = json.loads((found / "detections.json").read_text())
    assert sum(len(one["detections"]) for one in record["images"]) > 10


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        (("--bytes", "2 parsecs"), 4, "no size"),
        (("--size", "12"), 4, "Write HEIGHTxWIDTH"),
        (("--mean", "a,b"), 4, "expected numbers"),
        (("--mean", "1,2"), 3, "2 numbers, expected 3"),
        (("--std", "0,1,1"), 3, "above 0"),
        (("--size", "31x47"), 3, "does not take it"),
        (("--head", "yolov9000"), 3, "yolov8"),
        (("--head", "os:system"), 3, "--allow-code"),
        (("--head-option", "strides"), 4, "NAME=VALUE"),
        (("--value-range", "5,3"), 4, "the one that becomes 0"),
        (("--target", "abacus"), 2, "cpu-avx2"),
        (("--labels", "nowhere"), 3, "nowhere"),
    ],
)
def test_wrong_words_are_told(given, tmp_path, capfd, monkeypatch, more, code, words):
    monkeypatch.delenv("KRIMP_ALLOW_CODE", raising=False)
    assert run(given, tmp_path, *more) == code
    assert words in capfd.readouterr().err
    assert not [one for one in tmp_path.iterdir() if one.name in NAMES]


def test_missing_pictures_and_models_are_told(given, tmp_path, capfd):
    (tmp_path / "empty").mkdir()
    assert run((given[0], tmp_path / "empty"), tmp_path / "out") == 3
    assert "holds no picture" in capfd.readouterr().err
    assert run((tmp_path / "none.onnx", given[1]), tmp_path / "out") in (1, 5)
    assert "none.onnx" in capfd.readouterr().err


TRAINS = ("torch", "torchvision", "brevitas", "torch_pruning", "matplotlib", "onnxscript", "onnx_ir")


@pytest.mark.parametrize("missing", [TRAINS, ("onnx",)], ids=["what trains", "onnx"])
def test_it_needs_nothing_that_trains_and_says_what_it_does_need(given, tmp_path, missing):
    code = (
        "import sys\n"
        "class No:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.split('.')[0] in {missing!r}:\n"
        "            raise ModuleNotFoundError(name + ' is not here', name=name)\n"
        "sys.meta_path.insert(0, No())\n"
        "from compress.cli.main import main\n"
        f"sys.exit(main(['shrink', {str(given[0])!r}, '--data', {str(given[1])!r}, '--out', {str(tmp_path)!r}]))\n"
    )
    root = Path(__file__).parents[4]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    if missing == ("onnx",):
        assert done.returncode == 4
        assert "package 'onnx' is missing" in done.stderr
        assert "krimp[shrink]" in done.stderr
        return
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "net.krimp").exists()
