"""Arithmetic of post-training quantization: arrays in, arrays out, no torch and no graph.

`ranges` chooses what an activation's levels cover, `equalization` evens out channels before that, `rounding`
chooses the integers of a layer's weights together instead of one by one, `correction` takes back the shift that
is left. Whoever runs the network (torch with Brevitas, or ONNX Runtime) gathers the statistics and applies the result.
"""
