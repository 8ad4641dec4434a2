"""ONNX Runtime sessions, forwards for scoring, latency and `krimp detect`. Nothing here imports torch at load."""
