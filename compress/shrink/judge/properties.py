"""What an ONNX file says of itself, and what a small one shall say: metadata, and how pictures enter by it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from compress.errors import DetectorError
from compress.json_text import parse_json
from compress.pictures.brightness import Range, range_of_text
from compress.plugins import load_deploy
from compress.runtime.session import METADATA_KEY
from compress.shrink.pictures import Preprocessing


def properties_of(path: Path) -> dict[str, str]:
    """Return the metadata of an ONNX file, text by text; weights in other files are not read."""
    model = onnx.load(path, load_external_data=False)
    return {one.key: one.value for one in model.metadata_props}


def deploy_metadata(properties: Mapping[str, str], name: str) -> dict[str, Any] | None:
    """Return a file's `krimp.deploy`, None if it has none.

    Args:
        properties: of the file.
        name: how errors call it.

    Raises:
        DetectorError: it is no JSON object.
    """
    text = properties.get(METADATA_KEY)
    if text is None:
        return None
    try:
        meta = parse_json(text)
    except ValueError as error:
        raise DetectorError(f"{name}: metadata {METADATA_KEY!r} is no JSON: {error}. Remove it.") from error
    if not isinstance(meta, dict):
        raise DetectorError(f"{name}: metadata {METADATA_KEY!r} is a {type(meta).__name__}, expected an object.")
    return meta


def value_range_of(meta: Mapping[str, Any], name: str) -> Range | None:
    """Return what becomes 0 and what 255 in deep pictures by a file's `krimp.deploy`; None if it does not say.

    Raises:
        DetectorError: it is no range.
    """
    try:
        return range_of_text(meta.get("value_range"))
    except ValueError as error:
        raise DetectorError(f"{name}: metadata {METADATA_KEY!r}: {error}.") from error


def preprocessing_of(meta: Mapping[str, Any]) -> Preprocessing | None:
    """Return how pictures enter a network by its `krimp.deploy`; None if it is in no way that is known here.

    Raises:
        DetectorError: the metadata does not fit the plug-in that it names.
    """
    deploy = load_deploy(meta)
    order = slice(None) if meta.get("channel_order", "rgb") == "rgb" else slice(None, None, -1)
    rule = meta.get("resize")
    height, width = deploy.image_size
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    wanted = deploy.preprocess(image)
    found = Preprocessing(
        size=(wanted.shape[2], wanted.shape[3]),
        scale=1.0,
        mean=tuple(meta["mean"])[order],
        std=tuple(meta["std"])[order],
        bgr=meta.get("channel_order", "rgb") == "bgr",
        fit="pad" if rule is None else rule["kind"],
        pad_value=114 if rule is None else rule.get("pad_value", 114),
        corner=rule is not None and rule.get("position", "center") == "corner",
        enlarge=rule is None or rule.get("enlarge", True),
    )
    small = np.ascontiguousarray(image[: height // 2 + 1, : width // 3 + 1])
    for one in (image, small):
        expected = deploy.preprocess(one, minimum_size=deploy.image_size)
        made = found(one)
        if made.shape != expected.shape or not np.array_equal(made, expected):
            return None
    return found


def is_alike(one: Preprocessing, other: Preprocessing) -> bool:
    """Return whether pictures enter in the same way, whatever numbers say so."""
    forms = [input_form(each) for each in (one, other)]
    if one.size != other.size or None in forms:
        return one == other
    first, second = ({key: value for key, value in form.items()} for form in forms if form is not None)
    numbers, others = ([form.pop("mean"), form.pop("std")] for form in (first, second))
    return first == second and np.allclose(numbers, others, rtol=1e-6, atol=1e-6)


def input_form(preprocessing: Preprocessing) -> dict[str, Any] | None:
    """Return what metadata says of the way in which pictures enter; None of gray pictures, of which it says nothing."""
    if preprocessing.gray:
        return None
    mean, std = preprocessing.in_brightness()
    order = slice(None, None, -1) if preprocessing.bgr else slice(None)
    resize: dict[str, Any] | None = None
    if preprocessing.fit == "letterbox":
        resize = {
            "kind": "letterbox",
            "pad_value": preprocessing.pad_value,
            "position": "corner" if preprocessing.corner else "center",
            "enlarge": preprocessing.enlarge,
        }
    elif preprocessing.fit == "stretch":
        resize = {"kind": "stretch"}
    return {
        "mean": tuple(map(float, mean))[order],
        "std": tuple(map(float, std))[order],
        "channel_order": "bgr" if preprocessing.bgr else "rgb",
        "resize": resize,
    }


def with_form(meta: Mapping[str, Any], preprocessing: Preprocessing) -> dict[str, Any]:
    """Return a file's own metadata for pictures that enter in another way than it says.

    Raises:
        DetectorError: they are gray, and metadata says nothing of that.
    """
    form = input_form(preprocessing)
    if form is None:
        raise DetectorError("the file's own metadata is of pictures with three channels, its input has one.")
    kept = {key: value for key, value in meta.items() if key != "resize"}
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in form.items()}
    return (
        kept | {key: value for key, value in plain.items() if value is not None} | {"image_size": [*preprocessing.size]}
    )


def as_properties(meta: Mapping[str, Any]) -> dict[str, str]:
    """Return the property of an ONNX file that holds a `krimp.deploy`."""
    return {METADATA_KEY: json.dumps(meta)}
