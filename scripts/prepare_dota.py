"""Cut DOTA into patches. `python scripts/prepare_dota.py --help` explains."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from compress.cli.ending import run_command
from compress.errors import DataError
from detectors.data.dota_release import CLASSES, find_sources, published_splits
from detectors.data.folder_builder import Limits
from detectors.data.patch_writer import join_folders, write_patches
from detectors.data.patches import PatchSettings

JOINED, PARTS = "trainval", ("train", "val")
EXPLANATION = """\
Cut the images of DOTA into square patches with their labels: OUT/SPLIT/images/NAME.png and OUT/SPLIT/labelTxt/NAME.txt,
the format that recipes read, with OUT/SPLIT/manifest.json. Windows and labels are those of MMRotate's img_split.py:

  - windows of SIZE px, OVERLAP px shared; the last one of a row ends at the border; smaller images are padded;
  - an object belongs to every patch that holds at least 70 % of its area. Its corners are kept as they are, and if the
    border cuts it, the column `difficult` is 2;
  - windows less than 60 % full are left out, unless the image has no fuller ones;
  - a patch is called IMAGE__SIDE__X___Y, so that detections can be put together again (scripts/submit_dota.py).

What ROOT must look like (the archives of https://captain-whu.github.io/DOTA/dataset.html, unpacked):

  ROOT/train/images/*.png                     sub-folders (part1, part2, ...) are searched too
  ROOT/train/labelTxt-v1.0/labelTxt/*.txt     for --version 1.0
  ROOT/train/labelTxt-v1.5/DOTA-v1.5_train/   for --version 1.5
  ROOT/train/labelTxt-v2.0/DOTA-v2.0_train/   for --version 2.0
  ROOT/val/...                                likewise
  ROOT/test/images, ROOT/test-dev/images      without labels
A plain ROOT/train/labelTxt/*.txt is taken where the published folder is missing. DOTA-v2.0 adds images to those of
v1.0: give both folders as ROOT. Horizontal boxes (..._reclabelTxt, ..._hbb) are not read.

All label files are checked first; wrong lines are listed and nothing is cut. An image that cannot be decoded is told
at the end, the others are kept. Kill the run at any moment and start it again: finished images stay. OUT/SPLIT appears
when it is whole; until then it is OUT/SPLIT.partial. Run it once more: nothing is done.
"""
EXAMPLES = """\
examples:
  python scripts/prepare_dota.py /data/DOTA --version 1.0 --out /data/dota10 --processes 8 --trainval
  python scripts/prepare_dota.py /data/DOTA-v1 /data/DOTA-v2 --version 2.0 --out /data/dota20 --skip-empty train
  python scripts/prepare_dota.py /data/DOTA --version 1.0 --out /data/dota10_ms --scales 0.5 1.0 1.5 --overlap 500

then:
  krimp run recipes/dcfl_r50_dota10.yaml --set data.root=/data/dota10
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit code."""
    options = _parser().parse_args(arguments)
    return run_command(lambda: _prepare(options))


def _prepare(options: argparse.Namespace) -> None:
    settings = PatchSettings(
        size_px=options.size,
        overlap_px=options.overlap,
        scales=tuple(options.scales),
        min_image_share=options.min_image_share,
        min_object_share=options.min_object_share,
        padding=tuple(options.padding),
        resize=not options.keep_size,
    )
    limits = Limits(options.processes, int(options.memory_gb * 1e9))
    classes = tuple(options.classes or CLASSES[options.version])
    splits = options.splits or published_splits(options.roots)
    if options.trainval and not set(PARTS) <= set(splits):
        raise DataError(f"--trainval: needs the splits train and val, this run has {', '.join(splits)}.")
    for split in options.skip_empty:
        if split not in splits:
            raise DataError(f"--skip-empty: no split '{split}' in this run, expected some of {', '.join(splits)}.")
    sources = {split: find_sources(options.roots, split, options.version) for split in splits}
    for split in splits:
        empty = split in options.skip_empty
        manifest, done = write_patches(
            options.out / split, sources[split], classes, settings, skip_empty=empty, limits=limits
        )
        print(_summary(options.out / split, manifest, done))
    if options.trainval:
        manifest, done = join_folders(options.out / JOINED, [options.out / part for part in PARTS])
        print(_summary(options.out / JOINED, manifest, done))


def _summary(folder: Path, manifest: dict[str, Any], done: bool) -> str:
    rows = manifest["sources"]
    total = {key: sum(row[key] for row in rows) for key in ("patches", "objects", "cut", "source_objects")}
    text = f"{folder}: {len(rows)} images, {total['patches']} patches"
    if manifest["header"]["labelled"]:
        text += f", {total['source_objects']} objects in {total['objects']} places, {total['cut']} of them cut"
    lost = sum(row["lost_objects"] for row in rows)
    degenerate = [line for row in rows for line in row["degenerate"]]
    notes = [f"\n  {lost} objects are in no patch (outside their image, or nowhere whole enough)"] if lost else []
    if degenerate:
        notes.append(f"\n  {len(degenerate)} boxes without area were dropped, e.g. {degenerate[0]}")
    return text + ("" if done else " (already there)") + "".join(notes)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=EXPLANATION, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("roots", metavar="ROOT", type=Path, nargs="+", help="folder of the release; several are read as one")
    add("--out", type=Path, required=True, help="folder for the patches")
    add("--version", choices=list(CLASSES), default="1.0", help="whose labels and classes (default 1.0)")
    add("--splits", nargs="+", metavar="SPLIT", help="default: all that are there of train val test test-dev ...")
    add("--trainval", action="store_true", help="also make OUT/trainval from train and val, as links")
    add("--skip-empty", nargs="+", default=[], metavar="SPLIT", help="splits without their patches of background only")
    add("--classes", nargs="+", metavar="CLASS", help="instead of the version's, for a data set of your own")
    add("--size", type=int, default=1024, help="side of a patch, px (default 1024)")
    add("--overlap", type=int, default=200, help="pixels that neighbours share (default 200)")
    add("--scales", type=float, nargs="+", default=[1.0], help="0.5 adds windows of twice the side (default 1.0)")
    add("--keep-size", action="store_true", help="do not bring patches of other scales to SIZE (MMRotate's files)")
    add("--min-object-share", type=float, default=0.7, help="of its area, for an object to belong (default 0.7)")
    add("--min-image-share", type=float, default=0.6, help="of a window that must be image (default 0.6)")
    add("--padding", type=int, nargs=3, default=[104, 116, 124], metavar=("B", "G", "R"), help="default 104 116 124")
    add("--processes", type=int, default=os.cpu_count() or 1, help="that cut at once (default: one a core)")
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2e9
    add("--memory-gb", type=float, default=memory, help="for decoded images of all processes (default: half of it all)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
