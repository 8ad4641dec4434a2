"""Passes over ONNX graphs: names, order, fusing, dead channels. Needs no torch."""
