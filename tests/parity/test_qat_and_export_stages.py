"""The stages qat and export_onnx from artifact to artifact, on the look-alike network."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from quantized_lookalike import Lookalike, images_of

from compress import codec
from compress.actions import score_guard
from compress.artifact import Artifact
from compress.dataset import Scores
from compress.errors import StageError
from compress.kind import Kind
from compress.model_folder import Build, load_model, save_model
from compress.names_file import read_names
from compress.quantization.graph import outputs_of
from compress.quantization.priced_rounding import SizeHolder
from compress.runtime.forwards import onnx_forward
from compress.stage import StageContext
from compress.stages.export_onnx import ExportOnnx
from compress.stages.qat import Qat
from compress.stages.round_weights import RoundWeights

torch.set_num_threads(1)
DETECTOR = Lookalike()


def artifact(path: Path, kind: Kind, label: str) -> Artifact:
    return Artifact(path, label, label, kind, "", "", {}, 0.0, 0, (label,))


def context(folder: Path, name: str, **inputs: Artifact) -> StageContext:
    made = folder / name
    made.mkdir()
    (folder / f"{name}_scratch").mkdir()
    return StageContext(name, made, folder / f"{name}_scratch", inputs, DETECTOR, 0, "cpu", {})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return folder, facts of qat, facts of export_onnx."""
    folder = tmp_path_factory.mktemp("stages")
    (folder / "float").mkdir()
    model = DETECTOR.build()
    with torch.no_grad():
        weight = model.head.first.weight
        weight[weight.abs() < weight.abs().median()] = 0
    save_model(folder / "float", model, Build(sparse_layers=("head.first",)))
    source = artifact(folder / "float", Kind.MODEL, "float")
    stage = Qat(
        training={"epochs": 1, "batch_size": 2}, calibration_images=4, distill={"teacher": "float"}, weight_bit_width=6
    )
    qat = stage.run(context(folder, "qat", source=source, float=source))
    exported = ExportOnnx().run(context(folder, "onnx", source=artifact(folder / "qat", Kind.QUANTIZED, "qat")))
    return folder, qat, exported


def test_qat_reports_costs_history_and_bit_widths(run):
    facts = run[1]
    assert {"params", "macs", "sparsity", "parameters_bytes", "history", "weight_bit_widths"} <= facts.keys()
    assert facts["epochs_run"] == 1
    assert {"distill_feature", "distill_output"} <= facts["history"][0]["losses"].keys()
    assert facts["sparsity"] > 0.05


def test_export_reports_parity_and_every_convolution_in_float(run):
    facts = run[2]
    assert facts["onnx_bytes"] == (run[0] / "onnx" / "model.onnx").stat().st_size
    assert set(facts["parity"]["relative_error"]) == set(DETECTOR.output_names())
    assert facts["parity"]["worst"] <= 0.03
    assert len(facts["unfused"]) == 4 * 3
    layers = {name.partition("/")[0] for name in read_names(run[0] / "onnx" / "names.json").values()}
    assert {entry["name"].partition("/")[0] for entry in facts["unfused"]} <= layers
    assert {entry["reason"] for entry in facts["unfused"]} == set(DETECTOR.not_quantizable(None).values())


def test_parity_beyond_the_limit_stops_the_stage(run):
    folder = run[0]
    stage = ExportOnnx(parity_limit=1e-12)
    with pytest.raises(StageError, match=r"output '\w+' of ONNX Runtime differs from torch by .* at index"):
        stage.run(context(folder, "strict", source=artifact(folder / "qat", Kind.QUANTIZED, "qat")))


