"""The command `new`: a first recipe from a data folder and a plug-in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from compress.cli.options import ForceOption
from compress.errors import RecipeError
from compress.outputs import Outputs
from compress.whole_file import write_whole


def new_command(
    data: Annotated[Path, typer.Option("--data", metavar="FOLDER", help="Folder of the data set.")],
    detector: Annotated[str, typer.Option("--detector", metavar="NAME", help="Plug-in, e.g. dcfl.")] = "dcfl",
    out: Annotated[Path, typer.Option("-o", "--out", help="Recipe to write.")] = Path("recipe.yaml"),
    format_name: Annotated[
        str | None, typer.Option("--format", metavar="NAME", help="Of the data; default: what lies there.")
    ] = None,
    checkpoint: Annotated[
        str | None, typer.Option(metavar="FILE", help="Float weights to start from; default: train a fresh model.")
    ] = None,
    force: ForceOption = False,
) -> None:
    """Write a first recipe for a data folder and a detector.

    Classes, splits and picture size are read from the folder; the stages are the whole path from training to the
    report. What a plug-in needs besides is told.

    \b
    krimp new --data /data/mine -o mine.yaml
    krimp new --data /data/coco --detector torchvision -o ssd.yaml
    krimp new --data /data/hit-uav --checkpoint zoo/dcfl_mbv2_hituav -o smaller.yaml
    """  # noqa: D301 click ends no line after \b
    from compress.plugins import find_plugin
    from compress.recipe.first import describe_folder, first_recipe
    from compress.recipe.loading import load_recipe

    find_plugin(detector)
    Outputs("new", force=force, error=RecipeError).claim([out])
    name, folder = describe_folder(data, format_name)
    start = {"plugin": detector, **({} if checkpoint is None else {"checkpoint": checkpoint})}
    # Not listed as an output: from now on it is edited by hand, and never written again unless asked for.
    write_whole(out, first_recipe(out.stem, start, name, folder, trains=checkpoint is None))
    print(f"{out}: {name} data, {len(folder.classes)} classes, splits {', '.join(folder.splits)}")
    try:
        load_recipe(out, check_requires=False)
    except RecipeError as error:
        print(f"left to fill in:\n{error}")
    else:
        print(f"next: krimp plan {out}")
