"""From patches to whole images: detect, merge, submit, score. `python scripts/submit_dota.py --help` explains."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from compress.cli.ending import run_command
from compress.errors import DataError
from compress.progress import say, track
from detectors.data import merging
from detectors.data.folder_builder import write_json

DETECTIONS = "detections.jsonl"
FORMAT_VERSION = 1
EXPLANATION = """\
Put detections on the patches of scripts/prepare_dota.py together to whole images (shifted, scaled, rotated NMS at IoU
0.1 class by class, as DOTA's own merging), write OUT/submission.zip for DOTA's evaluation server (Task 1: a file
Task1_CLASS.txt with lines `image score x1 y1 x2 y2 x3 y3 x4 y4`), and, with --labels, score the whole images here.

Detections come from one of
  --model FILE        an ONNX or .krimp file that Krimp exported; it looks at every patch of --patches. Results are kept
                      in OUT/detections.jsonl: kill the run at any moment and start it again, it goes on;
  --detections FILE   detections.json of `krimp detect` on the patches' images, or an earlier detections.jsonl;
  --submission FILE   a zip file or folder of Task-1 files, by whatever program; only scored.

With --patches it is an error if a patch was not looked at. Scores (OUT/scores.json) are DOTA's 11-point average
precision at IoU 0.5 and the area under the curve; difficult objects are ignored. The server's own
number is the one to quote.
"""
EXAMPLES = """\
examples:
  python scripts/submit_dota.py --model model.krimp --patches /data/dota10/test --out out/submission
  python scripts/submit_dota.py --model model.krimp --patches /data/dota10/val --out out/val \\
      --labels /data/DOTA/val/labelTxt-v1.0/labelTxt
  python scripts/submit_dota.py --detections found/detections.json --patches /data/dota10/val --out out/val
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit code."""
    options = _parser().parse_args(arguments)
    return run_command(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    options.out.mkdir(parents=True, exist_ok=True)
    images: Sequence[str] | None = None
    if options.submission is not None:
        if options.labels is None or not options.classes:
            raise DataError("--submission: is scored only, so it needs --labels and --classes.")
        classes = list(options.classes)
        merged = merging.read_submission(options.submission, classes)
    else:
        found = options.detections if options.model is None else _detect(options)
        classes, parts = merging.read_detections(found)
        if options.patches is not None:
            images = merging.check_complete(parts, options.patches)
        merged = merging.merge_patches(parts, iou_threshold=options.merge_iou)
        path = options.out / "submission.zip"
        merging.write_submission(path, merged, classes)
        count, before = (sum(map(len, group)) for group in (merged.values(), (part.detections for part in parts)))
        say(f"{path}: {count} objects in {len(merged)} images, from {before} detections on {len(parts)} patches")
    if options.labels is not None:
        _score(merged, merging.read_truths(options.labels, classes, images), classes, options.out / "scores.json")


def _detect(options: argparse.Namespace) -> Path:
    """Look at every patch that has no record yet and append its record; return the file."""
    from compress.runtime.detect import open_predictor, read_image

    if options.patches is None:
        raise DataError("--model: needs --patches, the folder of a split that prepare_dota.py made.")
    files = list(merging.patch_images(options.patches))
    predictor = open_predictor(options.model, score_threshold=options.score, threads=options.threads)
    header = {
        "format_version": FORMAT_VERSION,
        "model": options.model.name,
        "model_sha256": hashlib.sha256(options.model.read_bytes()).hexdigest(),
        "classes": list(predictor.deploy.classes),
        "score_threshold": options.score,
    }
    path = options.out / DETECTIONS
    done = resume_records(path, header)
    waiting = [file for file in files if file.stem not in done]
    if done:
        say(f"{len(done)} of {len(files)} patches are done already")
    with path.open("a") as out:
        for file in track(waiting, "detect", len(waiting)):
            image = read_image(file)
            found = predictor.deploy.to_json(predictor.detect(image))
            out.write(json.dumps({"name": file.stem, "width": image.shape[1], "detections": found}) + "\n")
            out.flush()
    return path


def resume_records(path: Path, header: dict[str, Any]) -> set[str]:
    """Make a record file ready to be appended to and return the names of its records.

    A last line that a killed run left incomplete is cut off.

    Raises:
        DataError: the file belongs to another model or threshold.
    """
    if not path.exists() or b"\n" not in (content := path.read_bytes()):
        path.write_text(json.dumps(header) + "\n")
        return set()
    whole = content[: content.rindex(b"\n") + 1]
    if len(whole) < len(content):
        with path.open("r+b") as file:
            file.truncate(len(whole))
    try:
        before, *records = [json.loads(line) for line in whole.splitlines()]
        names = {record["name"] for record in records}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: {error!r}, expected records of an earlier run. Move it away.") from error
    for key, value in header.items():
        if before.get(key) != value:
            raise DataError(
                f"{path}: made with {key} = {before.get(key)}, now it is {value}. Move it away, or take another --out."
            )
    return names


def _score(merged: dict[str, Any], truths: dict[str, Any], classes: Sequence[str], path: Path) -> None:
    scores = merging.score_images(merged, truths, classes)
    values = {
        "map50_voc07_11point": scores.extra["map50_voc07"],
        "map50_area": scores.map50,
        "map50_area_interval": scores.map50_interval,
        "iou_threshold": scores.iou_threshold,
        "recall": scores.recall,
        "num_images": scores.num_images,
        "num_detections": scores.num_detections,
        "ap_area_per_class": {name: ap if ap == ap else None for name, ap in scores.ap_per_class.items()},
    }
    write_json(path, values)
    for name, ap in scores.ap_per_class.items():
        say(f"  {name:25s} {'no truth' if ap != ap else f'{ap:.4f}'}")
    say(
        f"map50 {values['map50_voc07_11point']:.4f} (voc07_11point), {scores.map50:.4f} (area), IoU 0.5, "
        f"{scores.num_images} whole images; {path}"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=EXPLANATION, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", type=Path, help="ONNX or .krimp file")
    source.add_argument("--detections", type=Path, help="detections.json or detections.jsonl")
    source.add_argument("--submission", type=Path, help="zip file or folder of Task-1 files")
    add = parser.add_argument
    add("--patches", type=Path, help="folder of a split that prepare_dota.py made")
    add("--out", type=Path, required=True, help="folder for the results")
    add("--labels", type=Path, help="folder of the published label files of whole images")
    add("--classes", nargs="+", help="with --submission: names in any order")
    add("--merge-iou", type=float, default=merging.MERGE_IOU, help="overlap at which the weaker goes (default 0.1)")
    add("--score", type=float, help="with --model: score threshold (default: the model's)")
    add("--threads", type=int, default=0, help="with --model: 0 is one a core")
    return parser


if __name__ == "__main__":
    sys.exit(main())
