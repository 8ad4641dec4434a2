"""The arithmetic of benchmarks/rate_rounding.py: bytes at equal loss and at equal map."""

import sys

import pytest

from benchmarks import rate_rounding as benchmark
from compress.errors import CompressError


def test_bytes_between_two_points_lie_on_a_line_of_logarithms():
    points = [{"bytes": 100_000.0, "loss": 1e-2}, {"bytes": 400_000.0, "loss": 1e-4}]
    assert benchmark.bytes_at(points, 1e-3, "loss", log=True) == pytest.approx(200_000)
    assert benchmark.bytes_at(points, 1e-2, "loss", log=True) == pytest.approx(100_000)
    assert benchmark.bytes_at(points, 1e-1, "loss", log=True) is None
    assert benchmark.bytes_at(points, 1e-5, "loss", log=True) is None


def test_what_is_saved_is_a_share_of_the_other_curve():
    ours = [{"bytes": 150_000.0, "map": 0.3}, {"bytes": 80_000.0, "map": 0.1}]
    theirs = [{"bytes": 400_000.0, "map": 0.4}, {"bytes": 100_000.0, "map": 0.2}]
    inside, outside = benchmark.saved(ours, theirs, "map")
    assert inside["other_bytes"] == pytest.approx(200_000)
    assert inside["saved"] == pytest.approx(0.25)
    assert outside["saved"] is None


def test_a_larger_file_that_is_no_better_is_no_point_of_the_front():
    points = [
        {"bytes": size, "map": value} for size, value in ((3.0, 0.3), (1.0, 0.1), (2.0, 0.1), (4.0, 0.2), (5.0, 0.4))
    ]
    assert [point["bytes"] for point in benchmark.monotone(points)] == [1.0, 3.0, 5.0]


def test_without_nncodec_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "nncodec", None)
    with pytest.raises(CompressError, match=r"NNCodec: .*\. Run scripts/setup_codec\.sh"):
        benchmark.nncodec()


def test_a_record_that_exists_is_refused_before_anything_is_measured(tmp_path, capsys):
    record = tmp_path / "a.json"
    record.write_text("{}")
    assert benchmark.main(["no.yaml", "--record", str(record)]) == 1
    assert "exists, and records are not edited" in capsys.readouterr().err
