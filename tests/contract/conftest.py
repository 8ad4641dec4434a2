"""One data set for the whole suite, one detector a configuration."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from cases import CLASSES, SIZE, Case, all_cases


def pytest_generate_tests(metafunc):
    """Run every test that asks for a case on all of them, those of one case together."""
    if "case" in metafunc.fixturenames:
        parameters = [pytest.param(c, id=f"{c.plugin}-{c.name}", marks=marks_of(c)) for c in all_cases()]
        metafunc.parametrize("case", parameters, scope="module")


def marks_of(case: Case):
    """Return the marks of a configuration: how long it takes and which set-up it needs."""
    return [pytest.mark.slow] * case.slow + [pytest.mark.openmmlab] * case.needs_openmmlab


@pytest.fixture(scope="session")
def data_root(tmp_path_factory):
    """Return a folder of small synthetic scenes."""
    from detectors.data.synthetic import write_dataset
    from detectors.data.synthetic_scenes import SceneSettings

    folder = tmp_path_factory.mktemp("scenes") / "dota"
    counts = {"train": 8, "val": 4, "test": 2}
    write_dataset(folder, SceneSettings(seed=3, size=(SIZE, SIZE), object_px=(16, 40), counts=counts))
    return folder


@pytest.fixture(scope="module")
def detector(case: Case, data_root):
    import torch

    torch.set_num_threads(1)
    assert set(CLASSES) >= set(case.detector.get("classes", CLASSES))
    return case.make(data_root)


@pytest.fixture(scope="module")
def model(detector):
    """Return the network with signals that do not vanish on their way; treat as read-only."""
    from lively import lively

    return lively(detector)


@pytest.fixture(scope="module")
def raw(detector, model):
    """Return the outputs for two example images as arrays, the exported ones only."""
    import torch

    with torch.no_grad():
        outputs = model(detector.example_input(2))
    return [output.numpy() for output in outputs[: len(detector.output_names())]]
