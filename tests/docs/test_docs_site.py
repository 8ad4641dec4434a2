"""The source of the site (scripts/docs_site.py); `make docs-site` builds it, and a warning there is an error."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from compress.errors import CompressError
from scripts import docs_site
from scripts.docs_site import PACKAGES, commands, linked, pages, reference_pages, settings

ROOT = Path(__file__).parents[2]


def test_the_name_of_a_page_becomes_a_link_to_it():
    names = ["README.md", "compress/codec/FORMAT.md", "detectors/README.md"]
    text = "See `compress/codec/FORMAT.md` and `compress/codec/gone.md`."
    expected = "See [`compress/codec/FORMAT.md`](../compress/codec/FORMAT.md) and `compress/codec/gone.md`."
    assert linked("detectors/README.md", text, names) == expected


@pytest.mark.parametrize("text", ["```\ncat `README.md`\n```", "[`README.md`](../README.md)", "`detectors/README.md`"])
def test_code_blocks_links_and_a_page_that_names_itself_stay_as_they_are(text):
    assert linked("detectors/README.md", text, ["README.md", "detectors/README.md"]) == text


def test_links_between_pages_lead_to_pages():
    found = pages()
    for page, text in found.items():
        for target in re.findall(r"\]\(([^)#:]+\.md)\)", text):
            place = (ROOT / page).parent.joinpath(target).resolve().relative_to(ROOT).as_posix()
            assert place in found, f"{page}: {target}"


def test_every_public_module_stands_in_the_reference():
    text = "\n".join(reference_pages().values())
    described = set(re.findall(r"^::: ([\w.]+)", text, flags=re.MULTILINE))
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            assert name in described or "._" in name, name


def test_commands_are_read_from_the_help():
    text = "Usage: krimp COMMAND\n\n  text\n\nCommands:\n  detect   Detect.\n  data     Data sets:\n           more\n"
    assert commands(text) == ["detect", "data"]
    assert commands("Usage: krimp plan\n\nOptions:\n  --help  Show.") == []


def test_the_builder_is_told_that_broken_links_are_warnings():
    assert settings([])["validation"] == {"links": {"anchors": "warn", "unrecognized_links": "warn"}}


def test_the_site_is_made_anew_where_it_was_and_nowhere_over_files_of_somebodys(tmp_path):
    files = {"mkdocs.yml": "{}", "README.md": "one", "sub/b.md": "two"}
    docs_site.write(files, tmp_path)
    docs_site.write({"mkdocs.yml": "{}", "README.md": "three"}, tmp_path)
    docs_site.write({"mkdocs.yml": "{}", "README.md": "four"}, tmp_path)
    assert (tmp_path / "pages" / "README.md").read_text() == "four"
    assert not (tmp_path / "pages" / "sub").exists()
    (tmp_path / "pages" / "mine.md").write_text("precious")
    with pytest.raises(CompressError, match=r"mine\.md: there already, and not as an earlier `scripts/docs_site\.py`"):
        docs_site.write(files, tmp_path)
    assert (tmp_path / "pages" / "mine.md").read_text() == "precious"
    assert (tmp_path / "pages" / "README.md").read_text() == "four"
