"""Score model files on splits of a recipe's data: map, map75 and map50 with intervals, and what each loses.

    python benchmarks/accuracy.py recipes/dcfl_mbv2_hituav.yaml float detectors/dcfl/zoo/dcfl_mbv2_hituav.krimp \
        --set data.root=/data/hit-uav --split val --split test --detections out/accuracy \
        --record benchmarks/records/<date>_accuracy_<name>.json

A model is an .onnx or .krimp file, or `float`: the recipe's checkpoint. Losses count from the first one, with the
paired bootstrap over images. `--detections` keeps what was found: a second call scores it again and looks at nothing.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # run as a file: make the repository importable, not the folder of this script
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np

from benchmarks.record_file import head, refuse_existing, write_record
from compress.actions.evaluate import plain_scores
from compress.artifact import file_digest
from compress.dataset import METRICS, Scores
from compress.detector import AdaptsTruth, Detector, Forward
from compress.errors import CompressError, StageError
from compress.metrics.paired import loss_interval
from compress.plugins import deploy_of, make_detector
from compress.predictor import Predictor
from compress.progress import console, track
from compress.recipe.loading import load_recipe
from compress.runtime.forwards import onnx_forward, torch_forward
from compress.whole_file import whole_file
from detectors.geometry.detections import Detections

FLOAT = "float"
SUFFIXES = (".onnx", ".krimp")


def forward_of(model: str, detector: Detector, threads: int) -> Forward:
    """Return the forward of a model file, or of the recipe's checkpoint.

    Raises:
        StageError: the recipe has no checkpoint, or the file is of another kind.
    """
    if model != FLOAT:
        if Path(model).suffix not in SUFFIXES:
            raise StageError(f"{model}: expected {' or '.join(SUFFIXES)}, or {FLOAT!r} for the recipe's checkpoint.")
        return onnx_forward(Path(model), threads)
    checkpoint = detector.checkpoint_path()
    if checkpoint is None:
        raise StageError("float: the recipe names no checkpoint. Set detector.checkpoint.")
    network = detector.build()
    detector.load(network, checkpoint)
    return torch_forward(network, len(detector.output_names()))


def digest_of(model: str, detector: Detector) -> str:
    """Return the sha256 of the weights that a model name stands for."""
    checkpoint = detector.checkpoint_path() if model == FLOAT else Path(model)
    return file_digest(checkpoint) if checkpoint is not None else ""


def find(model: str, detector: Detector, split: str, threads: int, kept: Path | None) -> list[Detections]:
    """Return what a model finds in each picture of a split, from the file where it is kept if it is there."""
    path = None if kept is None else kept / f"{digest_of(model, detector)[:16]}_{split}.npz"
    if path is not None and path.is_file():
        return read_detections(path)
    predictor = Predictor(forward_of(model, detector, threads), deploy_of(detector))
    pictures = detector.data.images(split)
    looked_at = track(pictures, f"{Path(model).name} on {split}", len(pictures))
    found = [predictor.detect(picture.image) for picture in looked_at]
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_detections(path, found)
    return found


def write_detections(path: Path, found: Sequence[Detections]) -> None:
    """Write detections, image by image, to an .npz file without pickle."""
    together = Detections.concatenate(found)
    counts = np.array([len(one) for one in found], np.int64)
    arrays = {"boxes": together.boxes, "scores": together.scores, "labels": together.labels}
    with whole_file(path) as file:
        np.savez_compressed(file, allow_pickle=False, counts=counts, **arrays)


def read_detections(path: Path) -> list[Detections]:
    """Return what `write_detections` wrote."""
    with np.load(path, allow_pickle=False) as file:
        ends = np.cumsum(file["counts"])
        parts = zip(ends - file["counts"], ends, strict=True)
        boxes, scores, labels = file["boxes"], file["scores"], file["labels"]
        return [Detections(boxes[a:b], scores[a:b], labels[a:b]) for a, b in parts]


def score(detector: Detector, split: str, found: Sequence[Detections]) -> tuple[Scores, float]:
    """Return the scores of what was found, and the seconds that scoring took."""
    adapt = detector.adapt_truth if isinstance(detector, AdaptsTruth) else lambda truth: truth
    truths = [adapt(picture.truth) for picture in detector.data.images(split)]
    start = time.perf_counter()
    scores = detector.data.score(found, truths)
    return scores, time.perf_counter() - start


def losses(reference: Scores, other: Scores) -> dict[str, Any]:
    """Return by metric what a model loses against the first one, with the paired interval."""
    lost: dict[str, Any] = {}
    for metric in METRICS:
        drawn = (getattr(one, f"{metric}_resampled") for one in (reference, other))
        lost[f"{metric}_loss"] = getattr(reference, metric) - getattr(other, metric)
        lost[f"{metric}_loss_interval"] = loss_interval(*drawn)
    return lost


def run(detector: Detector, models: Sequence[str], split: str, threads: int, kept: Path | None) -> list[dict[str, Any]]:
    """Return a row a model for one split."""
    rows: list[dict[str, Any]] = []
    first: Scores | None = None
    for model in models:
        scores, seconds = score(detector, split, find(model, detector, split, threads, kept))
        row = {"model": Path(model).name, "sha256": digest_of(model, detector), "scoring_seconds": seconds}
        rows.append(row | {"scores": plain_scores(scores)} | (losses(first, scores) if first else {}))
        first = first or scores
    return rows


def table(split: str, rows: Sequence[dict[str, Any]]) -> str:
    """Return a line a model, with the losses below it."""
    lines = [f"{split}: {rows[0]['scores']['num_images']} images, {rows[0]['scores']['num_objects']} objects"]
    for row in rows:
        values = [f"{metric} {row['scores'][metric]:.4f}" for metric in METRICS]
        values += [
            f"{metric} loss {row[f'{metric}_loss']:+.4f} [{interval[0]:+.4f} to {interval[1]:+.4f}]"
            for metric in METRICS
            if (interval := row.get(f"{metric}_loss_interval"))
        ]
        lines.append(f"  {row['model']:32} " + "  ".join(values) + f"  scored in {row['scoring_seconds']:.2f} s")
    return "\n".join(lines)


@console()
def main() -> int:
    """Run the command line; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, help="gives detector and data")
    parser.add_argument("models", nargs="+", help=".onnx or .krimp files, or 'float'; losses count from the first")
    parser.add_argument("--split", action="append", help="split to score, repeatable (default: val)")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="override a recipe's field")
    parser.add_argument("--threads", type=int, default=1, help="of ONNX Runtime (default: 1)")
    parser.add_argument("--detections", type=Path, help="folder that keeps what was found")
    parser.add_argument("--record", type=Path, help="file to write; it must not exist")
    options = parser.parse_args()
    try:
        refuse_existing(options.record)
        recipe = load_recipe(options.recipe, options.set)
        detector = make_detector(recipe.detector, recipe.data)
        splits: dict[str, Any] = {}
        for split in dict.fromkeys(options.split or ["val"]):
            splits[split] = run(detector, options.models, split, options.threads, options.detections)
            print(table(split, splits[split]))
        data = {name: value for name, value in recipe.data.items() if name != "root"}
        write_record(options.record, head("accuracy") | {"name": recipe.name, "data": data, "splits": splits})
    except CompressError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
