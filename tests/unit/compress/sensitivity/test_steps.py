import numpy as np
import pytest
import torch
from lookalike import CUSTOM, PROTECTED, LookalikeDetector
from torch import nn

from compress.metrics.complexity import measure_complexity
from compress.pruning.coupling import remove_channels
from compress.pruning.importance import magnitude_scores
from compress.pruning.settings import PruningRules
from compress.pruning.structured import tried_coupling
from compress.quantization.layers import ActivationQuantizer, QuantizedConv2d
from compress.rate_rounding.code_lengths import entropy_bits
from compress.sensitivity.changes import Change, applied, change_of
from compress.sensitivity.planning import Whole, activation_steps, in_order, input_ranges, weight_steps, with_freed
from compress.sensitivity.rounding import coded_bits, nearest_codes, rounded_activation, rounded_weight
from compress.sensitivity.steps import Step, channel_steps
from compress.sensitivity.strongest import strongest

torch.set_num_threads(1)
DETECTOR = LookalikeDetector()
EXAMPLE = DETECTOR.example_input(1)


@pytest.fixture(scope="module")
def model():
    return DETECTOR.build()


@pytest.fixture(scope="module")
def coupling(model):
    return tried_coupling(model, EXAMPLE, PruningRules(PROTECTED, CUSTOM))


@pytest.fixture(scope="module")
def removals(model, coupling):
    return channel_steps(coupling.groups, magnitude_scores(model, coupling.groups), (0.25, 0.5))


def state_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
def test_weights_get_the_integers_of_a_quantized_layer(bits):
    torch.manual_seed(bits)
    layer = nn.Conv2d(8, 6, 3, groups=2)
    codes, steps = nearest_codes(layer.weight.detach(), bits)
    expected, scales = QuantizedConv2d(layer, bit_width=bits, integer=False).integer_weight()
    assert torch.equal(codes, expected.float())
    assert torch.allclose(steps.flatten(), scales)


def test_zeros_and_channels_of_zeros_stay_zero():
    layer = nn.Conv2d(3, 4, 3)
    with torch.no_grad():
        layer.weight[1] = 0
        layer.weight[2, 0] = 0
    assert not rounded_weight(layer, 3)[layer.weight == 0].any()
    assert not rounded_weight(layer, 3)[1].any()
    assert torch.isfinite(rounded_weight(layer, 3)).all()


def test_a_transposed_layer_is_rounded_by_its_output_channels():
    layer = nn.ConvTranspose2d(5, 3, 2)
    with torch.no_grad():
        layer.weight[:, 1] *= 100
    error = (rounded_weight(layer, 8) - layer.weight).abs().amax((0, 2, 3))
    top = layer.weight.abs().amax((0, 2, 3))
    assert bool((error <= top / 254 * 1.001).all())


def test_inputs_of_eight_bits_lie_on_the_levels_of_the_quantizer():
    values = torch.randn(2, 3, 8, 8) * 2 + 0.5
    quantizer = ActivationQuantizer(unsigned=False, upper=None, percentile=100.0, learn_range=False).eval()
    quantizer.set_range(-3.0, 4.0)
    assert torch.allclose(rounded_activation(values, -3.0, 4.0, 8), quantizer(values), atol=1e-5)


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.0), (1.0, 4.0), (-2.0, -1.0)])
def test_ranges_without_zero_in_them_keep_zero(low, high):
    values = torch.tensor([0.0, low, high])
    found = rounded_activation(values, low, high, 4)
    assert found[0] == 0
    assert torch.allclose(found, values, atol=max(abs(low), abs(high)) / 14)


def test_removals_are_the_least_important_and_never_all(model, coupling):
    scores = {group.root: torch.arange(group.width, 0, -1.0) for group in coupling.groups[1:]}
    steps = channel_steps(coupling.groups, scores, (0.01, 0.5, 0.99))
    by_root = {group.root: group for group in coupling.groups}
    assert coupling.groups[0].root not in {step.part for step in steps}
    for step in steps:
        group = by_root[step.part]
        assert 0 < len(step.channels) < group.width == step.width
        if group.channel_groups == 1:
            assert list(step.channels) == list(range(group.width - len(step.channels), group.width))


def test_two_shares_that_are_the_same_channels_are_tried_once(model, coupling):
    steps = channel_steps(coupling.groups, magnitude_scores(model, coupling.groups), (0.5, 0.5001))
    assert {step.amount for step in steps} == {0.5}


def test_the_strongest_step_of_a_part_is_the_largest_share_and_the_fewest_bits():
    steps = [Step("weights", "a", 3), Step("weights", "a", 6), Step("channels", "a", 0.5), Step("channels", "a", 0.25),
             Step("activations", "b", 8)]  # fmt: skip
    assert strongest(steps) == [steps[0], steps[2], steps[4]]


def test_a_step_is_read_back_from_plain_data(removals):
    step = Step("activations", "a", 4, ranges=((0.0, 1.5), (-1.0, 2.0)))
    for one in (step, removals[0]):
        assert Step.from_json(one.to_json()) == one


