import pytest
import torch
from torchvision.models import get_model, mobilenet_v2

from compress.errors import DetectorError
from detectors.dcfl.checkpoint import load_backbone, load_whole
from detectors.dcfl.names import mobilenet_names
from detectors.dcfl.neck import Fpn
from detectors.dcfl.network import DcflNetwork


@pytest.fixture(autouse=True)
def seeded():
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(1)
    model = mobilenet_v2()
    for module in model.modules():  # no two layers may look alike
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.running_mean, std=0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()


def test_mobilenet_with_renamed_weights_gives_torchvisions_features(classifier, tmp_path):
    torch.save(classifier.state_dict(), tmp_path / "weights.pth")
    model = DcflNetwork("mobilenet_v2", 2, channels=16).eval()
    load_backbone(model.backbone, "mobilenet_v2", str(tmp_path / "weights.pth"))
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        found, x, expected = model.backbone(image), image, []
        for index, layer in enumerate(classifier.features[:18]):
            x = layer(x)
            if index in (6, 13, 17):
                expected.append(x)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnet101"])
def test_resnet_with_torchvisions_weights_gives_torchvisions_features(name, tmp_path):
    classifier = get_model(name, weights=None).eval()
    torch.save(classifier.state_dict(), tmp_path / "weights.pth")
    model = DcflNetwork(name, 2, channels=16).eval()
    load_backbone(model.backbone, name, str(tmp_path / "weights.pth"))
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        found, x, expected = model.backbone(image), image, []
        for layer in list(classifier.children())[:8]:
            x = layer(x)
            expected.append(x)
    for mine, theirs in zip(found, expected[5:], strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize(
    ("name", "base_channels", "widths"),
    [("mobilenet_v2", 64, [32, 96, 320]), ("resnet18", 8, [16, 32, 64]), ("resnet50", 8, [64, 128, 256])],
)
def test_maps_have_the_widths_that_the_backbone_names_and_strides_8_16_32(name, base_channels, widths):
    backbone = DcflNetwork(name, 2, channels=16, base_channels=base_channels).backbone.eval()
    assert backbone.widths == widths
    with torch.no_grad():
        maps = backbone(torch.randn(1, 3, 96, 160))
    assert [tuple(level.shape) for level in maps] == [
        (1, widths[0], 12, 20), (1, widths[1], 6, 10), (1, widths[2], 3, 5),
    ]  # fmt: skip


def test_residual_blocks_start_as_identities():
    backbone = DcflNetwork("resnet50", 2, channels=16, base_channels=8).backbone
    for stage in (backbone.layer1, backbone.layer2, backbone.layer3, backbone.layer4):
        for block in stage:
            assert (block.bn3.weight == 0).all()
            assert (block.bn2.weight == 1).all()


def test_the_pyramid_adds_doubled_coarse_levels_and_goes_on_from_the_last_input():
    neck = Fpn([2, 4, 6], 3, 5).eval()
    features = [torch.randn(1, width, size, size) for width, size in ((2, 8), (4, 4), (6, 2))]
    with torch.no_grad():
        tops = [neck.lateral_convs[k](features[k]) for k in range(3)]
        for k in (1, 0):
            tops[k] = tops[k] + tops[k + 1].repeat_interleave(2, 2).repeat_interleave(2, 3)
        p6 = neck.fpn_convs[3](features[2])
        expected = [neck.fpn_convs[k](tops[k]) for k in range(3)] + [p6, neck.fpn_convs[4](p6)]
        found = neck(features)
    assert [tuple(level.shape[2:]) for level in found] == [(8, 8), (4, 4), (2, 2), (1, 1), (1, 1)]
    for mine, theirs in zip(found, expected, strict=True):
        assert torch.equal(mine, theirs)


def test_backbone_tensor_that_is_not_loaded_is_an_error(classifier, tmp_path):
    state = classifier.state_dict()
    del state["features.4.conv.2.weight"]
    torch.save(state, tmp_path / "weights.pth")
    model = DcflNetwork("mobilenet_v2", 2, channels=16)
    with pytest.raises(DetectorError, match=r"missing layer3\.0\.linear_conv\.conv\.weight"):
        load_backbone(model.backbone, "mobilenet_v2", str(tmp_path / "weights.pth"))


def test_every_classifier_name_is_mapped(classifier):
    kept = {k: v for k, v in classifier.state_dict().items() if not k.startswith(("classifier", "features.18"))}
    backbone = DcflNetwork("mobilenet_v2", 2, channels=16).backbone
    assert set(mobilenet_names(kept)) == set(backbone.state_dict())


def test_unused_last_convolution_of_mobilenet_is_gone():
    backbone = DcflNetwork("mobilenet_v2", 2, channels=16).backbone
    assert not any(name.startswith("conv2") for name in backbone.state_dict())
    assert sum(p.numel() for p in backbone.parameters()) == 1_811_712


def test_published_size_has_the_published_number_of_parameters():
    assert sum(p.numel() for p in DcflNetwork("resnet50", 18).parameters()) == 36_340_338


@pytest.mark.parametrize(("channels", "std"), [(256, 0.01), (64, 0.02)])
def test_published_initial_values_scaled_to_the_width(channels, std):
    head = DcflNetwork("resnet18", 4, channels=channels).head
    assert (head.conv_offset.weight == 0).all()
    assert (head.conv_offset.bias == 0).all()
    assert torch.allclose(head.retina_cls.bias, torch.full((4,), -4.59512))
    assert float(head.cls_convs[0].conv.weight.std()) == pytest.approx(std, rel=0.1)


@pytest.mark.parametrize("backbone", ["mobilenet_v2", "resnet18", "resnet50"])
def test_network_can_be_traced_symbolically_and_exported_for_any_batch(backbone):
    model = DcflNetwork(backbone, 3, channels=16).eval()
    images = torch.randn(1, 3, 64, 96)
    symbolic = torch.fx.symbolic_trace(model)
    with torch.no_grad():
        expected = model(images)
        assert [tuple(value.shape[2:]) for value in expected[:5]] == [(8, 12), (4, 6), (2, 3), (1, 2), (1, 1)]
        assert [value.shape[1] for value in expected] == [3] * 5 + [5] * 5 + [18] * 5
        for mine, theirs in zip(symbolic(images), expected, strict=True):
            torch.testing.assert_close(mine, theirs)
        two, three = images.repeat(2, 1, 1, 1), images.repeat(3, 1, 1, 1)
        batch = torch.export.Dim("batch")
        exported = torch.export.export(model, (two,), dynamic_shapes=({0: batch},), strict=False).module()
        for mine, theirs in zip(exported(three), model(three), strict=True):
            torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_whole_model_is_restored(suffix, tmp_path):
    from safetensors.torch import save_file

    first, second = (DcflNetwork("resnet18", 2, channels=16, base_channels=8).eval() for _ in range(2))
    path = tmp_path / f"model{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(first.state_dict(), path)
    load_whole(second, path)
    images = torch.randn(1, 3, 64, 64)
    for mine, theirs in zip(first(images), second(images), strict=True):
        assert torch.equal(mine, theirs)


def test_wrong_checkpoints_are_refused_with_what_is_wrong(tmp_path):
    model = DcflNetwork("resnet18", 2, channels=16, base_channels=8)
    path = tmp_path / "model.pth"
    with pytest.raises(DetectorError, match="no such file"):
        load_whole(model, path)
    path.write_bytes(b"no weights")
    with pytest.raises(DetectorError, match="no readable weights"):
        load_whole(model, path)
    torch.save(DcflNetwork("resnet18", 5, channels=16, base_channels=8).state_dict(), path)
    with pytest.raises(DetectorError, match=r"trained for 5 classes, detector\.classes lists 2"):
        load_whole(model, path)
    state = model.state_dict()
    state["head.extra"] = torch.zeros(1)
    del state["head.retina_reg.bias"]
    torch.save(state, path)
    with pytest.raises(DetectorError, match=r"2 tensors do not fit") as error:
        load_whole(model, path)
    assert "missing head.retina_reg.bias" in str(error.value)
    assert "unexpected head.extra" in str(error.value)


def test_published_parameter_names_load(tmp_path):
    model = DcflNetwork("resnet18", 2, channels=16, base_channels=8)
    published = {
        name.replace("head.conv_offset.", "head.reg_convs.3.conv_offset.").replace("head.", "bbox_head.", 1): value
        for name, value in model.state_dict().items()
    }
    torch.save({"state_dict": published, "meta": {"epoch": 12}}, tmp_path / "epoch_12.pth")
    load_whole(DcflNetwork("resnet18", 2, channels=16, base_channels=8), tmp_path / "epoch_12.pth")
