"""Verdicts from intervals, limits as they are typed, and the files that build machines read."""

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from compress.compare.differences import Difference
from compress.compare.gate import Gate
from compress.compare.limits import GateLimits, parse_bytes, parse_latency
from compress.compare.outcome_files import junit_text, plain_text, summary_text
from compress.compare.sides import Side
from compress.compare.timing import summarize_pairs
from compress.compare.verdicts import Check, Verdict, check_bytes, check_drop, check_latency, judge, overall
from compress.errors import RecipeError

LIMITS = GateLimits(max_drop=0.5)


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [
        ((-1.0, 0.5), Verdict.ACCEPT),  # the end itself is within
        ((-1.0, 0.51), Verdict.UNDECIDED),
        ((0.5, 0.9), Verdict.UNDECIDED),
        ((0.51, 0.9), Verdict.REGRESSION),
        ((0.0, 0.0), Verdict.ACCEPT),
    ],
)
def test_the_whole_interval_decides(interval, verdict):
    assert judge(interval, 0.5) is verdict


def test_a_regression_outweighs_what_cannot_be_decided():
    checks = [Check("a", "", "", verdict, "") for verdict in Verdict]
    assert overall(checks) is Verdict.REGRESSION
    assert overall(checks[::2]) is Verdict.UNDECIDED
    assert overall(checks[:1]) is Verdict.ACCEPT


def test_an_undecided_drop_says_how_many_images_would_decide():
    check = check_drop(LIMITS, Difference("map", -0.2, (-0.8, 0.4), "paired", 100), is_same=False)
    assert check.verdict is Verdict.UNDECIDED
    assert check.needed == 400  # half 0.6 around 0.2, 0.3 from the limit
    assert "about 400 images like these would decide" in check.why
    assert check.found == "0.20 points lost (-0.40 to 0.80)"


def test_an_outer_interval_asks_for_the_paired_one():
    check = check_drop(LIMITS, Difference("map", -0.2, (-3.0, 3.0), "outer", 100), is_same=False)
    assert check.verdict is Verdict.UNDECIDED
    assert "--data" in check.why


def test_the_same_file_loses_nothing_however_few_the_images():
    nothing = Difference("map", 0.0, None, "none", 3, "3 images, at least 10 are needed")
    assert check_drop(LIMITS, nothing, is_same=True).verdict is Verdict.ACCEPT
    other = check_drop(LIMITS, nothing, is_same=False)
    assert (other.verdict, other.needed) == (Verdict.UNDECIDED, 10)


@pytest.mark.parametrize(
    ("text", "most"),
    [("+2%", 1020), ("-30%", 700), ("+1kB", 2000), ("330kB", 330_000), ("250000", 250_000), ("1.5 MiB", 1.5 * 2**20)],
)
def test_limits_of_bytes(text, most):
    assert parse_bytes(text).of(1000) == pytest.approx(most)


@pytest.mark.parametrize(
    ("text", "most"), [("+5%", 10.5), ("-20%", 8), ("+2ms", 12), ("25ms", 25), ("25", 25), ("1s", 1000)]
)
def test_limits_of_latency(text, most):
    assert parse_latency(text).of(10) == pytest.approx(most)


@pytest.mark.parametrize("text", ["2%", "-1kB", "few", "", "+%", "-100%", "12 parsecs", "nan", "1e999%"])
def test_what_is_no_limit_is_told(text):
    with pytest.raises(RecipeError, match="--max-bytes"):
        parse_bytes(text)


def test_bytes_have_no_interval_and_an_absolute_limit_asks_for_the_new_file_alone():
    old, new = Side("old", "file", num_bytes=1000), Side("new", "file", num_bytes=1020)
    assert check_bytes(parse_bytes("+2%"), new, old).verdict is Verdict.ACCEPT
    assert check_bytes(parse_bytes("+1%"), new, old).verdict is Verdict.REGRESSION
    unknown = Side("old", "report")
    assert check_bytes(parse_bytes("+2%"), new, unknown).verdict is Verdict.UNDECIDED
    assert check_bytes(parse_bytes("1kB"), new, unknown).verdict is Verdict.REGRESSION
    assert check_bytes(parse_bytes("2kB"), new, unknown).verdict is Verdict.ACCEPT


def timing(ratio, spread=0.004, count=7):
    drawn = np.exp(np.random.default_rng(0).normal(0, spread, count))
    drawn /= np.exp(np.log(drawn).mean())
    return summarize_pairs([(10.0, 10 * ratio * one) for one in drawn], rounds=30, threads=1)


def test_latency_is_judged_by_the_interval_over_processes():
    limit = parse_latency("+5%")
    assert check_latency(limit, timing(1.0)).verdict is Verdict.ACCEPT
    assert check_latency(limit, timing(1.2)).verdict is Verdict.REGRESSION
    unsure = check_latency(limit, timing(1.04, spread=0.05))
    assert unsure.verdict is Verdict.UNDECIDED
    assert unsure.needed > 7
    assert check_latency(limit, None, "why").why == "why"


def test_the_interval_of_a_ratio_holds_what_it_says():
    rng, held = np.random.default_rng(0), 0
    for _ in range(2000):
        pairs = [(10.0, 10.0 * 1.1 * np.exp(rng.normal(0, 0.02))) for _ in range(7)]
        low, high = summarize_pairs(pairs, rounds=1, threads=1).interval
        held += low <= 1.1 <= high
    assert held / 2000 == pytest.approx(0.95, abs=0.015)


def gate(*verdicts):
    checks = [Check(verdict.name.lower(), "at most <1>", "2 | 3", verdict, "Be\x1bcause & so.") for verdict in verdicts]
    return Gate(Side("new`x", "run", "pack"), Side("old", "file", model=Path("old.krimp")), tuple(checks))


@pytest.mark.parametrize(
    ("verdicts", "code", "when_passing"),
    [
        ([Verdict.ACCEPT], 0, 0),
        ([Verdict.ACCEPT, Verdict.REGRESSION], 1, 1),
        ([Verdict.UNDECIDED, Verdict.ACCEPT], 2, 0),
        ([Verdict.UNDECIDED, Verdict.REGRESSION], 1, 1),
    ],
)
def test_exit_codes(verdicts, code, when_passing):
    found = gate(*verdicts)
    assert found.exit_code(undecided_passes=False) == code
    assert found.exit_code(undecided_passes=True) == when_passing


def test_junit_has_a_case_a_limit_and_can_be_read_whatever_stands_in_it():
    root = ElementTree.fromstring(junit_text(gate(*Verdict), undecided_passes=False).encode())
    (suite,) = root
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("3", "1", "1")
    accepted, broken, unsure = suite.findall("testcase")
    assert accepted.find("failure") is None
    assert broken.find("failure").get("type") == "regression"
    assert unsure.find("error").get("message") == "2 | 3. Be\\x1bcause & so."
    passing = ElementTree.fromstring(junit_text(gate(*Verdict), undecided_passes=True).encode())
    assert passing.get("errors") == "0"
    assert passing.findall(".//skipped")


def test_the_summary_is_a_table_that_nothing_breaks_out_of():
    text = summary_text(gate(*Verdict))
    assert text.startswith("### Krimp gate: regression\n")
    rows = [line for line in text.splitlines() if line.startswith("| ") and "verdict" not in line]
    assert len(rows) == 3
    assert all(row.replace("\\|", "").count("|") == 6 for row in rows)
    assert "<" not in text
    assert "`new'x (pack)`" in text


def test_the_last_line_of_the_text_is_the_verdict():
    assert plain_text(gate(Verdict.ACCEPT)).splitlines()[-1] == "verdict: accept"
