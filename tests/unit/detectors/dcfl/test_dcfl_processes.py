"""Two processes under `accelerate launch` train like one process with the same images a step."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from compress.errors import StageError
from compress.training.sharding import RankBatches, shard
from detectors.dcfl.losses import normalizer, share_of_all

ROOT = Path(__file__).parents[4]
RECIPE = """\
format_version: 1
name: two
detector: {{plugin: dcfl, backbone: resnet18, base_channels: 8, channels: 16, classes: [car, ship], norm_eval: true}}
data: {{format: dota, root: {root}, image_size: [64, 64]}}
stages:
  - {{stage: train, epochs: 3, batch_size: 4, lr: 0.1, warmup_steps: 2}}
  - {{stage: finetune, epochs: 2, batch_size: 4, lr: 0.1, warmup_steps: 2, distill: {{teacher: float}}}}
"""


def write_data(root, num_images=7):
    """Seven pictures with few boxes, one without any: uneven parts, and steps where one process has no positive."""
    rng = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for part in ("images", "labelTxt"):
            (root / split / part).mkdir(parents=True)
        for index in range(num_images):
            picture = rng.integers(0, 60, (64, 64, 3), np.uint8)
            lines = []
            for _ in range(index % 4):
                x, y = (int(value) for value in rng.integers(4, 40, 2))
                picture[y : y + 8, x : x + 18] = (200, 220, 240)
                lines.append(f"{x} {y} {x + 18} {y} {x + 18} {y + 8} {x} {y + 8} {('car', 'ship')[index % 2]} 0")
            cv2.imwrite(str(root / split / "images" / f"{index}.png"), picture)
            (root / split / "labelTxt" / f"{index}.txt").write_text("\n".join(lines))


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def train(recipe, out, processes):
    # `accelerate launch --cpu` without MPI starts one process whatever it is told; --multi_gpu starts them on a
    # machine without a GPU, too, where the training then takes the CPU and gloo.
    launcher = [
        *("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(processes), "--num_machines", "1"),
        *("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", str(free_port())),
    ]
    command = [sys.executable, *(launcher if processes > 1 else []), "compress/run.py", str(recipe), "--out", str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ("2 processes share every batch" in done.stdout) == (processes == 2)
    manifests = ((out / "two").glob(f"*{stage}*/manifest.json") for stage in ("train", "finetune"))
    return [row for (path,) in manifests for row in json.loads(path.read_text())["facts"]["history"]]


def test_two_processes_have_the_loss_curve_of_one(tmp_path):
    write_data(tmp_path / "data")
    recipe = tmp_path / "two.yaml"
    recipe.write_text(RECIPE.format(root=tmp_path / "data"))
    one, two = (train(recipe, tmp_path / f"out{count}", count) for count in (1, 2))
    assert len(one) == len(two) == 5
    assert one[2]["losses"]["loss_cls"] < 0.99 * one[0]["losses"]["loss_cls"]  # it moves far more than the tolerance
    assert one[-1]["losses"]["distill_feature"] > 1e-3
    for mine, theirs in zip(one, two, strict=True):
        assert mine["losses"].keys() == theirs["losses"].keys() >= {"loss_cls", "loss_bbox"}
        for name, value in mine["losses"].items():
            assert theirs["losses"][name] == pytest.approx(value, rel=1e-4), (mine["epoch"], name)


def test_each_process_divides_by_its_share_of_all_positives(monkeypatch):
    class TwoProcesses:
        def is_available(self):
            return True

        is_initialized = is_available

        def all_reduce(self, total):
            total += 30

        def get_world_size(self):
            return 2

    owner = torch.tensor([[1, 0, 2], [0, 0, -1]])
    assert float(normalizer(owner, by_image=False)) == 2
    assert float(normalizer(torch.zeros_like(owner), by_image=False)) == 1
    assert float(normalizer(owner, by_image=True)) == 3  # published: the second image counts one
    monkeypatch.setattr(torch, "distributed", TwoProcesses())
    assert float(normalizer(owner, by_image=False)) == 16
    assert float(normalizer(owner, by_image=True)) == 3
    assert float(share_of_all(torch.tensor(4.0))) == 17


@pytest.mark.parametrize(("images", "processes"), [(7, 2), (8, 2), (9, 2), (9, 4), (5, 3)])
def test_every_image_is_taken_once_and_all_processes_take_as_many_steps(images, processes):
    loader = torch.utils.data.DataLoader(list(range(images)), batch_size=4)
    whole = [batch.tolist() for batch in loader]
    parts = [[batch.tolist() for batch in shard(loader, rank=r, processes=processes)] for r in range(processes)]
    kept = [batch for batch in whole if len(batch) >= processes]  # a rest too small to share is left out
    assert {len(part) for part in parts} == {len(kept)}
    for step, batch in enumerate(kept):
        assert sorted(index for part in parts for index in part[step]) == batch
    assert len(RankBatches(loader.batch_sampler, 0, processes)) == len(kept)


def test_what_cannot_be_shared_is_refused():
    with pytest.raises(StageError, match="batch_size is 1 for 2 processes"):
        shard(torch.utils.data.DataLoader([0, 1], batch_size=1), rank=0, processes=2)
    with pytest.raises(StageError, match="list: cannot be shared by 2 processes"):
        shard([[0, 1]], rank=0, processes=2)
