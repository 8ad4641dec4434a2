"""The command `detect`: pictures in, boxes out, from a model file alone."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from compress.errors import DataError, StageError
from compress.runtime.detect import detect, find_images, open_predictor


def detect_command(
    model: Annotated[Path, typer.Argument(help="ONNX or .krimp file that Krimp exported.", show_default=False)],
    images: Annotated[list[str], typer.Argument(help="Pictures, folders of pictures, patterns.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder for pictures, text and detections.json.")],
    score: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Score threshold; default: the model's.")
    ] = None,
    tile: Annotated[str | None, typer.Option(help="Window, HEIGHTxWIDTH in pixels; default: the model's.")] = None,
    overlap: Annotated[int | None, typer.Option(min=0, help="Pixels that windows share; default: a fifth.")] = None,
    threads: Annotated[int, typer.Option(min=0, help="Threads; 0 is one per core.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Also print detections.json.")] = False,
    pictures: Annotated[bool, typer.Option(help="Write pictures with the boxes drawn.")] = True,
) -> None:
    """Detect objects in pictures with a model file.

    Pictures of any size are looked at in overlapping windows of the size that the model was made for.
    Writes per picture `NAME.txt` (a line per object: class x1 y1 x2 y2 x3 y3 x4 y4 score, pixels)
    and `NAME.png`, and one `detections.json` for all. Without --score, text and JSON hold all objects
    above the model's own threshold, pictures those above 0.3. A picture that cannot be read is
    named at the end (exit code 3); the others are done.

    \b
    krimp detect model.krimp photo.jpg --out found
    krimp detect model.onnx 'flight/*.png' more/ --out found --score 0.4 --json
    """  # noqa: D301 click ends no line after \b
    from compress.progress import track

    files = find_images(images)
    _refuse_overwriting(files, out)
    predictor = open_predictor(
        model, score_threshold=score, tile_size=_parse_size(tile), overlap_px=overlap, threads=threads
    )
    shown = files if as_json else track(files, "detect")
    record = detect(predictor, shown, out, pictures=pictures, model_name=model.name)
    if as_json:
        typer.echo(json.dumps(record))
    count = sum(len(image["detections"]) for image in record["images"])
    print(
        f"{count} objects in {len(record['images'])} pictures, written to {out}", file=sys.stderr if as_json else None
    )
    if record["failed"]:
        errors = "\n".join(failed["error"] for failed in record["failed"])
        others = ", the others are done" if record["images"] else ""
        raise DataError(f"{errors}\n{len(record['failed'])} of {len(files)} pictures failed{others}.")


def _refuse_overwriting(images: Sequence[Path], out: Path) -> None:
    """Raise DataError if results would take the place of pictures."""
    if any(image.resolve().parent == out.resolve() and image.suffix.lower() == ".png" for image in images):
        raise DataError(f"--out {out}: the pictures lie there and would be drawn over. Choose another folder.")


def _parse_size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)[xX×,](\d+)", text.strip())
    if match is None or min(int(match[1]), int(match[2])) < 1:
        raise StageError(f"--tile: {text!r} is no size. Write HEIGHTxWIDTH in pixels, e.g. 512x640.")
    return int(match[1]), int(match[2])
