from types import SimpleNamespace

import torch
from lookalike import LookalikeDetector

from compress.pruning.batches import batch_losses, train_batches


def test_no_more_batches_are_read_than_asked_for_and_none_before_the_first():
    opened, read = [], []

    def loader(split, input_format, **how):
        opened.append((split, input_format, how))
        for number in range(10):
            read.append(number)
            yield number

    batches = train_batches(
        SimpleNamespace(data=SimpleNamespace(loader=loader), input_format=lambda: "rgb"),
        count=3,
        batch_size=2,
        seed=7,
        label="importance",
    )
    assert opened == []
    assert list(batches) == [0, 1, 2]
    assert read == [0, 1, 2]
    assert opened == [("train", "rgb", {"batch_size": 2, "augment": False, "seed": 7})]


def test_the_loss_of_a_batch_is_the_sum_of_the_detectors_losses():
    torch.manual_seed(0)
    detector = LookalikeDetector()
    model = detector.build().eval()
    batches = list(train_batches(detector, count=2, batch_size=2, seed=0, label="importance"))
    for batch, loss in zip(batches, batch_losses(model, detector, batches), strict=True):
        expected = sum(detector.loss(model, tuple(model(batch.images)), batch).values())
        torch.testing.assert_close(loss(), expected, rtol=0, atol=0)
