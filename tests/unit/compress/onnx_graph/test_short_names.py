"""Short names in the file, full names beside it."""

from __future__ import annotations

import json

import onnx
import pytest
import torch
from onnx import numpy_helper
from qdq_net import Net, assert_same_numbers, copied
from quantized_lookalike import Lookalike, images_of
from typer.testing import CliRunner

from compress import codec
from compress.cli.packing import app
from compress.errors import CodecError
from compress.export import export_onnx
from compress.names_file import names_beside, read_names, write_names
from compress.onnx_graph.fusion import unfused_convolutions
from compress.onnx_graph.short_names import restore_names, shorten_names
from compress.quantization import QuantizationSettings, calibrate, quantize

torch.set_num_threads(1)
DETECTOR = Lookalike()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Return the paths of a network with full and with short names, and the table of the latter."""
    model = quantize(DETECTOR.build(), QuantizationSettings(), DETECTOR)
    calibrate(model, images_of(DETECTOR))
    folder = tmp_path_factory.mktemp("names")
    full, short = folder / "full.onnx", folder / "short" / "model.onnx"
    short.parent.mkdir()
    export_onnx(model, full, detector=DETECTOR, names="full")
    names = export_onnx(model, short, detector=DETECTOR)["names"]
    write_names(short.parent, names)
    return full, short, names


def test_short_names_compute_the_same_and_tell_the_layers():
    before = Net().conv("stem.a", 12).depthwise("block.b").conv("head.c", 6, kernel=3).model()
    after = copied(before)
    names = shorten_names(after.graph)
    after.graph.output[0].name = before.graph.output[0].name
    assert_same_numbers(before, after)
    layers = [names[node.output[0]] for node in after.graph.node if node.op_type == "Conv"]
    assert layers == ["stem.a/Conv", "block.b/Conv", "head.c/Conv"]
    stored = {names[t.name]: numpy_helper.to_array(t).tolist() for t in after.graph.initializer if t.name in names}
    assert stored["block.b.weight"] == next(
        numpy_helper.to_array(t).tolist() for t in before.graph.initializer if t.name == "block.b.weight"
    )
    assert all(len(t.name) == 4 for t in after.graph.initializer)
    assert not any(node.name for node in after.graph.node)


def test_what_does_the_same_in_two_layers_differs_by_their_number_alone():
    graph = Net().conv("a.x", 8).conv("b.x", 8).conv("c.x", 8).model().graph
    shorten_names(graph)
    first, second = [
        [name.replace(f"00{n}", "") for node in graph.node for name in node.output if f"00{n}" in name] for n in (1, 2)
    ]
    assert first == second


def test_many_values_before_one_layer_still_have_names_of_their_own():
    net = Net()
    for _ in range(40):
        net.quantize(net.value)
    graph = net.conv("a.x", 4).model().graph
    shorten_names(graph)
    outputs = [name for node in graph.node for name in node.output]
    assert len(set(outputs)) == len(outputs)


def test_a_name_of_an_output_is_not_taken_twice():
    model = Net().conv("a.x", 8).conv("b.x", 8).model()
    model.graph.output[0].name = model.graph.node[-1].output[0] = "a000"
    after = copied(model)
    shorten_names(after.graph)
    assert_same_numbers(model, after)


def test_full_names_come_back(files):
    full, short, names = (onnx.load(str(files[0])), onnx.load(str(files[1])), files[2])
    restore_names(short.graph, names)
    assert [n.name for n in short.graph.node if "/" in n.name] == [n.name for n in full.graph.node if "/" in n.name]
    assert {t.name for t in short.graph.initializer} >= {t.name for t in full.graph.initializer if "." in t.name}


def test_short_names_pack_smaller(files, tmp_path):
    sizes = [codec.pack_file(file, tmp_path / f"{index}.krimp").packed_bytes for index, file in enumerate(files[:2])]
    assert sizes[1] < sizes[0] - 300


def test_the_convolutions_that_are_not_fused_are_named_by_their_layers(files):
    full, short, names = files
    reasons = DETECTOR.not_quantizable(DETECTOR.build())
    assert unfused_convolutions(short, reasons, names) == unfused_convolutions(full, reasons)


def test_inspect_finds_the_names_beside_the_file_or_takes_those_it_is_given(files, tmp_path):
    short = files[1]
    packed, elsewhere = short.with_suffix(".krimp"), tmp_path / "elsewhere.krimp"
    codec.pack_file(short, packed)
    elsewhere.write_bytes(packed.read_bytes())

    def listed(*arguments):
        result = CliRunner().invoke(app, ["inspect", *map(str, arguments), "--json"])
        return {fact["name"] for fact in json.loads(result.stdout)}

    assert "neck.smooth.weight" in listed(packed)
    assert "neck.smooth.weight" not in listed(elsewhere)
    assert listed(elsewhere, "--names", short.parent / "names.json") == listed(packed)


@pytest.mark.parametrize("text", ["", "[1]", '{"a": 1}', '{"a"'])
def test_a_table_of_something_else_is_refused(tmp_path, text):
    (tmp_path / "names.json").write_text(text)
    with pytest.raises(CodecError, match=r"names\.json: (cannot be read|is no table of names)"):
        read_names(tmp_path / "names.json")


def test_no_table_means_no_names(tmp_path):
    assert names_beside(tmp_path / "model.krimp") == {}


def test_packing_hands_the_names_on(files, tmp_path):
    from types import SimpleNamespace

    from compress.stages.pack import Pack

    source = SimpleNamespace(facts={}, file=lambda name: files[1].parent / name)
    Pack().run(SimpleNamespace(source=source, folder=tmp_path))
    assert read_names(tmp_path / "names.json") == files[2]


def test_a_float_network_keeps_its_names_unless_short_ones_are_asked_for(tmp_path):
    model = DETECTOR.build().eval()
    assert export_onnx(model, tmp_path / "full.onnx", detector=DETECTOR)["names"] == {}
    names = export_onnx(model, tmp_path / "short.onnx", detector=DETECTOR, names="short")["names"]
    assert "neck.smooth.weight" in names.values()
    stored = {tensor.name for tensor in onnx.load(str(tmp_path / "full.onnx")).graph.initializer}
    assert "neck.smooth.weight" in stored
