"""Import of checkpoints of the published code, through the plug-in and the command line."""

import os
import sys

import pytest
import torch
from safetensors.torch import load_file

from compress.cli.main import main
from compress.errors import DetectorError
from detectors.dcfl.adapter import Dcfl
from detectors.dcfl.network import DcflNetwork
from detectors.dcfl.published import Architecture, architecture_of, listing


@pytest.fixture(autouse=True)
def seeded():
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def model():
    return DcflNetwork("resnet18", 4, channels=16, base_channels=8).eval()


def published(model, offset="reg_convs.3.conv_offset.", prefix=""):
    """State dict under the names of the published code."""
    return {
        prefix + name.replace("head.conv_offset.", f"head.{offset}").replace("head.", "bbox_head.", 1): value
        for name, value in model.state_dict().items()
    }


def checkpoint(state, **meta):
    """What mmcv 1.x saves beside the weights."""
    config = "model = dict(bbox_head=dict(dilation_rate=4))"
    meta = {"epoch": 12, "iter": 99, "mmcv_version": "1.6.1", "config": config, "hook_msgs": {}} | meta
    return {"meta": meta, "state_dict": state, "optimizer": {"state": {}, "param_groups": [{"lr": 0.0025}]}}


@pytest.mark.parametrize(
    ("offset", "prefix"),
    [("reg_convs.3.conv_offset.", ""), ("reg_convs.3_offset.", ""), ("reg_convs.3.conv_offset.", "module.")],
    ids=["published and STAR", "early mmcv", "data-parallel"],
)
def test_command_writes_the_same_network(model, tmp_path, capsys, offset, prefix):
    state = published(model, offset, prefix)
    assert f"{prefix}bbox_head.{offset}weight" in state
    torch.save(checkpoint(state, CLASSES=("a", "b", "c", "d")), tmp_path / "old.pth")
    out = tmp_path / "new.safetensors"
    assert main(["import", "--detector", "dcfl", str(tmp_path / "old.pth"), "-o", str(out)]) == 0
    told = capsys.readouterr().out
    assert "backbone: resnet18, base_channels: 8, channels: 16, dilation: 4, classes: [a, b, c, d]" in told
    other = DcflNetwork("resnet18", 4, channels=16, base_channels=8).eval()
    other.load_state_dict(load_file(out))
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        for mine, theirs in zip(other(images), model(images), strict=True):
            assert torch.equal(mine, theirs)
    hidden = {path.name for path in tmp_path.iterdir() if path.name.startswith(".")}
    assert hidden == {".krimp-written.jsonl"}  # and nothing half written


def test_old_files_without_counters_and_in_half_precision_are_completed(model, tmp_path):
    state = {k: v.half() for k, v in published(model).items() if not k.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "old.pth")
    found = Dcfl.import_checkpoint(tmp_path / "old.pth")
    assert set(found) == set(model.state_dict())
    assert {value.dtype for value in found.values()} == {torch.float32, torch.int64}


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50", "resnet101", "mobilenet_v2"])
def test_form_is_read_off_the_weights(backbone):
    with torch.device("meta"):
        state = DcflNetwork(backbone, 7, channels=24).state_dict()
    assert architecture_of(state) == Architecture(backbone, 64, 24, 7)


class Command:
    """An object that runs a command while it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_file_that_wants_to_run_something_is_refused_and_runs_nothing(model, tmp_path, capsys):
    torch.save(checkpoint(published(model), trap=Command(tmp_path / "ran")), tmp_path / "evil.pth")
    out = tmp_path / "new.safetensors"
    assert main(["import", "--detector", "dcfl", str(tmp_path / "evil.pth"), "-o", str(out)]) == 3
    text = capsys.readouterr().err
    assert "evil.pth: no readable weights: it wants to run" in text
    assert "system, which is not loaded" in text
    assert "weights_only" not in text  # the library's advice to switch the protection off
    assert not (tmp_path / "ran").exists()
    assert not out.exists()


def test_network_of_another_kind_is_refused_with_its_keys(model, tmp_path):
    state = {name: value for name, value in published(model).items() if "bbox_head" not in name}
    torch.save(state | {"roi_head.fc.weight": torch.zeros(2, 2)}, tmp_path / "other.pth")
    with pytest.raises(DetectorError) as error:
        Dcfl.import_checkpoint(tmp_path / "other.pth")
    text = str(error.value)
    assert "other.pth: no DCFL head, expected head.retina_cls.bias" in text
    assert "roi_head.fc.weight" in text
    assert "backbone.bn1.{bias, num_batches_tracked, running_mean, running_var, weight}" in text


def test_wrong_tensors_are_refused_with_the_whole_list(model, tmp_path):
    state = published(model)
    del state["bbox_head.retina_reg.bias"], state["neck.fpn_convs.0.conv.weight"]
    state["bbox_head.extra.weight"] = torch.zeros(1)
    state["bbox_head.cls_convs.1.conv.weight"] = torch.zeros(16, 8, 3, 3)
    torch.save(state, tmp_path / "old.pth")
    with pytest.raises(DetectorError, match="4 tensors do not fit a DCFL resnet18 with 16 channels") as error:
        Dcfl.import_checkpoint(tmp_path / "old.pth")
    text = str(error.value)
    assert "missing:\n  neck.fpn_convs.0.conv.weight\n  head.retina_reg.bias" in text
    assert "unexpected:\n  head.extra.weight" in text
    assert "head.cls_convs.1.conv.weight is (16, 8, 3, 3), expected (16, 16, 3, 3)" in text


def test_unknown_backbones_are_refused(model, tmp_path):
    state = {name: v for name, v in published(model).items() if not name.startswith("backbone.layer3.1.")}
    torch.save(state, tmp_path / "old.pth")
    with pytest.raises(DetectorError, match=r"1 blocks in layer3 and no bottlenecks, expected resnet18"):
        Dcfl.import_checkpoint(tmp_path / "old.pth")


@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04 cut"])
def test_damaged_files_are_refused(tmp_path, capsys, content):
    (tmp_path / "old.pth").write_bytes(content)
    assert main(["import", "--detector", "dcfl", str(tmp_path / "old.pth"), "-o", str(tmp_path / "x")]) == 3
    assert "no readable weights" in capsys.readouterr().err


def test_input_and_output_must_differ_and_the_plugin_must_know_how(model, tmp_path, capsys):
    torch.save(published(model), tmp_path / "old.pth")
    path = str(tmp_path / "old.pth")
    assert main(["import", "--detector", "dcfl", path, "-o", path]) == 3
    assert "--out is the input file" in capsys.readouterr().err
    assert main(["import", "--detector", "dcfl", str(tmp_path / "no.pth"), "-o", str(tmp_path / "x")]) == 3
    assert "there is no such file" in capsys.readouterr().err


def test_names_are_listed_by_module():
    assert listing(["a.w", "a.b", "c.w", "d"]) == "\n  a.{b, w}\n  c.w\n  d"
    assert sys.modules["detectors.dcfl.published"].listing([]) == ""
