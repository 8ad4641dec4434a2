"""Lets these tests share the look-alike network of the quantization tests, and the fake plug-in below it."""

import sys
from pathlib import Path

SHARED = Path(__file__).resolve().parents[1] / "unit" / "compress"
sys.path[:0] = [str(SHARED / "quantization"), str(SHARED)]
