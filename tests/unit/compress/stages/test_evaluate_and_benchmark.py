"""The stages that measure: evaluate and benchmark, on a model small enough to know its answers."""

import json
import math
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from fake_plugin import FakePlugin
from onnx import TensorProto, helper
from pydantic import ValidationError

from compress import progress
from compress.actions.evaluate import plain_scores
from compress.breakdown import Breakdown, ImageOutcome, load_breakdown
from compress.codec import pack_file
from compress.dataset import METRICS, Picture, Scores
from compress.errors import StageError
from compress.kind import Kind
from compress.metrics.paired import load_resampled
from compress.runtime.profile import BETWEEN
from compress.stages.benchmark import Benchmark
from compress.stages.evaluate import Evaluate

META = {"mean": [0.0, 0.0, 0.0], "std": [255.0, 255.0, 255.0]}


class FakeDetector(FakePlugin):
    """Counts images; its network is a ReLU."""

    def __init__(self):
        self.seen = []

    def output_names(self):
        return ("y",)

    def metadata(self):
        return META

    def example_input(self, batch_size=1):
        import torch

        return torch.zeros(batch_size, 3, 8, 8)

    def loader(self, split, input_format, *, batch_size, augment, seed):
        raise AssertionError("no stage here trains")

    def images(self, split):
        self.split = split
        return [Picture("a", np.full((8, 8, 3), 128, np.uint8), "truth")] * 5

    def torch_deploy(self):
        def postprocess(raw, *, image_size, score_threshold):
            self.seen.append((self.split, raw[0].max()))
            return [[]]

        return SimpleNamespace(
            image_size=(8, 8),
            preprocess=lambda image, *, minimum_size: np.full((1, 3, 8, 8), -1, np.float32),
            postprocess=postprocess,
            tile_windows=lambda size, **_: [(0, 0, size[1], size[0])],
            merge=lambda parts, windows, *, image_size: parts[0],
        )

    def score(self, detections, truths):
        assert truths == ["truth"] * len(detections)
        return Scores(0.5, "area", 0.5, {"car": 0.5, "ship": math.nan}, 0.7, 0.6, 0.3, 12, len(detections), (0.4, 0.6))


@pytest.fixture
def artifacts(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3, 8, 8]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "relu", values[:1], values[1:])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9), folder / "model.onnx"
    )
    pack_file(folder / "model.onnx", folder / "model.krimp")
    facts = {"params": 7, "macs": 9, "sparsity": 0.25}

    def artifact(kind, label):
        return SimpleNamespace(path=folder, kind=kind, label=label, facts=facts, file=lambda name: folder / name)

    return {"float_onnx": artifact(Kind.ONNX, "float_onnx"), "pack": artifact(Kind.PACKED, "pack")}


def context(tmp_path, inputs, detector):
    folder = tmp_path / "result"
    folder.mkdir(exist_ok=True)
    return SimpleNamespace(
        folder=folder,
        inputs=inputs,
        source=inputs.get("source"),
        detector=detector,
        seed=0,
        device="cpu",
    )


@pytest.mark.parametrize("label", ["float_onnx", "pack"])
def test_an_exported_model_is_scored_and_its_bytes_are_those_of_the_files(tmp_path, artifacts, label):
    detector, source = FakeDetector(), artifacts[label]
    facts = Evaluate(limit=3, threads=1).run(context(tmp_path, {"source": source}, detector))
    assert detector.seen == [("val", 0)] * 3
    assert facts["of"] == label
    assert facts["scores"]["map50"] == 0.5
    assert facts["onnx_bytes"] == source.file("model.onnx").stat().st_size
    assert facts["packed_bytes"] == source.file("model.krimp").stat().st_size
    assert (facts["params"], facts["macs"], facts["sparsity"]) == (7, 9, 0.25)
    assert json.loads((tmp_path / "result" / "scores.json").read_text()) == json.loads(json.dumps(facts))


def test_the_resampled_map50_goes_into_a_file_of_its_own(tmp_path, artifacts):
    detector = FakeDetector()
    scores = Scores(0.5, "area", 0.5, {}, 0.7, 0.6, 0.3, 12, 5, (0.4, 0.6), np.linspace(0.4, 0.6, 7))
    detector.score = lambda detections, truths: scores
    facts = Evaluate(limit=3, threads=1).run(context(tmp_path, {"source": artifacts["pack"]}, detector))
    assert "map50_resampled" not in facts["scores"]
    assert load_resampled(tmp_path / "result").tolist() == pytest.approx(np.linspace(0.4, 0.6, 7))


def test_what_a_score_is_made_of_lies_beside_it_where_the_data_set_says_it(tmp_path, artifacts):
    detector = FakeDetector()
    Evaluate(limit=3, threads=1).run(context(tmp_path, {"source": artifacts["pack"]}, detector))
    assert load_breakdown(tmp_path / "result") is None
    asked = []

    def break_down(detections, truths, names):
        asked.append((len(detections), truths, names))
        return Breakdown(
            iou_threshold=0.5, background_iou=0.1, score_threshold=0.3, errors=[], curves=[], right_by_score=[],
            wrong_by_score=[], images=[ImageOutcome(name="a", objects=2, found=1, wrong=0)],
        )  # fmt: skip

    detector.break_down = break_down
    Evaluate(limit=3, threads=1).run(context(tmp_path, {"source": artifacts["pack"]}, detector))
    assert asked == [(3, ["truth"] * 3, ["a"] * 3)]
    assert load_breakdown(tmp_path / "result").images[0].missed == 1


