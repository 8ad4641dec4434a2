"""Lets these tests share the look-alike networks of the pruning and the quantization tests."""

import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(FOLDER / "pruning"), str(FOLDER / "quantization")]
