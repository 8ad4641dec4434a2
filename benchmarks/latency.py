"""Time any ONNX or .krimp files in turns in one run, and compare each with the first.

    python benchmarks/latency.py float.onnx small.krimp --threads 1 --runs 100
    python benchmarks/latency.py model.onnx --image-size 512 640
    python benchmarks/latency.py model.krimp --image picture.jpg --end-to-end --json record.json

Without --end-to-end only the network runs, on random input of the right types. With it, a
picture goes through pre-processing, network and post-processing of the model's own plug-in.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # run as a file: make the repository importable, not the folder of this script
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np

from benchmarks.record_file import head, refuse_existing, write_record
from compress.errors import CompressError, StageError
from compress.machine import latency_machine
from compress.pictures.decoding import read_image
from compress.plugins import load_deploy
from compress.predictor import Predictor
from compress.progress import console, track
from compress.runtime.forwards import session_forward
from compress.runtime.latency import compare, random_inputs
from compress.runtime.session import deploy_metadata_of, open_session


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure as the command line says and return the record."""
    labels = _labels(options.models)
    sessions = {label: open_session(path, threads=options.threads) for label, path in labels.items()}
    image = read_image(options.image) if options.image else None
    size = tuple(options.image_size) if options.image_size else None
    record = head("latency") | {
        "files": {label: _file_facts(path) for label, path in labels.items()},
        "threads": options.threads,
        "warmup": options.warmup,
        "runs": options.runs,
        "batch_size": options.batch_size,
        "environment": latency_machine(),
    }
    inputs = {
        label: random_inputs(session, image_size=size or _size_of(session, image), batch_size=options.batch_size)
        for label, session in sessions.items()
    }
    record["inputs"] = {
        label: {name: [str(array.dtype), *array.shape] for name, array in feeds.items()}
        for label, feeds in inputs.items()
    }
    calls = {label: _network_call(session, inputs[label]) for label, session in sessions.items()}
    record["network"] = _timed(calls, options, "network")
    if options.end_to_end:
        calls = {label: _whole_call(label, session, image, size) for label, session in sessions.items()}
        record["end_to_end"] = _timed(calls, options, "end to end")
    return record


@console()
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    options = _parser().parse_args(arguments)
    try:
        refuse_existing(options.json)
        record = measure(options)
        print(table(record))
        write_record(options.json, record)
    except CompressError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def table(record: dict[str, Any]) -> str:
    """Return the record as a text table."""
    lines = []
    for part in ("network", "end_to_end"):
        if part not in record:
            continue
        result = record[part]
        lines.append(
            f"{part}, ms, {record['threads'] or 'all'} thread(s), {record['runs']} runs, batch {record['batch_size']}"
        )
        lines.append(f"{'':32}{'p50':>10}{'p90':>10}{'p99':>10}   speedup over {result['reference']} (95 %)")
        for label, row in result["models"].items():
            numbers = "".join(f"{row[f'latency_ms_{name}']:10.2f}" for name in ("p50", "p90", "p99"))
            ratio = result["ratios"].get(label)
            text = (
                ""
                if ratio is None
                else "   {speedup_p50:.2f}x ({speedup_low:.2f} to {speedup_high:.2f})".format(**ratio)
            )
            lines.append(f"{label[-31:]:32}{numbers}{text}")
    lines.append(f"{record['environment']['cpu']}, onnxruntime {record['environment']['versions']['onnxruntime']}")
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("models", nargs="+", type=Path, help="ONNX or .krimp files, the reference first")
    parser.add_argument("--threads", type=int, default=1, help="threads of ONNX Runtime; 0 is one per core")
    parser.add_argument("--warmup", type=int, default=10, help="rounds that are not counted")
    parser.add_argument("--runs", type=int, default=50, help="counted rounds; every model runs once a round")
    parser.add_argument("--batch-size", type=int, default=1, help="for models of open batch size, network only")
    parser.add_argument("--image-size", type=int, nargs=2, metavar=("H", "W"), help="for models of open size, pixels")
    parser.add_argument("--image", type=Path, help="picture for --end-to-end")
    parser.add_argument("--end-to-end", action="store_true", help="also time picture to boxes")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the record here")
    return parser


def _labels(paths: Sequence[Path]) -> dict[str, Path]:
    """Return a short unique label for each file."""
    labels: dict[str, Path] = {}
    for path in paths:
        label = path.name if path.name not in labels else str(path)
        if label in labels:
            raise StageError(f"{path}: named twice. Name each model once.")
        labels[label] = path
    return labels


def _size_of(session: Any, image: np.ndarray | None) -> tuple[int, int] | None:
    """Return a size for open dimensions: the model's own metadata, else the picture's."""
    if all(isinstance(size, int) for entry in session.get_inputs() for size in entry.shape[2:4]):
        return None
    text = session.get_modelmeta().custom_metadata_map.get("krimp.deploy")
    size = json.loads(text).get("image_size") if text else None
    if size is None and image is not None:
        size = image.shape[:2]
    return (int(size[0]), int(size[1])) if size is not None else None


def _network_call(session: Any, feeds: dict[str, np.ndarray]) -> Callable[[], Any]:
    return lambda: session.run(None, feeds)


def _whole_call(label: str, session: Any, image: np.ndarray | None, size: tuple[int, int] | None) -> Callable[[], Any]:
    import cv2

    if image is None:
        raise StageError("--end-to-end: no picture. Give one with --image FILE.")
    deploy = load_deploy(deploy_metadata_of(session, label))
    height, width = size or deploy.image_size
    if image.shape[:2] != (height, width):
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return partial(Predictor(session_forward(session), deploy).detect, image)


def _timed(calls: dict[str, Callable[[], Any]], options: argparse.Namespace, what: str) -> dict[str, Any]:
    steps = iter(track(range(options.warmup + options.runs), what))
    next(steps)
    return compare(calls, warmup=options.warmup, runs=options.runs, tick=lambda _: next(steps, None))


def _file_facts(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    return {"name": path.name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


if __name__ == "__main__":
    raise SystemExit(main())
