"""The stages qat and export_onnx from artifact to artifact, on the look-alike network."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from quantized_lookalike import Lookalike, images_of

from compress.artifact import Artifact
from compress.errors import StageError
from compress.kind import Kind
from compress.model_folder import Build, load_model, save_model
from compress.quantization.graph import outputs_of
from compress.runtime.forwards import onnx_forward
from compress.stage import StageContext
from compress.stages.export_onnx import ExportOnnx
from compress.stages.qat import Qat

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
    assert {entry["reason"] for entry in facts["unfused"]} == set(DETECTOR.not_quantizable(None).values())


def test_parity_beyond_the_limit_stops_the_stage(run):
    folder = run[0]
    stage = ExportOnnx(parity_limit=1e-12)
    with pytest.raises(StageError, match=r"output '\w+' of ONNX Runtime differs from torch by .* at index"):
        stage.run(context(folder, "strict", source=artifact(folder / "qat", Kind.QUANTIZED, "qat")))


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
