"""The command `shrink`: a stranger's ONNX file and pictures in, a small file with its proof out."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from compress.cli.json_document import JsonOption, only_documents, print_document
from compress.cli.options import ForceOption
from compress.errors import DataError, StageError, printable
from compress.outputs import Outputs

if TYPE_CHECKING:
    from compress.pictures.decoding import Reading


def shrink_command(
    model: Annotated[Path, typer.Argument(help="ONNX file, of any detector or other network.", show_default=False)],
    data: Annotated[Path, typer.Option(help="Folder of pictures, or of .npz archives with an array for each input.")],
    out: Annotated[Path, typer.Option(help="Folder for what is written.")] = Path(),
    size: Annotated[
        str | None, typer.Option("--bytes", metavar="SIZE", help="At most so large, packed: 2MB, 330kB, 250000.")
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(min=0, help="At most so many points of mAP50-95 lost, or percent of the outputs if no boxes are."),
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="Labels of the pictures: COCO's JSON, a folder of YOLO's or DOTA's text files.")
    ] = None,
    label_format: Annotated[
        Literal["coco", "yolo", "dota"] | None, typer.Option(help="Default: what is there.")
    ] = None,
    head: Annotated[
        str | None,
        typer.Option(
            help="How outputs become boxes: a built-in head, or code of your own, module:NAME. Default: guess."
        ),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(help="Names by label, a comma between; car+truck: both labels are class car. Or how many: 80."),
    ] = None,
    head_options: Annotated[
        list[str] | None,
        typer.Option(
            "--head-option",
            metavar="NAME=VALUE",
            help="Of the head: strides=8,16,32; or score_threshold, nms_iou, nms_pre, max_detections. Repeatable.",
        ),
    ] = None,
    fit: Annotated[
        Literal["letterbox", "stretch", "pad"] | None,
        typer.Option(help="How pictures get the input's size. Default: the file's own word, else letterbox."),
    ] = None,
    image_size: Annotated[
        str | None, typer.Option("--size", help="HEIGHTxWIDTH, where the model leaves it open; default 640x640.")
    ] = None,
    mean: Annotated[
        str | None, typer.Option(help="Of each channel: 123.675,116.28,103.53 or 0.485,0.456,0.406.")
    ] = None,
    std: Annotated[str | None, typer.Option(help="Likewise.")] = None,
    scale: Annotated[
        float | None, typer.Option(help="Pixels 0..255 are multiplied by it before; default 1/255.")
    ] = None,
    bgr: Annotated[bool | None, typer.Option("--bgr/--rgb", help="Order of the channels; default RGB.")] = None,
    value_range: Annotated[
        str | None,
        typer.Option(
            help="LOW,HIGH that become 0 and 255 in pictures of more than 8 bits; default: the model's, else "
            "by what a file holds."
        ),
    ] = None,
    weights_only: Annotated[
        bool, typer.Option("--weights-only", help="Compute in float; only the weights become integers.")
    ] = False,
    target: Annotated[
        Literal["cpu-avx2", "cpu-vnni", "arm", "openvino", "tensorrt"], typer.Option(help="Where it will run.")
    ] = "cpu-avx2",
    pictures: Annotated[int, typer.Option(min=1, help="Learnt from, at most; as many others are judged.")] = 128,
    threads: Annotated[int, typer.Option(min=0, help="Of the timing; 0 is one per core.")] = 1,
    allow_code: Annotated[bool, typer.Option("--allow-code", help="Let --head import code of your own.")] = False,
    as_json: JsonOption = False,
    force: ForceOption = False,
) -> None:
    """Make an ONNX file small with nothing but pictures: no training, no recipe, no torch.

    Writes NAME.small.onnx, NAME.krimp (the same, packed), NAME.shrink.md and .json (what was lost, by whom it was
    judged, what stays float and why) and NAME.input.png (a picture as it enters: look at it). Every other picture is
    learnt from, the others judge: by labels if there are any, else by how well it agrees with the float network's own
    boxes, else by its outputs. With neither --bytes nor --max-drop the whole curve is made and its knee taken.

    Integers are used where they are faster on this machine; else the network computes in float and only its weights
    are integers. If nothing holds the limits, what comes nearest is said, nothing is written, and the exit code is 1.

    \b
    krimp shrink yolo.onnx --data pictures/
    krimp shrink yolo.onnx --data pictures/ --bytes 2MB --max-drop 0.5
    krimp shrink yolo.onnx --data val/images --labels val/labels --head yolov8 --max-drop 0.5
    krimp shrink any.onnx --data arrays/ --weights-only --max-drop 2
    """  # noqa: D301 click ends no line after \b
    try:
        from compress.shrink.files import Request, shrink
        from compress.shrink.limits import Limits
    except ModuleNotFoundError as error:
        raise StageError(
            f'the package {error.name!r} is missing. Install what shrinking needs: pip install "krimp[shrink]" (in '
            'Krimp\'s folder: pip install ".[shrink]").'
        ) from error

    given: dict[str, Any] = {
        "fit": fit,
        "size": _size(image_size),
        "mean": _numbers("--mean", mean),
        "std": _numbers("--std", std),
        "scale": _finite("--scale", scale),
        "bgr": bgr,
    }
    request = Request(
        model,
        data,
        Limits(_bytes(size), _finite("--max-drop", max_drop)),
        labels=labels,
        label_format=label_format,
        head=head,
        classes=_classes(classes),
        head_options=_options(head_options or ()),
        allow_code=allow_code,
        reading=_reading(value_range),
        preprocessing={name: value for name, value in given.items() if value is not None},
        pictures=pictures,
        target=target,
        weights_only=weights_only,
        threads=threads,
    )
    with only_documents(as_json):
        found = shrink(request, out, Outputs("shrink", force=force, error=DataError))
    if as_json:
        print_document(found)
    files = ", ".join(printable(one) for one in found["files"])
    print(f"{found['ratio']:.1f} times smaller; written: {files}", file=sys.stderr if as_json else None)


def _bytes(text: str | None) -> int | None:
    from pydantic import ByteSize, TypeAdapter, ValidationError

    if text is None:
        return None
    try:
        found = int(TypeAdapter(ByteSize).validate_python(text))
    except ValidationError:
        found = 0
    if found < 1:
        raise StageError(f"--bytes {text!r}: no size. Write a number of bytes above 0, 330kB or 1.2MB.")
    return found


def _finite(option: str, number: float | None) -> float | None:
    if number is not None and not math.isfinite(number):
        raise StageError(f"{option} {number}: expected a finite number.")
    return number


def _classes(text: str | None) -> list[str] | None:
    """Return names; of a number alone so many that stand for themselves."""
    if text is None:
        return None
    if re.fullmatch(r"\d{1,5}", text.strip()):
        return [f"class{label}" for label in range(int(text))]
    return [name.strip() for name in text.split(",")]


def _options(given: Sequence[str]) -> dict[str, Any]:
    """Return name -> value; a value is JSON, numbers with a comma between, or a word."""
    found: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not (name and equals and value) or name in found:
            raise StageError(f"--head-option {text!r}: expected NAME=VALUE, each name once: strides=8,16,32.")
        found[name] = _value(value)
    return found


def _value(text: str) -> Any:
    for one in (text, f"[{text}]"):
        try:
            return json.loads(one)
        except (ValueError, RecursionError):
            continue
    return text


def _reading(value_range: str | None) -> Reading:
    from compress.pictures.brightness import range_of_text
    from compress.pictures.decoding import Reading

    numbers = _numbers("--value-range", value_range)
    try:
        return Reading(None if numbers is None else range_of_text(list(numbers)))
    except ValueError as error:
        raise StageError(f"--value-range {value_range!r}: {error}.") from error


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,5})[xX×,](\d{1,5})", text.strip())
    if match is None or min(int(match[1]), int(match[2])) < 1:
        raise StageError(f"--size {text!r}: no size. Write HEIGHTxWIDTH in pixels, e.g. 512x640.")
    return int(match[1]), int(match[2])


def _numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        found = tuple(float(one) for one in text.replace(",", " ").split())
    except ValueError:
        found = ()
    if not found or not all(abs(one) < 1e9 for one in found):
        raise StageError(f"{option} {text!r}: expected numbers, one a channel: 123.675,116.28,103.53.")
    return found
