"""What every detector promises about its network: weights, outputs, names, loss, training mode."""

from __future__ import annotations

import pytest
import torch
from lively import copied
from safetensors.torch import load_file, save_file
from torch import nn

from compress.errors import DetectorError
from compress.quantization.graph import outputs_of


@pytest.fixture(scope="module")
def batch(detector):
    return next(iter(detector.data.loader("train", detector.input_format(), batch_size=2, augment=True, seed=1)))


@pytest.fixture
def checkpoint(model, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file({name: value.contiguous().clone() for name, value in model.state_dict().items()}, path)
    return path


def test_loaded_weights_give_the_same_outputs(detector, model, checkpoint):
    other = detector.build().eval()
    detector.load(other, checkpoint)
    images = detector.example_input(1)
    for found, wanted in zip(outputs_of(other, images), outputs_of(model, images), strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("fault", ["missing", "unexpected", "shape"])
def test_a_key_that_does_not_fit_is_refused_by_name(detector, checkpoint, fault):
    state = load_file(checkpoint)
    name = next(name for name, value in state.items() if value.ndim == 4)
    if fault == "missing":
        del state[name]
    elif fault == "unexpected":
        name = "no.such.layer.weight"
        state[name] = torch.zeros(1)
    else:
        state[name] = state[name][:-1].contiguous()
    save_file(state, checkpoint)
    with pytest.raises(DetectorError, match=name.replace(".", r"\.")):
        detector.load(detector.build(), checkpoint)


def test_a_file_that_is_no_checkpoint_is_refused(detector, tmp_path):
    (tmp_path / "torn.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    for name in ("torn.safetensors", "none.safetensors"):
        with pytest.raises(DetectorError, match=name.partition(".")[0]):
            detector.load(detector.build(), tmp_path / name)


def test_outputs_have_one_name_each_and_do_not_depend_on_the_rest_of_the_batch(detector, model):
    names = detector.output_names()
    assert len(set(names)) == len(names) > 0
    images = detector.example_input(2)
    together = outputs_of(model, images)
    assert len(together) >= len(names)
    alone = [outputs_of(model, image[None]) for image in images]
    for index, output in enumerate(together):
        assert output.shape[0] == 2
        assert output.dtype == torch.float32
        torch.testing.assert_close(output, torch.cat([one[index] for one in alone]), rtol=1e-3, atol=1e-3)


def test_the_example_input_is_a_normalized_image_of_the_deployed_size(detector):
    images = detector.example_input(3)
    assert images.shape[:2] == (3, 3)
    assert images.dtype == torch.float32
    assert all(have >= want for have, want in zip(images.shape[2:], detector.data.image_size, strict=True))
    assert torch.equal(images, detector.example_input(3))
    assert 0.1 < float(images.std()) < 10


def test_named_layers_exist_and_every_reason_is_given(detector, model):
    names = {name for name, _ in model.named_modules()}
    for reasons in (detector.not_prunable(model), detector.not_quantizable(model)):
        assert set(reasons) <= names
        assert all(isinstance(reason, str) and reason for reason in reasons.values())
    assert set(detector.distill_points(model)) <= names
    assert all(isinstance(kind, type) for kind in detector.custom_pruners(model))


def test_distill_points_are_feature_maps(detector, model):
    seen = {}
    points = detector.distill_points(model)
    hooks = [
        model.get_submodule(name).register_forward_hook(lambda _m, _i, out, name=name: seen.setdefault(name, out))
        for name in points
    ]
    outputs_of(model, detector.example_input(1))
    for hook in hooks:
        hook.remove()
    assert points
    assert set(seen) == set(points)
    assert all(isinstance(value, torch.Tensor) and value.ndim == 4 for value in seen.values())


def test_the_loss_of_every_training_image_is_finite(detector, model):
    for batch in detector.data.loader("train", detector.input_format(), batch_size=1, augment=False, seed=0):
        with torch.no_grad():
            losses = detector.loss(model, tuple(model(batch.images)), batch)
        assert losses
        for name, value in losses.items():
            assert value.ndim == 0, name
            assert torch.isfinite(value), name
            assert float(value) >= 0, name


def test_every_trainable_parameter_gets_a_finite_gradient(detector, model, batch):
    model = copied(model)
    detector.set_train_mode(model)
    losses = detector.loss(model, tuple(model(batch.images)), batch)
    sum(losses.values()).backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    without = [name for name, gradient in gradients.items() if gradient is None]
    assert without == []
    assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients.values())
    assert sum(float(gradient.abs().sum()) > 0 for gradient in gradients.values()) > len(gradients) / 2


def test_a_few_steps_of_training_lower_the_loss(detector, model, batch):
    model = copied(model)
    detector.set_train_mode(model)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    history = []
    for _ in range(8):
        loss = sum(detector.loss(model, tuple(model(batch.images)), batch).values())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10)
        optimizer.step()
        history.append(float(loss.detach()))
    assert min(history[-2:]) < history[0]


def test_training_mode_is_set_and_can_be_set_again(detector, model):
    model = copied(model).eval()
    detector.set_train_mode(model)
    training = {name: module.training for name, module in model.named_modules()}
    trainable = {name: p.requires_grad for name, p in model.named_parameters()}
    assert model.training
    assert any(trainable.values())
    model.eval()
    detector.set_train_mode(model)
    assert {name: module.training for name, module in model.named_modules()} == training
    assert {name: p.requires_grad for name, p in model.named_parameters()} == trainable
