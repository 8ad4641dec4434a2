"""The public face: what `import krimp` offers, on a model file whose detections are known and on the fake stages."""

import json
import re
import subprocess
import sys
from pathlib import Path

import cv2
import engine_fakes
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import krimp
from compress.engine import pipeline
from compress.errors import CodecError, DetectorError, RecipeError, StageError
from compress.runtime.found import Found

ROOT = Path(__file__).parents[3]
ZOO = ROOT / "detectors" / "dcfl" / "zoo" / "dcfl_mbv2_hituav.krimp"
RECORDS = [
    {
        "class": "car",
        "label": 1,
        "score": 0.9,
        "box": [20.0, 10.0, 8.0, 4.0, np.pi / 2],
        "corners": [22.0, 6.0, 22.0, 14.0, 18.0, 14.0, 18.0, 6.0],
    },
    {
        "class": "person",
        "label": 0,
        "score": 0.5,
        "box": [4.0, 4.0, 2.0, 2.0, 0.0],
        "corners": [3.0, 3.0, 5.0, 3.0, 5.0, 5.0, 3.0, 5.0],
    },
]
FOUND = Found(RECORDS, ("person", "car"), (32, 48))


@pytest.fixture
def recipe_file(tmp_path, fake_stages, monkeypatch):
    monkeypatch.setattr(pipeline, "preload", lambda detector, stages: None)
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"name: small\ndetector: {{plugin: '{engine_fakes.NAME}'}}\n"
        "stages:\n  - {stage: qat}\n  - {stage: export_onnx}\n  - {stage: pack}\n  - {stage: report}\n"
    )
    return path


