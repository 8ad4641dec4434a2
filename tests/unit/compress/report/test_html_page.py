"""The page of a report as text: what stands in it, what it refuses, and what it does without."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import sys
from types import ModuleType

import cv2
import numpy as np
import pytest

from compress.cli.main import main
from compress.errors import CompressError
from compress.report import html as page_of
from compress.report.document import Document, Row, dump
from compress.report.html import write_page
from compress.report.html.page import script_json
from compress.report.html.pictures import compared_pictures
from compress.report.html.reading import find_report, read_report
from compress.report.html.summary import limits, recipe_text, tiles
from tests.unit.compress.report.html_documents import HOSTILE, full_document, write_report


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    page = folder / "report.html"
    assert write_page(write_report(folder, full_document()), page) is None
    return page.read_text(encoding="utf-8")


def scripts(text):
    return re.findall(r"<script>(.*?)</script>", text, flags=re.DOTALL)


def test_the_first_screen_says_what_came_out_and_how_to_make_it_again(text):
    for said in (
        "520 kB",
        "18.5 times smaller",
        "37.0",
        "3.0 points lost",
        "(1.0 to 5.0)",
        "48.0 ms",
        "2.50 times as fast",
    ):
        assert said in text
    assert "1 of 3 limits missed" in text
    assert "krimp run a_run.yaml" in text
    assert 'download="a_run.yaml"' in text


def test_nothing_of_the_page_comes_from_anywhere_else(text):
    outside = re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)
    assert re.findall(r"""(?:src|href|xlink:href)=["'](?!#|data:)""", outside) == []
    assert "@import" not in outside
    assert set(re.findall(r"url\(([^)]*)\)", outside)) <= {"#" + i for i in re.findall(r'id="([^"]+)"', outside)}


def test_the_policy_names_the_scripts_that_are_there_and_no_others(text):
    policy = html.unescape(re.search(r'Content-Security-Policy" content="([^"]+)"', text)[1])
    told = set(re.findall(r"'sha256-([^']+)'", policy))
    assert told == {base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in scripts(text)}
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_names_of_strangers_are_text_everywhere(text):
    assert "<img src=x" not in text
    assert "{{7*7}}" in html.unescape(text)  # not computed
    data = re.search(r'<script type="application/json" id="specs">(.*?)</script>', text, flags=re.DOTALL)[1]
    assert "\u2028" not in data
    spec = json.loads(data)["by-class"]
    assert HOSTILE in [value["name"] for value in _values(spec["layer"][0], spec)]


def test_json_in_a_script_has_no_letter_that_ends_it():
    text = script_json({"a": "</script><!--\u2028\u2029&"})
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == {"a": "</script><!--\u2028\u2029&"}


def test_every_id_is_there_once(text):
    outside = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    ids = re.findall(r'\bid="([^"]+)"', outside)
    assert sorted(set(ids)) == sorted(ids)


def test_charts_are_svg_before_any_script_runs(text):
    places = re.findall(r'<div class="chart" id="chart-([\w-]+)"[^>]*aria-label="[^"]+">(<svg)', text)
    assert {name for name, _ in places} >= {
        "pareto-bytes", "stages-bytes", "stages-accuracy", "by-class", "by-size", "pr-mean", "scores-0", "errors",
        "layers", "training-0",
    }  # fmt: skip


def test_a_report_of_little_has_a_page_of_little(tmp_path):
    bare = Document(
        name="old", created="2025", split="test", seed=0, recipe={"name": "old"}, recipe_digest="0", float_label=None,
        final_label=None, rows=[], stages=[],
    )  # fmt: skip
    page = tmp_path / "report.html"
    assert write_page(write_report(tmp_path, bare), page) is None
    assert "The run has no model to compare." in page.read_text()


def test_a_report_from_before_breakdowns_and_layers_is_shown_with_what_it_has(tmp_path):
    old = full_document().model_copy(update={"breakdowns": {}, "layers": []})
    old.pictures = [
        p.model_copy(update={"size": None, "panel": None, "gap": None, "missed": {}, "wrong": {}}) for p in old.pictures
    ]
    page = tmp_path / "report.html"
    write_page(write_report(tmp_path, old), page)
    text = page.read_text(encoding="utf-8")
    assert "What goes wrong" not in text
    assert text.count('<article class="picture') == 4


def test_pictures_are_cut_at_the_models_the_float_one_first(tmp_path):
    document = full_document()
    document.pictures[0].num_detections = {"pack": 1, "float": 2}  # as JSON sorts other labels
    write_report(tmp_path, document)
    (tmp_path / "picture_2.png").write_bytes(b"no picture")
    found, left_out = compared_pictures(document, tmp_path)
    assert left_out == ["image_2"]
    assert [[side.label for side in one.sides] for one in found] == [["float", "pack"]] * 2
    for side, colour in zip(found[0].sides, ((40, 40, 220), (220, 40, 40)), strict=True):
        data = np.frombuffer(base64.b64decode(side.uri.split(",")[1]), np.uint8)
        pixels = cv2.imdecode(data, cv2.IMREAD_COLOR)
        assert pixels.shape == (80, 120, 3)
        assert np.abs(pixels.astype(int) - colour).max() < 12


