"""The command `krimp`. Commands import what they need when they run, so `--help` is quick."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from compress.codec.commands import app as codec_app
from compress.errors import CompressError
from compress.import_weights import import_command
from compress.runtime.detect import detect_command

_INTERRUPTED = 130
# Newer versions of typer bring their own copy of click: take the base class from where typer has it.
_UsageError: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")

app = typer.Typer(
    name="krimp",
    help="Make a trained detector smaller and faster, and prove it. Exit codes: 2 recipe, 3 detector or data, "
    "4 stage, 5 packed file, 1 else. Add --debug to any command to see the traceback of an error.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(codec_app)
app.command("detect")(detect_command)
app.command("import")(import_command)

RecipeArgument = Annotated[Path, typer.Argument(metavar="RECIPE", help="Recipe, a YAML file.", show_default=False)]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Override one field, e.g. data.root=/data; repeatable."),
]
OutOption = Annotated[Path, typer.Option("--out", help="Folder of the artifacts; each recipe has its own below it.")]
FromOption = Annotated[
    str | None, typer.Option("--from", metavar="STAGE", help="Run this stage and all after it, cached or not.")
]
UntilOption = Annotated[str | None, typer.Option("--until", metavar="STAGE", help="Stop after this stage.")]


@app.command()
def run(
    recipe: RecipeArgument,
    overrides: SetOption = None,
    out: OutOption = Path("out"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would run and why; run nothing.")] = False,
    start: FromOption = None,
    until: UntilOption = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for another run in the same folder.")] = False,
) -> None:
    """Run a recipe: from the cache where nothing changed, resumed where it was killed."""
    from compress import pipeline
    from compress.ranks import follow, rank
    from compress.recipe import load_recipe
    from compress.summary import plan_text, print_results

    loaded = load_recipe(recipe, overrides or ())
    if dry_run:
        print(plan_text(pipeline.Run(loaded, out, start=start, until=until).decide_all()))
    elif rank() > 0:
        follow(loaded, out, start=start, until=until)
    else:
        print_results(pipeline.run(loaded, out, start=start, until=until, wait=wait))


@app.command()
def plan(
    recipe: RecipeArgument,
    overrides: SetOption = None,
    out: OutOption = Path("out"),
    start: FromOption = None,
    until: UntilOption = None,
) -> None:
    """Say which stages would run and why; the same as run --dry-run."""
    run(recipe, overrides, out, dry_run=True, start=start, until=until)


@app.command()
def stages() -> None:
    """Print what each stage needs, makes and may not follow."""
    from compress.plan import stage_table

    print(stage_table())


@app.command()
def schema(
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="File to write, e.g. recipes/recipe.schema.json.")
    ] = None,
    plugin: Annotated[
        list[str] | None, typer.Option("--plugin", help="Plug-in to describe; default: all that are found.")
    ] = None,
) -> None:
    """Print the JSON Schema of recipes, for completion and checks in an editor."""
    from compress.recipe import json_schema

    text = json.dumps(json_schema(plugin), indent=1) + "\n"
    if out is None:
        print(text, end="")
    else:
        out.write_text(text)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit code.

    Args:
        arguments: without the program's name; default: those of the process.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    try:
        return app([a for a in arguments if a != "--debug"], standalone_mode=False, prog_name="krimp") or 0
    except CompressError as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except _UsageError as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        print("interrupted; run the same command again to resume", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except OSError as error:
        if debug or error.filename is None:
            raise
        what = f"{error.filename}: {error.strerror}"
        print(f"error: {what}. Check the path, its permissions and the free space.", file=sys.stderr)
        return CompressError.exit_code


def script() -> None:
    """Be the console script `krimp`."""
    sys.exit(main())
