"""The command group `krimp data`. Commands import what they need when they run, so `--help` is quick."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from detectors.data.list_options import AsJson, ListOptions, progress_aside
from detectors.data.release_commands import prepare_diorr, prepare_dota, submit

app = typer.Typer(
    name="data",
    help="Check, convert, make and cut data sets.\n\n"
    "\b\nkrimp data check /data/hit-uav                        everything that is wrong, by file and line\n"
    "krimp data convert /data/coco --to yolo-obb --out new  between dota, coco and yolo\n"
    "krimp data synthetic --out out/synthetic               a data set without a download",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

WARNINGS = {"dropped": "warning, a box that is dropped", "flat": "warning, a picture without contrast"}
Format = Annotated[
    Literal["dota", "coco", "yolo"] | None, typer.Option("--format", help="Of ROOT; default: what lies there.")
]
Splits = Annotated[
    list[str] | None,
    typer.Option(
        "--split",
        metavar="NAME[=PLACE]",
        help="Split, and its place as in data.splits of a recipe; repeatable. Default: all that are there.",
    ),
]


@app.command("check", cls=ListOptions)
def check(
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="Folder of the data set.", show_default=False)],
    format_name: Format = None,
    split: Splits = None,
    full: Annotated[bool, typer.Option("--full", help="Decode every image, not only its header and end.")] = False,
    as_json: AsJson = False,
) -> int:
    """Check a data set and count what is in it.

    Lists every wrong line, record and image with its place, its value and what was expected (exit code 3). Boxes
    without area or outside their image are dropped wherever labels are read, and pictures without contrast are read:
    these are warnings, each with its place.

    \b
    dota  ROOT/SPLIT/{images,labelTxt}       x1 y1 x2 y2 x3 y3 x4 y4 class difficult, px
    coco  ROOT/annotations/SPLIT.json        bbox, obb, attributes.rotation, polygons, masks; images/SPLIT, SPLIT, ...
    yolo  ROOT/data.yaml                     detect, OBB and segment labels beside the images

    \b
    krimp data check /data/hit-uav
    krimp data check /data/coco --split val=annotations/instances_val2017.json
    krimp data check dota8/data.yaml --full --json
    """  # noqa: D301 click ends no line after \b
    from compress.errors import DataError, printable
    from detectors.data.source import check_source, open_source

    with progress_aside(as_json):
        facts, problems = check_source(
            open_source(root, format_name=format_name, splits=_places(split)), "full" if full else "header"
        )
    if as_json:
        print(json.dumps(facts | {"problems": problems}))
    else:
        print(f"{printable(root)}: {facts['format']}, {len(facts['classes'])} classes")
        for one, other in facts["near_classes"]:
            print(f"  warning, classes that differ by little: {printable(one)} and {printable(other)}")
        for name in facts["other_splits"]:
            print(f"  warning, a folder that is not looked at: {printable(name)} (--split {printable(name)})")
        for name, counts in facts["splits"].items():
            print(f"  {name}: {counts['images']} images, {counts['objects']} objects, {counts['ignored']} ignored")
            lines = (f"    {count:8d}  {printable(kind)}\n" for kind, count in counts["per_class"].items())
            print("".join(lines), end="")
            for what in ("dropped", "flat"):
                notes = (f"    {WARNINGS[what]}: {printable(note)}\n" for note in counts[what])
                print("".join(notes), end="")
    if problems:
        listed = "\n".join(f"  {problem}" for problem in problems)
        raise DataError(f"{root}: {len(problems)} problems, expected none. Fix these files:\n{listed}")
    return 0


@app.command("convert", cls=ListOptions)
def convert(
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="Folder of the data set.", show_default=False)],
    to: Annotated[
        Literal["dota", "coco", "yolo-obb", "yolo-detect"], typer.Option("--to", help="Format.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="Folder to make.", show_default=False)],
    format_name: Format = None,
    split: Splits = None,
    enclose: Annotated[
        bool, typer.Option("--enclose", help="yolo-detect: take the upright rectangles around rotated boxes.")
    ] = False,
    clip: Annotated[bool, typer.Option("--clip", help="Move corners outside an image to its border.")] = False,
    difficult: Annotated[
        Literal["keep", "drop"] | None,
        typer.Option(help="yolo: what becomes of difficult objects and crowds, which it cannot mark."),
    ] = None,
    copy: Annotated[bool, typer.Option("--copy", help="Copy the images; default: hard links where possible.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace what an earlier conversion wrote there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a data set in another format, whole or not at all.

    Boxes keep their corners to a millionth of a pixel. White space in class names becomes hyphens. What a format
    cannot hold is refused unless an option says what to do with it. A wrong data set is refused with its mistakes.

    \b
    krimp data convert /data/hit-uav --to yolo-obb --out /data/hit-uav-yolo --difficult drop
    krimp data convert /data/coco --split val=annotations/instances_val2017.json --to dota --out /data/coco-dota
    krimp data convert /data/hit-uav --to yolo-detect --enclose --clip --difficult keep --out /data/upright
    """  # noqa: D301 click ends no line after \b
    from detectors.data import conversion
    from detectors.data.source import open_source

    choices = conversion.Choices(enclose=enclose, clip=clip, difficult=difficult, copy=copy)
    with progress_aside(as_json):
        source = open_source(root, format_name=format_name, splits=_places(split))
        facts = conversion.convert(source, to, out, choices=choices, force=force)
    if as_json:
        print(json.dumps(facts | {"out": str(out)}))
        return
    for name, counts in facts["splits"].items():
        print(f"{out}: {name}: {counts['images']} images, {counts['objects']} objects")
    if facts["dropped"]:
        print(f"{facts['dropped']} difficult objects were dropped")
    if facts["empty"]:
        print(f"{facts['empty']} boxes without area or outside their image were dropped")
    if facts["outside"] and to.startswith("yolo"):
        print(
            f"{facts['outside']} boxes reach outside their image; some programs refuse such labels (--clip cuts them)"
        )


