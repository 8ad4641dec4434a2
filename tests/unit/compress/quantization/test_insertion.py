"""Where quantizers go, calibration, and what survives saving, loading and training."""

from __future__ import annotations

import pytest
import torch
from quantized_lookalike import Lookalike, images_of
from torch import nn

from compress.errors import RecipeError, StageError
from compress.model_folder import Build, keep_zeros, load_model, masks_of, save_model
from compress.quantization import QuantizationSettings, calibrate, quantize
from compress.quantization.calibration import value_range
from compress.quantization.checks import check_zeros, quantization_facts, quantized_layers
from compress.quantization.graph import module_of, outputs_of
from compress.quantization.insertion import QUANTIZERS, origin
from compress.quantization.layers import ActivationQuantizer, QuantizedConv2d

torch.set_num_threads(1)
DETECTOR = Lookalike()


def quantized(**settings):
    model = quantize(DETECTOR.build(), QuantizationSettings(**settings), DETECTOR)
    calibrate(model, images_of(DETECTOR))
    return model


@pytest.fixture(scope="module")
def model():
    return quantized()


def quantizer_behind(model, target, call=0):
    """Return the quantizer that reads a call of a module, through ReLUs."""
    node = [n for n in model.graph.nodes if n.target == target][call]
    while not isinstance(module_of(model, node), ActivationQuantizer):
        (node,) = node.users
    return module_of(model, node)


def test_every_layer_with_a_kernel_has_integer_weights(model):
    assert not any(type(m) is nn.Conv2d for m in model.modules())
    assert len(quantized_layers(model)) == 15


def test_only_the_named_layers_are_float_islands(model):
    islands = {name for name, layer in quantized_layers(model).items() if not layer.integer}
    assert islands == {"head.deform", "head.offset", "head.score", "head.box"}


def test_integer_convolutions_read_and_feed_quantizers_at_every_call(model):
    calls = [n for n in model.graph.nodes if isinstance(m := module_of(model, n), QuantizedConv2d) and m.integer]
    assert len(calls) == 9 + 2 * 3
    for node in calls:
        source = origin(model, node.args[0])
        assert isinstance(module_of(model, source), ActivationQuantizer), node
        reader = list(node.users)
        while not isinstance(module_of(model, reader[0]), ActivationQuantizer):
            reader = list(reader[0].users)
        assert len(reader) == 1, node


def test_each_level_of_the_shared_head_has_its_own_activation_quantizers(model):
    behind = {id(quantizer_behind(model, "head.dilated", call)) for call in range(3)}
    assert len(behind) == 3


def test_relu_gives_unsigned_and_the_rest_asymmetric_ranges(model):
    assert quantizer_behind(model, "head.first").grid()[1] == 0
    assert 0 < quantizer_behind(model, "head.dilated").grid()[1] < 255
    assert 0 < quantizer_behind(model, "images").grid()[1] < 255


def test_residual_and_fpn_additions_are_quantized(model):
    names = [name for name, m in model.named_modules() if isinstance(m, ActivationQuantizer)]
    assert {f"{QUANTIZERS}.add", f"{QUANTIZERS}.add_1"} <= set(names)


def test_pooling_and_resizing_get_no_quantizer_of_their_own(model):
    names = [name for name, m in model.named_modules() if isinstance(m, ActivationQuantizer)]
    assert not any("pool" in name or "interpolate" in name for name in names)


def test_relu6_range_never_exceeds_six(model):
    quantizer = quantizer_behind(model, "backbone.block.expand.0")
    assert quantizer.grid()[0] * 255 <= 6.0001


@pytest.mark.parametrize("bits", [2, 4, 7])
def test_integer_weights_use_the_bits_they_have(bits):
    layer = quantized_layers(quantized(weight_bit_width=bits))["head.first"]
    codes, scale = layer.integer_weight()
    limit = 2 ** (bits - 1) - 1
    assert codes.dtype == torch.int8
    assert int(codes.abs().max()) == limit
    expected = layer.weight.detach().flatten(1).abs().amax(1) / limit
    torch.testing.assert_close(scale, expected)


def test_few_bits_spare_the_stem_and_depthwise_layers():
    layers = quantized_layers(quantized(weight_bit_width=3))
    assert layers["backbone.stem.0"].weight_bit_width == 7
    assert layers["backbone.block.depthwise.0"].weight_bit_width == 8
    assert layers["backbone.down.0"].weight_bit_width == 3


def test_glob_that_gives_an_integer_layer_eight_bits_is_a_recipe_error():
    with pytest.raises(RecipeError, match="target: vnni"):
        quantize(DETECTOR.build(), QuantizationSettings(layer_bit_widths={"head.first": 8}), DETECTOR)


def test_unknown_float_island_is_refused():
    detector = Lookalike({"head.nothing": "?"})
    with pytest.raises(StageError, match=r"head\.nothing"):
        quantize(detector.build(), QuantizationSettings(), detector)


def test_island_between_quantized_tensors_obeys_the_limits_of_integers():
    detector = Lookalike(DETECTOR.not_quantizable(None) | {"neck.smooth": "on a whim"})
    model = quantize(detector.build(), QuantizationSettings(), detector)
    assert quantized_layers(model)["neck.smooth"].integer
    assert quantized_layers(model)["neck.smooth"].weight_bit_width == 7


def test_quantized_model_is_close_to_the_float_one(model):
    x = images_of(DETECTOR, split="val")[0]
    for a, b in zip(outputs_of(model, x), outputs_of(DETECTOR.build(), x), strict=True):
        assert (a - b).norm() / b.norm() < 0.15


