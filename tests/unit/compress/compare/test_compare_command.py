"""`krimp compare` and `krimp gate` from end to end, on networks whose losses can be said without running them."""

import json
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import cells_on_disk
import numpy as np
import pytest
from cells_on_disk import write_data, write_model, write_run

from compress.cli.main import main
from compress.compare import timing
from compress.compare.opening import open_side
from compress.errors import DataError
from compress.report.document import Document, Row, dump

ROOT = Path(__file__).parents[4]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Return a folder with a data set of 40 pictures, one of 6, and four networks."""
    folder = tmp_path_factory.mktemp("world")
    write_data(folder / "data", 40)
    write_data(folder / "few", 6, seed=1)
    write_model(folder / "old.onnx")
    write_model(folder / "alike.onnx", note="other bytes, the same network")
    write_model(folder / "moved.onnx", moved=2)
    write_model(folder / "weak.onnx", weaker=0.75, threshold=0.25)
    return folder


@pytest.fixture
def gate(world, capsys):
    def run(new, *options, data="data", old="old.onnx"):
        arguments = ["gate", str(world / new), "--against", str(world / old)]
        arguments += ["--data", str(world / data)] if data else []
        code = main([*arguments, *options])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_the_same_network_is_accepted_with_no_loss_at_all(gate):
    code, out, _ = gate("alike.onnx", "--max-drop", "0", "--max-bytes", "+1kB")
    assert code == 0
    assert "0.00 points lost (0.00 to 0.00)" in out
    assert out.splitlines()[-1] == "verdict: accept"


def test_a_planted_loss_is_a_regression_and_its_size_is_known(gate):
    # 2 px of 16: overlap 14 / 18, right at six thresholds of ten instead of ten.
    code, out, _ = gate("moved.onnx", "--max-drop", "0.5", "--json")
    assert code == 1
    (check,) = json.loads(out)["checks"]
    assert check["verdict"] == "regression"
    lost = float(check["found"].split()[0])
    assert 35 < lost <= 40.5
    assert "beyond the limit (40 images, paired)" in check["why"]
    assert gate("moved.onnx", "--max-drop", "50")[0] == 0
    assert gate("moved.onnx", "--max-drop", "0.5", "--metric", "map50")[0] == 0  # at 0.5 both are right


def test_few_images_decide_nothing_but_that_a_file_is_the_same(gate):
    code, out, _ = gate("moved.onnx", "--max-drop", "0.5", data="few")
    assert code == 2
    assert "6 images, at least 10 are needed" in out
    assert gate("moved.onnx", "--max-drop", "0.5", "--undecided", "pass", data="few")[0] == 0
    assert gate("old.onnx", "--max-drop", "0.5", data="few")[0] == 0


def test_an_uncertain_loss_says_how_many_images_it_would_take(gate):
    _, out, _ = gate("weak.onnx", "--max-drop", "0.5", "--json")
    (check,) = json.loads(out)["checks"]
    lost, low, high = map(float, re.findall(r"-?\d+\.\d+", check["found"]))
    code, out, _ = gate("weak.onnx", "--max-drop", f"{lost + 0.1:.2f}", "--json")
    assert code == 2
    (check,) = json.loads(out)["checks"]
    assert low < lost + 0.1 < high
    assert check["needed"] > 40
    assert "images like these would decide" in check["why"]


def test_files_for_build_machines(gate, tmp_path):
    junit, summary = tmp_path / "gate.xml", tmp_path / "gate.md"
    for _ in range(2):  # repeating it replaces its own files
        code, _, _ = gate("moved.onnx", "--max-drop", "0.5", "--max-bytes", "+2%", "--junit", str(junit),
                          "--summary", str(summary))  # fmt: skip
        assert code == 1
    assert ElementTree.parse(junit).getroot().get("failures") == "1"
    assert "| ❌ regression | map |" in summary.read_text()
    (tmp_path / "mine.md").write_text("mine")
    code, _, err = gate("old.onnx", "--max-drop", "0.5", "--summary", str(tmp_path / "mine.md"))
    assert code == 3
    assert "mine.md" in err


def test_both_files_are_timed_side_by_side_in_processes_of_their_own(gate, monkeypatch):
    monkeypatch.setattr(timing, "ROUNDS", 5)
    code, out, _ = gate("alike.onnx", "--max-latency", "+400%", "--processes", "3", "--json", data=None)
    (check,) = json.loads(out)["checks"]
    assert check["name"] == "latency"
    assert "3 processes" in check["why"]
    assert code == 0


def test_nothing_to_judge_and_wrong_words_are_told(gate, world, capsys):
    code, _, err = gate("old.onnx")
    assert code == 2
    assert "no limit is given" in err
    for options, words in (
        (["--max-drop", "1", "--set", "root=/x"], "--data is a folder"),
        (["--max-drop", "1", "--set", "data.max_dets=none"], "max_dets"),
        (["--max-bytes", "2%"], "needs a sign"),
    ):
        code, _, err = gate("old.onnx", *options)
        assert (code, words in err) == (2, True), (options, err)
    code, _, err = gate("missing.onnx", "--max-bytes", "+2%")
    assert code == 3
    assert "no such file or folder" in err
    code, _, err = gate("old.onnx", "--max-drop", "1", "--set", "data.root=/x", data=None)
    assert code == 2
    assert "no --data" in err


# ---- runs and reports ---------------------------------------------------------------------------


def report_text(*, loss=0.0, interval=(0.5, 0.7), root=None):
    row = Row(label="export_onnx", stage="export_onnx", kind="onnx", map=0.6 - loss, map_interval=interval,
              onnx_bytes=900, num_images=60, num_objects=240, max_dets=100, latency_ms_p50=5.0)  # fmt: skip
    data = {"format": "coco", "root": root}
    return dump(
        Document(
            name="r", created="2026-11-29T00:00:00+00:00", split="val", seed=0,
            recipe={"data": data, "detector": {"classes": ["red", "green"]}}, recipe_digest="", float_label=None,
            final_label="export_onnx", baseline_label=None, rows=[row], stages=[],
        )
    )  # fmt: skip


def test_two_runs_are_judged_by_the_resamples_that_they_kept(tmp_path, capsys):
    old, new = write_run(tmp_path / "old"), write_run(tmp_path / "new", drop=0.002, seed=5, spread=0.001)
    assert main(["gate", str(new), "--against", str(old), "--max-drop", "5"]) == 0
    worse = write_run(tmp_path / "worse", drop=0.2, seed=5)
    assert main(["gate", str(worse), "--against", str(old), "--max-drop", "5"]) == 1
    elsewhere = write_run(tmp_path / "elsewhere", digest="d2")
    capsys.readouterr()
    assert main(["gate", str(elsewhere), "--against", str(old), "--max-drop", "5"]) == 2
    assert "the contents of the split differ" in capsys.readouterr().out


def test_a_stage_of_a_run_and_its_report_are_the_run(tmp_path):
    run = write_run(tmp_path / "run", with_report=report_text())
    sides = [open_side(run), open_side(run / "00_export_onnx"), open_side(run / "03_report" / "report.json")]
    assert {side.label for side in sides} == {"export_onnx"}
    assert all(len(side.scored.resampled["map"]) == 1000 for side in sides)
    assert all(side.latency_ms == 5 for side in sides)
    assert {side.model.name for side in sides} == {"model.onnx"}


def test_two_reports_alone_have_the_wider_interval_and_no_latency(tmp_path, capsys):
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    old.write_text(report_text(interval=(0.58, 0.62)))
    new.write_text(report_text(loss=0.3, interval=(0.28, 0.32)))
    code = main(
        ["gate", str(new), "--against", str(old), "--max-drop", "5", "--max-latency", "+5%", "--max-bytes", "+2%"]
    )
    out = capsys.readouterr().out
    assert code == 1
    assert "30.00 points lost (26.00 to 34.00)" in out
    assert "Times of two reports were taken at two times" in out
    assert main(["gate", str(new), "--against", str(old), "--max-latency", "+5%"]) == 2


def test_a_file_is_scored_on_the_data_of_the_run_that_it_is_held_against(tmp_path, world, capsys):
    cells_on_disk.write_data(tmp_path / "data", 12)
    text = report_text(root=str(tmp_path / "data"))
    text = text.replace('"format": "coco"', '"format": "coco", "image_size": [96, 160]')
    run = write_run(tmp_path / "run", with_report=text)
    assert main(["compare", str(run), str(world / "moved.onnx"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["sides"][1]["num_images"] == 12
    assert found["against"][0]["differences"][0]["note"].startswith("not the same images")
    assert main(["compare", str(run), str(world / "moved.onnx"), "--data", str(tmp_path / "data"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["against"][0]["differences"][0]["basis"] == "paired"


def test_what_is_nothing_to_compare_is_told(tmp_path, capsys):
    write_run(tmp_path / "out" / "demo")
    with pytest.raises(DataError, match=r"out: is no folder of a run\. Did you mean|Expected one of: demo"):
        open_side(tmp_path / "out")
    (tmp_path / "a.json").write_text('{"name": 1}')
    with pytest.raises(DataError, match=r"is no report\.json of this version"):
        open_side(tmp_path / "a.json")
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(DataError, match="expected a run"):
        open_side(tmp_path / "a.txt")
    assert main(["compare", str(tmp_path / "out" / "demo")]) == 2
    assert "expected at least two" in capsys.readouterr().err


def test_the_code_that_a_strangers_report_names_is_not_imported(tmp_path, world, capsys, monkeypatch):
    monkeypatch.delenv("KRIMP_ALLOW_CODE", raising=False)
    (tmp_path / "evil.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    report = tmp_path / "r.json"
    report.write_text(report_text(root=str(tmp_path)).replace('"coco"', '"evil:DATASET"'))
    assert main(["compare", str(report), str(world / "old.onnx")]) == 2
    assert "imports the module 'evil'" in capsys.readouterr().err


# ---- compare ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compared(world, tmp_path_factory):
    out = tmp_path_factory.mktemp("compared")
    files = [out / f"c{suffix}" for suffix in (".html", ".md", ".json")]
    options = [part for file in files for part in ("-o", str(file))]
    names = [str(world / name) for name in ("old.onnx", "weak.onnx", "alike.onnx")]
    assert main(["compare", *names, "--data", str(world / "data"), *options]) == 0
    return files


def test_the_pictures_that_differ_most_are_those_whose_dark_green_cells_are_lost(compared):
    found = json.loads(compared[2].read_text())
    weak, alike = found["against"]
    assert alike["pictures"] == []
    assert 0 < len(weak["pictures"]) <= 10
    changes = [one["change"] for one in weak["pictures"]]
    assert changes == sorted(changes)
    assert changes[0] < 0


def test_the_layers_that_differ_are_told(compared):
    weak, alike = json.loads(compared[2].read_text())["against"]
    assert [(one["name"], one["told"]) for one in weak["layers"]][-1] == ("colours", "values")
    assert [(one["name"], one["told"]) for one in alike["layers"]] == [("graph, small tensors and tables", "size")]


def test_text_and_page_say_the_same_numbers(compared):
    html, markdown, document = (file.read_text() for file in compared)
    found = json.loads(document)
    for change in found["against"][0]["differences"]:
        shown = f"{change['points']:+.2f} points"
        assert shown in markdown
        assert shown in html
    assert "weak.onnx" in markdown
    assert markdown.startswith("## Side by side")


def test_the_page_asks_nothing_of_any_network_and_escapes_names(world, tmp_path):
    hostile = tmp_path / "<img src=x onerror=alert(1)>.onnx"
    hostile.write_bytes((world / "old.onnx").read_bytes())
    page, text = tmp_path / "page.html", tmp_path / "page.md"
    assert main(["compare", str(world / "old.onnx"), str(hostile), "-o", str(page), "-o", str(text)]) == 0
    assert "<img" not in page.read_text()
    assert "<img" not in text.read_text()
    assert not re.search(r"(?:src|href)=|@import|url\(|<script", page.read_text().replace("src=x", ""))


def test_timing_is_part_of_a_comparison_that_asks_for_it(world, capsys, monkeypatch):
    names = [str(world / name) for name in ("old.onnx", "alike.onnx")]
    assert main(["compare", *names, "--time", "--processes", "2", "--json"]) == 0
    (one,) = json.loads(capsys.readouterr().out)["against"]
    assert one["timing"]["processes"] == 2
    assert one["timing"]["interval"][0] <= one["timing"]["ratio"] <= one["timing"]["interval"][1]


def test_other_endings_are_refused_before_anything_runs(world, tmp_path, capsys):
    names = [str(world / name) for name in ("old.onnx", "alike.onnx")]
    assert main(["compare", *names, "-o", str(tmp_path / "a.pdf")]) == 2
    assert "expected a name that ends in" in capsys.readouterr().err


def test_a_gate_needs_no_torch(world):
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from compress.cli.main import main\n"
        "raise SystemExit(main(sys.argv[1:]))"
    )
    arguments = [
        "gate",
        world / "old.onnx",
        "--against",
        world / "alike.onnx",
        "--data",
        world / "few",
        "--max-drop",
        "1",
    ]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "verdict: not decidable" in done.stdout


# ---- the interval of map itself -----------------------------------------------------------------


def test_the_interval_of_a_loss_of_map_holds_the_loss_of_all_pictures():
    """Draw pictures from a population whose loss is known; the intervals hold it as often as they say."""
    from compress.compare.differences import difference
    from compress.compare.sides import Images, Scored
    from detectors.data.samples import Truth
    from detectors.data.scoring import score_detections
    from detectors.geometry.detections import Detections

    rng = np.random.default_rng(0)
    truths, one, two = [], [], []
    for _ in range(800):
        count = int(rng.integers(1, 6))
        boxes = np.zeros((count, 5), np.float32)
        boxes[:, :2], boxes[:, 2:4] = rng.uniform(20, 480, (count, 2)), 20
        labels = np.zeros(count, np.int64)
        truths.append(Truth(boxes, labels, np.zeros((0, 5), np.float32)))
        off = rng.normal(0, 1.5, (count, 2)).astype(np.float32)
        scores = rng.uniform(0.3, 1, count).astype(np.float32)
        for found, noise in ((one, 0.0), (two, 1.0)):
            seen = rng.uniform(size=count) > 0.1 + 0.03 * noise
            moved = boxes.copy()
            moved[:, :2] += off + noise * rng.normal(0, 0.8, (count, 2))
            found.append(Detections(moved[seen], scores[seen], labels[seen]))

    def scored(chosen, found, samples):
        part = [found[index] for index in chosen]
        scores = score_detections(part, [truths[index] for index in chosen], ("thing",), bootstrap=samples)
        return Scored(Images("val", num_images=len(chosen)), {"map": scores.map},
                      resampled={} if samples == 0 else {"map": scores.map_resampled})  # fmt: skip

    everything = np.arange(len(truths))
    wanted = 100 * (scored(everything, two, 0).values["map"] - scored(everything, one, 0).values["map"])
    worlds, held = 120, 0
    for _ in range(worlds):
        chosen = rng.choice(len(truths), 25, replace=False)
        change = difference(scored(chosen, one, 300), scored(chosen, two, 300), "map")
        held += change.interval[0] <= wanted <= change.interval[1]
    assert wanted < -1
    assert 0.9 <= held / worlds <= 0.99