def test_each_metric_has_its_resamples_beside_the_scores_and_images_without_objects_are_told(tmp_path, artifacts):
    detector = FakeDetector()
    drawn = {f"{metric}_resampled": np.linspace(0, 1, 5) + i for i, metric in enumerate(METRICS)}
    scores = Scores(0.0, "area", 0.5, {}, 0.0, 0.0, 0.3, 12, 5, map=0.0, map75=0.0, num_objects=0, **drawn)
    detector.score = lambda detections, truths: scores
    progress.clear_warnings()
    facts = Evaluate(limit=3, threads=1).run(context(tmp_path, {"source": artifacts["pack"]}, detector))
    for index, metric in enumerate(METRICS):
        assert load_resampled(tmp_path / "result", metric).tolist() == pytest.approx(np.linspace(0, 1, 5) + index)
    assert not any("resampled" in name for name in facts["scores"])
    assert (facts["scores"]["map"], facts["scores"]["num_objects"]) == (0.0, 0)
    (text,) = progress.collected_warnings()
    assert text.startswith("evaluate: no object in the 5 images scored of split 'val': map, map75, map50 and recall")


def test_a_class_without_truth_is_null_in_the_scores():
    scores = plain_scores(Scores(np.float64(0.5), "area", 0.5, {"ship": math.nan}, 0.1, 0.2, 0.3, 1, 1))
    assert scores["ap_per_class"] == {"ship": None}
    assert scores["map50_interval"] is None
    json.dumps(scores, allow_nan=False)


def test_a_torch_model_is_exported_and_packed_to_know_its_bytes(tmp_path):
    import torch

    from compress.model_folder import Build, save_model

    torch.set_num_threads(1)

    class TorchDetector(FakeDetector):
        def build(self):
            return torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 2, 1))

        def metadata(self):
            return META | {"plugin": "fake"}

        def not_quantizable(self, model):
            return {}

        def example_input(self, batch_size=1):
            return torch.randn(batch_size, 3, 8, 8, generator=torch.Generator().manual_seed(0))

        def output_names(self):
            return ("scores",)

    detector = TorchDetector()
    folder = tmp_path / "float"
    folder.mkdir()
    model = detector.build()
    with torch.no_grad():
        model[0].weight[:4] = 0
    save_model(folder, model, Build())
    source = SimpleNamespace(path=folder, kind=Kind.MODEL, label="float", facts={}, file=lambda name: folder / name)
    facts = Evaluate(limit=2).run(context(tmp_path, {"source": source}, detector))
    assert facts["params"] == 3 * 8 * 9 + 8 + 8 * 2 + 2
    assert facts["macs"] == 36 * (3 * 8 * 9 + 8 * 2)
    assert facts["sparsity"] == pytest.approx(108 / 232)
    assert 4 * facts["params"] < facts["onnx_bytes"]
    assert 0 < facts["packed_bytes"] < facts["onnx_bytes"]
    bare = Evaluate(limit=2, sizes=False).run(context(tmp_path, {"source": source}, detector))
    assert bare["onnx_bytes"] is None


def test_models_are_timed_in_turns_against_the_first(tmp_path, artifacts):
    stage = Benchmark(models=("float_onnx", "pack"), warmup=1, runs=4, end_to_end=False)
    assert stage.references() == ("float_onnx", "pack")
    assert stage.splits() == ()
    facts = stage.run(context(tmp_path, artifacts, FakeDetector()))
    assert facts["reference"] == "float_onnx"
    assert list(facts["models"]) == ["float_onnx", "pack"]
    assert facts["models"]["pack"]["latency_ms_p50"] > 0
    ratio = facts["ratios"]["pack"]
    assert ratio["speedup_low"] <= ratio["speedup_p50"] <= ratio["speedup_high"]
    assert (facts["threads"], facts["warmup"], facts["runs"], facts["batch_size"]) == (1, 1, 4, 1)
    assert json.loads((tmp_path / "result" / "latency.json").read_text())["cpu"] == facts["cpu"]
    assert set(facts["layers"]) == {"float_onnx", "pack"}
    assert facts["layers"]["pack"][BETWEEN] > 0  # a ReLU belongs to no layer


def test_end_to_end_runs_on_the_first_picture_of_the_split(tmp_path, artifacts, monkeypatch):
    pictures = []

    def preprocess(image, *, minimum_size):
        pictures.append(image)
        return image.transpose(2, 0, 1)[None].astype(np.float32)

    def postprocess(raw, *, image_size, score_threshold):
        assert image_size == (8, 8)
        return [[1, 2]]

    deploy = SimpleNamespace(
        image_size=(8, 8),
        preprocess=preprocess,
        postprocess=postprocess,
        tile_windows=lambda size, **_: [(0, 0, size[1], size[0])],
        merge=lambda parts, windows, *, image_size: parts[0],
    )
    monkeypatch.setattr("compress.actions.benchmark.deploy_of", lambda detector: deploy)
    stage = Benchmark(models=("pack",), warmup=0, runs=3, split="test")
    assert stage.splits() == ("test",)
    facts = stage.run(context(tmp_path, artifacts, FakeDetector()))
    assert facts["end_to_end"]["num_detections"] == {"pack": 2}
    assert facts["end_to_end"]["models"]["pack"]["latency_ms_p50"] > 0
    np.testing.assert_array_equal(pictures[0], np.full((8, 8, 3), 128))


def test_what_cannot_be_timed_is_refused(tmp_path, artifacts):
    artifacts["qat"] = SimpleNamespace(kind=Kind.QUANTIZED, label="qat")
    with pytest.raises(StageError, match="'qat' holds quantized, expected onnx or packed"):
        Benchmark(models=("pack", "qat")).run(context(tmp_path, artifacts, FakeDetector()))
    for models in ((), ("pack", "pack")):
        with pytest.raises(ValidationError):
            Benchmark(models=models)