@app.command("synthetic", cls=ListOptions)
def synthetic(
    out: Annotated[Path, typer.Option(help="Folder to write.", show_default=False)],
    seed: Annotated[int, typer.Option(help="Decides everything.")] = 0,
    size: Annotated[
        list[int] | None,
        typer.Option(help="Side, or height and width, px (--size 512 640); default 256.", show_default=False),
    ] = None,
    object_px: Annotated[tuple[int, int], typer.Option(help="Shortest and longest object, px.")] = (6, 40),
    train: Annotated[int, typer.Option(help="Number of train images.")] = 200,
    val: Annotated[int, typer.Option(help="Number of val images.")] = 40,
    test: Annotated[int, typer.Option(help="Number of test images.")] = 60,
    as_json: AsJson = False,
) -> None:
    """Draw aerial scenes with labels: a data set in DOTA format that needs no download.

    Harbours, car parks, airfields and roads as OUT/{train,val,test}/{images,labelTxt}. Classes: ship, vehicle, plane;
    some regions are labelled 'dontcare', some objects are difficult, some images empty. The same options give the same
    files, and a complete folder with the same options is left as it is. A folder with files of yours in it is never
    touched, and nothing is visible at OUT before everything is written.

    \b
    krimp data synthetic --out out/synthetic
    krimp data synthetic --out out/large --size 512 640 --train 1000 --val 100 --test 200 --seed 7

    \b
    in a recipe:
    detector: {plugin: dcfl, classes: [ship, vehicle, plane], ...}
    data: {format: dota, root: out/synthetic, image_size: [256, 256], ignore: [dontcare]}
    """  # noqa: D301 click ends no line after \b
    import time

    from detectors.data.synthetic import write_dataset
    from detectors.data.synthetic_scenes import SceneSettings

    started = time.monotonic()
    height, width = (size * 2 if len(size) == 1 else size) if size else (256, 256)
    settings = SceneSettings(
        seed=seed, size=(height, width), object_px=object_px, counts={"train": train, "val": val, "test": test}
    )
    with progress_aside(as_json):
        digest, written = write_dataset(out, settings)
    images = sum(settings.counts.values())
    if as_json:
        print(json.dumps({"out": str(out), "images": images, "written": written, "sha256": digest}))
        return
    what = f"written in {time.monotonic() - started:.1f} s" if written else "already there"
    print(f"{out}: {images} images, {what}, sha256 {digest[:12]}")


def _places(splits: list[str] | None) -> dict[str, str] | None:
    """Return split -> place ('' for the format's own) of NAME[=PLACE] texts."""
    return {name: place for name, _, place in (text.partition("=") for text in splits)} if splits else None


app.command("prepare-dota", cls=ListOptions)(prepare_dota)
app.command("prepare-diorr", cls=ListOptions)(prepare_diorr)
app.command("submit", cls=ListOptions)(submit)