def test_a_picture_of_another_form_than_it_says_is_left_out(tmp_path):
    document = full_document()
    document.pictures[0].panel = (0, 24, 500, 80)
    write_report(tmp_path, document)
    assert compared_pictures(document, tmp_path)[1] == ["image_0"]


def test_limits_are_told_in_words_with_their_units():
    told = [(limit.ok, limit.text, limit.value) for limit in limits(full_document())]
    assert told == [
        (True, "mAP50-95 lost: at most 5.0 points", "3.0 (1.0 to 5.0 points)"),
        (False, "Times smaller: at least 20.0", "18.5"),
        (True, "Bytes: at most 600 kB", "520 kB"),
    ]


def test_a_gain_is_told_as_one_with_its_interval_turned():
    document = full_document()
    document.rows[-1] = document.rows[-1].model_copy(update={"map_loss": -0.02, "map_loss_interval": (-0.05, 0.01)})
    assert tiles(document)[1].change == "2.0 points gained (-1.0 to 5.0)"


def test_the_recipe_is_yaml_without_its_goal_and_begins_as_recipes_do():
    text = recipe_text(full_document())
    assert text.startswith("name: a_run\nseed: 3\ndetector:")
    assert "goal" not in text


def test_a_report_is_found_by_file_folder_or_run(tmp_path):
    folder = tmp_path / "run" / "12_report"
    folder.mkdir(parents=True)
    path = write_report(folder, full_document())
    assert find_report(path) == find_report(folder) == find_report(tmp_path / "run") == path
    with pytest.raises(CompressError, match=r"holds no report\.json"):
        find_report(tmp_path)
    (tmp_path / "run" / "13_report").mkdir()
    (tmp_path / "run" / "13_report" / "report.json").write_text("{}")
    with pytest.raises(CompressError, match=r"several reports, 12_report/report\.json, 13_report/report\.json"):
        find_report(tmp_path / "run")


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"\xff", "cannot be read"), (b"[]", "the file"), (b'{"name": 3}', "name"), (b"{", "the file")],
)
def test_what_is_no_report_is_refused_with_its_place(tmp_path, content, said):
    path = tmp_path / "report.json"
    path.write_bytes(content)
    with pytest.raises(CompressError, match=re.escape(said)):
        read_report(path)


def test_a_report_of_a_later_format_is_refused(tmp_path):
    path = tmp_path / "report.json"
    path.write_text(dump(full_document().model_copy(update={"format_version": 9})))
    with pytest.raises(CompressError, match="format_version: 9, expected 1 at most"):
        read_report(path)


def test_without_the_packages_there_is_a_sentence_that_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "altair", None)
    monkeypatch.setattr(page_of, "PACKAGES", {"jinja2": "jinja2", "no_such_module": "altair"})
    page = tmp_path / "report.html"
    said = write_page(write_report(tmp_path, full_document()), page)
    assert said.startswith(
        "report.html was not written: altair not installed. `pip install altair`, then `krimp report"
    )
    assert not page.exists()


def test_the_command_writes_the_page_again_beside_another_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, value in (("one", 0.37), ("two", 0.31)):
        (tmp_path / name).mkdir()
        document = full_document()
        document.name = name
        document.rows[-1] = document.rows[-1].model_copy(update={"map": value})
        write_report(tmp_path / name, document)
    assert main(["report", "one", "--beside", "two"]) == 0
    assert "one.html" in capsys.readouterr().out
    specs = json.loads(re.search(r'id="specs">(.*?)</script>', (tmp_path / "one.html").read_text(), re.DOTALL)[1])
    assert {
        value["run"] for layer in specs["pareto-bytes"]["layer"] for value in _values(layer, specs["pareto-bytes"])
    } == {"one", "two"}
    assert main(["report", "one", "--html", "one.html"]) == 0  # its own
    (tmp_path / "mine.html").write_text("somebody's")
    assert main(["report", "one", "--html", "mine.html"]) == 1
    assert (tmp_path / "mine.html").read_text() == "somebody's"


def _values(layer, spec):
    return layer.get("data", spec.get("data"))["values"]


def test_rows_without_scores_are_not_drawn_as_zero(tmp_path):
    document = full_document()
    document.rows.append(Row(label="unscored", stage="pack", kind="packed", packed_bytes=100))
    page = tmp_path / "report.html"
    write_page(write_report(tmp_path, document), page)
    specs = json.loads(re.search(r'id="specs">(.*?)</script>', page.read_text(), re.DOTALL)[1])
    assert "unscored" not in json.dumps(specs["pareto-bytes"])
    assert "unscored" in json.dumps(specs["stages-bytes"])
    assert isinstance(sys.modules["altair"], ModuleType)
