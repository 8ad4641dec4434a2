import pytest
import torch

from detectors.dcfl.deform import ModulatedDeformConv, deform_native, deform_sampled


@pytest.fixture(autouse=True)
def seeded():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def inputs(spread, height=5, width=7):
    values = (
        torch.randn(2, 3, height, width),
        spread * torch.randn(2, 18, height, width),
        torch.rand(2, 9, height, width),
        torch.randn(4, 3, 3, 3),
    )
    return [value.double().requires_grad_() for value in values]


@pytest.mark.parametrize("spread", [0.3, 2.0, 20.0])
@pytest.mark.parametrize("size", [(5, 7), (1, 1), (2, 9)])
def test_values_and_gradients_equal_torchvision(spread, size):
    found_inputs = inputs(spread, *size)
    other_inputs = [value.detach().clone().requires_grad_() for value in found_inputs]
    found, expected = deform_sampled(*found_inputs), deform_native(*other_inputs)
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-10)
    upstream = torch.randn_like(found)
    found.backward(upstream)
    expected.backward(upstream)
    for mine, theirs in zip(found_inputs, other_inputs, strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("form", [deform_sampled, deform_native])
def test_gradients_agree_with_finite_differences(form):
    assert torch.autograd.gradcheck(form, inputs(0.37, 3, 4), eps=1e-7, atol=1e-5)


@pytest.mark.parametrize("form", [deform_sampled, deform_native])
def test_samples_outside_the_map_count_zero_and_fade_at_its_border(form):
    image = torch.ones(1, 1, 4, 4, dtype=torch.float64)
    weight = torch.zeros(1, 1, 3, 3, dtype=torch.float64)
    weight[..., 1, 1] = 1  # the middle tap alone
    mask = torch.ones(1, 9, 4, 4, dtype=torch.float64)
    for shift, expected in ((0.0, 1.0), (-0.25, 0.75), (-1.0, 0.0), (-50.0, 0.0), (3.25, 0.75), (4.5, 0.0)):
        offset = torch.zeros(1, 18, 4, 4, dtype=torch.float64)
        offset[:, 8] = shift  # dy of the middle tap
        found = form(image, offset, mask, weight)[0, 0, 0, 0]
        assert float(found) == pytest.approx(expected, abs=1e-12)


def test_zero_offsets_and_open_masks_are_a_plain_convolution():
    layer = ModulatedDeformConv(3, 4)
    image = torch.randn(1, 3, 6, 8)
    found = layer(image, torch.zeros(1, 18, 6, 8), torch.ones(1, 9, 6, 8))
    expected = torch.nn.functional.conv2d(image, layer.weight, padding=1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_channels_last_input_changes_nothing():
    layer = ModulatedDeformConv(3, 4)
    image, offset, mask = torch.randn(2, 3, 6, 8), torch.randn(2, 18, 6, 8), torch.rand(2, 9, 6, 8)
    found = layer(image.contiguous(memory_format=torch.channels_last), offset, mask)
    torch.testing.assert_close(found, layer(image, offset, mask))


def test_an_exported_program_holds_the_native_operator_and_any_batch_size_runs():
    layer = ModulatedDeformConv(3, 4).eval()
    values = torch.randn(2, 3, 6, 8), torch.randn(2, 18, 6, 8), torch.rand(2, 9, 6, 8)
    batch = torch.export.Dim("batch")
    program = torch.export.export(layer, values, dynamic_shapes=({0: batch},) * 3, strict=False)
    calls = [node.target for node in program.graph.nodes if node.op == "call_function"]
    assert calls.count(torch.ops.torchvision.deform_conv2d.default) == 1
    three = [value[:1].repeat(3, 1, 1, 1) for value in values]
    torch.testing.assert_close(program.module()(*three), layer(*three), atol=1e-5, rtol=1e-5)


def test_sampling_positions_stay_exact_in_mixed_precision():
    torch.manual_seed(0)
    layer = ModulatedDeformConv(4, 6)
    x, offset, mask = torch.randn(1, 4, 8, 96), torch.zeros(1, 18, 8, 96), torch.ones(1, 9, 8, 96)
    offset += 0.25
    exact = layer(x, offset, mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = layer(x, offset.bfloat16(), mask.bfloat16())
    # In bfloat16 the column 90.25 would be 90: the error would be as large as the values themselves.
    assert float((mixed.float() - exact).abs().max()) < 0.03 * float(exact.abs().max())
