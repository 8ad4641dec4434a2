"""Pictures of the report: of any size, for networks that take one size only."""

from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from compress.dataset import Picture
from compress.detector import DecodesInTorch
from compress.plugins import load_deploy
from compress.report.pictures import draw_pictures
from compress.runtime.session import deploy_metadata_of, open_session

MODEL = Path(__file__).parents[4] / "detectors/dcfl/zoo/dcfl_mbv2_hituav.krimp"
SIZES = [(512, 640), (300, 200), (700, 900), (1, 1), (513, 40)]


@pytest.fixture(scope="module")
def meta():
    return dict(deploy_metadata_of(open_session(MODEL, threads=1), "m"))


def test_pictures_of_every_size_fit_a_network_of_one_size(tmp_path, meta):
    seen = []

    def forward(images):
        assert images.shape == (1, 3, 512, 640)
        seen.append(images)
        maps = [(512 // stride, 640 // stride) for stride in meta["strides"]]
        scores = [np.full((1, len(meta["classes"]), h, w), -9, np.float32) for h, w in maps]
        return [*scores, *(np.zeros((1, 5, h, w), np.float32) for h, w in maps)]

    images = [Picture(f"a{i}.png", np.full((*size, 3), 50, np.uint8), None) for i, size in enumerate(SIZES)]
    data = SimpleNamespace(images=lambda split: images)

    class Fixed:
        NAME, DEPLOY = "dcfl", "detectors.dcfl.deploy"

        def __init__(self):
            self.data = data

        def metadata(self):
            return meta

    detector = Fixed()
    assert not isinstance(detector, DecodesInTorch)
    assert load_deploy(meta).image_size == (512, 640)
    pictures, why = draw_pictures(
        tmp_path, [SimpleNamespace(label="final")], detector, forward_of=lambda _: forward,
        split="test", count=9,
    )  # fmt: skip
    assert why is None
    assert [picture.num_detections for picture in pictures] == [{"final": 0}] * len(SIZES)
    assert len(seen) > len(SIZES)  # the larger one by windows
    assert all(cv2.imread(str(tmp_path / picture.file)) is not None for picture in pictures)
