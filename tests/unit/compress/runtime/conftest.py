"""A small ONNX model with the outputs of a DCFL network, whose detections are known."""

import json

import numpy as np
import pytest

STRIDES = (8, 16, 32, 64, 128)
META = {
    "format_version": 1,
    "plugin": "dcfl",
    "image_size": [128, 160],
    "mean": [0.0, 0.0, 0.0],
    "std": [255.0, 255.0, 255.0],
    "classes": ["lamp", "ship"],
    "strides": list(STRIDES),
    "anchor_scale": 4,
    "score_threshold": 0.3,
    "nms_iou": 0.4,
    "nms_pre": 2000,
    "max_detections": 2000,
    "angle_version": "le135",
    "output_names": [f"{name}_p{level}" for name in ("cls_score", "bbox_pred") for level in range(3, 8)],
    "size_divisor": 32,
}


def head_like_onnx(path, meta=META, height="height", width="width", batch="batch"):
    """Write a model that reports a box of 16x8 px wherever an 8x8 cell of the picture is white.

    The box is centred in the cell (the prior lies at its top left corner) and turned by 0.3 rad;
    levels above P3 stay silent.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes, initializers = [], []

    def add(name, array):
        initializers.append(numpy_helper.from_array(np.asarray(array, np.float32), name))
        return name

    shapes = {}
    for level, stride in zip(range(3, 8), STRIDES, strict=True):
        pool = {"kernel_shape": [stride, stride], "strides": [stride, stride], "ceil_mode": 1}
        nodes.append(helper.make_node("AveragePool", ["images"], [f"mean_p{level}"], **pool))
        gain = 10.0 if level == 3 else 0.0
        delta = [0.125, 0.125, np.log(16 / 32), np.log(8 / 32), 0.3 / np.pi]
        for name, weight, bias in (
            ("cls_score", np.outer([1.0, 0.0], np.ones(3)) * gain, [-25.0, -25.0]),
            ("bbox_pred", np.zeros((5, 3)), delta),
        ):
            output = f"{name}_p{level}"
            weight_name = add(f"{output}.weight", weight[:, :, None, None])
            bias_name = add(f"{output}.bias", bias)
            nodes.append(helper.make_node("Conv", [f"mean_p{level}", weight_name, bias_name], [output]))
            shapes[output] = [batch, len(bias), f"h{level}", f"w{level}"]
    graph = helper.make_graph(
        nodes,
        "head_like",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 3, height, width])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[name]) for name in META["output_names"]],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    if meta is not None:
        helper.set_model_props(model, {"krimp.deploy": json.dumps(meta)})
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


@pytest.fixture
def meta():
    return dict(META)


@pytest.fixture
def write_model():
    return head_like_onnx


@pytest.fixture
def model_file(tmp_path):
    return head_like_onnx(tmp_path / "model.onnx")


@pytest.fixture
def white_cells():
    """Return a function that draws white 8x8 cells at (row, column) into a black picture."""

    def draw(size, cells):
        image = np.zeros((*size, 3), np.uint8)
        for row, column in cells:
            image[row * 8 : row * 8 + 8, column * 8 : column * 8 + 8] = 255
        return image

    return draw
