"""What parts can bear, in a report: its own part of the document, tables and charts."""

import json
import re
from pathlib import Path

import cv2
import jsonschema
import pytest

from compress.artifact import Artifact
from compress.kind import Kind
from compress.report.document import Document, parse, schema_text
from compress.report.sensitivity import NotMeasured, Sensitivity, SensitivityRow
from compress.report.sensitivity_chart import draw_sensitivity, most_freed
from compress.stage import StageContext
from compress.stages.report import Report


class Metadata:
    """As much of a plug-in as a report without pictures asks."""

    def metadata(self):
        return {}


def row(what, part, amount, error, loss=None, **more):
    interval = None if loss is None else (loss - 0.5, loss + 0.5)
    width = {"channels": 8, "width": 16} if what == "channels" else {}
    fields = {"params_freed": 0.0, "macs_freed": 0.0, "bytes_freed": 0.0, **width, **more}
    return SensitivityRow(
        what=what,
        part=part,
        amount=amount,
        error=error,
        errors={"y": error},
        loss=loss,
        loss_interval=interval,
        **fields,
    )


def found(parts=3, **fields):
    rows = []
    for number in range(parts):
        name = f"layer{number}"
        rows += [
            row("channels", name, 0.25, 0.1 + number, macs_freed=0.02, bytes_freed=0.01),
            row("channels", name, 0.5, None if number == 1 else 0.2 + number, 1.5 * number, macs_freed=0.045),
            row("weights", name, 3, 0.3, 0.25, bytes_freed=0.06),
            row("weights", name, 6, 0.01, bytes_freed=0.02),
        ]
    given = {"of": "float", "importance": "magnitude", "images": 16, "split": "val", "score_images": 48}
    given |= {"metric": "map", "reference": 0.36, "not_measured": [NotMeasured(part="odd", reason="it is | shared")]}
    return Sensitivity(rows=rows, **given | fields)


@pytest.fixture
def report(tmp_path):
    """Return the folder of a report on one stage `sensitivity`."""
    facts = found().model_dump(mode="json") | {"charts": ["sensitivity_channels.png"]}
    source = Artifact(
        tmp_path / "00_float", "train", "float", Kind.MODEL, "0" * 64, "1" * 64, {"params": 9}, 1.0, 1, ()
    )
    own = Artifact(
        tmp_path / "01_parts", "sensitivity", "parts", Kind.SENSITIVITY, "2" * 64, "3" * 64, facts, 1.0, 1, ()
    )
    folder = tmp_path / "report"
    folder.mkdir()
    inputs = {"float": source, "parts": own}
    record = {"name": "tiny", "seed": 0}
    Report(split="val", pictures=0, every_stage=False).run(
        StageContext("report", folder, tmp_path, inputs, Metadata(), 0, "cpu", record)
    )
    return folder


def test_the_document_has_the_rows_and_keeps_its_schema(report):
    text = (report / "report.json").read_text()
    assert parse(text).sensitivities == {"parts": found()}
    jsonschema.validate(json.loads(text), json.loads(schema_text()))


def test_scored_parts_count_as_looks_at_val(report):
    looks = parse((report / "report.json").read_text()).looks
    assert (looks.count, looks.in_sensitivity) == (6, 6)
    text = (report / "report.md").read_text()
    assert "looked at 6 times, 0 of them to choose weights in training and 6 at networks with one part changed." in text


def test_the_charts_are_beside_the_report_and_linked(report):
    names = ["parts_sensitivity_channels.png", "parts_sensitivity_layers.png"]
    assert [name for name in parse((report / "report.json").read_text()).charts if "parts" in name] == names
    text = (report / "report.md").read_text()
    for name in names:
        assert f"![{name}]({name})" in text
        assert (report / name).is_file()


def test_the_table_says_what_each_part_frees_and_costs(report):
    text = (report / "report.md").read_text().partition("## Sensitivity")[2].partition("\n## ")[0]
    assert "| layer0 | 16 | 10.0 % | 20.0 % | 0.0 (-0.5 to 0.5) | 4.5 % | 0.0 % | 0.0 % |" in text
    assert "| layer1 | 16 | 110.0 % | no numbers | 1.5 (1.0 to 2.0) |" in text
    assert "| layer2 | 1.0 % | 30.0 % | 0.2 (-0.2 to 0.8) | 6.0 % |" in text
    assert "48 images of `val` (36.0 before)" in text
    assert "Left alone: `odd`: it is \\| shared" in text


def test_a_report_without_the_stage_says_nothing_of_it():
    assert Document.model_fields["sensitivities"].default_factory() == {}


@pytest.mark.parametrize(("parts", "what"), [(1, {}), (90, {}), (3, {"metric": None, "reference": None})])
def test_charts_are_as_tall_as_there_are_parts(tmp_path, parts, what):
    names = draw_sensitivity(found(parts, **what), tmp_path)
    heights = [cv2.imread(str(tmp_path / name)).shape[0] for name in names]
    assert len(names) == 2
    assert all(300 < height < 400 + 40 * parts for height in heights)


def test_labels_name_the_most_that_a_part_frees():
    groups, layers = found().of_kind("channels"), found().of_kind("weights")
    layers.append(row("activations", "layer0", 4, 0.1))
    assert most_freed(groups) == ({f"layer{number}": 0.045 for number in range(3)}, "% of the MACs")
    assert most_freed(layers) == ({f"layer{number}": 0.06 for number in range(3)}, "% of the coded weights")


def test_nothing_is_drawn_of_what_was_not_tried(tmp_path):
    rows = [one for one in found().rows if one.what == "weights"]
    assert draw_sensitivity(found().model_copy(update={"rows": rows}), tmp_path) == ["sensitivity_layers.png"]
    assert [path.name for path in Path(tmp_path).iterdir()] == ["sensitivity_layers.png"]


def test_a_long_summary_shows_both_ends():
    text = str(found(40))
    assert re.search(r"\.\.\. 24 between", text)
    assert "layer1 " in text.splitlines()[3]  # its outputs are no numbers: nothing is more sensitive
    assert "outputs are no numbers" in text
