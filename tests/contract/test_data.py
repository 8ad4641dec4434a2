"""What every detector promises about its data: loaders by seed, digests of content, checks."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from compress.errors import DataError
from compress.plugins import load_deploy


def flattened(batches):
    return torch.cat([batch.images.flatten() for batch in batches])


def augmented(detector, seed):
    return list(detector.data.loader("train", detector.input_format(), batch_size=4, augment=True, seed=seed))


def test_the_seed_alone_decides_order_and_augmentation(detector):
    first, again, other = (
        list(detector.data.loader("train", detector.input_format(), batch_size=4, augment=True, seed=s))
        for s in (5, 5, 6)
    )
    assert torch.equal(flattened(first), flattened(again))
    assert flattened(first).shape != flattened(other).shape or not torch.equal(flattened(first), flattened(other))
    torch.manual_seed(99)
    np.random.seed(99)
    assert torch.equal(
        flattened(augmented(detector, 5)),
        flattened(first),
    )


def test_a_loader_is_sized_and_moves_to_a_device(detector):
    loader = detector.data.loader("train", detector.input_format(), batch_size=3, augment=False, seed=0)
    batches = list(loader)
    assert len(loader) == len(batches) == 3
    assert [len(batch.images) for batch in batches] == [3, 3, 2]
    moved = batches[0].to(torch.device("cpu"))
    assert torch.equal(moved.images, batches[0].images)


def test_images_without_augmentation_are_what_the_deployed_part_makes_of_the_file(detector, case):
    deploy = load_deploy(detector.metadata())
    loader = detector.data.loader("val", detector.input_format(), batch_size=1, augment=False, seed=0)
    compared = 0
    for batch, (_, picture, _) in zip(loader, detector.data.images("val"), strict=True):
        assert batch.images.shape[1:] == detector.example_input(1).shape[1:]
        assert batch.images.dtype == torch.float32
        made = deploy.preprocess(picture, minimum_size=detector.data.image_size)
        np.testing.assert_allclose(batch.images.numpy(), made, atol=1e-5)
        compared += 1
    assert compared == 4


def test_the_digest_is_of_the_content_and_not_of_the_path(detector, case, data_root, tmp_path):
    moved = tmp_path / "elsewhere"
    shutil.copytree(data_root, moved)
    other = case.make(moved)
    assert other.data.digest("val") == detector.data.digest("val") != detector.data.digest("train")
    label = next(path for path in sorted((moved / "val" / "labelTxt").glob("*.txt")))
    label.write_text(label.read_text() + "gsd:1\n")
    assert other.data.digest("val") != detector.data.digest("val")


def test_good_data_passes_and_bad_data_is_listed(detector, case, data_root, tmp_path):
    detector.data.check("val")
    with pytest.raises(DataError, match="no_split"):
        detector.data.check("no_split")
    broken = tmp_path / "broken"
    shutil.copytree(data_root, broken)
    labels = sorted((broken / "val" / "labelTxt").glob("*.txt"))
    labels[0].unlink()
    labels[1].write_text("1 2 3\n")
    with pytest.raises(DataError) as caught:
        case.make(broken).data.check("val")
    assert all(Path(label).name in str(caught.value) for label in labels[:2])
