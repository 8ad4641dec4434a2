import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from compress.errors import StageError
from compress.layer_widths import apply_layers, build_layers
from compress.metrics.size import parameters_bytes
from compress.model_folder import Build, keep_zeros, load_model, masks_of, save_model

torch.set_num_threads(1)

NETWORK = """
import torch
from torch import nn

class Detector:
    def build(self):
        torch.manual_seed(11)
        shared = nn.Conv2d(16, 16, 3, padding=1)
        return nn.Sequential(
            nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16), nn.Conv2d(16, 16, 3, groups=16), shared, shared,
            nn.Conv2d(16, 8, 1, groups=2), nn.GroupNorm(2, 8), nn.ConvTranspose2d(8, 6, 2),
            nn.Flatten(), nn.Linear(150, 4),
        )
"""
exec(NETWORK)  # the same source runs in a fresh process below
Detector = globals()["Detector"]


def _cut(model):
    """Cut the network by hand as a pruner would."""
    widths = build_layers(model)
    widths["0"]["out_channels"] = widths["1"]["num_features"] = 8
    widths["2"] = {"in_channels": 8, "out_channels": 8, "groups": 8}
    widths["3"]["in_channels"] = widths["3"]["out_channels"] = 8
    widths["5"] = {"in_channels": 8, "out_channels": 4, "groups": 2}
    widths["6"]["num_channels"] = 4
    widths["7"]["in_channels"] = 4
    apply_layers(model, widths)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    model[1].running_mean.uniform_()
    return model.eval()


IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_widths_resize_every_kind_of_layer_and_the_network_runs():
    model = _cut(Detector().build())
    assert model[0].weight.shape == (8, 3, 3, 3)
    assert model[2].weight.shape == (8, 1, 3, 3)
    assert model[5].weight.shape == (4, 4, 1, 1)
    assert model[7].weight.shape == (4, 6, 2, 2)
    assert model(IMAGES).shape == (2, 4)


def test_a_saved_model_is_bit_equal_in_a_fresh_process(tmp_path):
    model = _cut(Detector().build())
    save_model(tmp_path, model, Build(provenance=[{"stage": "prune_structured"}]))
    save_file({"images": IMAGES}, tmp_path / "in.safetensors")
    script = NETWORK + (
        "import sys\nfrom pathlib import Path\nfrom safetensors.torch import load_file, save_file\n"
        "from compress.model_folder import load_model\ntorch.set_num_threads(1)\nfolder = Path(sys.argv[1])\n"
        "model, build = load_model(folder, Detector())\nassert build.provenance and not model.training\n"
        "out = model(load_file(folder / 'in.safetensors')['images']).detach()\n"
        "save_file({'out': out}, folder / 'out.safetensors')\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)
    assert torch.equal(load_file(tmp_path / "out.safetensors")["out"], model(IMAGES))


def test_saving_twice_gives_the_same_bytes_and_leaves_no_partial_file(tmp_path):
    model = _cut(Detector().build())
    contents = []
    for _ in range(2):
        save_model(tmp_path, model, Build())
        contents.append([(tmp_path / name).read_bytes() for name in ("model.safetensors", "build.json")])
    assert contents[0] == contents[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["build.json", "model.safetensors"]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda state: state.pop("0.weight"), "missing \\['0.weight'\\]"),
        (lambda state: state.update(extra=torch.zeros(1)), "unexpected \\['extra'\\]"),
        (lambda state: state.update({"0.weight": torch.zeros(9, 3, 3, 3)}), "size mismatch for 0.weight"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(tmp_path, change, text):
    save_model(tmp_path, _cut(Detector().build()), Build())
    state = load_file(tmp_path / "model.safetensors")
    change(state)
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(StageError, match=text):
        load_model(tmp_path, Detector())


def test_a_truncated_file_and_a_missing_build_are_clear_errors(tmp_path):
    with pytest.raises(StageError, match=r"build\.json"):
        load_model(tmp_path, Detector())
    save_model(tmp_path, Detector().build(), Build())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-7])
    with pytest.raises(StageError, match=r"model\.safetensors: cannot be read"):
        load_model(tmp_path, Detector())


def test_a_build_of_another_network_is_refused(tmp_path):
    save_model(tmp_path, Detector().build(), Build())
    build = json.loads((tmp_path / "build.json").read_text())
    build["layers"]["nowhere"] = {"num_features": 4}
    (tmp_path / "build.json").write_text(json.dumps(build))
    with pytest.raises(StageError, match="nowhere"):
        load_model(tmp_path, Detector())


def test_masks_are_the_non_zero_weights_and_keep_zeros_restores_them():
    model = Detector().build()
    with torch.no_grad():
        model[0].weight[3:5] = 0
    masks = masks_of(model, Build(sparse_layers=("0",)))
    assert int((~masks["0"]).sum()) == 2 * 27
    after_step = keep_zeros(model, masks)
    with torch.no_grad():
        model[0].weight += 1
    after_step(1, 2)
    assert torch.equal(model[0].weight != 0, masks["0"])


def test_parameter_bytes_are_those_of_the_folded_network_as_a_file(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16), nn.Conv2d(16, 4, 1))
    folded = {"0.weight": torch.zeros(16, 3, 3, 3), "1.bias": torch.zeros(16), "2.weight": torch.zeros(4, 16, 1, 1)}
    save_file(folded | {"2.bias": torch.zeros(4)}, tmp_path / "folded.safetensors")
    assert parameters_bytes(model) == (tmp_path / "folded.safetensors").stat().st_size
    assert parameters_bytes(model, fold_batch_norm=False) >= parameters_bytes(model) + 3 * 16 * 4


def test_a_convolution_with_bias_absorbs_its_batch_norm_whole():
    with_norm = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16))
    assert parameters_bytes(with_norm) == parameters_bytes(nn.Sequential(nn.Conv2d(3, 16, 3)))


def test_shared_parameters_and_half_precision_count_once_and_as_float32():
    shared = nn.Conv2d(4, 4, 3)
    assert parameters_bytes(nn.Sequential(shared, shared)) == parameters_bytes(nn.Sequential(shared).half())
