"""Names of layers in recipes: each wrong one is told, with the nearest that is right."""

import pytest

from compress.layer_names import unknown_names

NAMES = ["stem", "neck.lateral", "neck.out", "head.first", "head.last"]


@pytest.mark.parametrize("wanted", [[], ["stem"], ["neck.*"], ["*"], ["head.last", "stem"], ["*.out"]])
def test_names_and_patterns_that_fit_are_fine(wanted):
    assert unknown_names("skip", wanted, NAMES, patterns=True) is None


@pytest.mark.parametrize(
    ("wanted", "patterns", "text"),
    [
        ("setm", True, "skip: no layer is called 'setm'. Did you mean 'stem'?"),
        ("haed.*", True, "skip: no layer is called 'haed.*'. Did you mean 'head.*'?"),
        ("neck", True, "skip: no layer is called 'neck'. Did you mean 'neck.*', what is in it?"),
        ("head.*", False, "skip: no layer is called 'head.*'. Did you mean 'head.last'?"),
        ("xyz", True, "skip: no layer is called 'xyz'. There are 'stem', 'neck.lateral', 'neck.out', ..."),
    ],
)
def test_what_fits_nothing_is_told_with_a_near_miss(wanted, patterns, text):
    assert unknown_names("skip", [wanted], NAMES, what="layer", patterns=patterns).startswith(text)


def test_all_wrong_names_are_told_at_once():
    text = unknown_names("skip", ["setm", "stem", "head.lsat"], NAMES)
    assert "'setm'" in text
    assert "'head.last'" in text


def test_a_network_without_layers_has_none_to_name():
    assert unknown_names("skip", ["a"], []) == "skip: no module is called 'a'. There is none."