@pytest.fixture(scope="module")
def rounded(run):
    """Return folder and facts of round_weights behind qat, at two thirds of what qat makes."""
    folder = run[0]
    source = artifact(folder / "qat", Kind.QUANTIZED, "qat")
    size = codec.pack_file(folder / "onnx" / "model.onnx", folder / "qat.krimp").packed_bytes
    stage = RoundWeights(target={"packed_bytes": size * 2 // 3}, images=4)
    return folder, size * 2 // 3, stage.run(context(folder, "rounded", source=source))


def test_rounded_weights_make_a_file_of_the_size_that_was_asked_for(rounded):
    folder, size, facts = rounded
    exported = ExportOnnx().run(
        context(folder, "small", source=artifact(folder / "rounded", Kind.QUANTIZED, "rounded"))
    )
    packed = codec.pack_file(folder / "small" / "model.onnx", folder / "small.krimp").packed_bytes
    assert packed == facts["expected_packed_bytes"]  # names and all
    assert 0.99 * size <= packed <= size
    assert exported["parity"]["worst"] <= 0.03
    assert sum(layer["zeros"] for layer in facts["layers"].values()) > 0
    assert {"price", "expected_loss", "sparsity", "weight_bit_widths"} <= facts.keys()


def test_rounded_weights_keep_zeros_and_their_steps_through_a_folder(run, rounded):
    before, _ = load_model(run[0] / "qat", DETECTOR)
    after, build = load_model(run[0] / "rounded", DETECTOR)
    zero = before.head.first.weight == 0
    assert build.sparse_layers == ("head.first",)
    assert not after.head.first.integer_weight()[0][zero].any()
    exponents = torch.log2(after.head.first.integer_weight()[1]) * 4
    assert torch.equal(exponents.round(), exponents.round(decimals=4))


def test_a_ratio_counts_from_the_float_model(run):
    folder = run[0]
    baseline = Artifact(
        folder / "float", "float", "float", Kind.MODEL, "", "", {"parameters_bytes": 10**6}, 0.0, 0, ("float",)
    )
    stage = RoundWeights(target={"ratio": 70}, images=2)
    assert stage.references() == ("float",)
    source = artifact(folder / "qat", Kind.QUANTIZED, "qat")
    facts = stage.run(context(folder, "ratio", source=source, float=baseline))
    assert 0.99 * 10**6 / 70 <= facts["expected_packed_bytes"] <= 10**6 / 70


@pytest.fixture(scope="module")
def trained_at_size(run):
    """Return folder, bytes and facts of qat with a rate, at two thirds of what qat without one makes."""
    folder = run[0]
    size = codec.pack_file(folder / "onnx" / "model.onnx", folder / "plain.krimp").packed_bytes * 2 // 3
    source = artifact(folder / "float", Kind.MODEL, "float")
    return folder, size, rated(size).run(context(folder, "rated", source=source, float=source))


def rated(size: int, **training: object) -> Qat:
    return Qat(
        training={"epochs": 2, "batch_size": 2, "lr": 1e-3, "ema_decay": 0.5, **training},
        calibration_images=4,
        distill={"teacher": "float"},
        weight_bit_width=6,
        rate={"packed_bytes": size, "images": 4},
    )


def test_training_at_a_size_ends_at_it_and_keeps_zeros(run, trained_at_size):
    folder, size, facts = trained_at_size
    ExportOnnx().run(context(folder, "rated_onnx", source=artifact(folder / "rated", Kind.QUANTIZED, "rated")))
    packed = codec.pack_file(folder / "rated_onnx" / "model.onnx", folder / "rated.krimp").packed_bytes
    assert packed == facts["expected_packed_bytes"]
    assert 0.95 * size <= packed <= size
    before, _ = load_model(folder / "float", DETECTOR)
    after, _ = load_model(folder / "rated", DETECTOR)
    assert not after.head.first.integer_weight()[0][before.head.first.weight == 0].any()
    assert facts["epochs_run"] == 2


def test_training_at_a_size_that_was_killed_goes_on_and_ends_the_same(trained_at_size, monkeypatch):
    folder, size, facts = trained_at_size
    source = artifact(folder / "float", Kind.MODEL, "float")
    cut = context(folder, "cut", source=source, float=source)
    looked = SizeHolder.__call__

    def die(self: SizeHolder, step: int, total_steps: int) -> None:
        if step == total_steps - 1:
            raise KeyboardInterrupt
        looked(self, step, total_steps)

    with monkeypatch.context() as patched:
        patched.setattr(SizeHolder, "__call__", die)
        with pytest.raises(KeyboardInterrupt):
            rated(size).run(cut)
    again = rated(size).run(cut)
    assert again["history"][-1]["losses"] == facts["history"][-1]["losses"]
    assert (folder / "cut" / "model.safetensors").read_bytes() == (folder / "rated" / "model.safetensors").read_bytes()


def test_a_size_is_for_training_at_without_epochs_too(run, trained_at_size):
    folder, size, _ = trained_at_size
    source = artifact(folder / "float", Kind.MODEL, "float")
    stage = rated(size, epochs=0)
    facts = stage.run(context(folder, "rated_ptq", source=source))
    assert facts["epochs_run"] == 0
    assert 0.99 * size <= facts["expected_packed_bytes"] <= size
    assert stage.chosen().ranges == "least_error"


def test_a_rate_changes_the_key_of_a_training_only_where_it_is_given():
    assert "rate" not in Qat().key_fields()
    assert rated(1000).key_fields()["rate"]["packed_bytes"] == 1000
    assert Qat(rate={"ratio": 30, "baseline": "other"}).references() == ("other",)
    with pytest.raises(ValidationError, match="exactly one of"):
        Qat(rate={})


@pytest.fixture
def scored(monkeypatch):
    """Let the guard score a network by how far its outputs are from the float network's, a sample an image."""
    truth = [[out.numpy() for out in outputs_of(DETECTOR.build(), x)[:6]] for x in images_of(DETECTOR, 4, "val")]

    def evaluate(_detector, forward, split):
        assert split == "val"
        alike = []
        for image, wanted in zip(images_of(DETECTOR, 4, "val"), truth, strict=True):
            found = forward(image.numpy())[:6]
            errors = [np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in zip(found, wanted, strict=True)]
            alike.append(1 - np.mean(errors))
        mean = float(np.mean(alike))
        return Scores(0.5, "area", 0.5, {}, 1.0, 1.0, 0.5, 1, 4, map=mean, map_resampled=np.array(alike))

    monkeypatch.setattr(score_guard, "evaluate", evaluate)


@pytest.mark.long
def test_a_size_that_loses_too_much_is_given_up(run, scored):
    folder = run[0]
    source, before = artifact(folder / "qat", Kind.QUANTIZED, "qat"), artifact(folder / "float", Kind.MODEL, "float")

    def rounding(name: str, points: float) -> dict:
        stage = RoundWeights(target={"price": 1e-3}, images=4, max_drop={"map": points})
        assert stage.references() == ("float",)
        assert stage.splits() == ("train", "val")
        return stage.run(context(folder, name, source=source, float=before))

    free = rounding("free", 100)
    assert free["guard"]["num_looks"] == 1
    lost = free["guard"]["looks"][0]["losses"]["map"]["middle"]
    held = rounding("held", lost / 2)
    assert held["guard"]["num_looks"] > 1
    assert held["expected_packed_bytes"] > free["expected_packed_bytes"]
    assert held["price"] < free["price"] == 1e-3
    chosen = [look for look in held["guard"]["looks"] if look["packed_bytes"] == held["expected_packed_bytes"]]
    assert chosen[0]["losses"]["map"]["middle"] <= lost / 2
    ExportOnnx().run(context(folder, "held_onnx", source=artifact(folder / "held", Kind.QUANTIZED, "held")))
    packed = codec.pack_file(folder / "held_onnx" / "model.onnx", folder / "held.krimp").packed_bytes
    assert packed == held["expected_packed_bytes"]


def test_a_drop_that_no_size_keeps_is_refused_with_what_was_lost(run, scored, monkeypatch):
    folder = run[0]
    monkeypatch.setattr(
        "compress.actions.score_guard.ScoreGuard.holds", lambda self, *_: self.looks.append(LOST) or False
    )
    stage = RoundWeights(target={"price": 1e-6}, images=1, max_drop={"map": 0.1})
    source, before = artifact(folder / "qat", Kind.QUANTIZED, "qat"), artifact(folder / "float", Kind.MODEL, "float")
    with pytest.raises(
        StageError, match=r"no size keeps max_drop against float: 9 bytes lost 2\.00 points of map on val"
    ):
        stage.run(context(folder, "hopeless", source=source, float=before))


LOST = {"packed_bytes": 9, "losses": {"map": {"middle": 2.0}}}


def test_a_metric_that_the_data_set_does_not_measure_cannot_be_guarded(run, monkeypatch):
    folder = run[0]
    scores = Scores(0.5, "area", 0.5, {}, 1.0, 1.0, 0.5, 1, 4)
    monkeypatch.setattr(score_guard, "evaluate", lambda *_: scores)
    stage = RoundWeights(target={"price": 1e-6}, images=1, max_drop={"map": 0.1})
    source, before = artifact(folder / "qat", Kind.QUANTIZED, "qat"), artifact(folder / "float", Kind.MODEL, "float")
    with pytest.raises(StageError, match=r"max_drop\.map cannot be measured on split 'val'"):
        stage.run(context(folder, "unmeasured", source=source, float=before))


def test_a_size_below_what_is_not_weights_is_refused(run):
    folder = run[0]
    stage = RoundWeights(target={"packed_bytes": "1kB"}, images=1)
    with pytest.raises(StageError, match=r"bytes with all weights zero, and 1,000 were asked for"):
        stage.run(context(folder, "too_small", source=artifact(folder / "qat", Kind.QUANTIZED, "qat")))


@pytest.mark.parametrize("target", [{}, {"ratio": 10, "price": 1e-9}, {"ratio": 0.5}, {"packed_bytes": "many"}])
def test_a_target_is_one_possible_size(target):
    with pytest.raises(ValidationError):
        RoundWeights(target=target)


def test_post_training_quantization_is_qat_without_epochs(run):
    folder = run[0]
    source = artifact(folder / "float", Kind.MODEL, "float")
    facts = Qat(training={"epochs": 0}, calibration_images=2).run(context(folder, "ptq", source=source))
    assert facts["epochs_run"] == 0
    assert Qat(training={"epochs": 0}, distill={"teacher": "float"}).references() == ()


def test_quantized_model_gives_the_same_bits_in_a_fresh_process(run):
    folder = run[0]
    code = (
        "import sys, numpy, torch; torch.set_num_threads(1);"
        "from pathlib import Path; from quantized_lookalike import Lookalike, images_of;"
        "from compress.model_folder import load_model; d = Lookalike();"
        "model, _ = load_model(Path(sys.argv[1]), d); x = images_of(d, split='val')[0];"
        "numpy.savez(sys.argv[2], *[y.detach().numpy() for y in model(x)])"
    )
    here = Path(__file__).resolve().parents[2]
    shared = here / "tests/unit/compress"
    path = f"{here}:{shared}:{shared / 'quantization'}"
    result = folder / "fresh.npz"
    command = [sys.executable, "-c", code, str(folder / "qat"), str(result)]
    environment = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, env=environment, capture_output=True)
    model, _ = load_model(folder / "qat", DETECTOR)
    found = np.load(result)
    for i, expected in enumerate(outputs_of(model, images_of(DETECTOR, split="val")[0])):
        assert np.array_equal(found[f"arr_{i}"], expected.numpy())


def test_float_model_exports_to_the_same_numbers(run):
    folder = run[0]
    source = artifact(folder / "float", Kind.MODEL, "float")
    facts = ExportOnnx(parity_limit=1e-4).run(context(folder, "float_onnx", source=source))
    assert "unfused" not in facts
    assert facts["onnx_bytes"] > 2 * run[2]["onnx_bytes"]


def test_batch_of_three_equals_three_batches_of_one(run):
    forward = onnx_forward(run[0] / "onnx" / "model.onnx", threads=1)
    images = torch.cat(images_of(DETECTOR, 3, "val")).numpy()
    together = forward(images)
    for i in range(3):
        for whole, alone in zip(together, forward(images[i : i + 1]), strict=True):
            np.testing.assert_array_equal(whole[i : i + 1], alone)


def test_an_artifact_of_the_old_spelling_is_read(run, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = run[0] / "qat"
    text = (folder / "build.json").read_text()
    assert '"quantization"' in text
    (tmp_path / "build.json").write_text(text.replace('"quantization"', '"quantisation"'))
    state = load_file(folder / "model.safetensors")
    old = {name.replace("activation_quantizers", "activation_quantisers"): value for name, value in state.items()}
    assert old.keys() != state.keys()
    save_file(old, tmp_path / "model.safetensors")
    images = images_of(DETECTOR, split="val")[0]
    expected, found = (outputs_of(load_model(place, DETECTOR)[0], images) for place in (folder, tmp_path))
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    assert Kind("quantised") is Kind.QUANTIZED
