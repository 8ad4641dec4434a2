"""report.html: one file that a browser opens without a network, made from report.json and the pictures beside it."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from compress.whole_file import write_whole

PACKAGES = {"jinja2": "jinja2", "altair": "altair", "vl_convert": "vl-convert-python"}  # import name -> distribution


def missing_packages() -> list[str]:
    """Return the distributions that the page needs and that are not installed."""
    return [name for module, name in PACKAGES.items() if importlib.util.find_spec(module) is None]


def write_page(report: Path, page: Path, *, beside: Sequence[Path] = ()) -> str | None:
    """Write the page of a report.

    Args:
        report: report.json; its pictures lie in the same folder, and those that do not are left out.
        page: file to write.
        beside: report.json of other runs, drawn into the same chart.

    Returns:
        None, or why there is no page and what to install.

    Raises:
        CompressError: a report cannot be read.
    """
    missing = missing_packages()
    if missing:
        names = " ".join(missing)
        return (
            f"{page.name} was not written: {names} not installed. `pip install {names}`, then `krimp report {report}`."
        )
    from compress.report.html.page import render_page
    from compress.report.html.reading import read_report

    others = [read_report(path) for path in beside]
    write_whole(page, render_page(read_report(report), report.parent, beside=others))
    return None
