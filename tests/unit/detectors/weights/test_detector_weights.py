"""Finding, reading and loading weights, and what stays still in training: shared by all plug-ins."""

import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from compress.errors import DetectorError
from detectors.weights.finding import find_checkpoint
from detectors.weights.freezing import RESNET_STAGES, set_training, stage_prefixes
from detectors.weights.reading import load_strictly, misfit, read_file, read_tensors

ALL = {"backbone.conv1", "backbone.bn1", "backbone.layer1", "norm", "head"}


class Network(nn.Module):
    def __init__(self, classes=2):
        super().__init__()
        self.backbone = nn.ModuleDict(
            {"conv1": nn.Conv2d(3, 4, 1), "bn1": nn.BatchNorm2d(4), "layer1": nn.Conv2d(4, 4, 1)}
        )
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Conv2d(4, classes, 1)


def test_checkpoints_are_found_with_and_without_suffix_in_the_first_folder_that_has_them(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    for folder in (first, second):
        folder.mkdir()
    (second / "mine.safetensors").write_bytes(b"x")
    for name in ("mine", "mine.safetensors"):
        assert find_checkpoint(name, folders=(first, second)) == second / "mine.safetensors"
    (first / "mine.pth").write_bytes(b"x")
    assert find_checkpoint("mine", folders=(first, second)) == second / "mine.safetensors"
    assert find_checkpoint("mine", folders=(first, second), suffixes=(".safetensors", ".pth")) == first / "mine.pth"
    assert find_checkpoint(str(second / "mine"), folders=(first,)) == second / "mine.safetensors"


def test_a_checkpoint_that_is_nowhere_is_refused_with_where_it_was_looked_for(tmp_path):
    with pytest.raises(DetectorError, match=r"no file 'none', looked for \S+/none, \S+/none.safetensors. Correct"):
        find_checkpoint("none", folders=(tmp_path,))


@pytest.mark.parametrize("table", ["state_dict", "model", None])
def test_tensors_of_a_torch_file_are_read_with_what_the_file_says_about_itself(tmp_path, table):
    state = {"weight": torch.arange(3.0)}
    path = tmp_path / "w.pth"
    torch.save(state if table is None else {table: state, "meta": {"epoch": 3}}, path)
    found, meta = read_file(path)
    assert torch.equal(found["weight"], state["weight"])
    assert meta == ({} if table is None else {"epoch": 3})


class Evil:
    def __reduce__(self):
        return print, ("run",)


def test_files_of_anything_but_tensors_are_refused_and_nothing_in_them_runs(tmp_path, capsys):
    (tmp_path / "evil.pth").write_bytes(pickle.dumps(Evil()))
    torch.save({"weight": torch.zeros(1), "epoch": 3}, tmp_path / "mixed.pth")
    (tmp_path / "torn.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    for name, text in (
        ("evil.pth", "no readable weights"),
        ("mixed.pth", "no plain table of tensors"),
        ("torn.safetensors", "no readable weights: damaged"),
        ("none.pth", "no such file"),
    ):
        with pytest.raises(DetectorError, match=text):
            read_tensors(tmp_path / name)
    assert capsys.readouterr().out == ""


def test_every_tensor_that_does_not_fit_is_told_apart():
    own = {"a": torch.zeros(2), "b": torch.zeros(3), "bn.num_batches_tracked": torch.zeros(())}
    found = misfit(own, {"b": torch.zeros(4), "c": torch.zeros(1)})
    assert (found.missing, found.unexpected, found.shapes) == (("a",), ("c",), ("b is (4,), expected (3,)",))
    assert len(found) == 3
    assert not misfit(own, {"a": torch.zeros(2), "b": torch.zeros(3)})


def test_loading_is_strict_but_for_names_that_are_known_to_be_unused(tmp_path):
    source, target = Network(), Network()
    state = {**source.state_dict(), "classifier.weight": torch.zeros(1)}
    save_file({name: value.contiguous() for name, value in state.items()}, tmp_path / "w.safetensors")
    state = read_tensors(tmp_path / "w.safetensors")
    with pytest.raises(DetectorError, match=r"^w: 1 tensors do not fit the model. Check x.\n  unexpected class"):
        load_strictly(target, state, where="w", check="x")
    load_strictly(target, state, where="w", check="x", unused=lambda name: name.startswith("classifier."))
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in target.state_dict().items())


def test_a_long_list_of_misfits_is_cut():
    with pytest.raises(DetectorError, match=r"15 tensors do not fit the model \(hint\)(.*\n){9}  \.\.\. and 7 more$"):
        load_strictly(Network(), {"other": torch.zeros(1)}, where="w", check="x", hint=" (hint)")


def test_frozen_stages_begin_with_the_stem():
    assert stage_prefixes(RESNET_STAGES, 0, below="backbone") == ()
    expected = ("backbone.conv1.", "backbone.bn1.", "backbone.layer1.")
    assert stage_prefixes(RESNET_STAGES, 1, below="backbone") == expected


@pytest.mark.parametrize(
    ("options", "norms_in_training", "trainable"),
    [
        ({}, {"backbone.bn1", "norm"}, ALL),
        ({"frozen": ("backbone.conv1.", "backbone.bn1.")}, {"norm"}, {"backbone.layer1", "norm", "head"}),
        ({"still_norms": ("backbone.",)}, {"norm"}, ALL),
        ({"still_norms": ("",), "norms_learn": False}, set(), {"backbone.conv1", "backbone.layer1", "head"}),
    ],
)
def test_what_stays_still_in_training(options, norms_in_training, trainable):
    model = Network().eval()
    set_training(model, **options)
    norms = {name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d) and module.training}
    assert norms == norms_in_training
    assert {name.rpartition(".")[0] for name, p in model.named_parameters() if p.requires_grad} == trainable
    assert model.training
    assert model.head.training
