"""What one model gains or loses against another, with the interval that the images allow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from compress.breakdown import ImageOutcome
from compress.compare.sides import Interval, Scored
from compress.dataset import METRICS
from compress.metrics.paired import expanded_coverage, loss_interval

LEAST_IMAGES = 10  # of fewer a resampling knows too little of what other images would do
Basis = Literal["paired", "outer", "none"]


@dataclass(frozen=True)
class Difference:
    """The change of one metric from the reference to another model.

    Attributes:
        metric: its name.
        points: other minus reference, 0..100; below 0 is a loss. None where one of the two was not measured.
        interval: (low, high) with a coverage of 95 %, points; None where nothing is known of it.
        basis: 'paired' (both on the same resampled images), 'outer' (from the interval of each alone: no narrower than
            the paired one), 'none'.
        num_images: behind the interval.
        note: why there is no interval, or no better one.
    """

    metric: str
    points: float | None
    interval: Interval | None = None
    basis: Basis = "none"
    num_images: int | None = None
    note: str | None = None

    @property
    def is_sure(self) -> bool:
        """Return whether the interval leaves out zero."""
        return self.interval is not None and not self.interval[0] <= 0 <= self.interval[1]


def differences(reference: Scored | None, other: Scored | None) -> list[Difference]:
    """Return the change of every metric that one of the two has."""
    if reference is None or other is None:
        return [Difference(metric, None, note="not scored") for metric in METRICS]
    known = [name for name in METRICS if reference.values.get(name) is not None or other.values.get(name) is not None]
    return [difference(reference, other, metric) for metric in known]


def difference(reference: Scored, other: Scored, metric: str) -> Difference:
    """Return the change of a metric.

    The interval is that of the paired bootstrap, widened for few images (`expanded_coverage`). Where the resamples of
    one of the two were not kept it is the outer one: the low end of one against the high end of the other.
    """
    one, two = reference.values.get(metric), other.values.get(metric)
    if one is None or two is None:
        return Difference(metric, None, note="not measured")
    points = 100 * (two - one)
    if (mismatch := reference.images.mismatch(other.images)) is not None:
        return Difference(metric, points, note=f"not the same images: {mismatch}")
    count = other.images.num_images or reference.images.num_images
    if count is None or count < LEAST_IMAGES:
        told = "an unknown number of" if count is None else str(count)
        return Difference(metric, points, num_images=count, note=f"{told} images, at least {LEAST_IMAGES} are needed")
    drawn = (other.resampled.get(metric), reference.resampled.get(metric))
    paired = loss_interval(*drawn, coverage=expanded_coverage(count))
    if paired is not None:
        return Difference(metric, points, _points(*paired), "paired", count)
    ends, others = reference.intervals.get(metric), other.intervals.get(metric)
    if ends is None or others is None:
        return Difference(metric, points, num_images=count, note="no interval was kept")
    outer = _points(others[0] - ends[1], others[1] - ends[0])
    return Difference(metric, points, outer, "outer", count, "a report keeps no resamples, so the interval is wider")


def _points(low: float, high: float) -> Interval:
    return 100 * low, 100 * high


@dataclass(frozen=True)
class PictureChange:
    """One image in both models.

    Attributes:
        name: of the image.
        objects: to be found.
        found, wrong: objects that were found, and detections that are wrong, of the reference and of the other.
    """

    name: str
    objects: int
    found: tuple[int, int]
    wrong: tuple[int, int]

    @property
    def change(self) -> int:
        """Return objects more that were found, less wrong detections more; below 0 is a loss."""
        return (self.found[1] - self.found[0]) - (self.wrong[1] - self.wrong[0])

    @property
    def size(self) -> int:
        """Return how much differs at all."""
        return abs(self.found[1] - self.found[0]) + abs(self.wrong[1] - self.wrong[0])


def picture_changes(reference: Scored | None, other: Scored | None, most: int) -> list[PictureChange]:
    """Return the images on which two models differ most, losses first; none where it was not kept.

    Args:
        reference: scores of the first.
        other: of the other.
        most: so many at most; images without any difference are left out.
    """
    if reference is None or other is None or reference.images.mismatch(other.images) is not None:
        return []
    if reference.score_threshold != other.score_threshold:
        return []
    changes = [_change(*pair) for pair in _pairs(reference.outcomes, other.outcomes)]
    differing = [one for one in changes if one.size]
    return sorted(differing, key=lambda one: (one.change, -one.size, one.name))[:most]


def _pairs(one: Sequence[ImageOutcome], two: Sequence[ImageOutcome]) -> list[tuple[ImageOutcome, ImageOutcome]]:
    others = {image.name: image for image in two}
    return [(image, others[image.name]) for image in one if image.name in others]


def _change(one: ImageOutcome, two: ImageOutcome) -> PictureChange:
    return PictureChange(one.name, one.objects, (one.found, two.found), (one.wrong, two.wrong))
