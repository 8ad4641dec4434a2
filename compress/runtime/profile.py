"""Where the time of a network goes, layer by layer, by ONNX Runtime's own profile."""

from __future__ import annotations

import json
import re
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

BETWEEN = "between layers"
_RUNS = 10  # profiled
_KERNEL = "_kernel_time"
_BLOCKED = "_nchwc"  # behind the name of the output of a float convolution, which is what that kernel is called by
_OWNED = re.compile(r"^node \d+ of <(.*?)>")  # what nodes are called here: ONNX Runtime only appends to it


def seconds_by_layer(
    path: Path, images: np.ndarray, *, threads: int, layer_of: Callable[[str], str]
) -> dict[str, float]:
    """Return layer -> seconds of one image, each kernel at its fastest of some runs, for others may be at work.

    A kernel counts for the layer whose constants it reads; one that reads none for what `layer_of` makes of its name.

    Args:
        path: an ONNX file with the names of layers in it.
        images: (N, 3, H, W) float32.
        threads: inside an operator; 0: one per core.
        layer_of: gives the layer of the name of a constant or a node, '' if it belongs to none; those are `BETWEEN`.
    """
    import onnx
    import onnxruntime as ort

    model = onnx.load(path)
    owners, makers = _owners(model.graph, layer_of)
    for number, node in enumerate(model.graph.node):
        node.name = f"node {number} of <{owners[number]}>"
    with tempfile.TemporaryDirectory(prefix="krimp-profile-") as folder:
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        options.enable_profiling, options.profile_file_prefix = True, f"{folder}/profile"
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        feeds = {session.get_inputs()[0].name: images}
        for _ in range(_RUNS + 1):
            session.run(None, feeds)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    runs: dict[str, list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(_KERNEL):
            runs[event["name"]].append(event["dur"] / 1e6)
    seconds: dict[str, float] = defaultdict(float)
    for name, times in runs.items():
        kept, blocked = _OWNED.match(name), name.removesuffix(_KERNEL).removesuffix(_BLOCKED)
        owner = kept[1] if kept else makers.get(blocked)
        later = times[len(times) // (_RUNS + 1) :]  # the first run warms up
        seconds[owner or BETWEEN] += min(later) * len(times) / (_RUNS + 1)
    return dict(seconds)


def _owners(graph: Any, layer_of: Callable[[str], str]) -> tuple[list[str], dict[str, str]]:
    """Return the layer of each node, '' of none, and of each tensor.

    A node belongs to the layer of the constants that it reads, also through other nodes; a tensor to that of the last
    such node before it, as kernels are fused with what follows.
    """
    constants = {tensor.name: layer_of(tensor.name) for tensor in graph.initializer}
    owners: list[str] = []
    makers: dict[str, str] = {}
    for node in graph.node:
        read = [name for name in node.input if name]
        found = [constants[name] for name in read if constants.get(name)]
        owners.append(found[0] if found else layer_of(node.name))
        before = next((makers[name] for name in read if makers.get(name)), "")
        makers |= dict.fromkeys(node.output, owners[-1] or before)
        if all(name in constants for name in read):  # a constant itself
            constants |= dict.fromkeys(node.output, owners[-1])
    return owners, makers
