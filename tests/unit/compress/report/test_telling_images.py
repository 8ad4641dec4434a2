"""Which images a report shows: a usual one, then those on which most was lost."""

from compress.breakdown import ImageOutcome
from compress.report.pictures import telling_images


def outcomes(**found):
    return {name: ImageOutcome(name=name, objects=10, found=count, wrong=0) for name, count in found.items()}


BEFORE = outcomes(a=9, b=9, c=9, d=9, e=9)
AFTER = outcomes(a=8, b=2, c=9, d=8, e=5)


def test_a_usual_image_comes_first_and_then_the_worst():
    assert telling_images(BEFORE, AFTER, 3) == ["a", "b", "e"]
    assert telling_images(BEFORE, AFTER, 99) == ["a", "b", "e", "d", "c"]


def test_an_image_without_objects_is_not_the_usual_one():
    empty = {"z": ImageOutcome(name="z", objects=0, found=0, wrong=0)}
    assert telling_images({**BEFORE, **empty}, {**AFTER, **empty}, 1) == ["a"]


def test_without_outcomes_of_both_models_none_is_chosen():
    assert telling_images({}, AFTER, 3) == telling_images(BEFORE, {}, 3) == telling_images(BEFORE, AFTER, 0) == []
