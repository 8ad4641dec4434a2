"""The command `detect`: pictures in, boxes out, from a model file alone."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from compress.cli.json_document import JsonOption, only_documents, print_document
from compress.cli.options import ForceOption
from compress.errors import DataError, StageError, printable
from compress.json_text import parse_json
from compress.outputs import Outputs
from compress.runtime.detect import MAX_PIXELS, Results, detect, find_images, open_predictor
from compress.runtime.documents import CocoIds, Format


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
    max_pixels: Annotated[
        int, typer.Option(min=1, help="Larger pictures are refused; TIFFs read by windows (extra `geo`) never are.")
    ] = MAX_PIXELS,
    as_json: JsonOption = False,
    pictures: Annotated[bool, typer.Option(help="Write pictures with the boxes drawn.")] = True,
    formats: Annotated[
        list[Format] | None,
        typer.Option("--format", help="Also write COCO results or, of GeoTIFFs, GeoJSON; repeatable."),
    ] = None,
    coco_ids: Annotated[
        Path | None,
        typer.Option(help="COCO annotations with whose ids of images and categories --format coco counts."),
    ] = None,
    crs: Annotated[
        Literal["wgs84", "file"], typer.Option(help="Of GeoJSON: WGS 84, or the map of each raster.")
    ] = "wgs84",
    force: ForceOption = False,
) -> None:
    """Detect objects in pictures with a model file.

    Pictures of any size are looked at in overlapping windows of the size that the model was made for.
    Writes per picture `NAME.txt` (a line per object: class x1 y1 x2 y2 x3 y3 x4 y4 score, pixels)
    and `NAME.png`, and one `detections.json` for all. Without --score, text and JSON hold all objects
    above the model's own threshold, pictures those above 0.3. A file that is there is replaced only if an earlier
    `krimp detect` left it so, or with --force. A picture that cannot be read is
    named at the end (exit code 3); the others are done. TIFFs are read window by window (with the extra `geo`), so
    that a large one needs little memory. Pictures stand upright by their EXIF orientation, and more than 8 bits become
    8 as in training (`value_range` of the model, else by what a file holds). COCO results go to `coco_results.json`,
    boxes on the map to `NAME.geojson`.

    --json also prints detections.json: format_version, model, plugin, classes, score_threshold, drawn_score_threshold,
    tile_size, images (file, name, height, width, num_windows, detections) and failed (file, error).

    \b
    krimp detect model.krimp photo.jpg --out found
    krimp detect model.onnx 'flight/*.png' more/ --out found --score 0.4 --json
    krimp detect model.krimp orthophoto.tif --out found --format geojson
    krimp detect model.krimp val2017 --out found --format coco --coco-ids annotations/instances_val2017.json
    """  # noqa: D301 click ends no line after \b
    from compress.progress import track

    files = find_images(images)
    outputs = Outputs("detect", force=force, error=DataError)
    wanted = frozenset(formats or ())
    results = Results(out, pictures, wanted, _read_ids(coco_ids), own_map=crs == "file", outputs=outputs)
    _refuse_inputs(results.paths(files), [*files, model, *([coco_ids] if coco_ids else [])], out)
    outputs.claim(results.paths(files), places=False)
    predictor = open_predictor(
        model, score_threshold=score, tile_size=_parse_size(tile), overlap_px=overlap, threads=threads
    )
    with only_documents(as_json):
        record = detect(predictor, track(files, "detect"), results, model_name=model.name, max_pixels=max_pixels)
    if as_json:
        print_document(record)
    count = sum(len(image["detections"]) for image in record["images"])
    print(
        f"{count} objects in {len(record['images'])} pictures, written to {printable(out)}",
        file=sys.stderr if as_json else None,
    )
    if record["failed"]:
        errors = "\n".join(failed["error"] for failed in record["failed"])
        others = ", the others are done" if record["images"] else ""
        raise DataError(f"{errors}\n{len(record['failed'])} of {len(files)} pictures failed{others}.")


def _read_ids(path: Path | None) -> CocoIds:
    """Return the ids of an annotation file, none without one."""
    if path is None:
        return CocoIds()
    try:
        document = parse_json(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise DataError(f"--coco-ids {path}: {error}, expected COCO annotations as JSON.") from error
    return CocoIds.from_document(document, str(path))


def _refuse_inputs(outputs: Sequence[Path], inputs: Sequence[Path], out: Path) -> None:
    """Raise DataError if results would take the place of what is read; --force does not help."""
    given = {path.resolve() for path in inputs}
    taken = [path for path in outputs if path.resolve() in given]
    if taken:
        raise DataError(
            f"--out {out}: {taken[0].name} lies there, is read, and would be drawn over. Choose another folder."
        )


def _parse_size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)[xX×,](\d+)", text.strip())
    if match is None or min(int(match[1]), int(match[2])) < 1:
        raise StageError(f"--tile: {text!r} is no size. Write HEIGHTxWIDTH in pixels, e.g. 512x640.")
    return int(match[1]), int(match[2])
