"""Files of other tools beside ours: what they are made from, and which names are refused."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import post_training
from compress.errors import StageError


@pytest.fixture
def detector(monkeypatch):
    """Return what stands for a detector: its network, and three training images."""
    images = [torch.full((1, 3, 4, 4), float(index)) for index in range(3)]
    monkeypatch.setattr(post_training, "first_images", lambda _detector, _split, count, seed: images[:count])
    monkeypatch.setattr(post_training, "export_onnx", lambda _model, path, detector: path.write_bytes(b"float"))
    return SimpleNamespace(checkpoint_path=lambda: "weights", build=lambda: nn.Conv2d(3, 1, 1), load=lambda *_: None)


def test_other_tools_get_the_float_file_and_the_same_images(detector, tmp_path):
    post_training.prepare(detector, tmp_path / "peers", images=2, skip=1)
    assert (tmp_path / "peers" / "float.onnx").read_bytes() == b"float"
    images = np.load(tmp_path / "peers" / "images.npy")
    assert (images.shape, images.dtype) == ((2, 3, 4, 4), np.float32)
    assert images[:, 0, 0, 0].tolist() == [1, 2]
    with pytest.raises(StageError, match=r"float\.onnx: exists\. Name an empty folder"):
        post_training.prepare(detector, tmp_path / "peers", images=2, skip=1)


def test_a_recipe_without_a_checkpoint_is_refused(detector):
    detector.checkpoint_path = lambda: None
    with pytest.raises(StageError, match=r"Set detector\.checkpoint"):
        post_training.load_float(detector)


def test_peer_files_have_names_of_their_own(tmp_path):
    path = tmp_path / "nncf.onnx"
    path.write_bytes(b"")
    assert post_training.peer_files([f"nncf={path}"]) == {"nncf": path}
    for word, why in (
        (f"float={path}", "'float' is taken"),
        (f"krimp_7_bits={path}", "is taken"),
        ("nncf", "expected NAME=FILE"),
        ("=a.onnx", "expected NAME=FILE"),
        ("nncf=gone.onnx", "no such file. `--prepare`"),
    ):
        with pytest.raises(StageError, match=why):
            post_training.peer_files([word])
    with pytest.raises(StageError, match="'nncf' is taken"):
        post_training.peer_files([f"nncf={path}"] * 2)
