"""The tiers of the tests, and how processes that run them side by side share the machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("KRIMP_ALLOW_CODE", "1")  # recipes of tests name the fakes by their modules
TESTS = Path(__file__).parent
OPENMMLAB = TESTS / "openmmlab"
RAY = TESTS / "ray"
# Files and folders that take most of the time: they train, export, time, or start many programs.
LONG = tuple(
    TESTS / place
    for place in (
        "contract",
        "docs/test_layering.py",
        "docs/test_packaging.py",
        "fuzz",
        "golden",
        "parity",
        "recipes",
        "unit/benchmarks",
        "unit/compress/codec/test_codec_files.py",
        "unit/compress/codec/test_tensor_decoder.py",
        "unit/compress/compare/test_compare_command.py",
        "unit/compress/export",
        "unit/compress/onnx_graph",
        "unit/compress/report/test_html_browser.py",
        "unit/compress/report/test_html_page.py",
        "unit/compress/runtime/test_packed_session.py",
        "unit/compress/shrink/test_shrink_command.py",
        "unit/compress/sweep",
        "unit/compress/test_child.py",
        "unit/compress/test_dry_pass.py",
        "unit/compress/test_json_documents.py",
        "unit/compress/test_pipeline.py",
        "unit/compress/test_sharing.py",
        "unit/compress/test_weights.py",
        "unit/detectors/data/test_patch_writer.py",
        "unit/detectors/dcfl/test_dcfl_export.py",
        "unit/detectors/dcfl/test_dcfl_processes.py",
        "unit/detectors/dcfl/test_dcfl_without_openmmlab.py",
        "unit/detectors/dcfl/test_network.py",
        "unit/detectors/torchvision",
    )
)


def pytest_collection_modifyitems(items):
    """Mark every test by where it lies: what needs the OpenMMLab stack or Ray, and what takes long."""
    for item in items:
        if item.path.is_relative_to(RAY):
            item.add_marker(pytest.mark.ray)
        if item.path.is_relative_to(OPENMMLAB):
            item.add_marker(pytest.mark.openmmlab)
        if any(item.path.is_relative_to(place) for place in LONG):
            item.add_marker(pytest.mark.long)
