"""The command `sweep`: search a recipe for the best files."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated

import typer

from compress.cli.json_document import JsonOption, only_documents, print_document
from compress.errors import DetectorError
from compress.machine import usable_cores


def sweep_command(
    file: Annotated[Path, typer.Argument(metavar="SWEEP", help="Sweep, a YAML file.", show_default=False)],
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="PATH=VALUE", help="Override one field of the recipe, in every trial; repeatable."
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", help="Folder of the artifacts; each sweep has its own below it.")
    ] = Path("out"),
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Trials at once, one thread each; default: one a core.")
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option("--ray", metavar="ADDRESS", help="Run the trials on a Ray cluster: HOST:PORT, or auto."),
    ] = None,
    allow_code: Annotated[
        bool, typer.Option("--allow-code", help="Let the recipe import any module; so does KRIMP_ALLOW_CODE=1.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Search a recipe: which values of its fields give the smallest, fastest and best files.

    A sweep names a recipe, a space, two or three objectives and a budget. Trials that agree up to a stage run it once.
    Stop it at any moment and start it again: it goes on, and what has ended is not done twice. Scores are those of
    'val'; 'test' is never read. Ends with the points that no other one beats, as table, front.json, front.md and
    a recipe for each in OUT/NAME/points.

    --json prints format_version, sweep, seconds, trials, front (numbers of trials), baseline and environment.

    \b
    krimp sweep sweep.yaml --set data.root=/data/hit-uav --workers 2
    krimp sweep sweep.yaml --ray auto --out /shared/out
    """  # noqa: D301 click ends no line after \b
    _check_installed("optuna", "sweep")
    if ray is not None:
        _check_installed("ray", "ray")
    from compress.sweep.crew import LocalCrew
    from compress.sweep.reading import load_sweep
    from compress.sweep.sweeping import Sweeping

    with only_documents(as_json):
        loaded = load_sweep(file, overrides or (), allow_code=allow_code)
        if ray is None:
            crew = LocalCrew(workers or loaded.sweep.workers or usable_cores() or 1)
            front = Sweeping(loaded, out, crew).run()
        else:
            from compress.sweep.ray_crew import join

            front = Sweeping(loaded, out, join(ray, loaded.sweep)).run()
    if as_json:
        print_document(front.to_json())
    else:
        print(front.text())
        print(f"\nfront: {out / loaded.sweep.name / 'front.md'}")


def _check_installed(module: str, extra: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise DetectorError(f'krimp sweep: {module} is not installed. Install it: pip install "krimp[{extra}]".')
