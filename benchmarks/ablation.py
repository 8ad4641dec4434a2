"""What each pass of a recipe is worth: the recipe as it is, and with one pass left out at a time.

    python benchmarks/ablation.py --set data.root=/data/hit-uav --cached out
    ... recipes/other.yaml     ... --only no_channel_order full_names     ... --epochs qat=0     ... --record FILE

Each variant is a recipe of its own, `base:` and the fields that differ, written into `--out` and run by the engine up
to the packed file, which is scored. Stages that a variant has in common with one that ran before it come from there:
their folders are copied, and the engine's keys decide which of them still fit. A second call goes on where the first
was killed, in the middle of an epoch if need be. `--epochs N` shortens every training, `--epochs qat=0` that one:
post-training quantization, in minutes. Rounding with feedback and by bits is what a `rate` is: no_rate leaves it out.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # run as a file: make the repository importable, not the folder of this script
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.ablation_variants import (
    EXPORTS,
    WHOLE,
    document_of,
    epochs_of,
    packed_label,
    shortened,
    variant_name,
    variants,
)
from benchmarks.accuracy import find, losses, score
from benchmarks.record_file import head, refuse_existing, without_folders, write_record
from compress import codec
from compress.artifact import MANIFEST, find_folder, open_artifact
from compress.dataset import METRICS, Scores
from compress.detector import Detector
from compress.errors import CompressError, StageError
from compress.export import export_onnx
from compress.kind import Kind
from compress.model_folder import load_model
from compress.plugins import make_detector
from compress.progress import console, say
from compress.recipe.loading import load_recipe
from compress.recipe.model import Recipe
from compress.stages.export_onnx import ExportOnnx
from compress.whole_file import write_whole

ROOT = Path(__file__).resolve().parents[1]
DEFAULT = ROOT / "recipes" / "dcfl_mbv2_hituav_one_pass.yaml"


def run_variant(variant: Path, out: Path, until: str, overrides: Sequence[str]) -> None:
    """Run a variant up to a stage.

    Raises:
        StageError: it failed; what it said is above.
    """
    command = [sys.executable, "compress/run.py", str(variant), "--out", str(out), "--until", until]
    command += ["--no-dry-pass", "--no-forecast", *(word for one in overrides for word in ("--set", one))]
    if subprocess.run(command, cwd=ROOT, check=False).returncode != 0:
        raise StageError("the run failed; what it said is above")


def copy_cached(source: Path, target: Path) -> None:
    """Copy sealed folders of labels that the target does not have; whole or not at all.

    A folder whose key does not fit is made again by the engine, and costs nothing but the copy.
    """
    for manifest in sorted(source.glob(f"*/{MANIFEST}")):
        folder = manifest.parent
        if folder.name.startswith(".") or find_folder(target, folder.name.partition("_")[2]) is not None:
            continue
        half = target / ".copied" / folder.name
        shutil.rmtree(half, ignore_errors=True)
        shutil.copytree(folder, half)
        half.rename(target / folder.name)


def exported_again(name: str, folder: Path, target: Path, recipe: Recipe, detector: Detector) -> Path:
    """Export the quantized network of a run with one pass of the export left out; return the packed file."""
    packed = target / "model.krimp"
    if packed.is_file():
        return packed
    quantized = [one for one in map(open_artifact, _folders(folder)) if one.kind is Kind.QUANTIZED]
    form = next(one for one in reversed(recipe.stages) if isinstance(one, ExportOnnx)).form()
    model, _ = load_model(quantized[-1].path, detector)
    target.mkdir(parents=True, exist_ok=True)
    with EXPORTS[name](model):
        export_onnx(model, target / "model.onnx", detector=detector, **form)
    codec.pack_file(target / "model.onnx", packed)
    return packed


def _folders(root: Path) -> list[Path]:
    return sorted(path.parent for path in root.glob(f"*/{MANIFEST}") if not path.parent.name.startswith("."))


def packed_file(folder: Path, label: str) -> Path:
    """Return the packed file of a finished run.

    Raises:
        StageError: there is none.
    """
    found = find_folder(folder, label)
    if found is None:
        raise StageError(f"{folder}: nothing packed under the label {label}. Run it again.")
    return found / "model.krimp"


class Ablation:
    """One recipe, its variants and the folder of their runs."""

    def __init__(self, options: argparse.Namespace) -> None:
        """Read the recipe.

        Raises:
            CompressError: it cannot be read, or a variant that is asked for does not exist.
        """
        self.options = options
        self.epochs = epochs_of(options.epochs)
        self.recipe = load_recipe(options.recipe, options.overrides)
        self.detector = make_detector(self.recipe.detector, self.recipe.data)
        self.changes = variants(self.recipe)
        every = (*self.changes, *EXPORTS)
        if unknown := sorted(set(options.only or ()) - set(every)):
            raise StageError(f"{', '.join(unknown)}: no such variant. There are {', '.join(every)}.")
        self.wanted = [name for name in every if not options.only or name in (WHOLE, *options.only)]

    def folder(self, name: str) -> Path:
        """Return the folder of a variant's run."""
        return Path(self.options.out) / variant_name(self.recipe.name, name, self.epochs)

    def packed(self, name: str) -> Path:
        """Return the packed file of a variant, made if it is not there.

        Raises:
            CompressError: its run failed.
        """
        if name in EXPORTS:
            return exported_again(name, self.folder(WHOLE), self.folder(name), self.recipe, self.detector)
        changes = shortened(self.recipe, self.changes[name], self.epochs)
        document = document_of(self.recipe, self.options.recipe, self.folder(name).name, changes)
        variant = self.options.out / "recipes" / f"{self.folder(name).name}.yaml"
        variant.parent.mkdir(parents=True, exist_ok=True)
        write_whole(variant, json.dumps(document, indent=1) + "\n")  # JSON is YAML
        for source in (*(one / self.recipe.name for one in self.options.cached), self.folder(WHOLE)):
            copy_cached(source, self.folder(name))
        label = packed_label(self.recipe)
        run_variant(variant, self.options.out, label, self.options.overrides)
        return packed_file(self.folder(name), label)

    def scores(self, path: Path) -> Scores:
        """Return the scores of a packed file; what it finds is kept."""
        found = find(str(path), self.detector, self.options.split, 1, self.options.out / "found")
        return score(self.detector, self.options.split, found)[0]


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run and score every variant; return the record."""
    job = Ablation(options)
    rows: dict[str, dict[str, Any]] = {}
    reference: Scores | None = None
    for name in job.wanted:
        start = time.perf_counter()
        try:
            path = job.packed(name)
        except CompressError as error:
            rows[name] = {"failed": str(error)}
            say(f"{name}: failed: {error}")
            continue
        rows[name] = {"packed_bytes": path.stat().st_size, "minutes": (time.perf_counter() - start) / 60}
        scores = job.scores(path)
        rows[name] |= {metric: getattr(scores, metric) for metric in METRICS}
        if reference is not None:
            rows[name] |= losses(reference, scores)
        elif name == WHOLE:
            reference = scores
        say(f"{name}: {rows[name]['packed_bytes']:,} bytes, map {rows[name]['map']:.4f}")
    print(table(rows))
    settings = {"recipe": job.recipe.name, "split": options.split, "epochs": job.epochs, "seed": job.recipe.seed}
    settings["overrides"] = ["=".join(without_folders(one.split("=", 1))) for one in options.overrides]
    return head("ablation") | settings | {"rows": rows}


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a line a variant: bytes, what they are of those of the whole recipe, map, and what it loses against it."""
    whole = rows.get(WHOLE, {}).get("packed_bytes")
    lines = [f"{'variant':28}{'bytes':>10}{'':>8}{'map':>8}{'map50':>8}{'loss of map (95 %)':>26}"]
    for name, row in rows.items():
        if "failed" in row:
            lines.append(f"{name:28}failed: {row['failed']}")
            continue
        share = "" if not whole or name == WHOLE else f"{100 * (row['packed_bytes'] / whole - 1):+.1f} %"
        interval = row.get("map_loss_interval")
        lost = (
            f"{100 * row['map_loss']:+.2f} ({100 * interval[0]:+.2f} to {100 * interval[1]:+.2f})" if interval else ""
        )
        cells = f"{row['packed_bytes']:>10,}{share:>8}{row['map']:8.4f}{row['map50']:8.4f}{lost:>26}"
        lines.append(f"{name:28}{cells}".rstrip())
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("recipe", nargs="?", type=Path, default=DEFAULT, help="default: dcfl_mbv2_hituav_one_pass")
    made.add_argument("--set", dest="overrides", action="append", default=[], metavar="PATH=VALUE")
    made.add_argument("--out", type=Path, default=Path("out/ablation"), help="folder of the variants' runs")
    made.add_argument(
        "--cached", type=Path, action="append", default=[], metavar="OUT", help="an --out where the recipe itself ran"
    )
    made.add_argument("--split", default="val", help="that is scored (default: val)")
    made.add_argument(
        "--epochs",
        nargs="+",
        default=[],
        metavar="[LABEL=]N",
        help="of every training, or of that stage; 0 trains nothing",
    )
    made.add_argument("--only", nargs="+", metavar="NAME", help="these variants, and the recipe as it is")
    made.add_argument("--record", type=Path, help="file to write; it must not exist")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and return the exit code."""
    options = parser().parse_args(arguments)
    options.out = options.out.resolve()
    with console():
        try:
            refuse_existing(options.record)
            write_record(options.record, measure(options))
        except CompressError as error:
            print(f"error: {error}", file=sys.stderr)
            return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
