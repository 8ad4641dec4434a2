"""`krimp shrink`: any ONNX file made small and fast, with pictures and a limit; numpy and ONNX Runtime, no torch."""
