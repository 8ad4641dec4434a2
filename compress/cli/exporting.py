"""The command `export-run`: a finished run for trackers of experiments."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from compress.errors import RecipeError, printable


def export_run_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run, out/NAME.", show_default=False)],
    mlflow: Annotated[
        str | None, typer.Option("--mlflow", metavar="URI", help="http://..., sqlite:///runs.db, or a folder.")
    ] = None,
    tensorboard: Annotated[
        Path | None, typer.Option("--tensorboard", metavar="DIR", help="What `tensorboard --logdir` is given.")
    ] = None,
) -> None:
    """Write a run into MLflow or TensorBoard: settings, numbers of every stage, curves, report and pictures.

    The same run is written once; repeating the command changes nothing. Needs the extra `trackers`.

    \b
    krimp export-run out/demo --mlflow http://localhost:5000
    krimp export-run out/demo --tensorboard logs
    """  # noqa: D301 click ends no line after \b
    from compress.trackers.run_record import read_run

    if mlflow is None and tensorboard is None:
        raise RecipeError("krimp export-run: no tracker is named. Expected --mlflow URI or --tensorboard DIR.")
    record = read_run(run)
    if mlflow is not None:
        from compress.trackers.mlflow_store import to_mlflow

        identity, is_new = to_mlflow(record, mlflow)
        print(f"{printable(mlflow)}: experiment {printable(record.name)}, run {identity}{_told(is_new)}")
    if tensorboard is not None:
        from compress.trackers.tensorboard_log import to_tensorboard

        folder, is_new = to_tensorboard(record, tensorboard)
        print(f"{printable(folder)}: {len(record.curves)} trainings{_told(is_new)}")


def _told(is_new: bool) -> str:
    return "" if is_new else ", which was there already"
