"""A data set as it lies on the disk: its format, what is in it, and what is wrong with it. Imports no torch."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from compress.errors import DataError, suggest
from detectors.data.boxes import Check
from detectors.data.problems import Findings
from detectors.data.samples import Sample

FORMATS = ("dota", "coco", "yolo")


@dataclass(frozen=True)
class Source:
    """A data set as it lies on the disk.

    Attributes:
        format: 'dota', 'coco' or 'yolo'.
        root: its folder.
        dataset: reads it.
        classes: that its files declare, in their order.
        splits: that are looked at.
    """

    format: str
    root: Path
    dataset: Any
    classes: tuple[str, ...]
    splits: tuple[str, ...]

    def read(self, split: str, check: Check | None) -> tuple[list[Sample], list[str]]:
        """Return the images of a split, sorted by name, and every problem."""
        labels = {name: label for label, name in enumerate(self.classes)}
        found: tuple[list[Sample], list[str]] = self.dataset.read(split, labels, check=check)
        return found


def open_source(root: Path, *, format_name: str | None = None, splits: Mapping[str, str] | None = None) -> Source:
    """Open a data set.

    Args:
        root: its folder, or the YAML file of a data set in YOLO format.
        format_name: one of FORMATS; None looks at what lies there.
        splits: split -> its place as in `data.splits` ('' takes the format's own); None takes all that are there.

    Raises:
        DataError: nothing like a data set lies there, or none of the splits.
    """
    name = format_name or find_format(root)
    if name not in FORMATS:
        raise DataError(f"format '{name}': unknown.{suggest(name, FORMATS)}")
    kind = importlib.import_module(f"detectors.data.formats.{name}").DATASET
    # The size at which a network would look at the images plays no part in reading them.
    config = kind.CONFIG(root=str(root), image_size=(1, 1))
    if splits:
        own = config.splits
        wanted = {split: place or own.get(split, split) for split, place in splits.items()}
        config = kind.CONFIG(root=str(root), image_size=(1, 1), splits=wanted)
    present = tuple(splits or kind.splits_present(config))
    if not present:
        places = ", ".join(f"{split} ({place})" for split, place in config.splits.items())
        raise DataError(f"{root}: no split found, looked for {places}. Name it: --split NAME=PLACE.")
    classes = kind.class_names(config)
    return Source(name, root, kind(config, classes), classes, present)


def find_format(root: Path) -> str:
    """Return the format of what lies in a folder.

    Raises:
        DataError: no folder, or nothing that is known.
    """
    if root.suffix.lower() in (".yaml", ".yml") and root.is_file():
        return "yolo"
    if not root.is_dir():
        raise DataError(f"{root}: no such folder, expected that of a data set.")
    if any(root.glob("*/labelTxt")):
        return "dota"
    if any(root.glob("*.yaml")) or any(root.glob("*.yml")):
        return "yolo"
    if any(root.glob("annotations/*.json")) or any(root.glob("*/_annotations.coco.json")):
        return "coco"
    raise DataError(
        f"{root}: no data set found: neither SPLIT/labelTxt (dota) nor data.yaml (yolo) nor annotations/*.json (coco). "
        f"Check the path, or say what it is with --format.{_near_format(root)}"
    )


def _near_format(root: Path) -> str:
    """Return a hint where folders lie that are nearly those of a data set, '' else."""
    if any(root.glob("labelTxt*")):
        return f" {root.name} looks like a split: name the folder above it."
    places = [path.relative_to(root) for path in sorted(root.glob("*/*")) if path.is_dir()]
    labels = next((place for place in places if place.name.casefold().startswith("label")), None)
    if labels is not None:
        return f" There is {labels}: DOTA's labels lie in {labels.parent}/labelTxt, YOLO's beside a data.yaml."
    document = next(iter(sorted([*root.glob("*.json"), *root.glob("*/*.json")])), None)
    return "" if document is None else f" If {document.relative_to(root)} is COCO's: --format coco --split NAME=PLACE."


def other_splits(source: Source) -> list[str]:
    """Return folders beside the splits that are laid out as splits of DOTA, and are none of those that are read."""
    if source.format != "dota":
        return []
    read = {source.dataset.config.splits[split] for split in source.splits}
    return sorted(path.parent.name for path in source.root.glob("*/labelTxt") if path.parent.name not in read)


def near_classes(classes: Sequence[str]) -> list[tuple[str, str]]:
    """Return pairs of classes that differ by case, hyphens or underscores alone: most likely one class."""
    plain: dict[str, list[str]] = {}
    for name in classes:
        plain.setdefault("".join(letter for letter in name.casefold() if letter.isalnum()), []).append(name)
    return [(names[0], other) for names in plain.values() for other in names[1:]]


def check_source(source: Source, check: Check = "header") -> tuple[dict[str, Any], list[str]]:
    """Read all splits of a data set.

    Args:
        source: from `open_source`.
        check: 'header' reads size and end of each image, 'full' decodes it.

    Returns:
        Facts (format, root, classes, and of each split: images, objects, ignored objects, objects of each class, boxes
        that are `dropped` as they hold nothing of their image, and pictures that are nearly `flat`), and every mistake
        as 'file:place: what, expected what.'
    """
    facts: dict[str, Any] = {"format": source.format, "root": str(source.root), "classes": list(source.classes)}
    facts["other_splits"], facts["near_classes"] = other_splits(source), near_classes(source.classes)
    facts["splits"] = {}
    problems: list[str] = []
    for split in source.splits:
        samples, found = source.read(split, check)
        findings = Findings.of(samples, found)
        problems += findings.mistakes
        objects = [item for sample in samples for item in sample.objects]
        counts = np.bincount([item.label for item in objects if not item.ignored], minlength=len(source.classes))
        facts["splits"][split] = {
            "images": len(samples),
            "objects": sum(not item.ignored for item in objects),
            "ignored": sum(item.ignored for item in objects),
            "per_class": dict(zip(source.classes, counts.tolist(), strict=True)),
            "dropped": list(findings.dropped),
            "flat": list(findings.flat),
        }
    return facts, problems
