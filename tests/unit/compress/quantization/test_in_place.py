"""Operations in place: later readers of a tensor read what it was changed to, in the graph as in Python."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compress.errors import StageError
from compress.quantization.graph import check_followed, fold_batch_norms, trace

torch.set_num_threads(1)
IMAGES = torch.randn(2, 3, 6, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """A convolution, and what a test does with its output."""

    def __init__(self, change):
        super().__init__()
        self.first, self.change = nn.Conv2d(3, 4, 1), change
        self.relu, self.same, self.drop = nn.ReLU(inplace=True), nn.Identity(), nn.Dropout()

    def forward(self, x):
        return self.change(self, self.first(x))


def statement(net, y):
    y.relu_()
    return y + 1


def module_statement(net, y):
    net.relu(y)
    return y


def flag(net, y):
    F.silu(y, inplace=True)
    F.relu(y, True)
    return y


def other_name(net, y):
    before = y
    y += 1
    y *= 2
    y -= 0.5
    y /= 3
    return y + before


def behind_identity(net, y):
    before = net.drop(net.same(y))
    y = net.relu(y)
    return y + before


def identity_changed(net, y):
    net.same(y).relu_()
    return y


def disjoint(net, y):
    return torch.cat((net.relu(y[:, :2]), y[:, 2:]), 1)


def numbers(net, y):
    height = y.shape[2]
    before = height
    height += 2
    return F.interpolate(y, size=(before, height))


@pytest.mark.parametrize(
    "change",
    [statement, module_statement, flag, other_name, behind_identity, identity_changed, disjoint, numbers],
)
def test_the_graph_computes_what_the_network_computes(change):
    torch.manual_seed(0)
    net = Net(change).eval()
    graph = fold_batch_norms(trace(net))  # removes what nobody reads
    with torch.no_grad():
        assert torch.equal(graph(IMAGES), net(IMAGES))
    check_followed(net, IMAGES)


def part(net, y):
    y[:, :2].relu_()
    return y


def whole(net, y):
    first, _ = y.chunk(2, 1)
    y.relu_()
    return torch.cat((first, y), 1)


@pytest.mark.parametrize("change", [part, whole])
def test_a_part_that_is_changed_is_refused_with_place_and_cure(change):
    net = nn.Sequential(nn.Sequential(Net(change)))
    with pytest.raises(StageError, match=r"0\.0: relu_ changes a tensor in place that is read later .*`torch\.cat`"):
        trace(net)


def assigned(net, y):
    y[:, :2] = 0
    return y


def asked(net, y):
    return y if y.sum() > 0 else -y


@pytest.mark.parametrize(("change", "cure"), [(assigned, "torch.cat"), (asked, "Branches on tensor values")])
def test_what_cannot_be_followed_is_refused_with_module_and_cure(change, cure):
    with pytest.raises(StageError) as error:
        trace(nn.Sequential(nn.Identity(), Net(change)))
    assert "Sequential, in 1 (Net): the forward pass cannot be traced: " in str(error.value)
    assert cure in str(error.value)


def test_sizes_are_taken_apart_in_a_call():
    def sizes(net, y):
        small = F.max_pool2d(net.relu(y), 2)
        a = y.flatten(2).view(y.size(0), -1, *y.shape[-2:])
        return a + F.interpolate(small, size=tuple(y.size()[2:])) + y.new_zeros(*y.shape)

    net = Net(sizes).eval()
    with torch.no_grad():
        assert torch.equal(trace(net)(IMAGES), net(IMAGES))


def test_a_graph_that_computes_something_else_is_refused():
    def written_elsewhere(net, y):
        torch.mul(y, 2.0, out=y)
        return y + 1

    with torch.no_grad(), pytest.raises(StageError, match=r"output 0 of the traced network differs .* in place"):
        check_followed(Net(written_elsewhere).eval(), IMAGES)
