"""Tests on a Ray cluster use the small runs of tests/recipes."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "recipes"))
