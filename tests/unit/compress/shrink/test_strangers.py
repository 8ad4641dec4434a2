"""What strangers' files hold besides networks and pictures: told in words, or worked around, never a traceback."""

from __future__ import annotations

import io
import json
import math
import os
import zipfile

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from small_nets import SIDE, write_net, write_pictures

from compress import codec
from compress.cli.main import main
from compress.errors import CodecError, DataError
from compress.onnx_graph.short_names import shorten_names
from compress.post_training.ranges import ValueHistogram
from compress.shrink import limits
from compress.shrink.files import Request, _try, check, opened
from compress.shrink.importance import OutputDistance
from compress.shrink.network import open_network
from compress.shrink.observe import observe
from compress.shrink.rounding import choosers
from compress.shrink.telling import _plain


def edited(path, edit, **how):
    """Write the small network with a change, and return its path."""
    model = onnx.load(write_net(path, **how))
    edit(model)
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_that_are_no_numbers_are_refused(tmp_path, value):
    def spoil(model):
        weight = numpy_helper.to_array(model.graph.initializer[0]).copy()
        weight.flat[3] = value
        model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, model.graph.initializer[0].name))

    with pytest.raises(CodecError, match=r"net\.onnx: the weight '.*stem.*' holds NaN or infinity"):
        open_network(edited(tmp_path / "net.onnx", spoil))


def list_all(model):
    for one in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(one.name, TensorProto.FLOAT, list(one.dims)))


def test_constants_that_an_old_exporter_lists_as_inputs_are_constants(tmp_path):
    network = open_network(edited(tmp_path / "net.onnx", list_all))
    assert list(network.inputs) == ["images"]
    assert len(network.model.graph.input) == 1
    assert len(network.linears) == 6
    assert {node.op_type for node in network.model.graph.node} == {"Conv", "Relu", "Add"}  # norms were folded


def test_short_names_leave_a_constant_that_may_be_fed_its_name(tmp_path):
    graph = onnx.load(edited(tmp_path / "net.onnx", list_all)).graph
    assert not any("weight" in name for name in shorten_names(graph).values())
    assert {one.name for one in graph.initializer} <= {one.name for one in graph.input}


def archive(path, **arrays):
    np.savez_compressed(path, **arrays)


