"""The metadata of a foreign model: what a command that gives it a head writes as `krimp.deploy`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from compress.errors import DetectorError, suggest
from detectors.heads.deploy import FORMAT_VERSION
from detectors.heads.options import DCFL
from detectors.heads.registry import HEADS

_DCFL_DIVISOR = 32
_KEPT = ("score_threshold", "nms_iou", "nms_pre", "max_detections")


@dataclass(frozen=True)
class InputForm:
    """How a picture becomes the network's input.

    Attributes:
        mean, std: of R, G, B, 0..255: a value is (pixel - mean) / std; see `in_brightness`.
        channel_order: 'rgb' or 'bgr', of the input.
        resize: as the metadata's `resize`; None feeds pixels as they are (dcfl only).
    """

    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (255.0, 255.0, 255.0)
    channel_order: str = "rgb"
    resize: Mapping[str, Any] | None = field(default_factory=lambda: {"kind": "letterbox"})


@dataclass(frozen=True)
class Thresholds:
    """What is kept.

    Attributes:
        score: objects score more, 0..1.
        nms_iou: overlap from which the weaker box of a class goes.
        nms_pre: best candidates of a picture that are compared.
        max_detections: of a window.
    """

    score: float = 0.05
    nms_iou: float = 0.6
    nms_pre: int = 3000
    max_detections: int = 300


def in_brightness(
    mean: Sequence[float], std: Sequence[float], scale: float
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and std of brightness 0..255 for (pixel * scale - mean) / std.

    >>> in_brightness((0.5,), (0.25,), 1 / 255)
    ((127.5,), (63.75,))
    """
    return tuple(value / scale for value in mean), tuple(value / scale for value in std)


def head_metadata(
    head: str,
    settings: Mapping[str, Any],
    *,
    classes: Sequence[str],
    input_size: tuple[int, int],
    output_names: Sequence[str],
    form: InputForm,
    thresholds: Thresholds,
) -> dict[str, Any]:
    """Return a model's `krimp.deploy`, plain JSON; `compress.plugins.load_deploy` checks it.

    Args:
        head: name of a built-in head, or `dcfl`, which becomes the metadata of that plug-in.
        settings: of the head, e.g. from `guess_head`.
        classes: names by label.
        input_size: (height, width) of the network's input, px.
        output_names: of the graph, in order.
        form: how pictures enter.
        thresholds: what is kept.
    """
    common = {
        "format_version": FORMAT_VERSION,
        "plugin": DCFL if head == DCFL else "heads",
        "image_size": list(input_size),
        "mean": list(map(float, form.mean)),
        "std": list(map(float, form.std)),
        "channel_order": form.channel_order,
        "size_divisor": _DCFL_DIVISOR if head == DCFL else 1,
        "classes": list(classes),
        "score_threshold": thresholds.score,
        "nms_iou": thresholds.nms_iou,
        "nms_pre": thresholds.nms_pre,
        "max_detections": thresholds.max_detections,
        "output_names": list(output_names),
    }
    resize = {} if form.resize is None else {"resize": dict(form.resize)}
    own = dict(settings) if head == DCFL else {"head": head, "settings": dict(settings)}
    return common | resize | own


def with_options(meta: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a `krimp.deploy` with values that a person names; `load_deploy` checks them.

    Args:
        meta: a `krimp.deploy`.
        options: name -> value: one of what is kept ('score_threshold', 'nms_iou', 'nms_pre', 'max_detections'), or a
            setting of the head.

    Raises:
        DetectorError: the plug-in has no such setting.
    """
    kept = {name: value for name, value in options.items() if name in _KEPT}
    own = {name: value for name, value in options.items() if name not in _KEPT}
    if "settings" in meta:
        head = HEADS.get(meta["head"])
        fields = own if head is None else head.settings.model_fields
        for name in own:
            if name not in fields:
                raise DetectorError(f"head {meta['head']} has no option {name!r}.{suggest(name, (*fields, *_KEPT))}")
        return {**meta, **kept, "settings": {**meta["settings"], **own}}
    if own:
        known = ", ".join(_KEPT)
        raise DetectorError(f"plug-in {meta['plugin']} has no option {', '.join(own)}; expected one of {known}.")
    return {**meta, **kept}
