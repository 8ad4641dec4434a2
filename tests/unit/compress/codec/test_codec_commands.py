import json

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from compress.cli.packing import app


@pytest.fixture
def model(tmp_path):
    weights = numpy_helper.from_array(np.random.default_rng(0).binomial(9, 0.5, 900).astype(np.int8), "w")
    graph = helper.make_graph([], "graph", [], [helper.make_tensor_value_info("w", TensorProto.INT8, [900])], [weights])
    path = tmp_path / "model.onnx"
    path.write_bytes(helper.make_model(graph).SerializeToString())
    return path


def run(*args):
    return CliRunner().invoke(app, [str(arg) for arg in args])


def test_pack_verify_inspect_unpack_in_a_row(model, tmp_path):
    assert run("pack", model).exit_code == 0
    packed = model.with_suffix(".krimp")
    assert run("verify", packed).exit_code == 0
    (fact,) = json.loads(run("inspect", packed, "--json").stdout)
    assert (fact["name"], fact["elements"]) == ("w", 900)
    assert "w [" in run("inspect", packed).stdout
    assert run("unpack", packed, "-o", tmp_path / "again.onnx").exit_code == 0
    assert (tmp_path / "again.onnx").read_bytes() == model.read_bytes()


def test_a_damaged_file_exits_with_5_and_one_line(model):
    run("pack", model)
    packed = model.with_suffix(".krimp")
    packed.write_bytes(packed.read_bytes()[:-1])
    result = run("verify", packed)
    assert result.exit_code == 5
    assert result.stderr.count("\n") == 1
    assert "truncated" in result.stderr


@pytest.mark.parametrize("command", ["pack", "unpack", "verify", "inspect"])
def test_help_shows_an_example(command):
    assert f"krimp {command}" in run(command, "--help").stdout


def test_the_input_is_never_written_over(model):
    content = model.read_bytes()
    result = run("pack", model, "-o", model)
    assert (result.exit_code, model.read_bytes()) == (5, content)
    assert "would be lost" in result.stderr
    run("pack", model)
    packed = model.with_suffix(".krimp")
    content = packed.read_bytes()
    assert run("unpack", packed, "-o", packed).exit_code == 5
    assert packed.read_bytes() == content
