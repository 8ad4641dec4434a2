"""What a model file says of itself (`krimp.deploy`): fields with bounds, checked once, where a file enters.

The file may come from anywhere. What passes here can be computed with: no division by zero, no NaN, no allocation that
a picture and the network do not call for. A plug-in adds its own fields in a subclass of `DeployMeta`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from compress.detector import MAX_WINDOW_PIXELS
from compress.errors import DetectorError, printable, shortened

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

MAX_LEVELS = 32  # of a pyramid
_SHOWN_PROBLEMS = 3

Name = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"\S")]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Pixels = Annotated[int, Field(ge=16, le=1 << 16)]  # of a window: smaller ones would be millions in a picture
Brightness = Annotated[float, Field(ge=-1e6, le=1e6)]
Spread = Annotated[float, Field(ge=1e-6, le=1e6)]
Finite = Annotated[float, Field(ge=-1e6, le=1e6)]
Strides = Annotated[list[Annotated[int, Field(ge=1, le=1 << 12)]], Field(min_length=1, max_length=MAX_LEVELS)]


class Bounded(BaseModel):
    """Fields as JSON gives them: nothing is converted, no number is infinite or NaN, other keys are let through."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True, allow_inf_nan=False, hide_input_in_errors=True)


class Resize(Bounded):
    """How a window becomes the network's input where the network takes one size only.

    Attributes:
        kind: `letterbox` keeps the ratio of the sides and fills what is left, `stretch` does not keep it.
        pad_value: brightness of what is filled, 0..255, in all channels.
        position: of the picture between what is filled.
        enlarge: pictures smaller than the input are enlarged.
    """

    kind: Literal["letterbox", "stretch"]
    pad_value: Annotated[int, Field(ge=0, le=255)] = 114
    position: Literal["center", "corner"] = "center"
    enlarge: bool = True


class DeployMeta(Bounded):
    """What every model file says, because `BoxDeploy` or every `decode` reads it.

    Attributes:
        plugin: name of the plug-in that reads the file.
        image_size: [height, width] that the model was made for, pixels.
        mean, std: of R, G, B, 0..255.
        size_divisor: height and width of the network's input are multiples of it, pixels.
        classes: names by label.
        score_threshold: objects score more, 0..1.
        nms_iou: overlap from which the weaker box of a class goes, above 0 and at most 1.
        max_detections: of a window.
        output_names: of the graph's outputs, in order.
        channel_order: of the network's input; `mean` and `std` are of R, G, B in both.
        resize: windows of any size are resized to `image_size`; None feeds pixels as they are, padded.
    """

    format_version: int
    plugin: Name
    image_size: Annotated[list[Pixels], Field(min_length=2, max_length=2)]
    mean: Annotated[list[Brightness], Field(min_length=3, max_length=3)]
    std: Annotated[list[Spread], Field(min_length=3, max_length=3)]
    size_divisor: Annotated[int, Field(ge=1, le=1 << 10)]
    classes: Annotated[list[Name], Field(min_length=1, max_length=10_000)]
    score_threshold: Annotated[float, Field(ge=0, le=1)]
    nms_iou: Annotated[float, Field(gt=0, le=1)]
    max_detections: Count
    output_names: Annotated[list[Name], Field(min_length=1, max_length=1000)]
    channel_order: Literal["rgb", "bgr"] = "rgb"
    resize: Resize | None = None

    @model_validator(mode="after")
    def _check_area(self) -> Self:
        height, width = self.image_size
        if height * width > MAX_WINDOW_PIXELS:
            raise ValueError(f"image_size: {height} x {width} px are more than {MAX_WINDOW_PIXELS}")
        return self


def check_meta(meta: Mapping[str, Any], fields: type[DeployMeta] = DeployMeta, *, format_version: int) -> None:
    """Refuse metadata that lacks a key, is of another version, or has a value that cannot be served.

    Args:
        meta: the model's `krimp.deploy`.
        fields: what the plug-in reads.
        format_version: the one that the plug-in reads.

    Raises:
        DetectorError: names each field that is wrong, its value and what was expected.
    """
    missing = [name for name, field in fields.model_fields.items() if field.is_required() and name not in meta]
    if missing:
        raise DetectorError(
            f"krimp.deploy: {', '.join(missing)} missing. Export the model again with this version of Krimp."
        )
    if type(meta["format_version"]) is not int or meta["format_version"] != format_version:
        raise DetectorError(
            f"krimp.deploy: format_version is {shortened(meta['format_version'])}; this Krimp reads {format_version}."
        )
    try:
        fields.model_validate(dict(meta))
    except ValidationError as error:
        problems = error.errors(include_url=False)
        texts = [_problem_text(meta, problem) for problem in problems[:_SHOWN_PROBLEMS]]
        more = f"; and {len(problems) - _SHOWN_PROBLEMS} more" if len(problems) > _SHOWN_PROBLEMS else ""
        raise DetectorError(f"krimp.deploy: {'; '.join(texts)}{more}. Export the model again.") from error


def check_choice(name: str, value: Any, known: Iterable[str]) -> None:
    """Refuse a value of the metadata that is none of those known.

    Raises:
        DetectorError: it is another one.
    """
    known = tuple(known)
    if not isinstance(value, str) or value not in known:
        raise DetectorError(f"krimp.deploy: {name} is {shortened(value)}, expected one of {', '.join(known)}.")


def check_outputs(meta: Mapping[str, Any], expected: int) -> None:
    """Refuse metadata that names another number of outputs than its other fields call for.

    Raises:
        DetectorError: it does.
    """
    found = len(meta["output_names"])
    if found != expected:
        raise DetectorError(
            f"krimp.deploy: output_names has {found} names, expected {expected}. Export the model again."
        )


def _problem_text(meta: Any, problem: ErrorDetails) -> str:
    """Return one problem in words: the field, its value, and what was expected."""
    steps, value = [], meta
    for step in problem["loc"]:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):  # a kind that stands for one of several models
            continue
        steps.append(str(step))
    place, text = ".".join(steps), problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "missing":
        return f"{'.'.join([*steps, str(problem['loc'][-1])])} missing"
    if problem["type"].startswith("union_tag"):
        text = f"expected a kind of {problem.get('ctx', {}).get('expected_tags', 'those known')}"
    if not place:
        return printable(text)
    return f"{place} is {shortened(value)}: {printable(text[:1].lower() + text[1:])}"
