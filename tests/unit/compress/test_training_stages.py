"""Stages train and finetune on a tiny detector: artifact, masks, facts, splits."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from fake_plugin import FakePlugin
from pydantic import ValidationError
from torch import nn

from compress.model_folder import Build, load_model, save_model
from compress.stage import StageContext
from compress.stages.finetune import Finetune
from compress.stages.train import Train

torch.set_num_threads(1)


class OneLayerDetector(FakePlugin):
    def build(self):
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 1, 1))

    def example_input(self, batch_size=1):
        return torch.zeros(batch_size, 3, 8, 8)

    def output_names(self):
        return ("heat",)

    def distill_points(self, model):
        return ("2",)

    def loader(self, split, input_format, *, batch_size, augment, seed):
        generator = torch.Generator().manual_seed(seed)
        batches = [SimpleNamespace(images=torch.randn(batch_size, 3, 8, 8, generator=generator)) for _ in range(3)]
        for batch in batches:
            batch.to = lambda device, batch=batch: batch
        return batches

    def loss(self, model, raw, batch):
        return {"loss": (raw[0] - 1).square().mean()}


def context(tmp_path, name, **inputs):
    folder = tmp_path / name
    folder.mkdir()
    return StageContext(
        name=name,
        folder=folder,
        scratch=tmp_path / f"{name}_scratch",
        inputs=inputs,
        detector=OneLayerDetector(),
        seed=3,
        device="cpu",
        record={},
    )


def test_train_leaves_a_loadable_model_and_its_facts(tmp_path):
    facts = Train(training={"epochs": 2, "batch_size": 2}).run(context(tmp_path, "train"))
    model, build = load_model(tmp_path / "train", OneLayerDetector())
    assert facts["params"] == 3 * 4 * 9 + 4 + 8 + 5
    assert facts["macs"] == 6 * 6 * (3 * 9 * 4 + 4)
    assert facts["sparsity"] == 0
    assert facts["parameters_bytes"] > 4 * 125
    assert len(facts["history"]) == 2
    assert build.quantization is None
    assert torch.isfinite(model(torch.randn(1, 3, 8, 8))).all()


def test_finetune_keeps_the_zeros_of_sparse_layers_and_learns_from_the_teacher(tmp_path):
    model = OneLayerDetector().build()
    with torch.no_grad():
        model[0].weight[:2] = 0
    (tmp_path / "source").mkdir()
    save_model(tmp_path / "source", model, Build(sparse_layers=("0",)))
    source = SimpleNamespace(path=tmp_path / "source")
    stage = Finetune(training={"epochs": 2, "batch_size": 2}, distill={"teacher": "float"})

    facts = stage.run(context(tmp_path, "finetune", source=source, float=source))

    tuned, build = load_model(tmp_path / "finetune", OneLayerDetector())
    assert (tuned[0].weight[:2] == 0).all()
    assert not torch.equal(tuned[0].weight[2:], model[0].weight[2:])
    assert build.sparse_layers == ("0",)
    assert "distill_feature" in facts["history"][0]["losses"]
    assert stage.references() == ("float",)


def test_val_is_read_only_if_the_training_is_scored():
    assert Finetune().splits() == ("train",)
    assert Train(training={"evaluate_every": 1}).splits() == ("train", "val")


def test_an_unknown_field_is_refused():
    with pytest.raises(ValidationError, match="epoch"):
        Finetune(epoch=3)


def test_the_stage_files_import_without_torch():
    stages = "compress.stages.train, compress.stages.finetune, compress.stages.report"
    subprocess.run([sys.executable, "-c", f"import sys, {stages}; assert 'torch' not in sys.modules"], check=True)