def test_importing_krimp_loads_nothing_else():
    code = (
        "import sys; before = set(sys.modules); import krimp; new = set(sys.modules) - before;"
        "assert not {name for name in new if name.startswith(('compress', 'numpy', 'torch'))}, new;"
        "krimp.Predictor, krimp.run, krimp.pack, krimp.open_session;"
        "heavy = {'torch', 'onnx', 'brevitas', 'matplotlib'} & set(sys.modules); assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_public_name_is_there_documented_and_what_a_type_checker_is_told():
    text = (ROOT / "krimp.py").read_text()
    for name in krimp.__all__:
        value = getattr(krimp, name)
        assert value.__doc__, name
        (line,) = re.findall(rf"from ([\w.]+) import (\w+) as {name}\n", text)
        assert krimp._PLACES[name] == line
    assert set(krimp._PLACES) == set(krimp.__all__)
    assert set(krimp.__all__) <= set(dir(krimp))
    assert krimp.__version__ is None or re.fullmatch(r"\d+\.\d+\.\d+", krimp.__version__)
    with pytest.raises(AttributeError, match="no attribute 'pakc'"):
        _ = krimp.pakc


def test_a_plan_is_decisions_as_data(recipe_file, tmp_path):
    planned = krimp.plan(recipe_file, out=tmp_path / "out")
    assert [decision.planned.label for decision in planned] == ["float", "qat", "export_onnx", "pack", "report"]
    assert {decision.state for decision in planned} == {"run"}
    assert planned.to_json()["stages"][1] == {
        "label": "qat", "stage": "qat", "folder": "01_qat", "state": "run", "reasons": ["not made yet"],
        "inputs": {"source": "float"},
    }  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_a_run_gives_artifacts_facts_and_the_report(recipe_file, tmp_path, capsys):
    result = krimp.run(recipe_file, out=tmp_path / "out")
    assert list(result.artifacts) == ["float", "qat", "export_onnx", "pack", "report"]
    assert result.facts["pack"]["params"] == 1234567
    assert result.report == tmp_path / "out" / "small" / "04_report" / "report.md"
    assert result.requirements_met
    assert capsys.readouterr().out == ""
    assert all(one.was_cached for one in krimp.run(str(recipe_file), out=str(tmp_path / "out")).results)


def test_overrides_come_as_a_mapping_of_paths_and_as_keywords(recipe_file, tmp_path):
    krimp.run(recipe_file, out=tmp_path)
    changed = krimp.plan(recipe_file, {"stages.qat.bit_width": 4}, out=tmp_path)
    assert changed.decisions[1].reasons == ("bit_width 7 -> 4",)
    assert krimp.plan(recipe_file, out=tmp_path, **{"stages.qat.bit_width": 4}) == changed
    assert krimp.plan(recipe_file, out=tmp_path, seed=3).decisions[0].reasons == ("seed 0 -> 3",)
    assert [one.planned.label for one in krimp.plan(recipe_file, out=tmp_path, until="qat")] == ["float", "qat"]
    with pytest.raises(RecipeError, match="unknown field 'bitwidth'"):
        krimp.run(recipe_file, {"stages.qat.bitwidth": 4}, out=tmp_path)


def test_a_missed_limit_is_told_and_raises_nothing(recipe_file, tmp_path, monkeypatch):
    entry = {"name": "min_map50", "value": 0.1, "limit": 0.3, "ok": False, "how": "map50 of pack"}
    monkeypatch.setattr(engine_fakes.FakeReport, "run", lambda self, context: {"requirements": [entry]})
    result = krimp.run(recipe_file, out=tmp_path)
    assert not result.requirements_met
    assert result.missed == ["report: min_map50 is 0.1, limit 0.3 (map50 of pack)"]
    assert result.requirements == [{"report": "report", **entry}]


def test_a_shipped_recipe_is_found_by_name(tmp_path, monkeypatch):
    from compress.recipe.shipped import find_recipe

    monkeypatch.chdir(tmp_path)
    assert find_recipe(Path("demo")).is_file()
    with pytest.raises(RecipeError, match="no such file"):
        krimp.plan("no_such_recipe")


def test_found_objects_are_arrays_of_known_shapes():
    assert len(FOUND) == 2
    assert (FOUND.scores.dtype, FOUND.class_ids.dtype, FOUND.boxes.dtype) == (np.float32, np.int64, np.float32)
    assert FOUND.class_ids.tolist() == [1, 0]
    assert FOUND.class_names == ["car", "person"]
    assert FOUND.boxes.shape == (2, 5)
    assert FOUND.corners.tolist()[0] == [[22, 6], [22, 14], [18, 14], [18, 6]]
    assert FOUND.xyxy.tolist() == [[18, 6, 22, 14], [3, 3, 5, 5]]
    assert json.loads(json.dumps(FOUND.to_json())) == RECORDS


def test_a_picture_without_objects_gives_empty_arrays():
    nothing = Found([], ("person",), (8, 8))
    shapes = [a.shape for a in (nothing.boxes, nothing.corners, nothing.xyxy, nothing.scores, nothing.class_ids)]
    assert shapes == [(0, 5), (0, 4, 2), (0, 4), (0,), (0,)]
    assert nothing.to_json() == nothing.class_names == []


def test_records_that_lack_a_field_are_named():
    bare = Found([{"class": "a", "score": 0.5}], ("a",), (8, 8))
    assert bare.scores.tolist() == [0.5]
    with pytest.raises(DetectorError, match="'corners'"):
        _ = bare.corners


def test_without_supervision_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(StageError, match="pip install supervision"):
        FOUND.to_supervision()


class StandIn:
    """Has the part of supervision that is used: its names, and the checks of `Detections`."""

    CLASS_NAME_DATA_FIELD, ORIENTED_BOX_COORDINATES = "class_name", "xyxyxyxy"

    class Detections:
        def __init__(self, xyxy, mask=None, confidence=None, class_id=None, tracker_id=None, data=None, metadata=None):
            count = len(xyxy)
            assert xyxy.shape == (count, 4)
            assert confidence.shape == class_id.shape == (count,)
            assert all(len(value) == count for value in data.values())
            self.xyxy, self.confidence, self.class_id, self.data = xyxy, confidence, class_id, data


@pytest.mark.parametrize("found", [FOUND, Found([], ("person", "car"), (8, 8))], ids=["two", "none"])
def test_supervision_gets_upright_boxes_and_the_corners_of_the_rotated_ones(found, monkeypatch):
    try:
        import supervision
    except ImportError:
        monkeypatch.setitem(sys.modules, "supervision", StandIn)
        monkeypatch.setitem(sys.modules, "supervision.config", StandIn)
        supervision = StandIn
    detections = found.to_supervision()
    assert isinstance(detections, supervision.Detections)
    np.testing.assert_array_equal(detections.xyxy, found.xyxy)
    np.testing.assert_array_equal(detections.confidence, found.scores)
    np.testing.assert_array_equal(detections.class_id, found.class_ids)
    assert list(detections.data["class_name"]) == found.class_names
    assert detections.data["xyxyxyxy"].shape == (len(found), 4, 2)


@pytest.fixture(scope="module")
def street(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures") / "photo.jpg"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (200, 240, 3), np.uint8))
    return path


def test_a_predictor_sees_what_the_command_writes(street, tmp_path):
    from compress.cli.main import main

    predictor = krimp.Predictor(ZOO, score_threshold=0.01, threads=1)
    from_file, from_array = predictor.detect(street), predictor.detect(cv2.imread(str(street)))
    assert main(["detect", str(ZOO), str(street), "--out", str(tmp_path), "--score", "0.01", "--threads", "1"]) == 0
    (image,) = json.loads((tmp_path / "detections.json").read_text())["images"]
    assert from_file.to_json() == from_array.to_json() == image["detections"]
    assert len(from_file) > 0
    assert from_file.image_size == (200, 240)
    assert predictor.classes == from_file.classes
    assert predictor.image_size == tuple(predictor.meta["image_size"])


def test_a_file_that_is_no_model_is_refused(tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"no model")
    with pytest.raises(CodecError):
        krimp.Predictor(tmp_path / "a.onnx")
    with pytest.raises(krimp.CompressError, match="no such file"):
        krimp.open_session(str(tmp_path / "b.onnx"))


@pytest.mark.long
def test_a_file_is_packed_inspected_verified_and_unpacked(tmp_path):
    original = krimp.load(ZOO)
    (tmp_path / "a.onnx").write_bytes(original)
    facts = krimp.pack(tmp_path / "a.onnx", tmp_path / "a.krimp")
    assert facts.packed_bytes == (tmp_path / "a.krimp").stat().st_size
    assert krimp.verify(tmp_path / "a.krimp") is None
    assert sum(tensor.packed_bytes for tensor in krimp.inspect(tmp_path / "a.krimp")) < facts.packed_bytes
    krimp.unpack(tmp_path / "a.krimp", tmp_path / "b.onnx")
    assert (tmp_path / "b.onnx").read_bytes() == original
    assert krimp.open_session(str(tmp_path / "a.krimp"), threads=1).get_inputs()[0].shape[1] == 3


def from_python():
    """Return the python blocks below the heading `From Python` of the README."""
    text = (ROOT / "README.md").read_text()
    section = re.search(r"^#+ From Python\n(.*?)(?=^#+ |\Z)", text, flags=re.MULTILINE | re.DOTALL)[1]
    return re.findall(r"^```python\n(.*?)^```", section, flags=re.MULTILINE | re.DOTALL)


def test_the_readme_has_examples():
    assert len(from_python()) >= 3


def small_network():
    """Return an ONNX file whose packed form has a coded tensor."""
    weights = numpy_helper.from_array(np.random.default_rng(0).binomial(9, 0.5, 900).astype(np.int8), "w")
    graph = helper.make_graph([], "graph", [], [helper.make_tensor_value_info("w", TensorProto.INT8, [900])], [weights])
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString()


@pytest.mark.parametrize("number", range(len(from_python())))
def test_the_examples_of_the_readme_run(number, recipe_file, street, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "model.krimp").write_bytes(ZOO.read_bytes())
    (tmp_path / "model.onnx").write_bytes(small_network())
    (tmp_path / "photo.jpg").symlink_to(street)
    code = from_python()[number]
    assert code.count("\n") <= 6
    exec(compile(code, f"README.md, block {number}", "exec"), {})
