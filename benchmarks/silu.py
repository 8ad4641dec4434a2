"""Time CSPNeXt-tiny, a network of SiLU, as float and as int8 file in turns in one run.

    python benchmarks/silu.py --json benchmarks/records/DATE_silu.json

Three files of the same fresh network: float; int8 as it was, with SiLU in float between quantizers; int8 with gates in
integers (`compress/quantization/gates.py`). Ranges come from noise: the time does not depend on the values.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # run as a file: make the repository importable, not the folder of this script
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from torch import nn

from benchmarks.cspnext import CspNext
from benchmarks.record_file import head, refuse_existing, write_record
from compress.errors import CompressError
from compress.export.onnx_file import export_onnx
from compress.machine import latency_machine
from compress.onnx_graph.fusion import optimized_graph
from compress.progress import console
from compress.quantization import QuantizationSettings, calibrate, quantize
from compress.runtime.forwards import session_forward
from compress.runtime.latency import compare
from compress.runtime.session import open_session

SHOWN = ("QLinearConv", "QLinearMul", "QLinearSigmoid", "QLinearAdd", "Mul", "Sigmoid", "HardSigmoid", "QuantizeLinear")


class Backbone:
    """What quantization and export ask of a plug-in, for a backbone without a head."""

    NAME = "cspnext"
    data = None

    def __init__(self, size: int) -> None:
        self.size = size

    def example_input(self, number: int) -> torch.Tensor:
        """Return zeros, (number, 3, size, size)."""
        return torch.zeros(number, 3, self.size, self.size)

    def output_names(self) -> tuple[str, ...]:
        """Return the names of the feature maps."""
        return ("stride_8", "stride_16", "stride_32")

    def metadata(self) -> dict[str, Any]:
        """Return nothing: no boxes come out of a backbone."""
        return {}

    def not_quantizable(self, _model: nn.Module) -> dict[str, str]:
        """Return nothing."""
        return {}

    def distill_points(self, _model: nn.Module) -> tuple[str, ...]:
        """Return nothing."""
        return ()


def noise(number: int, size: int) -> torch.Tensor:
    """Return images of clipped noise, (number, 3, size, size)."""
    return torch.randn(number, 3, size, size).clamp(-2.5, 2.5)


def network(activation: str) -> nn.Module:
    """Return CSPNeXt-tiny with its SiLU, or hard swish in their place."""
    torch.manual_seed(0)
    model = CspNext()
    if activation == "hardswish":
        for parent in list(model.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.SiLU):
                    setattr(parent, name, nn.Hardswish(inplace=True))
    return model


def write_files(folder: Path, activation: str, size: int) -> dict[str, Path]:
    """Export the three files and return their paths by label."""
    model, backbone = network(activation), Backbone(size)
    with torch.no_grad():
        for _ in range(10):  # statistics for the batch norms
            model(noise(4, 160))
    model.eval()
    files = {"float": folder / "float.onnx"}
    export_onnx(model, files["float"], detector=backbone)  # type: ignore[arg-type]
    for label, gates in (("int8, float gates", False), ("int8", True)):
        quantized = quantize(model, QuantizationSettings(), backbone, integer_gates=gates)  # type: ignore[arg-type]
        calibrate(quantized, [noise(1, 320) for _ in range(4)])
        files[label] = folder / f"{len(files)}.onnx"
        export_onnx(quantized, files[label], detector=backbone)  # type: ignore[arg-type]
    return files


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure as the command line says and return the record."""
    images = noise(1, options.size).numpy()
    with tempfile.TemporaryDirectory() as folder:
        files = write_files(Path(folder), options.activation, options.size)
        kinds = {label: Counter(n.op_type for n in optimized_graph(path).graph.node) for label, path in files.items()}
        forwards = {name: session_forward(open_session(path, threads=options.threads)) for name, path in files.items()}
        calls = {label: partial(forward, images) for label, forward in forwards.items()}
        timed = compare(calls, warmup=options.warmup, runs=options.runs)
    return head("silu") | {
        "model": "CSPNeXt-tiny, fresh weights",
        "activation": options.activation,
        "image_size": [options.size, options.size],
        "threads": options.threads,
        "warmup": options.warmup,
        "runs": options.runs,
        "environment": latency_machine(),
        "operators": {label: {name: kind[name] for name in SHOWN} for label, kind in kinds.items()},
        "network": timed,
    }


@console()
def main() -> int:
    """Run the command line; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=640, help="Height and width of the image.")
    parser.add_argument("--activation", choices=("silu", "hardswish"), default="silu", help="SiLU is the original.")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--warmup", type=int, default=5)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--json", type=Path, help="File to write the record to.")
    options = parser.parse_args()
    try:
        refuse_existing(options.json)
        record = measure(options)
        print(json.dumps(record, indent=1, default=str))
        write_record(options.json, record)
    except CompressError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
