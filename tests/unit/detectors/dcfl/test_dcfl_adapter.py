import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from pydantic import ValidationError

from compress.errors import DetectorError
from compress.plugins import contract_faults
from detectors.data.formats.dota import DotaData, DotaDataset
from detectors.dcfl import deploy
from detectors.dcfl.adapter import ANCHOR_SCALE, LEVELS, SIZE_DIVISOR, STRIDES, Dcfl
from detectors.dcfl.config import PLUGIN_FOLDER, DcflConfig, resolve_checkpoint


@pytest.fixture(autouse=True)
def seeded():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def detector(**fields):
    config = {"backbone": "mobilenet_v2", "channels": 16, "classes": ["car", "ship"]} | fields
    return Dcfl(DcflConfig(**config), DotaDataset(DotaData(image_size=(128, 128)), ()))


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"classes": []}, "classes"),
        ({"classes": ["a", "a"]}, "listed 2 times"),
        ({"classes": ["a b"]}, "white space"),
        ({"backbone": "vgg"}, "mobilenet_v2"),
        ({"channels": 20}, "multiple of 8"),
        ({"std": (1, 0, 1)}, "above 0"),
        ({"topc": 3}, "topc"),
    ],
)
def test_wrong_settings_are_refused(fields, text):
    with pytest.raises(ValidationError, match=text):
        detector(**fields)


def test_frozen_part_depends_on_pretrained_weights():
    fresh, loaded = DcflConfig(classes=("a",)), DcflConfig(classes=("a",), backbone_weights="imagenet")
    assert (fresh.num_frozen_stages, fresh.keeps_norm_statistics) == (0, False)
    assert (loaded.num_frozen_stages, loaded.keeps_norm_statistics) == (1, True)
    chosen = DcflConfig(classes=("a",), backbone_weights="imagenet", frozen_stages=0, norm_eval=False)
    assert (chosen.num_frozen_stages, chosen.keeps_norm_statistics) == (0, False)


def test_checkpoints_are_found_here_and_in_the_plugin_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.safetensors").write_bytes(b"x")
    assert resolve_checkpoint("mine") == tmp_path / "mine.safetensors"
    assert resolve_checkpoint("mine.safetensors") == tmp_path / "mine.safetensors"
    assert resolve_checkpoint("network.py") == PLUGIN_FOLDER / "network.py"
    with pytest.raises(DetectorError, match="no file 'zoo/nothing'"):
        resolve_checkpoint("zoo/nothing")


def test_adapter_keeps_the_contract_and_imports_no_torch():
    assert contract_faults(Dcfl) == []
    code = "import sys, detectors.dcfl.adapter; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_constants_of_adapter_and_network_agree():
    from detectors.dcfl import network, prior

    assert (LEVELS, STRIDES, SIZE_DIVISOR) == (network.LEVELS, network.STRIDES, network.SIZE_DIVISOR)
    assert prior.ANCHOR_SCALE == ANCHOR_SCALE


def test_every_named_module_exists():
    dcfl = detector()
    model = dcfl.build()
    for name in [*dcfl.not_prunable(model), *dcfl.not_quantizable(model), *dcfl.distill_points(model)]:
        model.get_submodule(name)


def test_outputs_have_their_names_and_suit_the_deployed_code():
    dcfl = detector()
    model = dcfl.build().eval()
    with torch.no_grad():
        raw = model(dcfl.example_input(2))
    names = dcfl.output_names()
    assert len(names) == 10
    assert names[0] == "cls_score_p3"
    assert names[-1] == "bbox_pred_p7"
    meta = dcfl.metadata()
    found = deploy.make_deploy(meta).postprocess([value.numpy() for value in raw], image_size=(128, 128))
    assert len(found) == 2
    assert torch.equal(dcfl.example_input(), dcfl.example_input())


def test_example_input_is_padded_like_a_deployed_image():
    dcfl = Dcfl(DcflConfig(classes=("a",)), DotaDataset(DotaData(image_size=(100, 130)), ("a",)))
    assert dcfl.example_input().shape == (1, 3, 128, 160)


def test_pretrained_stem_and_norms_stay_fixed():
    dcfl = detector(checkpoint="x", frozen_stages=1)
    model = dcfl.build()
    dcfl.set_train_mode(model)
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen
    assert all(name.startswith(("backbone.conv1.", "backbone.layer1.")) for name in frozen)
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert not any(norm.training for norm in norms)
    assert model.head.training


def test_without_pretrained_weights_everything_trains():
    dcfl = detector()
    model = dcfl.build().eval()
    dcfl.set_train_mode(model)
    assert all(p.requires_grad for p in model.parameters())
    assert all(module.training for module in model.modules())


@pytest.mark.long
def test_sixty_steps_on_one_image_learn_it():
    dcfl = detector(channels=16, norm_eval=True)
    model = dcfl.build()
    images = 0.1 * torch.randn(1, 3, 64, 64)
    boxes = torch.tensor([[20.0, 24, 20, 8, 0.4], [44.0, 40, 14, 12, 1.5]])
    for x, y, *_ in boxes.tolist():
        images[:, :, int(y) - 4 : int(y) + 4, int(x) - 6 : int(x) + 6] += 2
    batch = SimpleNamespace(images=images, boxes=[boxes], labels=[torch.tensor([0, 1])], ignored=[torch.zeros(0, 5)])
    dcfl.set_train_mode(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    history = []
    for _ in range(60):
        losses = dcfl.loss(model, model(batch.images), batch)
        total = sum(losses.values())
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10)
        optimizer.step()
        history.append(float(total))
    assert min(history[-5:]) < history[0] / 3
    assert float(model.head.conv_offset.weight.detach().abs().max()) > 0
