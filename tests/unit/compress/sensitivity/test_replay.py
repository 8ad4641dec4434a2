import pytest
import quantized_lookalike
import torch
from lookalike import LookalikeDetector
from torch import nn

from compress.sensitivity.changes import Change, applied
from compress.sensitivity.replay import Replay

torch.set_num_threads(1)


class Plain(nn.Module):
    """A block with a parameter of its own, and a layer whose weight is read from outside."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.idle = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.scale = nn.Parameter(torch.ones(4, 1, 1))

    def forward(self, x):
        x = self.first(x).mul_(self.scale).add_(0.5)  # in place, and not the same if done twice
        return nn.functional.conv2d(self.second(x), self.idle.weight)


def networks():
    torch.manual_seed(0)
    return {
        "two levels": (LookalikeDetector().build(), LookalikeDetector().example_input(2)),
        "deformable": (quantized_lookalike.Lookalike().build().eval(), torch.rand(2, 3, 64, 96)),
        "plain": (Plain().eval(), torch.rand(2, 3, 8, 8)),
    }


def outputs(model, images):
    with torch.no_grad():
        found = model(images)
    return list(found) if isinstance(found, tuple) else [found]


@pytest.mark.parametrize("name", networks())
def test_a_replayed_pass_gives_the_outputs_of_a_whole_one_to_the_last_bit(name):
    model, images = networks()[name]
    replay, before = Replay(model), outputs(model, images)
    for parameter, value in dict(model.named_parameters()).items():
        change = Change({parameter: value.detach() * 0.5 + 0.1})
        with applied(change, model):
            expected = outputs(model, images)
        with replay.watching():
            recorded = replay.record(images)
            with applied(change, model):
                replay.run(images, change.modules)
                found = replay.run(images, change.modules)  # what is kept serves many changes
            again = replay.run(images, ())
        for one, other in ((found, expected), (recorded, before), (again, before)):
            assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True)), parameter


def test_layers_before_the_change_do_not_compute():
    model, images = networks()["two levels"]
    called = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            inner = module._conv_forward
            module._conv_forward = lambda *a, name=name, inner=inner: (called.append(name), inner(*a))[1]
    replay = Replay(model)
    with replay.watching():
        replay.record(images)
        called.clear()
        replay.run(images, {"out2"})
    assert "out2" in called
    assert not {"stem", "block1.expand", "block3.project", "lateral1"} & set(called)


def test_another_batch_is_computed_from_the_start():
    model, images = networks()["two levels"]
    other = images + 0.5
    replay = Replay(model)
    with replay.watching():
        replay.record(images)
        found = replay.run(other, {"head.cls"})
    assert all(torch.equal(a, b) for a, b in zip(found, outputs(model, other), strict=True))


def test_the_model_is_its_own_afterwards_even_if_the_block_fails():
    model, images = networks()["two levels"]
    model.stem.forward = own = model.stem.forward
    replay = Replay(model)
    with pytest.raises(RuntimeError), replay.watching():
        replay.record(images[:, :1])
    assert vars(model.stem).pop("forward") == own
    assert not [name for name, module in model.named_modules() if "forward" in vars(module)]