def test_calibration_without_images_is_an_error():
    with pytest.raises(StageError, match="no image"):
        calibrate(quantize(DETECTOR.build(), QuantizationSettings(), DETECTOR), [])


def test_range_covers_every_image_and_not_their_average():
    model = quantize(DETECTOR.build(), QuantizationSettings(activation_percentile=100), DETECTOR)
    quiet = images_of(DETECTOR)[0] * 0.01
    bright = quiet.clone()
    bright[..., :4, :4] = 2.5
    calibrate(model, [quiet] * 9 + [bright])
    scale, zero_point = quantizer_behind(model, "images").grid()
    assert (255 - zero_point) * scale > 2.49


def test_percentile_leaves_out_both_tails():
    values = torch.arange(10_000.0)
    assert value_range(values, 100) == (0, 9999)
    assert value_range(values, 99) == (50, 9949)


def test_switching_modes_changes_nothing(model):
    x = images_of(DETECTOR, split="val")[0]
    before = outputs_of(model, x)
    model.train()
    outputs_of(model, x * 3)
    model.eval()
    for a, b in zip(outputs_of(model, x), before, strict=True):
        assert torch.equal(a, b)


def test_training_rounds_as_evaluation_does(model):
    quantizer = quantizer_behind(model, "head.dilated")
    scale, zero_point = quantizer.grid()
    x = (torch.randn(2000) * 120 * scale).requires_grad_()
    expected = quantizer(x).detach()
    try:
        quantizer.train()
        found = quantizer(x)
        found.sum().backward()
    finally:
        quantizer.eval()
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    inside = (x / scale + zero_point).detach().sub(127.5).abs() < 127
    outside = (x / scale + zero_point).detach().sub(127.5).abs() > 128.5
    assert bool((x.grad[inside] == 1).all())
    assert bool((x.grad[outside] == 0).all())


def test_saved_and_loaded_model_is_bit_equal(model, tmp_path):
    build = Build(quantization=QuantizationSettings().model_dump())
    save_model(tmp_path, model, build.model_copy(update={"layers": {}}))
    (tmp_path / "build.json").write_text(build.model_dump_json())
    loaded, _ = load_model(tmp_path, DETECTOR)
    x = images_of(DETECTOR, split="val")[0]
    for a, b in zip(outputs_of(loaded, x), outputs_of(model, x), strict=True):
        assert torch.equal(a, b)


def sparse_model():
    model = DETECTOR.build()
    with torch.no_grad():
        for conv in (model.backbone.down[0], model.head.first, model.head.deform):
            conv.weight[conv.weight.abs() < conv.weight.abs().median()] = 0
    return model, Build(sparse_layers=("backbone.down.0", "head.first", "head.deform"))


def test_zeros_stay_zeros_through_training():
    float_model, build = sparse_model()
    masks = masks_of(float_model, build)
    model = quantize(float_model, QuantizationSettings(weight_bit_width=6), DETECTOR)
    calibrate(model, images_of(DETECTOR))
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
    after_step = keep_zeros(model, masks)
    before = model.get_submodule("head.first").weight.detach().clone()
    model.train()
    for step, x in enumerate(images_of(DETECTOR)):
        optimizer.zero_grad()
        DETECTOR.loss(model, model(x), None)["loss"].backward()
        optimizer.step()
        after_step(step, 4)
    check_zeros(model, masks, label="qat")
    assert not torch.equal(model.get_submodule("head.first").weight, before)
    assert quantization_facts(model)["sparsity"] > 0.1


def test_a_lost_zero_is_found():
    float_model, build = sparse_model()
    masks = masks_of(float_model, build)
    model = quantize(float_model, QuantizationSettings(), DETECTOR)
    with torch.no_grad():
        model.get_submodule("head.deform").weight.fill_(0.1)
    with pytest.raises(StageError, match=r"pruned weights of head\.deform"):
        check_zeros(model, masks, label="qat")


@pytest.mark.parametrize("learn", [False, True])
def test_activation_ranges_are_trained_only_on_request(learn):
    model = quantized(learn_activation_ranges=learn)
    parameters = [p for n, p in model.named_parameters() if n.startswith(QUANTIZERS)]
    assert parameters
    assert all(p.requires_grad == learn for p in parameters)


def test_learned_range_behind_relu6_stays_below_six():
    model = quantized(learn_activation_ranges=True)
    quantizer = quantizer_behind(model, "backbone.block.expand.0")
    with torch.no_grad():
        quantizer._scaling.value.fill_(9.0)
    model.train()
    model(images_of(DETECTOR)[0])
    assert quantizer.grid()[0] * 255 <= 6.0001


def test_bias_is_rounded_to_the_steps_of_the_integer_accumulator_in_training(model):
    layer, around = quantized_layers(model)["neck.smooth"], quantizer_behind(model, "neck.smooth")
    x = torch.zeros(1, layer.in_channels, 3, 3)
    try:
        layer.train()
        result = layer(x, around, around)[0, :, 1, 1]
    finally:
        layer.eval()
    step = around.levels()[0] * layer.integer_weight()[1]
    torch.testing.assert_close(result, torch.round(layer.bias / step) * step)


def test_convolution_that_pads_with_other_than_zeros_stays_float():
    class Reflecting(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"))

        def forward(self, x):
            return self.head(x)

    model = quantize(Reflecting().eval(), QuantizationSettings(), Lookalike({}))
    assert type(model.get_submodule("head.1")) is nn.Conv2d
    assert isinstance(model.get_submodule("head.0"), QuantizedConv2d)
