"""Set B, networks: weights of the published names, forward of every stored map, initial values."""

import re

import pytest
import torch
from golden_cases import (
    FILES,
    LEVELS,
    assert_near,
    cases,
    facts,
    network_of,
    published_state,
    read,
)

from detectors.dcfl.adapter import Dcfl
from detectors.dcfl.checkpoint import load_whole
from detectors.dcfl.names import from_published_names
from detectors.dcfl.network import DcflNetwork
from detectors.dcfl.published import architecture_of

FORWARDS = cases("detector/*/forward_*.npz")
STORED = cases("detector/*/weights.npz")
WITH_STORED_WEIGHTS = cases("detector/*/forward_*.npz", lambda name: f"{name.rsplit('/', 1)[0]}/weights.npz" in FILES)
WITH_INITIAL_VALUES = cases("detector/*/forward_*.npz", lambda name: "published_initial_values" in facts(name))


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def hooked(model):
    """Return a dict that fills, during one forward, with the maps under the names of the golden files."""
    seen = {}

    def keep(key):
        def hook(_module, _inputs, output):
            seen[key if key.startswith("backbone") else f"{key}_p{LEVELS[calls.get(key, 0)]}"] = output
            calls[key] = calls.get(key, 0) + 1

        return hook

    calls: dict[str, int] = {}
    for stage in range(1, 5):
        getattr(model.backbone, f"layer{stage}").register_forward_hook(keep(f"backbone_c{stage + 1}"))
    for level, convolution in enumerate(model.neck.fpn_convs):
        convolution.register_forward_hook(
            lambda _module, _inputs, output, key=f"fpn_p{LEVELS[level]}": seen.update({key: output})
        )
    for tower in ("cls_convs", "reg_convs"):
        for index, layer in enumerate(getattr(model.head, tower)):
            layer.register_forward_hook(keep(f"tower_{tower}_{index}"))
    model.head.mask_activate.register_forward_hook(keep("mask"))
    return seen


@pytest.mark.parametrize("name", FORWARDS)
def test_every_stored_map_of_the_forward(name):
    case, model = read(name), network_of(name)
    seen = hooked(model)
    with torch.no_grad():
        raw = model(case["image"])
    seen |= zip((f"{kind}_p{n}" for kind in ("cls_score", "bbox_pred", "offset") for n in LEVELS), raw, strict=True)
    for module in model.modules():
        module._forward_hooks.clear()
    compared = [key for key in case if key in seen]
    assert set(compared) == {key for key in case if key != "image" and not key.startswith(("pre_", "det_"))}
    for key in compared:
        assert_near(seen[key], case[key], absolute=1e-3)
    info = facts(name)
    assert raw[0].shape[1] == info["num_classes"]
    assert max(float(value.abs().max()) for value in raw[10:]) == pytest.approx(info["offset_abs_max"], abs=1e-3)
    if "parameters" in info:
        assert sum(p.numel() for p in model.parameters()) == info["parameters"]["all"]


@pytest.mark.parametrize("name", STORED)
def test_form_of_the_network_is_read_off_its_weights(name):
    form = architecture_of(from_published_names(read(name)))
    config = facts(name)["config"]
    assert form.backbone == f"resnet{config['depth']}"
    assert (form.base_channels, form.channels, form.num_classes) == (
        config["base"],
        config["width"],
        config["classes"],
    )


@pytest.mark.parametrize("name", WITH_STORED_WEIGHTS)
def test_imported_checkpoint_gives_the_same_forward(name, tmp_path):
    from safetensors.torch import save_file

    case, info = read(name), facts(name)
    torch.save(
        {"meta": {"epoch": 12, "config": "dilation_rate=3"}, "state_dict": published_state(name)}, tmp_path / "e.pth"
    )
    state = Dcfl.import_checkpoint(tmp_path / "e.pth")
    save_file(state, tmp_path / "new.safetensors")
    form = architecture_of(state)
    model = DcflNetwork(form.backbone, form.num_classes, form.channels, info["dilation_rate"], form.base_channels)
    load_whole(model, tmp_path / "new.safetensors")
    with torch.no_grad():
        raw = model.eval()(case["image"])
        expected = network_of(name)(case["image"])
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(raw, expected, strict=True))
    for level, mine in zip(LEVELS, raw[:5], strict=True):
        assert_near(mine, case[f"cls_score_p{level}"], absolute=1e-3)


@pytest.mark.parametrize("name", WITH_INITIAL_VALUES)
def test_initial_values_have_the_published_distribution(name):
    published = facts(name)["published_initial_values"]
    form = architecture_of(from_published_names(published_state(name)))
    torch.manual_seed(0)
    with torch.device("meta"):
        model = DcflNetwork(form.backbone, form.num_classes, form.channels, base_channels=form.base_channels)
    from detectors.dcfl.neck import reset_neck

    model.neck.to_empty(device="cpu")
    model.head.to_empty(device="cpu")
    reset_neck(model.neck)
    model.head.reset_parameters()
    own = dict(model.named_parameters())
    assert published
    for key, expected in published.items():
        (ours,) = from_published_names({key: torch.zeros(0)})
        assert_same_distribution(own[ours].detach().double(), expected, ours)


def assert_same_distribution(values, expected, name):
    count, mean, std = values.numel(), expected["mean"], expected["std"]
    if std == 0:  # a constant; printed with five digits
        assert float((values - mean).abs().max()) < 1e-4, name
        return
    assert abs(float(values.mean()) - mean) < 6 * std * (2 / count) ** 0.5, name
    assert float(values.std()) == pytest.approx(std, rel=6 / (2 * count) ** 0.5 + 1e-3), name
    uniform = expected["max"] / std < 1.8  # sqrt 3; the largest of many normal values lies beyond 3
    for found, limit in ((float(values.max()), expected["max"]), (float(values.min()), expected["min"])):
        assert found == pytest.approx(limit, rel=2e-3 if uniform else 0.4), name


def test_weights_by_name_follow_the_rule_of_the_readme():
    from golden_cases import weight_by_name

    bias = weight_by_name("bbox_head.retina_cls.bias", [1000])
    assert bias.dtype == torch.float32
    assert float(bias.mean()) == pytest.approx(-4.6, abs=0.01)
    assert float((bias + 4.6).abs().max()) < 0.1
    kernel = weight_by_name("backbone.layer1.0.conv1.weight", [64, 64, 3, 3])
    assert float(kernel.double().pow(2).mean()) == pytest.approx(2 / 576, rel=0.02)
    assert re.fullmatch(r"torch\.int64", str(weight_by_name("x.num_batches_tracked", []).dtype))
