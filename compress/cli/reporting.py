"""The command `report`: the page of an earlier run again, without running anything."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from compress.cli.options import ForceOption
from compress.errors import CompressError, printable
from compress.outputs import Outputs


def report_command(
    report: Annotated[Path, typer.Argument(metavar="REPORT", help="report.json, its folder, or the folder of a run.")],
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="File to write; default: NAME.html in this folder.")
    ] = None,
    beside: Annotated[
        list[Path] | None,
        typer.Option("--beside", metavar="REPORT", help="Another run, drawn into the charts of cost; repeatable."),
    ] = None,
    force: ForceOption = False,
) -> None:
    """Write the page of a report again: one HTML file that needs no network.

    `krimp run` writes report.html beside report.json; this makes it from an earlier report.json with what it holds, or
    with other runs in the charts of size and time against accuracy. Pictures come from the folder of report.json.

    \b
    krimp report out/demo
    krimp report out/demo --beside out/smaller --html both.html
    """  # noqa: D301 click ends no line after \b
    from compress.report.html import write_page
    from compress.report.html.reading import find_report, read_report

    path, others = find_report(report), [find_report(one) for one in beside or ()]
    page = html or Path(f"{read_report(path).name}.html")
    outputs = Outputs("report", force=force, error=CompressError)
    outputs.claim([page])
    problem = write_page(path, page, beside=others)
    if problem is not None:
        raise CompressError(problem)
    outputs.wrote(page)
    typer.echo(f"{printable(page)}: {page.stat().st_size:,} bytes, opens in a browser")
