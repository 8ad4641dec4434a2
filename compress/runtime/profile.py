"""Where the time of a network goes, layer by layer, by ONNX Runtime's own profile."""

from __future__ import annotations

import json
import re
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np

_RUNS = 5  # profiled
_KERNEL = "_kernel_time"
_TOKEN = re.compile(r"_token_\d+$")  # that ONNX Runtime appends to nodes of its own
BETWEEN = "between layers"


def seconds_by_layer(
    path: Path, images: np.ndarray, *, threads: int, layer_of: Callable[[str], str]
) -> dict[str, float]:
    """Return layer -> seconds of one image, the median of some runs.

    A kernel counts for the layer whose constant it reads; one that reads none for what `layer_of` makes of its name.

    Args:
        path: an ONNX file with the names of layers in it.
        images: (N, 3, H, W) float32.
        threads: inside an operator; 0: one per core.
        layer_of: gives the layer of the name of a constant or a node, '' if it belongs to none; those are `BETWEEN`.
    """
    import onnx
    import onnxruntime as ort

    with tempfile.TemporaryDirectory(prefix="krimp-profile-") as folder:
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        options.enable_profiling, options.profile_file_prefix = True, f"{folder}/profile"
        options.optimized_model_filepath = f"{folder}/optimized.onnx"
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        feeds = {session.get_inputs()[0].name: images}
        for _ in range(_RUNS + 1):
            session.run(None, feeds)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        graph = onnx.load(f"{folder}/optimized.onnx").graph
    constants = {tensor.name for tensor in graph.initializer}
    owners = {
        _plain(node.name): layer_of(
            next((name for name in node.input if name in constants and layer_of(name)), node.name)
        )
        for node in graph.node
    }
    runs: dict[str, list[float]] = defaultdict(list)
    for event in events:
        name = event.get("name", "")
        if event.get("cat") == "Node" and name.endswith(_KERNEL):
            runs[_plain(name.removesuffix(_KERNEL))].append(event["dur"] / 1e6)
    seconds: dict[str, float] = defaultdict(float)
    for name, times in runs.items():
        calls = max(len(times) // (_RUNS + 1), 1)
        later = times[calls:] or times  # the first run warms up
        seconds[owners.get(name) or layer_of(name) or BETWEEN] += float(np.median(later)) * calls
    return dict(seconds)


def _plain(name: str) -> str:
    """Return the name of a node as the file has it."""
    return _TOKEN.sub("", name)
