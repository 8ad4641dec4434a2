"""What parts of a network can bear is measured alike on every detector's network."""

import pytest
import torch

from compress.metrics.output_error import OutputErrors
from compress.quantization.graph import outputs_of
from compress.sensitivity.changes import applied, change_of
from compress.sensitivity.planning import Whole, weight_steps
from compress.sensitivity.replay import Replay

FEW, MANY = 3, 6  # bits
LAYERS = 8  # that are tried, spread over the network


@pytest.fixture(scope="module")
def rounded(detector, model):
    """Return bits -> for each layer what a replayed pass and a whole one give, and the outputs without a change."""
    images, whole = detector.example_input(1), Whole.of(model, detector.example_input(1))
    names = whole.layers[:: max(1, len(whole.layers) // LAYERS)]
    steps = [step for step in weight_steps(model, whole, (FEW, MANY)) if step.part in names]
    replay, before, pairs = Replay(model), outputs_of(model, images), {FEW: [], MANY: []}
    for step in steps:
        change = change_of(step, model, None)
        with replay.watching():
            replay.record(images)
            with applied(change, model):
                found = replay.run(images, change.modules)
        with applied(change, model):
            pairs[step.amount].append((step.part, found, outputs_of(model, images)))
    return pairs, before


def test_a_replayed_pass_is_a_whole_one(rounded):
    for part, found, expected in [*rounded[0][FEW], *rounded[0][MANY]]:
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True)), part


def test_fewer_bits_move_the_outputs_more(detector, rounded):
    pairs, before = rounded
    number, errors = len(detector.output_names()), {}
    for bits, rows in pairs.items():
        errors[bits] = []
        for _, found, _ in rows:
            one = OutputErrors(number)
            one.add([x.numpy() for x in found[:number]], [x.numpy() for x in before[:number]])
            errors[bits].append(one.together)
    assert sum(errors[FEW]) > 1.5 * sum(errors[MANY]) > 0


def test_the_network_is_what_it_was(detector, model, rounded):
    again = outputs_of(model, detector.example_input(1))
    assert all(torch.equal(a, b) for a, b in zip(again, rounded[1], strict=True))
