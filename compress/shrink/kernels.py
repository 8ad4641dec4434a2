"""Where a network's time goes, by kind of operator: why integers are slower, if they are."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

RUNS = 5


def milliseconds_by_op(model: onnx.ModelProto, feed: dict[str, np.ndarray], *, threads: int = 1) -> dict[str, float]:
    """Return operator -> milliseconds that its kernels take in one run, the fastest of some, slowest first.

    Args:
        model: as it is given to ONNX Runtime, which fuses and adds operators of its own.
        feed: one input.
        threads: of ONNX Runtime; 0: one per core.
    """
    with tempfile.TemporaryDirectory(prefix="krimp-profile-") as folder:
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        options.enable_profiling, options.profile_file_prefix = True, str(Path(folder) / "run")
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        for _ in range(RUNS):
            session.run(None, feed)
        events = json.loads(Path(session.end_profiling()).read_text())
    fastest: dict[tuple[str, str], float] = {}
    for event in events:
        op = event.get("args", {}).get("op_name")
        if event.get("cat") == "Node" and op and event["name"].endswith("_kernel_time"):
            key = (op, event["name"])
            fastest[key] = min(fastest.get(key, np.inf), event["dur"] / 1e3)
    total: dict[str, float] = defaultdict(float)
    for (op, _), milliseconds in fastest.items():
        total[op] += milliseconds
    return dict(sorted(total.items(), key=lambda one: -one[1]))
