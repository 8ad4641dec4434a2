"""Turn a data set of one format into another. Imports no torch."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from compress.errors import DataError, suggest
from compress.json_text import parse_json
from compress.progress import track
from detectors.data.folder_builder import link_or_copy
from detectors.data.image_header import read_image_size
from detectors.data.labels import LabelledObject, is_empty
from detectors.data.problems import Findings, raise_all
from detectors.data.samples import Sample
from detectors.data.source import Source
from detectors.data.writers import TARGETS, LabelledImage, Target, enclosing_quad, flat_name, is_upright

RECORD = "conversion.json"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Choices:
    """What to do with what a format cannot hold.

    Attributes:
        enclose: rotated boxes become the upright rectangle around them where only upright ones can be held.
        clip: corners outside the image are moved to its border.
        difficult: 'keep' difficult objects as ordinary ones or 'drop' them where they cannot be marked; None refuses.
        copy: copy the images instead of linking them.
    """

    enclose: bool = False
    clip: bool = False
    difficult: Literal["keep", "drop"] | None = None
    copy: bool = False


def convert(
    source: Source, to: str, folder: Path, *, choices: Choices = Choices(), force: bool = False
) -> dict[str, Any]:
    """Write a data set in another format, whole or not at all.

    Args:
        source: from `open_source`.
        to: one of TARGETS.
        folder: to be made.
        choices: what to do with what the format cannot hold.
        force: replace a folder that an earlier conversion made.

    Returns:
        Facts: format, classes, and of each split: images and objects; objects that reach `outside` their image, were
        `dropped` as difficult or as `empty` (without area, or wholly outside their image).

    Raises:
        DataError: the source is wrong, the format cannot hold it, or the folder is not to be replaced.
    """
    if to not in TARGETS:
        raise DataError(f"format '{to}': cannot be written.{suggest(to, list(TARGETS))}")
    _refuse_folder(folder, source.root, force)
    read = {split: source.read(split, "header") for split in source.splits}
    findings = {split: Findings.of(*found) for split, found in read.items()}
    mistakes = [mistake for each in findings.values() for mistake in each.mistakes]
    raise_all(str(source.root), mistakes, advice="Nothing was written:")
    for split, each in findings.items():
        each.tell(split)
    samples = {split: found for split, (found, _) in read.items()}
    target = TARGETS[to]
    _refuse_content(samples, to, choices)
    images = {split: [_image(sample, target, choices) for sample in samples[split]] for split in samples}
    facts = _facts(to, source, samples, images, choices)
    facts["empty"] += sum(len(each.dropped) for each in findings.values())
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        files = _write(scratch, target, source.classes, samples, images, choices)
        record = facts | {"format_version": FORMAT_VERSION, "choices": asdict(choices), "files": files}
        (scratch / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        scratch.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return facts


def _refuse_folder(folder: Path, root: Path, force: bool) -> None:
    """Raise DataError unless the folder is new, empty, or of an earlier conversion and to be replaced."""
    if folder.resolve() in (root.resolve(), *root.resolve().parents):
        raise DataError(f"{folder}: holds the data set that is read. Choose another --out.")
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    try:
        ours = {RECORD, *parse_json((folder / RECORD).read_text(encoding="utf-8"))["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        raise DataError(f"{folder}: not empty, and no earlier conversion made it. Choose another --out.") from None
    strangers = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - ours
    if strangers:
        raise DataError(f"{folder}: {min(strangers)} is of no conversion. Move it away, or choose another --out.")
    if not force:
        raise DataError(f"{folder}: is there already. Choose another --out, or replace it with --force.")


def _refuse_content(samples: Mapping[str, Sequence[Sample]], to: str, choices: Choices) -> None:
    """Raise DataError if the format cannot hold something and nothing was said about it."""
    target = TARGETS[to]
    objects = [(sample, item) for found in samples.values() for sample in found for item in sample.objects]
    difficult = [sample.name for sample, item in objects if item.difficult]
    if difficult and not target.holds_difficult and choices.difficult is None:
        raise DataError(
            f"{len(difficult)} objects are difficult or crowds (the first in {difficult[0]}), and YOLO's labels cannot "
            "say so. Choose --difficult keep (as ordinary objects) or --difficult drop."
        )
    rotated = [sample.name for sample, item in objects if target.upright and not is_upright(item.quad)]
    if rotated and not choices.enclose:
        raise DataError(
            f"{len(rotated)} boxes are not upright (the first in {rotated[0]}), and {to} holds upright ones only. "
            "Choose --enclose for the upright rectangles around them, or --to yolo-obb."
        )
    for split, found in samples.items():
        places: dict[str, str] = {}
        for sample in found:
            place = target.image_path(split, sample.name, "")
            if places.setdefault(place, sample.name) != sample.name:
                raise DataError(f"{sample.name} and {places[place]} would both become {flat_name(sample.name)}.")


def _image(sample: Sample, target: Target, choices: Choices) -> LabelledImage:
    """Return an image as it is to be written; what its borders cut to nothing is left out."""
    size = read_image_size(sample.image_path)
    kept = (item for item in sample.objects if not _is_left_out(item, target, choices))
    objects = (_object(item, size, target, choices) for item in kept)
    return LabelledImage(
        sample.name, sample.image_path.suffix, size, tuple(item for item in objects if not is_empty(item.quad, size))
    )


def _is_left_out(item: LabelledObject, target: Target, choices: Choices) -> bool:
    """Return whether an object is difficult where that cannot be said and such ones are to be dropped."""
    return item.difficult > 0 and not target.holds_difficult and choices.difficult == "drop"


def _object(item: LabelledObject, size: tuple[int, int], target: Target, choices: Choices) -> LabelledObject:
    quad = enclosing_quad(item.quad) if target.upright else item.quad
    if choices.clip:
        quad = clipped(quad, size)
    return replace(item, quad=quad)


def clipped(quad: Sequence[float], size: tuple[int, int]) -> tuple[float, ...]:
    """Return a quadrilateral with the corners outside an image of (height, width) px moved to its border."""
    limits = (size[1], size[0]) * 4
    return tuple(min(max(value, 0.0), float(limit)) for value, limit in zip(quad, limits, strict=True))


def _facts(
    to: str,
    source: Source,
    samples: Mapping[str, Sequence[Sample]],
    images: Mapping[str, Sequence[LabelledImage]],
    choices: Choices,
) -> dict[str, Any]:
    target = TARGETS[to]
    written = {split: [item for image in images[split] for item in image.objects] for split in images}
    outside = [
        clipped(item.quad, image.size) != tuple(item.quad)
        for found in images.values()
        for image in found
        for item in image.objects
    ]
    objects = [item for found in samples.values() for sample in found for item in sample.objects]
    dropped = sum(_is_left_out(item, target, choices) for item in objects)
    return {
        "format": to,
        "made_from": source.format,
        "classes": list(source.classes),
        "splits": {split: {"images": len(images[split]), "objects": len(written[split])} for split in images},
        "dropped": dropped,
        "empty": len(objects) - dropped - sum(map(len, written.values())),
        "outside": sum(outside),
    }


def _write(
    root: Path,
    target: Target,
    classes: Sequence[str],
    samples: Mapping[str, Sequence[Sample]],
    images: Mapping[str, Sequence[LabelledImage]],
    choices: Choices,
) -> list[str]:
    """Write everything below a new folder and return the names of its files, sorted."""
    texts = target.root_files(list(images), classes)
    for split, found in images.items():
        texts |= target.label_files(split, found, classes)
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    pairs = [
        (sample.image_path, target.image_path(split, image.name, image.suffix))
        for split in images
        for sample, image in zip(samples[split], images[split], strict=True)
    ]
    place = shutil.copy2 if choices.copy else link_or_copy
    for path, name in track(pairs, "copy images" if choices.copy else "link images", len(pairs)):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        place(path, root / name)
    return sorted([*texts, *(name for _, name in pairs)])
