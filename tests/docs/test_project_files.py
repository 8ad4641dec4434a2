"""CITATION.cff, SECURITY.md, the workflows and the pre-commit hooks say what the rest of the project says."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest

from compress.recipe.yaml_reader import parse_yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def read(path):
    document = parse_yaml(path.read_text(), path.name)
    assert not document.problems
    return document.data


def metadata():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser["metadata"]


def steps(workflow):
    return [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]


def test_the_citation_names_the_version_and_the_licence_of_the_package():
    citation = read(ROOT / "CITATION.cff")
    assert citation["version"] == metadata()["version"]
    assert citation["license"] == metadata()["license"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_run_targets_that_exist(path):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = {command.split()[1] for command in steps(read(path)) if command.startswith("make ")}
    assert named
    assert named <= targets


def test_every_change_is_tried_on_every_supported_python():
    jobs = read(ROOT / ".github" / "workflows" / "tests.yml")["jobs"]
    supported = re.findall(r"Python :: (3\.\d+)", metadata()["classifiers"])
    assert jobs["tests"]["strategy"]["matrix"]["python"] == supported
    assert [step["run"] for step in jobs["tests"]["steps"] if "run" in step] == ["make check", "make test"]


def test_the_night_runs_what_ci_runs_and_the_slow_tests():
    commands = steps(read(ROOT / ".github" / "workflows" / "nightly.yml"))
    fuzzers = set(re.findall(r"^(fuzz-[a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert {"fuzz-codec", "fuzz-checkpoints", "fuzz-metadata", "fuzz-recipes"} == fuzzers
    assert {"bash .ci/run", "make test-full", "make docs-site", *(f"make {name}" for name in fuzzers)} == set(commands)
    for page in ("CONTRIBUTING.md", "SECURITY.md", "RELEASE.md"):
        assert all(name in (ROOT / page).read_text() for name in fuzzers), page


def test_ci_always_builds_openmmlab_and_runs_its_tests():
    parts = re.findall(r"^part ([a-z-]+)$", (ROOT / ".ci" / "run").read_text(), flags=re.MULTILINE)
    assert parts == ["check", "test", "setup-openmmlab", "test-openmmlab"]


def test_a_commit_is_checked_by_the_tools_of_make_check():
    (repository,) = read(ROOT / ".pre-commit-config.yaml")["repos"]
    recipe = (ROOT / "Makefile").read_text().partition("\ncheck:")[2].partition("\n\n")[0]
    tools = set(re.findall(r"\$\(BIN\)/([\w-]+)", recipe))
    assert {Path(hook["entry"].split()[0]).name for hook in repository["hooks"]} == tools


def test_the_bounds_in_the_security_page_are_those_of_the_format():
    (limit,) = re.findall(r"\| original_bytes \| (2\^36.*) \|", (ROOT / "compress" / "codec" / "FORMAT.md").read_text())
    assert limit == "2^36, and 2^20 for each byte of the file"
    assert "up to 2^20 bytes for each of its own, 64 GiB at most" in (ROOT / "SECURITY.md").read_text()
