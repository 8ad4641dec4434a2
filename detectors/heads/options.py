"""The heads that outputs of given names and shapes would fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from detectors.heads.grids import grid_sizes

FEW_ROWS = 1000  # at most so many boxes come from heads that choose themselves
DCFL = "dcfl"  # decoded by that plug-in itself
DCFL_STRIDES = (8, 16, 32, 64, 128)
_PYRAMIDS = ((8, 16, 32), (4, 8, 16, 32), (8, 16, 32, 64), (8, 16), (16, 32), (8,), (16,), (32,), (4,))


@dataclass(frozen=True)
class Output:
    """An output of the graph.

    Attributes:
        name: its name.
        shape: with the batch first; sizes that are not fixed are names or None.
    """

    name: str
    shape: tuple[int | str | None, ...]


@dataclass(frozen=True)
class Option:
    """A head that the outputs would fit.

    Attributes:
        head: its name; `dcfl` is that plug-in's own.
        settings: of the head.
        num_classes: of the model; None where shapes do not say.
        why: what speaks for it.
        assumed: what neither shapes nor values show.
    """

    head: str
    settings: Mapping[str, Any]
    num_classes: int | None
    why: str
    assumed: str = ""


def options_of(outputs: Sequence[Output], input_size: tuple[int, int] | None, named: str | None = None) -> list[Option]:
    """Return every head that the outputs fit by number and shape.

    Args:
        outputs: of the graph, in order.
        input_size: (height, width) of the network's input, px; None where the graph does not fix it.
        named: the head that somebody says it is; the others are left out.
    """
    options = _all_options(outputs, input_size, named)
    return [option for option in options if named in (None, option.head)]


def _all_options(outputs: Sequence[Output], input_size: tuple[int, int] | None, named: str | None) -> list[Option]:
    shapes = [output.shape[1:] for output in outputs]
    ranks = [len(shape) + 1 for shape in shapes]
    if ranks == [3]:
        return _rows(shapes[0], input_size)
    if ranks == [4]:
        return _single_map(shapes[0], input_size)
    if sorted(ranks) == [2, 3]:
        return _dets_and_labels(outputs)
    if ranks == [3, 3]:
        return _boxes_and_scores(outputs)
    if len(ranks) >= 4 and len(ranks) % 2 == 0 and set(ranks) == {4}:
        return _levels(shapes, input_size, named)
    return []


def _rows(shape: tuple[int | str | None, ...], input_size: tuple[int, int] | None) -> list[Option]:
    """Return the options for one output (N, a, b)."""
    first, last = shape
    options = []
    cells = {} if input_size is None else _cell_counts(input_size)
    if isinstance(first, int) and isinstance(last, int):
        if last in cells and first >= 5:
            options += _one_box_a_cell(first, f"{last} boxes are the cells of strides {cells[last]}", first_axis=True)
        if first in cells and last >= 5:
            options += _one_box_a_cell(last, f"{first} boxes are the cells of strides {cells[first]}", first_axis=False)
            options += _yolox(last, first, cells[first])
        thirds = cells.get(first // 3) if first % 3 == 0 else None
        if thirds and last >= 6:
            why = f"{first} rows are three for each cell of strides {thirds}, {last} values are 5 and {last - 5} scores"
            options.append(Option("yolov5", {}, last - 5, why))
    few = not isinstance(first, int) or (first <= FEW_ROWS and first not in cells)
    if few and isinstance(last, int) and last <= FEW_ROWS and last not in cells:
        if last in (6, 7):
            head, what = (
                ("yolo-end2end", "score and class") if last == 6 else ("yolo-obb-end2end", "score, class, angle")
            )
            options.append(Option(head, {}, None, f"few rows of {last} values: box, {what}"))
        if last >= 5:
            sigmoid = {"scores": "probabilities", "background": "none"}
            options.append(Option("detr", sigmoid, last - 4, f"few rows of 4 numbers of a box and {last - 4} scores"))
    return options


def _one_box_a_cell(values: int, why: str, *, first_axis: bool) -> list[Option]:
    place = "first" if first_axis else "last"
    options = [Option("yolov8", {}, values - 4, f"{why}, {values} values {place}: 4 and {values - 4} scores")]
    if values >= 6:
        options.append(
            Option("yolo-obb", {}, values - 5, f"{why}, {values} values {place}: 4, {values - 5} scores, an angle")
        )
    return options


def _yolox(values: int, boxes: int, strides: tuple[int, ...]) -> list[Option]:
    if values < 6:
        return []
    why = f"{boxes} boxes are the cells of strides {strides}, {values} values: 4, objectness, {values - 5} scores"
    forms: list[dict[str, Any]] = [{"decoded": True}, {"decoded": False, "strides": list(strides)}]
    return [Option("yolox", form, values - 5, why) for form in forms]


def _cell_counts(input_size: tuple[int, int]) -> dict[int, tuple[int, ...]]:
    """Return number of cells -> strides of the pyramids that are in use."""
    counts: dict[int, tuple[int, ...]] = {}
    for strides in _PYRAMIDS:
        counts.setdefault(sum(rows * columns for rows, columns in grid_sizes(input_size, strides)), strides)
    return counts


def _single_map(shape: tuple[int | str | None, ...], input_size: tuple[int, int] | None) -> list[Option]:
    channels, *grid = shape
    if not isinstance(channels, int) or channels < 6 or input_size is None or _stride(grid, input_size) != 16:
        return []
    return [Option("fastestdet", {}, channels - 5, f"one map of stride 16 with 5 and {channels - 5} channels")]


def _dets_and_labels(outputs: Sequence[Output]) -> list[Option]:
    dets, labels = outputs
    if len(dets.shape) != 3 or dets.shape[2] != 5:
        return []
    why = f"{dets.name} has rows of box and score, {labels.name} their labels, as MMDeploy exports"
    return [Option("rtmdet", {"form": "detections"}, None, why)]


def _boxes_and_scores(outputs: Sequence[Output]) -> list[Option]:
    """Return the options for two outputs of rows, one of them boxes."""
    options: list[Option] = []
    for boxes, scores in ((0, 1), (1, 0)):
        values, rows = outputs[scores].shape[2], outputs[boxes].shape[1]
        if outputs[boxes].shape[2] != 4 or not isinstance(values, int) or outputs[scores].shape[1] != rows:
            continue
        order = {"order": "boxes_scores" if boxes == 0 else "scores_boxes"}
        names = f"{outputs[boxes].name} has boxes and {outputs[scores].name} {values} scores"
        if not isinstance(rows, int) or rows <= FEW_ROWS:
            why = f"{names} for few queries"
            options += [
                Option("detr", order | {"scores": "softmax", "background": "last"}, values - 1, why),
                Option("detr", order | {"scores": "sigmoid", "background": "none"}, values, why),
                Option("detr", order | {"scores": "probabilities", "background": "none"}, values, why),
            ]
        if not isinstance(rows, int) or rows > FEW_ROWS:
            why = f"{names} for many priors"
            options += [
                Option("ssd", order | {"scores": form, "background": ground, "normalized": share}, values - less, why)
                for form in ("softmax", "probabilities")
                for ground, less in (("first", 1), ("none", 0))
                for share in (False, True)
                if (form, ground) != ("softmax", "none")
            ]
    return [option for option in options if option.num_classes]


def _levels(
    shapes: Sequence[tuple[int | str | None, ...]], input_size: tuple[int, int] | None, named: str | None
) -> list[Option]:
    """Return the options for maps of scores of every level, then maps of boxes of every level."""
    half = len(shapes) // 2
    scores, boxes = shapes[:half], shapes[half:]
    channels, values = {shape[0] for shape in scores}, {shape[0] for shape in boxes}
    if input_size is None or len(channels) > 1 or len(values) > 1 or [s[1:] for s in scores] != [b[1:] for b in boxes]:
        return []
    strides = [_stride(shape[1:], input_size) for shape in scores]
    (num_classes,), (kind,) = channels, values
    if None in strides or not isinstance(num_classes, int):
        return []
    why = f"{half} maps of {num_classes} scores and {half} of {kind} numbers, strides {strides}"
    settings: dict[str, Any]
    if kind == 4:
        settings = {"form": "maps", "strides": strides}
        return [Option("rtmdet", settings, num_classes, why, "distances in pixels from the corners of cells")]
    if kind == 5 and (named == DCFL or tuple(strides) == DCFL_STRIDES):
        settings = {"strides": strides, "anchor_scale": 4.0, "angle_version": "le135"}
        return [Option(DCFL, settings, num_classes, why, "priors of 4 strides, angles of le135")]
    return []


def _stride(grid: Sequence[int | str | None], input_size: tuple[int, int]) -> int | None:
    """Return the stride of a map, px, or None if it is no whole number and the same in both directions."""
    rows, columns = grid
    if not isinstance(rows, int) or not isinstance(columns, int) or rows < 1 or columns < 1:
        return None
    for stride in (4, 8, 16, 32, 64, 128):
        if grid_sizes(input_size, [stride]) == [(rows, columns)]:
            return stride
    return None
