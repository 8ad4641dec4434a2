"""Post-training quantization of the zoo's float DCFL on real images, against ONNX Runtime's own, output by output.

This network is the hard case: gray pictures through color filters of ImageNet leave many channels nearly dead, and
a small shift wakes them.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.post_training import PEER, Witness, calibration_images, make_files
from compress.runtime.forwards import onnx_forward
from detectors.data.formats.dota import DotaData, DotaDataset
from detectors.dcfl.adapter import Dcfl

ROOT = Path(__file__).resolve().parents[2]
HIT_UAV = ROOT / ".." / "shared" / "data" / "hit-uav"
torch.set_num_threads(1)


@pytest.fixture(scope="module")
def errors(tmp_path_factory):
    """Return file -> relative error of each raw output on held-out images."""
    if not HIT_UAV.is_dir():
        pytest.skip(f"{HIT_UAV.name} is not there")
    config = Dcfl.CONFIG(
        backbone="mobilenet_v2",
        channels=64,
        classes=["person", "car", "bicycle"],
        checkpoint=str(ROOT / "detectors/dcfl/zoo/dcfl_mbv2_hituav.safetensors"),
    )
    data = DotaData(root=str(HIT_UAV), image_size=(512, 640), ignore=["dontcare"], merge={"othervehicle": "car"})
    detector = Dcfl(config, DotaDataset(data, config.classes))
    names = ["krimp_8_bits_vnni", "krimp_6_bits", "ranges_only_8_bits_vnni"]
    files = make_files(detector, tmp_path_factory.mktemp("zoo"), calibration_images(detector, 12, 0), names)
    held_out = [batch.images.numpy() for batch in islice(_val(detector), 0, 60, 10)]
    truth = Witness(onnx_forward(files.pop("float"), 1), None)
    for images in held_out:
        truth(images)
    found = {}
    for name, path in files.items():
        witness = Witness(onnx_forward(path, 1), truth.seen)
        for images in held_out:
            witness(images)
        found[name] = np.array(witness.relative_errors())
    return found


def _val(detector):
    return detector.data.loader("val", detector.input_format(), batch_size=1, augment=False, seed=0)


@pytest.mark.parametrize("name", ["krimp_8_bits_vnni", "krimp_6_bits"])
def test_no_output_is_further_off_than_onnxruntimes(errors, name):
    assert (errors[name] < errors[PEER]).all()


def test_more_bits_are_better_than_fewer_bits(errors):
    fine = [0, 1, 2, 5, 6, 7]  # P3 to P5; the coarse levels find nothing on six images
    assert errors["krimp_8_bits_vnni"][fine].mean() < errors["krimp_6_bits"][fine].mean()


def test_choosing_only_ranges_is_what_was_wrong(errors):
    assert errors["krimp_8_bits_vnni"].mean() < 0.6 * errors["ranges_only_8_bits_vnni"].mean()
