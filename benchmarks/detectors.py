"""Train several detectors on the same small budget and compare them, small objects apart.

    python benchmarks/detectors.py --out out/detectors --seeds 0 \
        --set data.root=/data/hit-uav --set detector.backbone_weights=/data/mobilenet_v2-b0353104.pth
    python benchmarks/detectors.py --out out/detectors --seeds 0 1 --record benchmarks/records/<date>_detectors.json ...

Runs recipes (default: DCFL, Rotated RetinaNet, RTMDet-R-tiny's head, all on MobileNetV2 and HIT-UAV), each with each
seed, and reads what their last `evaluate` stage sealed. A run that was killed goes on; a finished one is not repeated.
Only recipes with the same data, the same epochs and batch size and the same seeds are compared.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # run as a file: make the repository importable, not the folder of this script
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.record_file import head, refuse_existing, without_folders, write_record
from compress.artifact import MANIFEST, open_artifact
from compress.errors import CompressError, StageError
from compress.kind import Kind
from compress.progress import console
from compress.recipe.loading import load_recipe
from compress.stages.train import Train

ROOT = Path(__file__).resolve().parents[1]
RECIPES = tuple(
    ROOT / "recipes" / f"{name}.yaml"
    for name in ("dcfl_mbv2_hituav_budget", "rotated_retinanet_mbv2_hituav", "rotated_rtmdet_mbv2_hituav")
)
SHARED = ("epochs", "max_steps", "batch_size")  # fields of `training:` that make the budget
COLUMNS = (
    "map",
    "map75",
    "map50",
    "map_below_16px",
    "map50_below_16px",
    "recall_below_16px",
    "map50_16_to_32px",
    "map50_from_32px",
)


def run(recipe: Path, seed: int, overrides: list[str], out: Path) -> dict[str, Any]:
    """Run a recipe with one seed; return its row.

    Raises:
        StageError: the run failed, or it scored nothing.
    """
    command = [sys.executable, "compress/run.py", str(recipe.resolve()), "--out", str(out / f"seed{seed}")]
    for override in (*overrides, f"seed={seed}"):
        command += ["--set", override]
    if subprocess.run(command, cwd=ROOT, check=False).returncode != 0:
        raise StageError(f"{recipe.name}, seed {seed}: the run failed; what it said is above.")
    name = load_recipe(recipe, overrides).name
    return row_of(sorted((out / f"seed{seed}" / name).glob(f"*/{MANIFEST}")), name, seed)


def row_of(manifests: list[Path], name: str, seed: int) -> dict[str, Any]:
    """Return what a finished run trained and scored.

    Raises:
        StageError: no scores, or no training.
    """
    artifacts = [open_artifact(path.parent) for path in manifests]
    scored = [artifact for artifact in artifacts if artifact.kind is Kind.SCORES]
    trained = [artifact for artifact in artifacts if artifact.stage == "train"]
    if not scored or not trained:
        raise StageError(f"{name}, seed {seed}: expected a stage `train` and a stage `evaluate` in the recipe.")
    return {"name": name, "seed": seed, "train": trained[0].facts, "scored": scored[-1].facts}


def same_budget(recipes: list[Path], overrides: list[str]) -> None:
    """Refuse recipes whose data or training budget differ.

    Raises:
        StageError: says which field differs.
    """
    budgets = {}
    for path in recipes:
        recipe = load_recipe(path, overrides, check_requires=False)
        train = next(stage for stage in recipe.stages if isinstance(stage, Train))
        budgets[path.name] = {"data": recipe.data} | {field: getattr(train.training, field) for field in SHARED}
    first_name, first = next(iter(budgets.items()))
    for name, budget in budgets.items():
        for field, value in budget.items():
            if value != first[field]:
                raise StageError(f"{name}: {field} is {value}, and in {first_name} {first[field]}. Make them equal.")


def table(rows: list[dict[str, Any]]) -> str:
    """Return a line per run."""
    lines = [f"{'recipe':34} {'seed':>4} {'params':>9} " + " ".join(f"{column:>17}" for column in COLUMNS)]
    for row in sorted(rows, key=lambda row: (row["seed"], row["name"])):
        scores = row["scored"]["scores"]
        values = scores | scores["extra"]
        cells = " ".join(f"{values.get(column, float('nan')):17.4f}" for column in COLUMNS)
        lines.append(f"{row['name']:34} {row['seed']:4} {row['scored']['params']:9} {cells}")
    return "\n".join(lines)


@console()
def main() -> int:
    """Run the command line; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", type=Path, help="recipes with `train` and `evaluate`; default: the three")
    parser.add_argument("--out", type=Path, default=Path("out/detectors"), help="folder of the runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="one run each (default: 0)")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="override, for every recipe")
    parser.add_argument("--record", type=Path, help="file to write; it must not exist")
    options = parser.parse_args()
    recipes = options.recipes or list(RECIPES)
    try:
        refuse_existing(options.record)
        same_budget(recipes, options.set)
        rows = [run(recipe, seed, options.set, options.out) for seed in options.seeds for recipe in recipes]
        print(table(rows))
        overrides = ["=".join(without_folders(one.split("=", 1))) for one in options.set]
        write_record(options.record, head("detectors") | {"overrides": overrides, "runs": rows})
    except CompressError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
