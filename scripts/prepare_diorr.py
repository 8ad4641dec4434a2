"""Turn DIOR-R into folders in DOTA format. `python scripts/prepare_diorr.py --help` explains."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from compress.cli.ending import run_command
from detectors.data import diorr
from detectors.data.folder_builder import Limits

EXPLANATION = """\
Make OUT/{train,val,trainval,test}/{images,labelTxt} from DIOR-R as published: 800 x 800 images, linked (or copied where
links are impossible), and a label file each with lines `x1 y1 x2 y2 x3 y3 x4 y4 class difficult`. Class names are in
lower case. What ROOT must look like:

  ROOT/JPEGImages-trainval/00001.jpg, ROOT/JPEGImages-test/11726.jpg
  ROOT/Annotations/Oriented Bounding Boxes/00001.xml     (OBB and Oriented_Bounding_Boxes are found too)
  ROOT/ImageSets/Main/{train,val,test}.txt

Wrong annotations and damaged images are listed. Kill the run at any moment and start it again; OUT/SPLIT appears when
it is whole.
"""
EXAMPLES = """\
example:
  python scripts/prepare_diorr.py /data/DIOR --out /data/diorr
  krimp run recipes/dcfl_r50_diorr.yaml --set data.root=/data/diorr
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit code."""
    parser = argparse.ArgumentParser(
        description=EXPLANATION, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", metavar="ROOT", type=Path, help="folder of the release")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--splits", nargs="+", choices=diorr.SPLITS, default=list(diorr.SPLITS), help="default: all")
    cores = os.cpu_count() or 1
    parser.add_argument("--processes", type=int, default=cores, help="that work at once (default: one a core)")
    options = parser.parse_args(arguments)
    return run_command(lambda: _prepare(options))


def _prepare(options: argparse.Namespace) -> None:
    sources = {split: diorr.find_sources(options.root, split) for split in options.splits}
    for split in options.splits:
        manifest, done = diorr.convert(options.out / split, sources[split], limits=Limits(options.processes))
        objects = sum(row["objects"] for row in manifest["sources"])
        dropped = [line for row in manifest["sources"] for line in row["dropped"]]
        note = "" if done else " (already there)"
        note += f"\n  {len(dropped)} boxes were dropped, e.g. {dropped[0]}" if dropped else ""
        print(f"{options.out / split}: {len(manifest['sources'])} images, {objects} objects{note}")


if __name__ == "__main__":
    sys.exit(main())
