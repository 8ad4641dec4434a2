"""Write a synthetic aerial data set in DOTA format. `python scripts/make_synthetic.py --help` explains."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from compress.cli.ending import run_command
from detectors.data.synthetic import write_dataset
from detectors.data.synthetic_scenes import CLASSES, IGNORED_CLASS, SceneSettings

EXPLANATION = f"""\
Draw aerial scenes (harbours, car parks, airfields, roads) with labels, as OUT/{{train,val,test}}/{{images,labelTxt}}.

Classes: {", ".join(CLASSES)}. Some regions are labelled '{IGNORED_CLASS}', some objects are difficult,
some images empty. The same options give the same files, and a complete folder with the same options is left as it is.
A folder with files of yours in it is never touched. Nothing is visible at OUT before everything is written.
"""
EXAMPLES = f"""\
examples:
  python scripts/make_synthetic.py --out out/synthetic
  python scripts/make_synthetic.py --out out/large --size 512 640 --train 1000 --val 100 --test 200 --seed 7

in a recipe:
  detector: {{plugin: dcfl, classes: [{", ".join(CLASSES)}], ...}}
  data: {{format: dota, root: out/synthetic, image_size: [256, 256], ignore: [{IGNORED_CLASS}]}}
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit code."""
    options = _parser().parse_args(arguments)
    return run_command(lambda: _make(options))


def _make(options: argparse.Namespace) -> None:
    started = time.monotonic()
    settings = SceneSettings(
        seed=options.seed,
        size=tuple(options.size * 2 if len(options.size) == 1 else options.size[:2]),
        object_px=tuple(options.object_px),
        counts={"train": options.train, "val": options.val, "test": options.test},
    )
    digest, written = write_dataset(options.out, settings, _report)
    what = f"written in {time.monotonic() - started:.1f} s" if written else "already there"
    print(f"{options.out}: {sum(settings.counts.values())} images, {what}, sha256 {digest[:12]}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=EXPLANATION, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--seed", type=int, default=0, help="decides everything (default 0)")
    parser.add_argument(
        "--size", type=int, nargs="+", default=[256], help="side, or height and width, px (default 256)"
    )
    parser.add_argument("--object-px", type=int, nargs=2, default=[6, 40], help="shortest and longest object, px")
    for split, count in (("train", 200), ("val", 40), ("test", 60)):
        parser.add_argument(f"--{split}", type=int, default=count, help=f"number of {split} images (default {count})")
    return parser


def _report(done: int, total: int) -> None:
    """Print progress: in place on a terminal, else ten lines in all."""
    if sys.stderr.isatty():
        print(f"\r{done}/{total} images", end="\n" if done == total else "", file=sys.stderr, flush=True)
    elif done % max(1, total // 10) == 0 or done == total:
        print(f"{done}/{total} images", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
