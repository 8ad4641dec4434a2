"""Options that take several values at once."""

import pytest

from detectors.data.list_options import spread


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--scales", "0.5", "1.0"], ["--scales", "0.5", "--scales", "1.0"]),
        (["--scales", "0.5", "--scales", "1.0"], ["--scales", "0.5", "--scales", "1.0"]),
        (["--scales", "-0.5", "1"], ["--scales", "-0.5", "--scales", "1"]),
        (["a", "b", "--out", "c", "d"], ["a", "b", "--out", "c", "d"]),
        (["--scales", "1", "--flag", "x"], ["--scales", "1", "--flag", "x"]),
        (["--scales=1", "x"], ["--scales=1", "x"]),
        (["--scales"], ["--scales"]),
        ([], []),
    ],
)
def test_the_name_is_repeated_before_each_value(given, expected):
    assert spread(given, {"--scales"}) == expected
