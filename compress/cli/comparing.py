"""The commands `compare` and `gate`: runs, reports and model files side by side."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from compress.cli.json_document import JsonOption, document_text, only_documents, print_document
from compress.cli.options import ForceOption
from compress.errors import DataError, RecipeError
from compress.outputs import Outputs

if TYPE_CHECKING:
    from compress.compare.sides import Side
    from compress.compare.timing import Timing

DEFAULT_SPLIT = "val"
DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="DATA",
        help="Score the files now: a folder of a data set, or a recipe, whose data is taken. Default: what runs kept.",
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="data.FIELD=VALUE", help="Of --data: data.root=/data, data.ignore=[dontcare]; repeatable."
    ),
]
SplitOption = Annotated[
    str | None,
    typer.Option("--split", help=f"Whose scores; default: that of the first run's report, else {DEFAULT_SPLIT}."),
]
ThreadsOption = Annotated[int, typer.Option(min=0, help="Of ONNX Runtime; 0 is one per core.")]
ProcessesOption = Annotated[
    int, typer.Option("--processes", min=2, help="That are timed; more make the interval of the latency narrower.")
]
AllowCodeOption = Annotated[bool, typer.Option("--allow-code", help="Let a recipe's data format be code of your own.")]
_WRITERS = (".md", ".html", ".json")


def compare_command(
    models: Annotated[
        list[Path],
        typer.Argument(
            metavar="A B ...",
            help="Runs (out/demo), stages of them, report.json, ONNX or .krimp files.",
            show_default=False,
        ),
    ],
    data: DataOption = None,
    overrides: SetOption = None,
    split: SplitOption = None,
    time_files: Annotated[bool, typer.Option("--time", help="Also time each file beside the first.")] = False,
    processes: ProcessesOption = 7,
    pictures: Annotated[int, typer.Option(min=0, help="Shown of those that differ most.")] = 10,
    threads: ThreadsOption = 1,
    out: Annotated[
        list[Path] | None,
        typer.Option("--out", "-o", metavar="FILE", help="Write .html, .md or .json too; repeatable."),
    ] = None,
    allow_code: AllowCodeOption = False,
    as_json: JsonOption = False,
    force: ForceOption = False,
) -> None:
    """Say what differs between runs, reports or model files, each against the first.

    Points gained or lost have an interval where both were scored on the same images: that of the paired bootstrap,
    widened where images are few. Two reports without their runs have the interval that the two intervals allow.
    Layers: shape, bits, zeros and bytes of each that changed. Pictures: what was found and what was wrong in those that
    differ most.

    --json prints format_version, reference, sides, against and notes.

    \b
    krimp compare out/demo/01_float_onnx out/demo
    krimp compare out/first out/second out/third -o compared.html
    krimp compare old.krimp new.krimp --data /data/hit-uav --split val --time
    """  # noqa: D301 click ends no line after \b
    from compress.compare.comparison import compare
    from compress.compare.markdown import render

    if len(models) < 2:
        raise RecipeError(f"krimp compare: {len(models)} model, expected at least two.")
    outputs = _outputs("compare", out or [], _WRITERS, force=force)
    with only_documents(as_json):
        sides = _scored(models, data, overrides or (), split, threads, allow_code=allow_code)
        timings = _timings(sides, threads, processes) if time_files else ()
        found = compare(sides, pictures=pictures, timings=timings)
    for path in out or []:
        if path.suffix == ".html":
            from compress.compare.page import render_page

            outputs.write(path, render_page(found))
        elif path.suffix == ".md":
            outputs.write(path, render(found))
        else:
            outputs.write(path, document_text(found.to_json()))
    if as_json:
        print_document(found.to_json())
    else:
        print(render(found), end="")


def gate_command(
    new: Annotated[
        Path, typer.Argument(metavar="NEW", help="Run, report.json, ONNX or .krimp file.", show_default=False)
    ],
    old: Annotated[Path, typer.Option("--against", metavar="OLD", help="What it may not be worse than.")],
    max_drop: Annotated[
        float | None, typer.Option("--max-drop", min=0, metavar="POINTS", help="Of the metric, that may be lost: 0.5.")
    ] = None,
    max_bytes: Annotated[
        str | None, typer.Option("--max-bytes", metavar="LIMIT", help="Of the file: +2%, -30%, +10kB, 330kB.")
    ] = None,
    max_latency: Annotated[
        str | None,
        typer.Option("--max-latency", metavar="LIMIT", help="+5%, -20%, 25ms. Both files are timed side by side."),
    ] = None,
    metric: Annotated[Literal["map", "map75", "map50"], typer.Option(help="That --max-drop is of.")] = "map",
    data: DataOption = None,
    overrides: SetOption = None,
    split: SplitOption = None,
    undecided: Annotated[
        Literal["fail", "pass"], typer.Option(help="What becomes of the exit code where nothing can be decided.")
    ] = "fail",
    processes: ProcessesOption = 7,
    threads: ThreadsOption = 1,
    junit: Annotated[Path | None, typer.Option("--junit", metavar="FILE", help="JUnit XML, a case a limit.")] = None,
    summary: Annotated[Path | None, typer.Option("--summary", metavar="FILE", help="The verdict as Markdown.")] = None,
    allow_code: AllowCodeOption = False,
    as_json: JsonOption = False,
    force: ForceOption = False,
) -> int:
    """Judge a new model against an old one: accept, regression, or not decidable with so few images.

    A drop is judged by its 95 % paired interval, not by two points: it is accepted if the upper end is within the
    limit, and a regression if the lower end is beyond it. Between the two nothing is proved, and the gate says about
    how many images would decide. Latency is judged only when both files are here to be timed side by side, by the
    interval over several processes.

    Exit codes: 0 accept, 1 a regression, 2 not decidable (0 with --undecided pass). An error has its usual code, and
    prints 'error:' (2 is that of a wrong command line, too).

    --json prints format_version, new, old, verdict and checks: of each name, limit, found, verdict, why and needed.

    \b
    krimp gate out/new --against out/old --max-drop 0.5 --max-bytes +2%
    krimp gate new.krimp --against old.krimp --data /data/val-set --max-drop 0.5 --max-latency +5%
    krimp gate new.krimp --against old.krimp --max-bytes 330kB --junit gate.xml --summary gate.md
    """  # noqa: D301 click ends no line after \b
    from compress.compare.gate import run_gate
    from compress.compare.limits import GateLimits, parse_bytes, parse_latency
    from compress.compare.outcome_files import junit_text, plain_text, summary_text
    from compress.compare.timing import time_side_by_side

    limits = GateLimits(
        max_drop,
        metric,
        None if max_bytes is None else parse_bytes(max_bytes),
        None if max_latency is None else parse_latency(max_latency),
    )
    if limits.is_empty:
        raise RecipeError("krimp gate: no limit is given. Expected --max-drop, --max-bytes or --max-latency.")
    outputs = _outputs("gate", [path for path in (junit, summary) if path is not None], None, force=force)
    passes = undecided == "pass"
    with only_documents(as_json):
        needed = data if max_drop is not None else None
        sides = _scored(
            [old, new], needed, overrides or (), split, threads, allow_code=allow_code, fill=max_drop is not None
        )
        gate = run_gate(sides[1], sides[0], limits, partial(time_side_by_side, threads=threads, processes=processes))
    if junit is not None:
        outputs.write(junit, junit_text(gate, undecided_passes=passes))
    if summary is not None:
        outputs.write(summary, summary_text(gate))
    if as_json:
        print_document(gate.to_json())
    else:
        print(plain_text(gate))
    return gate.exit_code(undecided_passes=passes)


def _scored(
    paths: Sequence[Path],
    data: Path | None,
    overrides: Sequence[str],
    split: str | None,
    threads: int,
    *,
    allow_code: bool,
    fill: bool = True,
) -> list[Side]:
    """Return the sides; with data all files are scored on it, else those without scores on the data of a run.

    Args:
        paths: of the sides.
        data: named on the command line, or None.
        overrides: of its fields.
        split: named, or None.
        threads: of ONNX Runtime.
        allow_code: the format may be code of one's own.
        fill: score what has no scores.
    """
    from compress.compare.opening import open_side
    from compress.compare.scoring import data_of, open_data, score_side

    if overrides and data is None:
        raise RecipeError(f"--set {overrides[0]}: there is no --data to be set. Add it.")
    sides = [open_side(path, split) for path in paths]
    source = open_data(data, overrides, allow_code=allow_code) if data is not None else data_of(sides) if fill else None
    if source is None:
        return sides
    if data is not None and not any(side.model for side in sides):
        raise DataError(f"--data {data}: none of {', '.join(side.name for side in sides)} has a file to be scored.")
    stored = next((side.scored.images.split for side in sides if side.scored is not None), None)
    on = split or (stored if data is None else None) or DEFAULT_SPLIT
    return [
        score_side(side, source, on, threads=threads)
        if side.model is not None and (data is not None or side.scored is None)
        else side
        for side in sides
    ]


def _timings(sides: Sequence[Side], threads: int, processes: int) -> list[Timing | None]:
    from compress.compare.timing import time_side_by_side

    first, *others = (side.model for side in sides)
    if first is None:
        return [None for _ in others]
    how = {"threads": threads, "processes": processes}
    return [None if other is None else time_side_by_side(first, other, **how) for other in others]


def _outputs(command: str, paths: Sequence[Path], suffixes: Sequence[str] | None, *, force: bool) -> Outputs:
    for path in paths:
        if suffixes is not None and path.suffix not in suffixes:
            raise RecipeError(f"--out {path}: expected a name that ends in {', '.join(suffixes)}.")
    outputs = Outputs(command, force=force, error=DataError)
    outputs.claim(list(paths))
    return outputs
