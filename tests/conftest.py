"""The tiers of the tests, and how processes that run them side by side share the machine."""

from __future__ import annotations

from pathlib import Path

import pytest

OPENMMLAB = Path(__file__).parent / "openmmlab"


def pytest_collection_modifyitems(items):
    """Mark every test of the folder that needs the OpenMMLab stack."""
    for item in items:
        if item.path.is_relative_to(OPENMMLAB):
            item.add_marker(pytest.mark.openmmlab)
