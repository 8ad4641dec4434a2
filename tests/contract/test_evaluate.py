"""Scoring, and that loss, decoding and scoring agree on what a perfect output is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from compress.errors import DetectorError
from compress.quantization.graph import outputs_of
from compress.runtime.forwards import torch_forward
from compress.scoring import evaluate

STEPS = 60  # of a round; each moves an output by 6 at most
ROUNDS = 6  # as far as RTMDet's outputs must go: they are distances in pixels, up to 16 here
LEARNING_RATE = 0.2
START = 0.1  # not 0: the overlap of a box without area has no gradient


class Outputs:
    """A forward that knows the answer to some images: raw outputs that were fitted to their truth."""

    def __init__(self, images, raw):
        self.images, self.raw = images.numpy(), [value.detach().numpy() for value in raw]

    def __call__(self, images):
        (index,) = [n for n, known in enumerate(self.images) if np.array_equal(known, images[0])]
        return [value[index : index + 1] for value in self.raw]


def test_a_network_that_finds_nothing_scores_nothing(detector, raw):
    progress = []
    scores = evaluate(
        detector,
        lambda images: [np.full_like(array[:1], np.nan) for array in raw],
        "val",
        limit=3,
        progress=lambda done, total: progress.append((done, total)),
    )
    assert (scores.map50, scores.recall, scores.num_detections, scores.num_images) == (0, 0, 0, 3)
    assert progress == [(1, 3), (2, 3), (3, 3)]
    assert (scores.ap_method, scores.iou_threshold) == ("area", 0.5)
    assert set(scores.ap_per_class) == set(detector.config.classes)


def test_raw_outputs_fitted_to_the_loss_are_perfect_detections(detector, model, case):
    """The network is left out: its outputs themselves go down the gradient of the loss.

    What is then decoded must be the truth. That holds only if the loss and the deployed decoding mean the same.
    """
    batch = next(iter(detector.data.loader("val", detector.input_format(), batch_size=4, augment=False, seed=0)))
    raw = [torch.full_like(value, START).requires_grad_() for value in outputs_of(model, batch.images)]
    optimizer = torch.optim.Adam(raw, lr=LEARNING_RATE)
    for _ in range(ROUNDS):
        for step in range(STEPS):
            for group in optimizer.param_groups:
                group["lr"] = LEARNING_RATE * (1 - step / STEPS)
            optimizer.zero_grad()
            sum(detector.loss(model, tuple(raw), batch).values()).backward()
            optimizer.step()
        scores = evaluate(detector, Outputs(batch.images, raw[: len(detector.output_names())]), "val")
        assert scores.num_images == 4
        if min(scores.recall, scores.map50) >= case.fitted_map50:
            break
    assert scores.recall >= case.fitted_map50
    assert scores.map50 >= case.fitted_map50


def test_the_same_network_scores_the_same_twice(detector, model):
    forward = torch_forward(model, len(detector.output_names()))
    first, second = (evaluate(detector, forward, "val", limit=2) for _ in range(2))
    assert repr(first) == repr(second)  # NaN of a class without truth is not equal to itself
    assert 0 <= first.map50 <= 1


def test_a_split_that_does_not_exist_is_refused(detector):
    with pytest.raises(DetectorError, match="no_split"):
        evaluate(detector, lambda images: [], "no_split")
