"""Small ONNX networks that report a box of class `lamp` at every white cell of 16 px, each with another head."""

from __future__ import annotations

import json

import numpy as np

HEIGHT, WIDTH, CELL = 96, 160, 16
ROWS, COLUMNS = HEIGHT // CELL, WIDTH // CELL
COUNT = ROWS * COLUMNS
_X, _Y = (axis.ravel() * CELL for axis in np.meshgrid(np.arange(COLUMNS), np.arange(ROWS)))
CENTRES = np.stack([_X + 8, _Y + 8, np.full(COUNT, CELL), np.full(COUNT, CELL)], axis=1).astype(np.float32)
CORNERS = np.stack([_X, _Y, _X + CELL, _Y + CELL], axis=1).astype(np.float32)
SHARES = CENTRES / [WIDTH, HEIGHT, WIDTH, HEIGHT]

SETTINGS = {
    "yolov8": {},
    "yolox": {"decoded": False, "strides": [CELL]},
    "rtmdet": {"form": "maps", "strides": [CELL], "offset": 0.5},
    "detr": {"scores": "sigmoid", "background": "none"},
    "ssd": {"scores": "probabilities", "background": "none"},
    "fastestdet": {},
}


def network(head):
    """Return (nodes, constants, outputs) after `bright` (1, 1, rows, columns), the brightness of cells, 0..1."""
    from onnx import helper

    def logit(share):
        return np.log(share / (1 - share))

    flat = helper.make_node("Reshape", ["bright", "rows_shape"], ["rows"])  # (1, cells, 1)
    shape = {"rows_shape": np.array([1, COUNT, 1])}
    steep = [
        helper.make_node("Sub", ["bright", "half"], ["above"]),
        helper.make_node("Mul", ["above", "gain"], ["logits"]),
    ]
    slope = {"half": np.float32(0.75), "gain": np.float32(40)}
    if head == "yolov8":
        nodes = [
            helper.make_node("Reshape", ["bright", "rows_shape"], ["scores"]),
            helper.make_node("Concat", ["boxes", "scores"], ["output0"], axis=1),
        ]
        return nodes, {"rows_shape": np.array([1, 1, COUNT]), "boxes": CENTRES.T[None]}, {"output0": [1, 5, COUNT]}
    if head == "yolox":
        fixed = np.tile(np.float32([0.5, 0.5, 0, 0, 1]), (1, COUNT, 1))
        nodes = [flat, helper.make_node("Concat", ["fixed", "rows"], ["output"], axis=2)]
        return nodes, shape | {"fixed": fixed}, {"output": [1, COUNT, 6]}
    if head == "rtmdet":
        reach = np.full((1, 4, ROWS, COLUMNS), CELL / 2, np.float32)
        nodes = [*steep, helper.make_node("Identity", ["reach"], ["distances"])]
        return nodes, slope | {"reach": reach}, {"logits": [1, 1, ROWS, COLUMNS], "distances": [1, 4, ROWS, COLUMNS]}
    if head == "detr":
        nodes = [
            *steep,
            helper.make_node("Reshape", ["logits", "rows_shape"], ["pred_logits"]),
            helper.make_node("Identity", ["boxes"], ["pred_boxes"]),
        ]
        outputs = {"pred_logits": [1, COUNT, 1], "pred_boxes": [1, COUNT, 4]}
        return nodes, slope | shape | {"boxes": SHARES[None].astype(np.float32)}, outputs
    if head == "ssd":
        nodes = [flat, helper.make_node("Identity", ["boxes"], ["corners"])]
        return nodes, shape | {"boxes": CORNERS[None]}, {"corners": [1, COUNT, 4], "rows": [1, COUNT, 1]}
    assert head == "fastestdet"
    numbers = np.array([np.arctanh(0.5), np.arctanh(0.5), logit(CELL / WIDTH), logit(CELL / HEIGHT)])
    fixed = np.tile(numbers.reshape(1, 4, 1, 1), (1, 1, ROWS, COLUMNS)).astype(np.float32)
    nodes = [helper.make_node("Concat", ["bright", "fixed", "ones"], ["758"], axis=1)]
    constants = {"fixed": fixed, "ones": np.ones((1, 1, ROWS, COLUMNS), np.float32)}
    return nodes, constants, {"758": [1, 6, ROWS, COLUMNS]}


def write(path, head, metadata=None):
    """Write the network of a head, with `krimp.deploy` if metadata is given; return the path."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes, constants, outputs = network(head)
    constants = constants | {"weight": np.full((1, 3, 1, 1), 1 / 3, np.float32)}
    first = [
        helper.make_node("AveragePool", ["images"], ["means"], kernel_shape=[CELL, CELL], strides=[CELL, CELL]),
        helper.make_node("Conv", ["means", "weight"], ["bright"]),
    ]
    graph = helper.make_graph(
        [*first, *nodes],
        head,
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, HEIGHT, WIDTH])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    if metadata is not None:
        helper.set_model_props(model, {"krimp.deploy": json.dumps(metadata)})
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path
