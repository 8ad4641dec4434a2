"""The command `krimp`. Commands import what they need when they run, so `--help` is quick."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from compress.cli.comparing import compare_command, gate_command
from compress.cli.detecting import detect_command
from compress.cli.ending import run_command
from compress.cli.exporting import export_run_command
from compress.cli.groups import CommandGroups, Engine
from compress.cli.import_weights import import_command
from compress.cli.json_document import JsonOption, only_documents, print_document
from compress.cli.new import new_command
from compress.cli.options import ForceOption
from compress.cli.packing import app as codec_app
from compress.cli.recipes import app as recipes_app
from compress.cli.recipes import stages
from compress.cli.reporting import report_command
from compress.cli.shrinking import shrink_command
from compress.cli.status import status_command
from compress.cli.sweeping import sweep_command
from compress.engine.child import INTERRUPTED
from compress.errors import RecipeError
from compress.outputs import Outputs

# Newer versions of typer bring their own copy of click: take the base class from where typer has it.
_UsageError: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")

app = typer.Typer(
    name="krimp",
    help="Make a trained detector smaller and faster, and prove it.\n\n"
    "\b\nkrimp shrink model.onnx --data pictures/       any ONNX file, small, without training\n"
    "krimp plan recipes/demo.yaml                  what would run, and why\n"
    "krimp run recipes/demo.yaml                   run it\n"
    "krimp sweep recipes/sweeps/demo.yaml          search it for the best files\n"
    "krimp detect model.krimp photo.jpg --out found\n"
    "krimp pack model.onnx                         any ONNX file\n"
    "krimp data check /data/hit-uav                everything that is wrong with a data set\n\n"
    "Exit codes: 2 recipe or command line, 3 detector or data, 4 stage, 5 packed or ONNX file, 1 a missed requirement "
    "or anything else. Add --debug to any command to see the traceback of an error.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    cls=CommandGroups,
)
app.add_typer(codec_app)
app.command("compare")(compare_command)
app.command("detect")(detect_command)
app.command("export-run")(export_run_command)
app.command("gate")(gate_command)
app.command("import")(import_command)
app.command("new")(new_command)
app.command("report")(report_command)
app.command("shrink")(shrink_command)
app.command("stages")(stages)
app.command("status")(status_command)
app.command("sweep")(sweep_command)
app.add_typer(recipes_app, name="recipes")

RecipeArgument = Annotated[Path, typer.Argument(metavar="RECIPE", help="Recipe, a YAML file.", show_default=False)]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="PATH=VALUE",
        help="Override one field; repeatable. A stage is named by its name or number: stages.qat.training.epochs=1, "
        "stages[2].steps=4. The value is YAML: 0.5, null, [512, 640], {macs: 0.6}.",
    ),
]
OutOption = Annotated[Path, typer.Option("--out", help="Folder of the artifacts; each recipe has its own below it.")]
FromOption = Annotated[
    str | None, typer.Option("--from", metavar="STAGE", help="Run this stage and all after it, cached or not.")
]
AllowCodeOption = Annotated[
    bool,
    typer.Option(
        "--allow-code",
        help="Let the recipe import any module (`plugin: package.module:NAME`); so does KRIMP_ALLOW_CODE=1.",
    ),
]
DryPassOption = Annotated[
    bool,
    typer.Option(
        "--dry-pass/--no-dry-pass",
        help="First take a network with fresh weights through pruning, quantization and export, once.",
    ),
]
ForecastOption = Annotated[
    bool,
    typer.Option(
        "--forecast/--no-forecast",
        help="Say what the stages should leave (MACs, bytes, milliseconds), once; the report checks it.",
    ),
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
    tensorboard: Annotated[
        Path | None,
        typer.Option(
            "--tensorboard", metavar="DIR", help="Curves of the trainings, while they run (extra `trackers`)."
        ),
    ] = None,
    allow_code: AllowCodeOption = False,
    dry_pass: DryPassOption = True,
    forecast: ForecastOption = True,
    as_json: JsonOption = False,
) -> int:
    """Run a recipe, resuming what was stopped.

    What did not change comes from the cache; a stage that was killed goes on where it was. Each stage leaves a folder
    below OUT/NAME-OF-THE-RECIPE. Exit code 1 if the report's `require:` names a limit that was missed.

    --json prints format_version, recipe, folder, report, requirements, requirements_met and stages: of each label,
    stage, kind, folder, was_cached, seconds, peak_memory_bytes, digest, lineage and facts.

    \b
    krimp run recipes/demo.yaml
    krimp run recipe.yaml --set data.root=/data/hit-uav --set stages.qat.weight_bit_width=4
    krimp run recipe.yaml --from qat --until pack
    """  # noqa: D301 click ends no line after \b
    from compress.cli.printing import print_results
    from compress.curves import curves_in
    from compress.engine.ranks import follow, rank
    from compress.engine.running import run_recipe
    from compress.recipe.loading import load_recipe

    if dry_run:
        plan(recipe, overrides, out, start, until, allow_code, dry_pass, forecast, as_json)
        return 0
    with only_documents(as_json):
        loaded = load_recipe(recipe, overrides or (), allow_code=allow_code)
        if rank() > 0:
            follow(loaded, out, start=start, until=until)
            return 0
        how = {"start": start, "until": until, "wait": wait, "rehearse": dry_pass, "foresee": forecast}
        with curves_in(None if tensorboard is None else tensorboard / loaded.name):
            result = run_recipe(recipe, overrides or (), out, allow_code=allow_code, **how)
    if as_json:
        print_document(result.to_json())
    else:
        print_results(result)
    print("".join(f"missed: {line}\n" for line in result.missed), end="", file=sys.stderr)
    return 0 if result.requirements_met else 1


@app.command()
def plan(
    recipe: RecipeArgument,
    overrides: SetOption = None,
    out: OutOption = Path("out"),
    start: FromOption = None,
    until: UntilOption = None,
    allow_code: AllowCodeOption = False,
    dry_pass: DryPassOption = True,
    forecast: ForecastOption = True,
    as_json: JsonOption = False,
) -> None:
    """Say which stages would run and why.

    The same as `krimp run --dry-run`: checks the whole recipe and the data of what would run, runs nothing.

    A network with fresh weights goes through pruning, quantization and export as well (the dry pass, in a process of
    its own): what would break after the training is said now, exit code 4. Once for a recipe and a network.

    The forecast takes the weights that the recipe starts from through the same stages, untrained, and measures what
    they leave: parameters, MACs, bytes of the packed file and milliseconds, by part and layer, and what runs in float.
    Once for a recipe, its weights and a machine; the report of the run says how far off it was.

    --json prints format_version, recipe, folder, stages and dry_pass: of each stage label, stage, folder, state (cached
    or run), reasons and inputs; of the dry pass state (passed, cached or not run), reason, seconds and
    kept (layers whose channels pruning leaves); of the forecast weights, threads, cpu, models (a row a file, the last
    one with its layers) and unfused.

    \b
    krimp plan recipe.yaml --set data.root=/data/hit-uav
    """  # noqa: D301 click ends no line after \b
    from compress.engine import pipeline
    from compress.engine.decisions import plan_text
    from compress.engine.outcome import Plan
    from compress.engine.pipeline import forecast_text
    from compress.recipe.loading import load_recipe

    with only_documents(as_json):
        loaded = load_recipe(recipe, overrides or (), allow_code=allow_code)
        job = pipeline.Run(loaded, out, start=start, until=until)
        decisions = job.decide_all()
        if not as_json:
            print(plan_text(decisions), flush=True)
        job.check(decisions)
        passed = job.dry_pass(decisions) if dry_pass else None
        if passed is not None and not as_json:
            print(passed, flush=True)
        foreseen = job.forecast(decisions) if forecast else None
        planned = Plan(job.recipe.name, job.root, tuple(decisions), passed, foreseen)
        if foreseen is not None and not as_json:
            print(forecast_text(foreseen))
    if as_json:
        print_document(planned.to_json())


@app.command()
def schema(
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="File to write, e.g. recipes/recipe.schema.json.")
    ] = None,
    plugin: Annotated[
        list[str] | None, typer.Option("--plugin", help="Plug-in to describe; default: all that are found.")
    ] = None,
    force: ForceOption = False,
) -> None:
    """Print the JSON Schema of recipes, for editors.

    In VS Code with the YAML extension, a first line of a recipe such as
    `# yaml-language-server: $schema=recipe.schema.json` gives completion and checks.

    \b
    krimp schema -o recipes/recipe.schema.json
    """  # noqa: D301 click ends no line after \b
    from compress.recipe.schema import json_schema

    text = json.dumps(json_schema(plugin), indent=1) + "\n"
    if out is None:
        print(text, end="")
    else:
        Outputs("schema", force=force, error=RecipeError).write(out, text)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit code.

    Args:
        arguments: without the program's name; default: those of the process.
    """
    arguments = sys.argv[1:] if arguments is None else arguments

    def work() -> int:
        try:
            given = [argument for argument in arguments if argument != "--debug"]
            code: int = app(given, standalone_mode=False, prog_name="krimp", obj=Engine()) or 0
        except _UsageError as error:
            error.show()
            return int(error.exit_code)
        except typer.Abort as abort:
            raise KeyboardInterrupt from abort
        if code == INTERRUPTED:  # typer caught the Ctrl-C
            raise KeyboardInterrupt
        return code

    return run_command(work, debug="--debug" in arguments)


def script() -> None:
    """Be the console script `krimp`."""
    sys.exit(main())
