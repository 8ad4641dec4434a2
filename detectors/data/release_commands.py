"""Commands for published data sets: cut DOTA, read DIOR-R, and put patches together for DOTA's server."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from compress.errors import DataError
from detectors.data.list_options import AsJson, progress_aside

JOINED, PARTS = "trainval", ("train", "val")
CORES = os.cpu_count() or 1
HALF_THE_MEMORY_GB = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2e9

Splits = Annotated[
    list[str] | None,
    typer.Option("--splits", "--split", metavar="SPLIT...", help="Default: all that are there.", show_default=False),
]
Processes = Annotated[int, typer.Option(help="That work at once; default: one a core.", show_default=False)]


def prepare_dota(
    roots: Annotated[
        list[Path],
        typer.Argument(metavar="ROOT", help="Folder of the release; several are read as one.", show_default=False),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the patches.", show_default=False)],
    version: Annotated[str, typer.Option(help="Whose labels and classes: 1.0, 1.5 or 2.0.")] = "1.0",
    splits: Splits = None,
    trainval: Annotated[
        bool, typer.Option("--trainval", help="Also make OUT/trainval from train and val, as links.")
    ] = False,
    skip_empty: Annotated[
        list[str] | None,
        typer.Option(metavar="SPLIT...", help="Splits without their patches of background only.", show_default=False),
    ] = None,
    classes: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CLASS...", help="Instead of the version's, for a data set of your own.", show_default=False
        ),
    ] = None,
    size: Annotated[int, typer.Option(help="Side of a patch, px.")] = 1024,
    overlap: Annotated[int, typer.Option(help="Pixels that neighbours share.")] = 200,
    scales: Annotated[
        list[float] | None,
        typer.Option(help="0.5 adds windows of twice the side; default 1.0.", show_default=False),
    ] = None,
    keep_size: Annotated[
        bool, typer.Option("--keep-size", help="Do not bring patches of other scales to SIZE (MMRotate's files).")
    ] = False,
    min_object_share: Annotated[float, typer.Option(help="Of its area, for an object to belong to a patch.")] = 0.7,
    min_image_share: Annotated[float, typer.Option(help="Of a window that must be image.")] = 0.6,
    padding: Annotated[tuple[int, int, int], typer.Option(help="B, G, R outside the image.")] = (
        104,
        116,
        124,
    ),
    value_range: Annotated[
        tuple[float, float] | None,
        typer.Option(
            metavar="LOW HIGH",
            help="What becomes 0 and 255 in images of more than 8 bits; default: what each holds decides.",
            show_default=False,
        ),
    ] = None,
    processes: Processes = CORES,
    memory_gb: Annotated[
        float,
        typer.Option(help="For the decoded images of all processes; default: half of it all.", show_default=False),
    ] = HALF_THE_MEMORY_GB,
    as_json: AsJson = False,
) -> None:
    """Cut the images of DOTA into square patches with their labels.

    Writes OUT/SPLIT/images/NAME.png and OUT/SPLIT/labelTxt/NAME.txt, the format that recipes read, with
    OUT/SPLIT/manifest.json. Windows and labels are those of MMRotate's img_split.py:

    \b
    - windows of SIZE px, OVERLAP px shared; the last one of a row ends at the border; smaller images are padded;
    - an object belongs to every patch that holds at least 70 % of its area. Its corners are kept as they are, and if
      the border cuts it, the column `difficult` is 2;
    - windows less than 60 % full are left out, unless the image has no fuller ones;
    - a patch is called IMAGE__SIDE__X___Y, so that detections can be put together again (krimp data submit).

    What ROOT must look like (the archives of https://captain-whu.github.io/DOTA/dataset.html, unpacked):

    \b
    ROOT/train/images/*.png                     sub-folders (part1, part2, ...) are searched too
    ROOT/train/labelTxt-v1.0/labelTxt/*.txt     for --version 1.0
    ROOT/train/labelTxt-v1.5/DOTA-v1.5_train/   for --version 1.5
    ROOT/train/labelTxt-v2.0/DOTA-v2.0_train/   for --version 2.0
    ROOT/val/...                                likewise
    ROOT/test/images, ROOT/test-dev/images      without labels

    A plain ROOT/train/labelTxt/*.txt is taken where the published folder is missing. DOTA-v2.0 adds images to those of
    v1.0: give both folders as ROOT. Horizontal boxes (..._reclabelTxt, ..._hbb) are not read.

    All label files are checked first; wrong lines are listed and nothing is cut. An image that cannot be decoded is
    told at the end, the others are kept. Kill the run at any moment and start it again: finished images stay. OUT/SPLIT
    appears when it is whole; until then it is OUT/SPLIT.partial. Run it once more: nothing is done.

    \b
    krimp data prepare-dota /data/DOTA --version 1.0 --out /data/dota10 --processes 8 --trainval
    krimp data prepare-dota /data/DOTA-v1 /data/DOTA-v2 --version 2.0 --out /data/dota20 --skip-empty train
    krimp data prepare-dota /data/DOTA --out /data/dota10_ms --scales 0.5 1.0 1.5 --overlap 500

    \b
    then: krimp run recipes/dcfl_r50_dota10.yaml --set data.root=/data/dota10
    """  # noqa: D301 click ends no line after \b
    from detectors.data.dota_release import CLASSES, find_sources, published_splits
    from detectors.data.folder_builder import Limits
    from detectors.data.patch_writer import join_folders, write_patches
    from detectors.data.patches import PatchSettings

    if version not in CLASSES:
        raise DataError(f"--version: {version!r}, expected {', '.join(CLASSES)}.")
    settings = PatchSettings(
        size_px=size,
        overlap_px=overlap,
        scales=tuple(scales or (1.0,)),
        min_image_share=min_image_share,
        min_object_share=min_object_share,
        padding=padding,
        resize=not keep_size,
    )
    limits = Limits(processes, int(memory_gb * 1e9))
    splits = splits or published_splits(roots)
    _refuse_missing(splits, trainval, skip_empty or ())
    sources = {split: find_sources(roots, split, version) for split in splits}
    with progress_aside(as_json):
        made = [
            (out / split, *write_patches(
                out / split, sources[split], tuple(classes or CLASSES[version]), settings,
                skip_empty=split in (skip_empty or ()), value_range=_range(value_range), limits=limits,
            ))
            for split in splits
        ]  # fmt: skip
        if trainval:
            made.append((out / JOINED, *join_folders(out / JOINED, [out / part for part in PARTS])))
    facts = [_patch_facts(folder, manifest, done) for folder, manifest, done in made]
    print(json.dumps({"splits": facts}) if as_json else "\n".join(map(_patch_text, facts)))


def prepare_diorr(
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="Folder of the release.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder to write.", show_default=False)],
    splits: Splits = None,
    processes: Processes = CORES,
    as_json: AsJson = False,
) -> None:
    """Turn DIOR-R as published into folders in DOTA format.

    Writes OUT/{train,val,trainval,test}/{images,labelTxt}: 800 x 800 images, linked (or copied where links are
    impossible), and a label file each. Class names are in lower case. What ROOT must look like:

    \b
    ROOT/JPEGImages-trainval/00001.jpg, ROOT/JPEGImages-test/11726.jpg
    ROOT/Annotations/Oriented Bounding Boxes/00001.xml     (OBB and Oriented_Bounding_Boxes are found too)
    ROOT/ImageSets/Main/{train,val,test}.txt

    Wrong annotations and damaged images are listed. Kill the run at any moment and start it again; OUT/SPLIT appears
    when it is whole.

    \b
    krimp data prepare-diorr /data/DIOR --out /data/diorr
    krimp run recipes/dcfl_r50_diorr.yaml --set data.root=/data/diorr
    """  # noqa: D301 click ends no line after \b
    from detectors.data import diorr
    from detectors.data.folder_builder import Limits

    unknown = [split for split in splits or () if split not in diorr.SPLITS]
    if unknown:
        raise DataError(f"--splits: no split '{unknown[0]}', expected some of {', '.join(diorr.SPLITS)}.")
    with progress_aside(as_json):
        sources = {split: diorr.find_sources(root, split) for split in splits or diorr.SPLITS}
        made = [
            (out / split, *diorr.convert(out / split, found, limits=Limits(processes)))
            for split, found in sources.items()
        ]
    facts = [
        {
            "out": str(folder),
            "images": len(manifest["sources"]),
            "objects": sum(row["objects"] for row in manifest["sources"]),
            "dropped": [line for row in manifest["sources"] for line in row["dropped"]],
            "written": done,
        }
        for folder, manifest, done in made
    ]
    if as_json:
        print(json.dumps({"splits": facts}))
        return
    from detectors.data.labels import dropped_text

    for fact in facts:
        note = "" if fact["written"] else " (already there)"
        if fact["dropped"]:
            note += f"\n  {dropped_text(fact['dropped'])}"
        print(f"{fact['out']}: {fact['images']} images, {fact['objects']} objects{note}")


def submit(
    ctx: typer.Context,
    out: Annotated[Path, typer.Option(help="Folder for the results.", show_default=False)],
    model: Annotated[
        Path | None, typer.Option(help="ONNX or .krimp file; it looks at every patch of --patches.", show_default=False)
    ] = None,
    detections: Annotated[
        Path | None, typer.Option(help="detections.json or detections.jsonl instead of a model.", show_default=False)
    ] = None,
    submission: Annotated[
        Path | None, typer.Option(help="Zip file or folder of Task-1 files; only scored.", show_default=False)
    ] = None,
    patches: Annotated[
        Path | None, typer.Option(help="Folder of a split that prepare-dota made.", show_default=False)
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="Folder of the published label files of whole images.", show_default=False)
    ] = None,
    classes: Annotated[
        list[str] | None,
        typer.Option(metavar="CLASS...", help="With --submission: names in any order.", show_default=False),
    ] = None,
    patch_names: Annotated[
        Literal["krimp", "mmrotate", "devkit"] | None,
        typer.Option(help="Who cut the patches: what the number in their names is; default: their sizes tell."),
    ] = None,
    merge_iou: Annotated[
        float | None, typer.Option(help="Overlap at which the weaker goes; default 0.1.", show_default=False)
    ] = None,
    score: Annotated[
        float | None, typer.Option(help="With --model: score threshold; default: the model's.", show_default=False)
    ] = None,
    threads: Annotated[int, typer.Option(min=0, help="With --model: 0 is one a core.")] = 0,
    as_json: AsJson = False,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
) -> None:
    """Go from patches to whole images: detect, merge, submit, score.

    Puts detections on the patches of `krimp data prepare-dota` together to whole images (shifted, scaled, rotated NMS
    at IoU 0.1 class by class, as DOTA's own merging), writes OUT/submission.zip for DOTA's evaluation server (Task 1: a
    file Task1_CLASS.txt with lines `image score x1 y1 x2 y2 x3 y3 x4 y4`), and, with --labels, scores the whole images
    here. Detections come from one of --model, --detections and --submission; those of a model are kept in
    OUT/detections.jsonl: kill the run at any moment and start it again, it goes on.

    Names of patches may be those of `krimp data prepare-dota` and MMRotate (IMAGE__SIDE__X___Y, padded or not) or of
    DOTA_devkit (IMAGE__RATE__X___Y). A patch whose size does not fit its name is refused.

    With --patches it is an error if a patch was not looked at. Scores (OUT/scores.json) are DOTA's 11-point average
    precision at IoU 0.5 and the area under the curve; difficult objects are ignored. The server's own number is the one
    to quote.

    \b
    krimp data submit --model model.krimp --patches /data/dota10/test --out out/submission
    krimp data submit --model model.krimp --patches /data/dota10/val --out out/val \\
        --labels /data/DOTA/val/labelTxt-v1.0/labelTxt
    krimp data submit --detections found/detections.json --patches /data/dota10/val --out out/val
    """  # noqa: D301 click ends no line after \b
    from detectors.data import merging
    from detectors.data.submission import SUBMISSION, detect_patches, merge_detections, score_submission

    if sum(source is not None for source in (model, detections, submission)) != 1:
        raise DataError("submit: expected one of --model, --detections and --submission.")
    images: list[str] | None = None
    outputs = ctx.obj.outputs("data submit", force=force, error=DataError)
    written = [out / SUBMISSION] if submission is None else []
    written += [out / "scores.json"] if labels is not None else []
    outputs.claim(written)
    with progress_aside(as_json):
        out.mkdir(parents=True, exist_ok=True)
        if submission is not None:
            if labels is None or not classes:
                raise DataError("--submission: is scored only, so it needs --labels and --classes.")
            names = list(classes)
            merged = merging.read_submission(submission, names)
        else:
            found = detections
            if model is not None:
                opener = partial(ctx.obj.open_predictor, model, score_threshold=score, threads=threads)
                found = detect_patches(model, _needed(patches), out, opener, score_threshold=score)
            iou = merging.MERGE_IOU if merge_iou is None else merge_iou
            merged, names, images = merge_detections(
                _needed(found), out, patches=patches, merge_iou=iou, patch_names=patch_names
            )
        facts: dict[str, Any] = {"out": str(out), "images": len(merged), "objects": sum(map(len, merged.values()))}
        if labels is not None:
            truths = merging.read_truths(labels, names, images)
            facts["scores"] = score_submission(merged, truths, names, out / "scores.json")
        for path in written:
            outputs.wrote(path)
    if as_json:
        print(json.dumps(facts))


def _range(limits: tuple[float, float] | None) -> tuple[float, float] | None:
    from compress.pictures.brightness import range_of_text

    try:
        return range_of_text(limits)
    except ValueError as error:
        raise DataError(f"--value-range: {error}.") from error


def _needed(path: Path | None) -> Path:
    if path is None:
        raise DataError("--model: needs --patches, the folder of a split that krimp data prepare-dota made.")
    return path


def _refuse_missing(splits: Sequence[str], trainval: bool, skip_empty: Sequence[str]) -> None:
    if trainval and not set(PARTS) <= set(splits):
        raise DataError(f"--trainval: needs the splits train and val, this run has {', '.join(splits)}.")
    for split in skip_empty:
        if split not in splits:
            raise DataError(f"--skip-empty: no split '{split}' in this run, expected some of {', '.join(splits)}.")


def _patch_facts(folder: Path, manifest: dict[str, Any], done: bool) -> dict[str, Any]:
    rows = manifest["sources"]
    total = {key: sum(row[key] for row in rows) for key in ("patches", "objects", "cut", "source_objects")}
    return total | {
        "out": str(folder),
        "images": len(rows),
        "labelled": manifest["header"]["labelled"],
        "lost_objects": sum(row["lost_objects"] for row in rows),
        "degenerate": [line for row in rows for line in row["degenerate"]],
        "written": done,
    }


def _patch_text(facts: dict[str, Any]) -> str:
    text = f"{facts['out']}: {facts['images']} images, {facts['patches']} patches"
    if facts["labelled"]:
        text += f", {facts['source_objects']} objects in {facts['objects']} places, {facts['cut']} of them cut"
    text += "" if facts["written"] else " (already there)"
    if facts["lost_objects"]:
        text += f"\n  {facts['lost_objects']} objects are in no patch (outside their image, or nowhere whole enough)"
    if facts["degenerate"]:
        text += f"\n  {len(facts['degenerate'])} boxes without area were dropped, e.g. {facts['degenerate'][0]}"
    return text
