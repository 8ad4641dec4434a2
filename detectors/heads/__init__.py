"""Heads of detectors that others trained: from raw ONNX outputs to boxes. NumPy and OpenCV only, nothing is trained."""
