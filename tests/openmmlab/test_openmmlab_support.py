"""Whole paths of small networks, and the table of the README."""

from dataclasses import asdict

import pytest
import torch
from support import STEPS, committed_table, groups, row, table, try_config

from compress.cli.main import main
from detectors.data.synthetic import write_dataset
from detectors.data.synthetic_scenes import SceneSettings
from detectors.openmmlab.config import shipped_configs

torch.set_num_threads(1)

LOSSES = (
    "rotated-retinanet-hbox-oc_r50_fpn_gwd_1x_dota",
    "rotated-retinanet-hbox-le90_r50_fpn_kfiou_1x_dota",
    "rotated-retinanet-rbox-le90_r50_fpn_kld-stable_1x_dota",
    "rotated-retinanet-rbox-le90_r50_fpn_kld_1x_dota",
    "rotated-retinanet-rbox-le90_r50_fpn_csl-gaussian_amp-1x_dota",
    "rotated-fcos-le90_r50_fpn_kld_1x_dota",
    "rotated-fcos-hbox-le90_r50_fpn_psc-dual_1x_dota",
)
DENSE = ("rotated-retinanet", "rotated-fcos", "rotated-atss", "rotated_rtmdet", "s2anet", "cascade-s2anet")
# What is wrong with these: a package that is not installed, a base file and a head that MMRotate 1.2.1 lacks.
BROKEN = ("convnext-tiny", "rotated-retinanet-rbox-le135_r50_fpn_gwd", "s2anet-le135_r50_fpn_3x_hrsc")


@pytest.mark.parametrize("config", ["rotated-retinanet-rbox-le90_r50_fpn_1x_dota", "rotated_rtmdet_tiny-3x-dota"])
def test_a_dense_detector_goes_all_the_way_to_the_packed_file(config):
    result = try_config(config)
    assert (result.done, result.reason) == (list(STEPS), "")
    assert result.parity < 1e-3


def test_a_two_stage_detector_is_quantized_and_its_export_refused_with_the_reason():
    result = try_config("oriented-rcnn-le90_r50_fpn_1x_dota")
    assert result.done == ["builds", "learns", "prunes", "QAT"]
    assert "export to ONNX is not supported" in result.reason
    assert "second stage" in result.reason


def test_the_plan_of_a_two_stage_detector_names_the_export_it_cannot_do(tmp_path, capsys):
    counts = {"train": 1, "val": 1}
    write_dataset(tmp_path / "dota", SceneSettings(size=(64, 64), object_px=(16, 32), counts=counts))
    recipe = tmp_path / "two_stage.yaml"
    recipe.write_text(f"""name: two_stage
detector: {{plugin: openmmlab, config: oriented-rcnn-le90_r50_fpn_1x_dota, classes: [ship, vehicle, plane]}}
data: {{format: dota, root: {tmp_path}/dota, image_size: [64, 64], ignore: [dontcare]}}
stages:
  - {{stage: train, epochs: 1}}
  - {{stage: qat, epochs: 0}}
  - {{stage: export_onnx}}
""")
    assert main(["plan", str(recipe), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert f"{recipe}:7:5: stages[2]: export to ONNX is not supported for this detector: its second stage" in error
    assert main(["plan", str(recipe), "--out", str(tmp_path / "out"), "--until", "qat"]) == 0
    assert {path.name for path in (tmp_path / "out").rglob("*") if path.is_file()} <= {".dry_pass.json"}


@pytest.mark.parametrize("config", LOSSES)
def test_every_kind_of_loss_learns(config):
    assert try_config(config, until="learns").reason == ""


@pytest.mark.slow
def test_every_dense_configuration_learns():
    names = [name for name in shipped_configs() if name.startswith(DENSE) and not any(part in name for part in BROKEN)]
    failed = {name: result.reason for name in names if (result := try_config(name, until="learns")).reason}
    assert len(names) > 50
    assert failed == {}


@pytest.mark.slow
def test_the_table_of_the_readme_is_what_a_run_gives():
    results = {group.configs[0]: asdict(try_config(group.configs[0])) for group in groups()}
    assert committed_table() == table(results)


def test_every_shipped_family_has_a_row_in_the_readme():
    lines = committed_table().splitlines()[2:]
    folders = {group.family for group in groups()}
    assert {line.split("|")[1].strip() for line in lines} == folders
    group = groups()[0]
    assert row(group, {"done": [], "reason": "builds: why"}).count("|") == lines[0].count("|")
