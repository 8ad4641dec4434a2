"""A small convolutional network of a stranger's, and pictures for it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDE = 48


def write_net(
    path: Path, *, opset: int = 17, size: tuple[int | str, ...] = (1, 3, SIDE, SIDE), kind=np.float32, seed: int = 0
) -> Path:
    """Write conv, batch norm, ReLU, depthwise, residual sum, and two outputs; return the path."""
    rng = np.random.default_rng(seed)
    constants: dict[str, np.ndarray] = {}
    nodes = []

    def conv(name, source, out, into, kernel, *, stride=1, groups=1, norm=True):
        constants[f"{name}.weight"] = rng.laplace(
            0, 1 / np.sqrt(kernel**2 * into // groups), (out, into // groups, kernel, kernel)
        )
        made = [f"{name}.weight"]
        if not norm:
            constants[f"{name}.bias"] = rng.normal(size=out)
            made.append(f"{name}.bias")
        pad = kernel // 2
        nodes.append(
            helper.make_node("Conv", [source, *made], [f"{name}.out"], pads=[pad] * 4, strides=[stride] * 2,
                             group=groups, name=f"/{name}/Conv")
        )  # fmt: skip
        if not norm:
            return f"{name}.out"
        for part, values in (("scale", rng.uniform(0.5, 2, out)), ("shift", rng.normal(size=out)),
                             ("mean", rng.normal(size=out) * 0.1), ("var", rng.uniform(0.5, 2, out))):  # fmt: skip
            constants[f"{name}.{part}"] = values
        parts = [f"{name}.{part}" for part in ("scale", "shift", "mean", "var")]
        nodes.append(helper.make_node("BatchNormalization", [f"{name}.out", *parts], [f"{name}.norm"]))
        nodes.append(helper.make_node("Relu", [f"{name}.norm"], [f"{name}.relu"]))
        return f"{name}.relu"

    stem = conv("stem", "images", 32, 3, 3, stride=2)
    wide = conv("wide", stem, 64, 32, 1)
    deep = conv("deep", wide, 64, 64, 3, groups=64)
    back = conv("back", deep, 32, 64, 1)
    nodes.append(helper.make_node("Add", [stem, back], ["sum"]))
    conv("scores", "sum", 4, 32, 3, norm=False)
    conv("boxes", "sum", 8, 32, 1, norm=False)
    element = TensorProto.FLOAT16 if kind == np.float16 else TensorProto.FLOAT
    free = [None if isinstance(one, str) else one // 2 for one in size[2:]]
    outputs = [("scores.out", 4), ("boxes.out", 8)]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("images", element, size)],
        [helper.make_tensor_value_info(name, element, [size[0], out, *free]) for name, out in outputs],
        [numpy_helper.from_array(value.astype(kind), name) for name, value in constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def write_pictures(folder: Path, count: int = 8, *, side: int = 60) -> Path:
    """Write pictures of soft patches; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1)
    for number in range(count):
        rough = rng.integers(0, 256, (6, 8, 3), np.uint8)
        picture = cv2.resize(rough, (side + 4, side), interpolation=cv2.INTER_CUBIC)
        assert cv2.imwrite(str(folder / f"p{number:02}.png"), picture)
    return folder