def declaring(path, shape):
    """Write an archive whose array says that it is larger than it is."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(path, "w") as opened:
        opened.writestr("images.npy", header.getvalue() + b"\0" * 64)


IMAGE = np.zeros((1, 3, SIDE, SIDE), np.float32)


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda path: path.write_bytes(b"PK\3\4 no archive"), "not a zip file"),
        (lambda path: path.write_bytes(b""), "not a zip file"),
        (lambda path: np.save(path.open("wb"), IMAGE), "not a zip file"),
        (lambda path: path.mkdir(), "Is a directory"),
        (lambda path: os.mkfifo(path), "device or pipe"),
        (lambda path: archive(path, others=IMAGE), "no array images. It has others"),
        (lambda path: archive(path, images=IMAGE[0]), "images is 3x48x48, and the network takes 1x3x"),
        (lambda path: archive(path, images=np.array([[[[{}]]]])), "images is 1x1x1x1"),
        (lambda path: archive(path, images=IMAGE + np.float32("nan")), "holds NaN or infinity"),
        (lambda path: archive(path, images=IMAGE - np.float32("inf")), "holds NaN or infinity"),
        (lambda path: declaring(path, (1, 3, 60_000, 60_000)), "43,200,000,000 bytes, more than the 1,073,741,824"),
        (lambda path: declaring(path, (1, 3, 48, 48)), "EOF|expected"),
    ],
)
def test_archives_that_are_no_inputs_are_told_before_they_take_memory(tmp_path, write, words):
    write(tmp_path / "a.npz")
    model = write_net(tmp_path / "net.onnx", size=(1, 3, "h", "w"))
    with pytest.raises(DataError, match=rf"a\.npz.*({words})"):
        (inputs := opened(Request(model, tmp_path))[1]).one(inputs.files[0])


def with_output(op, kind, **how):
    def edit(model):
        model.graph.node.append(helper.make_node(op, ["scores.out"], ["odd\nname"], **how))
        value = helper.make_tensor_value_info("odd\nname", TensorProto.FLOAT, None)
        model.graph.output.append(helper.make_tensor_sequence_value_info("odd\nname", 1, None) if kind else value)

    return edit


def try_first(request):
    network, inputs = opened(request)
    _try(network.given, inputs)


def test_outputs_that_are_no_tensors_are_told_and_those_without_a_number_too(tmp_path):
    pictures = write_pictures(tmp_path / "pictures", 1)
    model = edited(tmp_path / "net.onnx", with_output("SplitToSequence", True, axis=1))
    with pytest.raises(DataError, match=r"p00\.png: output 'odd\\nname' is no tensor"):
        try_first(Request(model, pictures))

    def all_nan(model):
        del model.graph.output[:]
        model.graph.node.append(helper.make_node("Sub", ["boxes.out", "huge"], ["far"]))
        model.graph.initializer.append(numpy_helper.from_array(np.array([np.inf], np.float32), "huge"))
        model.graph.output.append(helper.make_tensor_value_info("far", TensorProto.FLOAT, None))

    with pytest.raises(DataError, match="hold no finite number"):
        try_first(Request(edited(tmp_path / "nan.onnx", all_nan), pictures))


def test_an_output_that_is_partly_no_number_is_compared_where_it_is_one(tmp_path):
    expected = np.array([[[1.0, np.nan], [np.inf, 2.0]]], np.float32)
    distance = OutputDistance([[expected], [expected + 1]])
    moved = np.array([[[1.5, 7.0], [9.0, 2.0]]], np.float32)
    assert 0 < distance.of([moved], [expected]) < math.inf
    assert distance.of([expected], [expected]) == 0
    assert distance.of([expected * np.float32("nan")], [expected]) == math.inf
    model, packed = edited(tmp_path / "net.onnx", with_output("Log", False)), tmp_path / "net.krimp"
    codec.pack_file(model, packed)
    feed = {"images": np.full((1, 3, SIDE, SIDE), 0.5, np.float32)}
    check(open_network(model), onnx.load(model), packed, model, feed)  # NaN is NaN in both


def test_a_mask_of_minus_infinity_does_not_spoil_what_is_learnt(tmp_path):
    def mask(model):
        model.graph.node.append(helper.make_node("Add", ["scores.out", "mask"], ["masked"]))
        model.graph.node.append(helper.make_node("Softmax", ["masked"], ["shares"], axis=-1))
        model.graph.output.append(helper.make_tensor_value_info("shares", TensorProto.FLOAT, None))
        model.graph.initializer.append(
            numpy_helper.from_array(np.where(np.arange(24) > 20, -np.inf, 0).astype(np.float32), "mask")
        )

    network = open_network(edited(tmp_path / "net.onnx", mask))
    seen = observe(network, lambda: [{"images": np.full((1, 3, SIDE, SIDE), 0.5, np.float32)}])
    plain, masked = (seen.histograms[name] for name in ("scores.out", "masked"))
    assert -math.inf < masked.low <= 0 <= masked.high < math.inf
    assert masked.counts.sum() == plain.counts.sum() * 21 / 24
    histogram = ValueHistogram(-1.0, 1.0)
    histogram.add(np.array([-np.inf, np.inf, np.nan, 0.5], np.float32))
    assert histogram.counts.sum() == 1


def test_inputs_too_large_for_their_squares_are_told(tmp_path):
    network = open_network(write_net(tmp_path / "net.onnx"))
    seen = observe(network, lambda: [{"images": np.full((1, 3, SIDE, SIDE), 1e30, np.float32)}])
    importance = {name: np.ones(len(network.matrix(one))) for name, one in network.linears.items()}
    with pytest.raises(DataError, match="no finite number or too large"):
        choosers(network, seen, importance, largest_code=127)


def test_what_is_no_finite_number_is_null_in_the_report():
    data = {"a": [math.inf, 1, True, None, "x"], "b": {"c": np.float32(0.5), "d": math.nan}}
    assert json.dumps(_plain(data), allow_nan=False) == '{"a": [null, 1, true, null, "x"], "b": {"c": 0.5, "d": null}}'


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--max-drop", "inf"), "--max-drop inf: expected a finite number"),
        (("--scale", "nan"), "--scale nan: expected a finite number"),
        (("--std", "inf"), "--std 'inf'"),
        (("--size", "99999x99999"), "pixels that are allowed"),
    ],
)
def test_numbers_that_are_none_are_told(tmp_path, capfd, more, words):
    model = write_net(tmp_path / "net.onnx", size=(1, 3, "h", "w"))
    pictures = write_pictures(tmp_path / "pictures", 1)
    assert main(["shrink", *map(str, (model, "--data", pictures, "--out", tmp_path / "out")), *more]) in (3, 4)
    assert words in capfd.readouterr().err


def test_a_place_that_takes_no_file_is_told_before_the_work(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr("compress.shrink.files.judged_by", lambda *_: pytest.fail("work was begun"))
    (tmp_path / "out" / "net.krimp").mkdir(parents=True)
    model, pictures = write_net(tmp_path / "net.onnx"), write_pictures(tmp_path / "pictures", 1)
    assert main(["shrink", *map(str, (model, "--data", pictures, "--out", tmp_path / "out"))]) == 3
    assert "net.krimp: is a folder, expected the name of a file to write" in capfd.readouterr().err


def test_what_is_read_is_not_written_over_even_with_force(tmp_path, capfd):
    model, pictures = write_net(tmp_path / "p00.onnx"), write_pictures(tmp_path / "pictures", 2)
    (pictures / "p01.png").rename(pictures / "p00.input.png")
    before = (pictures / "p00.input.png").read_bytes()
    assert main(["shrink", *map(str, (model, "--data", pictures, "--out", pictures)), "--force"]) == 3
    assert "p00.input.png: is read, and would be written over" in capfd.readouterr().err
    assert (pictures / "p00.input.png").read_bytes() == before


@pytest.mark.long
def test_names_of_strangers_stay_in_their_line_and_a_second_run_learns_from_the_same_pictures(
    tmp_path, capfd, monkeypatch
):
    monkeypatch.setattr(limits, "CURVE", limits.CURVE[:1])

    def rename(model):
        model.graph.output[0].name = "sc\x1b[2J\nwhole|`<b>\u202e"
        for node in model.graph.node:
            if node.output[0] == "scores.out":
                node.output[0] = model.graph.output[0].name

    model = tmp_path / os.fsdecode(b"\xffx](http) \n# forged.onnx")
    edited(tmp_path / "net.onnx", rename).rename(model)
    write_pictures(tmp_path, 4)
    asked = ["shrink", *map(str, (model, "--data", tmp_path, "--out", tmp_path)), "--weights-only"]
    learnt = []
    for _ in range(2):
        assert main(asked) == 0
        (document,) = tmp_path.glob("*.shrink.json")
        learnt.append(json.loads(document.read_text())["learnt_pictures"])
    assert learnt == [2, 2]
    (told,) = tmp_path.glob("*.shrink.md")
    words = told.read_text()
    assert all(letter.isprintable() or letter == "\n" for letter in words)
    assert not [line for line in words.splitlines() if line.startswith(("whole", "# forged"))]
    assert "![the picture, and as it enters](%FFx%5D%28http%29%20%0A%23%20forged.input.png)" in words
    shown = "".join(capfd.readouterr())
    assert all(letter.isprintable() or letter == "\n" for letter in shown)
