"""The document of `krimp compare`: every side, and each held against the first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from compress.compare.differences import Difference, PictureChange, differences, picture_changes
from compress.compare.layers import Layer, LayerChange, layer_changes, read_layers, share_names
from compress.compare.sides import Side
from compress.compare.timing import Timing
from compress.dataset import METRICS

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Against:
    """One side held against the first.

    Attributes:
        name: of the side.
        differences: of the metrics.
        num_bytes: bytes more; None where one of the two sizes is not known.
        bytes_ratio: of the first file to this one; > 1 is smaller.
        timing: side by side; None where it was not asked for.
        layers: that differ.
        pictures: on which they differ most.
        score_threshold: of the detections that `pictures` count.
    """

    name: str
    differences: tuple[Difference, ...]
    num_bytes: int | None = None
    bytes_ratio: float | None = None
    timing: Timing | None = None
    layers: tuple[LayerChange, ...] = ()
    pictures: tuple[PictureChange, ...] = ()
    score_threshold: float | None = None


@dataclass(frozen=True)
class Comparison:
    """What `krimp compare` found.

    Attributes:
        sides: in the order given; the first is the reference.
        against: of each other one.
        notes: what was left out, and why.
    """

    sides: tuple[Side, ...]
    against: tuple[Against, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def metrics(self) -> list[str]:
        """Return the metrics that some side has."""
        scored = [side.scored for side in self.sides if side.scored is not None]
        return [metric for metric in METRICS if any(one.values.get(metric) is not None for one in scored)]

    def to_json(self) -> dict[str, Any]:
        """Return plain data: format_version, reference, sides, against, notes.

        A side has name, kind, label, file, bytes, latency_ms, latency_how, split, num_images, num_objects, values and
        intervals; an entry of `against` name, differences, num_bytes, bytes_ratio, timing, layers, pictures and
        score_threshold.
        """
        return {
            "format_version": FORMAT_VERSION,
            "reference": self.sides[0].name,
            "sides": [_plain(side) for side in self.sides],
            "against": [
                asdict(one)
                | {
                    "layers": [asdict(change) | {"told": change.told} for change in one.layers],
                    "pictures": [asdict(change) | {"change": change.change} for change in one.pictures],
                }
                for one in self.against
            ],
            "notes": list(self.notes),
        }


def _plain(side: Side) -> dict[str, Any]:
    scored = side.scored
    return {
        "name": side.name,
        "kind": side.kind,
        "label": side.label,
        "file": None if side.model is None else str(side.model),
        "bytes": side.num_bytes,
        "latency_ms": side.latency_ms,
        "latency_how": side.latency_how,
        "split": None if scored is None else scored.images.split,
        "num_images": None if scored is None else scored.images.num_images,
        "num_objects": None if scored is None else scored.images.num_objects,
        "values": {} if scored is None else dict(scored.values),
        "intervals": {} if scored is None else dict(scored.intervals),
    }


def compare(sides: Sequence[Side], *, pictures: int, timings: Sequence[Timing | None] = ()) -> Comparison:
    """Hold sides against the first.

    Args:
        sides: at least two.
        pictures: of those on which two differ, so many at most.
        timings: one for each but the first.
    """
    reference, *others = sides
    layers = [None if side.model is None else read_layers(side.model) for side in sides]
    found = []
    for number, other in enumerate(others):
        changes = () if layers[0] is None else _changes(layers[0], layers[number + 1])
        scored = other.scored
        found.append(
            Against(
                other.name,
                tuple(differences(reference.scored, scored)),
                *_sizes(reference, other),
                timing=timings[number] if timings else None,
                layers=changes,
                pictures=tuple(picture_changes(reference.scored, scored, pictures)),
                score_threshold=None if scored is None else scored.score_threshold,
            )
        )
    return Comparison(tuple(sides), tuple(found), (*_notes(sides), *_named_otherwise(sides, layers)))


def _changes(reference: list[Layer], other: list[Layer] | None) -> tuple[LayerChange, ...]:
    return () if other is None or not share_names(reference, other) else tuple(layer_changes(reference, other))


def _named_otherwise(sides: Sequence[Side], layers: Sequence[list[Layer] | None]) -> list[str]:
    first = layers[0]
    others = zip(sides[1:], layers[1:], strict=True) if first is not None else ()
    return [
        f"{side.title}: its layers have other names than those of {sides[0].title}, so they are not compared. "
        "Of a file with short names the names.json of its run must lie beside it."
        for side, found in others
        if first is not None and found is not None and not share_names(first, found)
    ]


def _sizes(reference: Side, other: Side) -> tuple[int | None, float | None]:
    if reference.num_bytes is None or other.num_bytes is None:
        return None, None
    return other.num_bytes - reference.num_bytes, reference.num_bytes / max(other.num_bytes, 1)


def _notes(sides: Sequence[Side]) -> list[str]:
    notes = [f"{one.title}: not scored on these images; --data scores its file." for one in sides if one.scored is None]
    notes += [f"{one.title}: no file, so its layers are not compared." for one in sides if one.model is None]
    hows = {one.latency_how for one in sides if one.latency_how is not None}
    if len(hows) > 1 or sum(one.latency_ms is not None for one in sides) > 1:
        notes.append("Latencies are those of each run; only times taken side by side (--time) can be compared.")
    return notes
