"""Lets these tests share the look-alike network of the quantization tests."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "quantization"))