def test_what_a_removal_frees_is_what_the_cut_network_lacks(model, coupling, removals):
    whole = Whole.of(model, EXAMPLE)
    steps = with_freed(removals, model, coupling, whole, EXAMPLE)
    for step in steps[:6]:
        cut = DETECTOR.build()
        remove_channels(coupling, cut, {step.part: step.channels})
        cost = measure_complexity(cut, EXAMPLE)
        assert step.freed.params == pytest.approx(1 - cost.params / whole.cost.params)
        assert step.freed.macs == pytest.approx(1 - cost.macs / whole.cost.macs)
    pairs = {(step.part, step.amount): step.freed for step in steps}
    assert all(pairs[part, 0.5].macs > pairs[part, 0.25].macs > 0 for part, _ in pairs)
    assert all(freed.bytes > 0 for freed in pairs.values())


def test_fewer_bits_free_more_and_eight_free_nothing(model):
    whole = Whole.of(model, EXAMPLE)
    freed = {(step.part, step.amount): step.freed.bytes for step in weight_steps(model, whole, (3, 4, 6, 8, 12))}
    for name in whole.layers:
        assert freed[name, 3] > freed[name, 4] > freed[name, 6] > freed[name, 8] == freed[name, 12] == 0
    assert sum(freed[name, 3] for name in whole.layers) < 1


def test_coded_bits_are_the_entropy_of_the_integers():
    layer = nn.Conv2d(8, 8, 3)
    codes = nearest_codes(layer.weight.detach(), 8)[0].numpy().astype(np.int64)
    assert coded_bits(layer) == pytest.approx(entropy_bits(codes))


def test_every_layer_is_rounded_or_left_out_with_a_reason():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.twin, self.idle = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
            self.twin.weight = self.first.weight
            self.computed = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 3, 1))

        def forward(self, x):
            return self.computed(self.twin(self.first(x)))

    whole = Whole.of(Odd(), torch.zeros(1, 3, 4, 4))
    assert whole.layers == ("first",)
    assert "shared" in whole.left_out["twin"]
    assert "computed" in whole.left_out["computed"]
    assert "output" in whole.left_out["idle"]


def test_a_layer_that_is_called_twice_has_two_ranges(model):
    ranges = input_ranges(model, ["stem", "head.tower1"], [EXAMPLE, 3 * EXAMPLE])
    assert len(ranges["stem"]) == 1
    assert len(ranges["head.tower1"]) == 2
    assert ranges["stem"][0] == pytest.approx((3 * float(EXAMPLE.min()), 3 * float(EXAMPLE.max())), rel=0.05)


def test_each_call_is_rounded_in_its_own_range(model):
    seen = []
    step = Step("activations", "head.cls", 4, ranges=((0.0, 0.0), (-1e-3, 1e-3)))
    with applied(change_of(step, model, None), model):
        hook = model.head.cls.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].abs().amax()))
        with torch.no_grad():
            model(EXAMPLE)
            model(EXAMPLE)
        hook.remove()
    assert [bool(value > 1e-20) for value in seen] == [False, True, False, True]


def test_a_change_is_gone_afterwards_to_the_last_bit(model, coupling, removals):
    before = state_of(model)
    whole = Whole.of(model, EXAMPLE)
    ranges = input_ranges(model, whole.layers, [EXAMPLE])
    steps = [*removals, *weight_steps(model, whole, (3,)), *activation_steps(whole, ranges, (4,))]
    with torch.no_grad():
        plain = model(EXAMPLE)
        for step in steps:
            with applied(change_of(step, model, coupling), model):
                changed = model(EXAMPLE)
            assert not all(torch.equal(a, b) for a, b in zip(changed, plain, strict=True)), step.key
        again = model(EXAMPLE)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(a, b) for a, b in zip(again, plain, strict=True))


def test_removing_channels_computes_what_the_cut_network_computes(model, coupling, removals):
    for step in removals:
        cut = DETECTOR.build()
        remove_channels(coupling, cut, {step.part: step.channels})
        with torch.no_grad(), applied(change_of(step, model, coupling), model):
            pairs = zip(model(EXAMPLE), cut(EXAMPLE), strict=True)
            assert all(torch.allclose(a, b, atol=1e-4) for a, b in pairs), step.key


def test_a_step_that_changes_nothing_has_no_module():
    model = DETECTOR.build()
    with torch.no_grad():
        model.out1.weight.fill_(0.5)
    assert change_of(Step("weights", "out1", 4), model, None) == Change({}, {})
    assert change_of(Step("weights", "out1", 4), model, None).modules == set()


def test_steps_are_in_the_order_of_the_model(model, removals):
    places = [name for name, _ in model.named_modules()]
    ordered = in_order(reversed(removals), model)
    assert [places.index(step.part) for step in ordered] == sorted(places.index(step.part) for step in removals)
