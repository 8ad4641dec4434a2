"""What one score gains against another, and when nothing can be said of it."""

from dataclasses import replace

import numpy as np
import pytest

from compress.breakdown import ImageOutcome
from compress.compare.differences import LEAST_IMAGES, difference, differences, picture_changes
from compress.compare.sides import Images, Scored
from compress.metrics.paired import expanded_coverage

IMAGES = Images("val", "digest", None, 50, 200, ("a", "b"), 100)


def scored(value=0.6, *, images=IMAGES, resampled=None, interval=(0.5, 0.7), outcomes=(), threshold=0.3):
    drawn = {} if resampled is None else {"map": np.asarray(resampled)}
    return Scored(images, {"map": value}, {"map": interval}, drawn, tuple(outcomes), threshold)


def test_a_paired_difference_is_that_of_the_resamples_widened_for_few_images():
    rng = np.random.default_rng(0)
    one, two = rng.normal(0.6, 0.05, (2, 1000))
    found = difference(scored(0.6, resampled=one), scored(0.58, resampled=two), "map")
    tail = (1 - expanded_coverage(50)) / 2
    wanted = 100 * np.quantile(two - one, [tail, 1 - tail])
    assert found.points == pytest.approx(-2)
    assert (found.basis, found.num_images) == ("paired", 50)
    assert found.interval == pytest.approx(tuple(wanted))
    assert not found.is_sure


def test_without_resamples_the_interval_is_as_wide_as_both_allow():
    found = difference(scored(0.6, interval=(0.55, 0.66)), scored(0.5, interval=(0.45, 0.57)), "map")
    assert found.basis == "outer"
    assert found.interval == pytest.approx((-21, 2))


def test_the_outer_interval_is_never_narrower_than_the_paired_one():
    rng = np.random.default_rng(2)
    for _ in range(50):
        common = rng.normal(0, rng.uniform(0, 0.1), 1000)
        one, two = (0.6 + common + rng.normal(0, 0.03, 1000) for _ in range(2))
        ends = [tuple(np.quantile(values, [0.025, 0.975])) for values in (one, two)]
        pair = [scored(0.6, resampled=values, interval=end) for values, end in zip((one, two), ends, strict=True)]
        paired = difference(*pair, "map").interval
        outer = difference(*(replace(side, resampled={}) for side in pair), "map").interval
        assert outer[1] - outer[0] >= 0.98 * (paired[1] - paired[0])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"split": "test"}, "the splits differ: val and test"),
        ({"digest": "other"}, "the contents of the split differ"),
        ({"limit": 20}, "the limits of images differ: None and 20"),
        ({"num_images": 51}, "the numbers of images differ: 50 and 51"),
        ({"classes": ("a",)}, "the classes differ: a, b and a"),
        ({"max_dets": 500}, "data.max_dets differ: 100 and 500"),
    ],
)
def test_scores_of_other_images_have_no_interval_and_it_is_said_why(change, told):
    found = difference(scored(), scored(0.5, images=replace(IMAGES, **change)), "map")
    assert found.interval is None
    assert found.points == pytest.approx(-10)
    assert found.note == f"not the same images: {told}"
    assert picture_changes(scored(), scored(images=replace(IMAGES, **change)), 5) == []


def test_what_is_not_known_of_the_images_does_not_part_them_and_the_order_of_classes_neither():
    assert IMAGES.mismatch(Images("val")) is None
    assert IMAGES.mismatch(replace(IMAGES, classes=("b", "a"))) is None


def test_of_too_few_images_there_is_no_interval():
    few = replace(IMAGES, num_images=LEAST_IMAGES - 1)
    drawn = np.full(1000, 0.6)
    found = difference(scored(images=few, resampled=drawn), scored(images=few, resampled=drawn), "map")
    assert found.interval is None
    assert found.note == "9 images, at least 10 are needed"


def test_a_metric_that_one_side_lacks_is_told():
    (change,) = differences(scored(None), scored(0.5))
    assert (change.points, change.note) == (None, "not measured")
    assert [change.note for change in differences(None, scored())] == ["not scored"] * 3


def outcome(name, objects, found, wrong):
    return ImageOutcome(name=name, objects=objects, found=found, wrong=wrong)


def test_pictures_come_by_what_was_lost_and_those_without_change_not_at_all():
    one = [outcome("same", 3, 3, 0), outcome("lost", 5, 5, 0), outcome("more", 4, 1, 0), outcome("noise", 2, 2, 0)]
    two = [outcome("same", 3, 3, 0), outcome("lost", 5, 2, 1), outcome("more", 4, 4, 0), outcome("noise", 2, 2, 3)]
    changes = picture_changes(scored(outcomes=one), scored(outcomes=two), 10)
    assert [(change.name, change.change) for change in changes] == [("lost", -4), ("noise", -3), ("more", 3)]
    assert changes[0].found == (5, 2)
    assert len(picture_changes(scored(outcomes=one), scored(outcomes=two), 2)) == 2
    assert picture_changes(scored(outcomes=one), scored(outcomes=two, threshold=0.5), 2) == []
