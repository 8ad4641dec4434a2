"""A small network with outputs like those of YOLOv8: every cell of 16 px is a box of class red and one of class green.

The score is the mean brightness of that colour in the cell, 0..1; boxes are constants. So what it finds in a picture of
coloured cells can be said without running it.
"""

from __future__ import annotations

import cv2
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from compress.shrink.network import open_network

HEIGHT, WIDTH, CELL = 96, 160, 16
ROWS, COLUMNS = HEIGHT // CELL, WIDTH // CELL
COUNT = ROWS * COLUMNS
CLASSES = ("red", "green")
_X, _Y = (axis.ravel() * CELL for axis in np.meshgrid(np.arange(COLUMNS), np.arange(ROWS)))
CENTRES = np.stack([_X + 8, _Y + 8, np.full(COUNT, CELL), np.full(COUNT, CELL)], axis=1).astype(np.float32)


def write(path, *, metadata=None, colours=((1, 0, 0), (0, 1, 0)), suffix=(), last=None):
    """Write the network; return the path.

    Args:
        path: of the ONNX file.
        metadata: properties, text by text.
        colours: of each class, weights of R, G, B.
        suffix: nodes after `boxes_and_scores`.
        last: name and shape of the output that they make.
    """
    name, shape = last or ("boxes_and_scores", [1, 4 + len(colours), COUNT])
    nodes = [
        helper.make_node("AveragePool", ["images"], ["means"], kernel_shape=[CELL, CELL], strides=[CELL, CELL]),
        helper.make_node("Conv", ["means", "colours"], ["maps"]),
        helper.make_node("Reshape", ["maps", "shape"], ["scores"]),
        helper.make_node("Concat", ["boxes", "scores"], ["boxes_and_scores"], axis=1),
        *suffix,
    ]
    constants = {
        "colours": np.array(colours, np.float32).reshape(-1, 3, 1, 1),
        "shape": np.array([1, len(colours), COUNT]),
        "boxes": CENTRES.T[None],
    }
    graph = helper.make_graph(
        nodes,
        "cells",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, HEIGHT, WIDTH])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(array, key) for key, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    if metadata:
        helper.set_model_props(model, metadata)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def opened(path, **how):
    """Write the network and open it as `krimp shrink` does."""
    return open_network(write(path, **how))


def changed(network, name, change):
    """Return the model with an initializer changed by a function."""
    model = onnx.ModelProto()
    model.CopyFrom(network.model)
    (place,) = (number for number, one in enumerate(model.graph.initializer) if one.name == name)
    value = change(numpy_helper.to_array(model.graph.initializer[place]).copy())
    model.graph.initializer[place].CopyFrom(numpy_helper.from_array(value.astype(np.float32), name))
    return model


def picture(folder, name, cells, *, scale=1, suffix=".png"):
    """Write a black picture with coloured cells.

    Args:
        folder: where to.
        name: of the file, without suffix.
        cells: (row, column, label, brightness 0..255) of each.
        scale: pixels of the picture per pixel of the input.
        suffix: of the file.
    """
    side = CELL * scale
    image = np.zeros((ROWS * side, COLUMNS * side, 3), np.uint8)
    for row, column, label, brightness in cells:
        image[row * side : (row + 1) * side, column * side : (column + 1) * side, 2 - label] = brightness
    path = folder / f"{name}{suffix}"
    folder.mkdir(exist_ok=True)
    cv2.imwrite(str(path), image)
    return path


def corners(row, column, scale=1):
    """Return x1, y1, x2, y2 of a cell, px of the picture."""
    side = CELL * scale
    return column * side, row * side, (column + 1) * side, (row + 1) * side
