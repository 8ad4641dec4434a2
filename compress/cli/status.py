"""The command `status`: how far a run is, from another terminal or another machine."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from compress.cli.json_document import JsonOption, print_document


def status_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run: out/NAME, or out.", show_default=False)],
    as_json: JsonOption = False,
) -> None:
    """Say how far a run is: which stage it is at, what is left, and whether it still lives.

    Reads the folder alone, so a run of another machine on a shared disk will do. Times that are left come from the
    speed of the running stage, from how long stages took in this folder before, and from the epochs of other trainings.

    --json prints format_version, recipe, state, host, process, started, updated, stages, doing, done, total, share,
    stage_seconds_left, error and seconds_left; a stage has label, folder, state, seconds and expected_seconds.

    \b
    krimp status out/demo
    """  # noqa: D301 click ends no line after \b
    from compress.engine.status import FORMAT_VERSION
    from compress.engine.status_text import status_of, status_text

    found = status_of(run)
    if as_json:
        print_document({"format_version": FORMAT_VERSION, "seconds_left": found.left()[0]} | asdict(found))
    else:
        print(status_text(found))
