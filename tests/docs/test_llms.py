"""llms.txt: its form, and that what it tells an agent is there."""

import re
from dataclasses import fields
from pathlib import Path

import pytest
from typer.main import get_command

import krimp
from compress import errors
from compress.cli.main import app
from compress.cli.packing import _verified
from compress.codec import TensorFacts
from compress.compare.comparison import Comparison
from compress.compare.gate import Gate
from compress.compare.sides import Side
from compress.compare.verdicts import Check
from compress.engine.child import INTERRUPTED
from compress.engine.status import RunStatus, StageStatus
from compress.report.document import Requirement
from compress.runtime import detect as detecting

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "llms.txt").read_text()
FLAT = " ".join(TEXT.split())  # a list of fields may go over several lines


def section(name):
    return re.search(rf"^## {name}\n(.*?)(?=^## |\Z)", TEXT, flags=re.MULTILINE | re.DOTALL)[1]


def command(name):
    group = get_command(app)
    found = group.get_command(None, name)
    assert found is not None, name
    return found


def options_of(found):
    return {option for parameter in found.params for option in (*parameter.opts, *parameter.secondary_opts)}


def test_it_has_the_form_of_the_convention():
    lines = TEXT.splitlines()
    assert lines[0] == "# Krimp"
    assert lines[2].startswith("> ")
    assert sum(line.startswith("# ") for line in lines) == 1
    assert re.findall(r"^## (.+)$", TEXT, flags=re.MULTILINE)[-2:] == ["Docs", "Optional"]
    for name in ("Docs", "Optional"):
        assert all(re.match(r"- \[|  \[", line) for line in section(name).splitlines() if line), name


def test_every_link_leads_to_a_file():
    links = re.findall(r"\]\(([^)]+)\)", TEXT)
    assert len(links) > 8
    assert [link for link in links if not (ROOT / link).is_file()] == []


def test_every_command_and_flag_exists():
    named = re.findall(r"`krimp ([a-z-]+)( copy)?([^`]*)`", TEXT)
    assert len(named) > 10
    for name, sub, rest in named:
        found = command(name)
        found = found.get_command(None, sub.strip()) if sub else found
        flags = set(re.findall(r"(?<!\S)(--?[a-z][a-z-]*)", rest)) - {"--help"}
        assert flags <= options_of(found), name


def test_every_command_of_the_engine_is_named():
    own = set(get_command(app).list_commands(None))
    assert own <= set(re.findall(r"`krimp ([a-z-]+)", TEXT))


def test_exit_codes_are_those_of_the_errors():
    codes = {int(code) for code in re.findall(r"^- (\d+): ", section("Exit codes"), flags=re.MULTILINE)}
    kinds = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]
    assert codes == {0, INTERRUPTED, *(kind.exit_code for kind in kinds)}


def shape(title):
    (found,) = re.findall(rf"- {title}: ([\w, ]+?)(?= - | `state`)", FLAT)
    return set(found.split(", "))


EMPTY_PLAN = krimp.Plan("r", Path("out"), ()).to_json()
EMPTY_RUN = krimp.RunResult("r", Path("out"), ()).to_json()


@pytest.mark.parametrize(
    ("title", "names"),
    [
        ("`plan`", set(EMPTY_PLAN)),
        ("`run`", set(EMPTY_RUN)),
        ("`verify`", set(_verified(ROOT / "detectors" / "dcfl" / "zoo" / "dcfl_mbv2_hituav.krimp"))),
        ("`run` requirements", {"report", *Requirement.model_fields}),
        ("`status`", {field.name for field in fields(RunStatus)} | {"format_version", "seconds_left"}),
        ("`status` stages", {field.name for field in fields(StageStatus)}),
        ("`compare`", set(Comparison((Side("a", "file"),), ()).to_json())),
        ("`gate`", set(Gate(Side("a", "file"), Side("b", "file"), ()).to_json())),
        ("`gate` checks", {field.name for field in fields(Check)}),
        ("`inspect`, a list", {field.name for field in fields(TensorFacts)}),
    ],
)
def test_the_shapes_are_those_of_the_code(title, names):
    assert shape(title) == names


@pytest.mark.parametrize(("title", "source"), [("`plan` stages", "Plan"), ("`run` stages", "RunResult")])
def test_the_fields_of_a_stage_are_those_of_the_docstring(title, source):
    """And the docstring's are those of the documents: test_json_documents compares these names with what is printed."""
    text = getattr(krimp, source).to_json.__doc__
    assert shape(title) <= set(re.findall(r"`(\w+)`", text))


def test_the_shape_of_detect_is_that_of_what_it_writes():
    text = Path(detecting.__file__).read_text()
    for title in ("`detect`", "`detect` images"):
        assert all(f'"{name}":' in text for name in shape(title)), title


def test_every_name_of_the_python_face_is_told():
    told = set(re.findall(r"`krimp\.(\w+)`", TEXT))
    assert told == set(krimp.__all__) - {"Found", "Plan", "RunResult"}
