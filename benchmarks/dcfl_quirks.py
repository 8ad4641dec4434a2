"""Compare DCFL's default training rules with the published ones, one quirk at a time.

    python benchmarks/dcfl_quirks.py --data ../shared/data/hit-uav --list
    python benchmarks/dcfl_quirks.py --data ../shared/data/hit-uav --run default --seed 0
    python benchmarks/dcfl_quirks.py --data ../shared/data/hit-uav --all --seeds 0 1      (resumes; hours)
    python benchmarks/dcfl_quirks.py --record benchmarks/records/<date>_dcfl_quirks.json

Proxy budget, equal for every configuration: random crops of 320 px of the same 400 training images, the same seeds,
at most 25 minutes of training (the number of steps is fixed by --steps, so that a busy machine changes nothing), then
the whole val split. A run that was killed goes on from its last checkpoint; a finished one is not repeated.
The rows of the table in detectors/dcfl/README.md, section 7, that can be switched are named by their number.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # run as a file: make the repository importable, not the folder of this script
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.record_file import head, refuse_existing, write_record
from compress.dataset import Batch
from compress.errors import CompressError
from compress.progress import console
from compress.training.settings import TrainingFields
from compress.whole_file import write_whole
from detectors.data.formats.dota import DotaData, DotaDataset
from detectors.dcfl.adapter import Dcfl
from detectors.dcfl.config import DcflConfig
from detectors.dcfl.rules import Rules, published_rules

NUM_IMAGES = 400
CROP_PX = 320
BATCH_SIZE = 4
DEFAULT_STEPS = 900  # about 25 minutes at 0.4 s an image on one core
CLASSES = ("person", "car", "bicycle")
OURS = Rules(gauss_threshold=0.6)  # g as published, so that only the quirk differs
CONFIGURATIONS: dict[str, Rules] = {
    "default": OURS,
    "2+3 published ranking": replace(OURS, ranking="published"),
    "3 ranking on moved priors": replace(OURS, ranking="moved"),
    "5 fillers": replace(OURS, fill_short_boxes=True),
    "6 gate of the first box for ignored priors": replace(OURS, gate_ignored=True),
    "11 shift by image height": replace(OURS, shift_by_height=True),
    "16 divisor by image": replace(OURS, divisor_by_image=True),
    "compat": published_rules(),
    "default with g 0.8": replace(OURS, gauss_threshold=0.8),
}


class Trial(Dcfl):
    """DCFL with rules of its own."""

    rules: Rules = OURS

    def loss(self, model: Any, raw: Any, batch: Batch) -> dict[str, Any]:
        """Return the losses under `rules`."""
        from detectors.dcfl.losses import dcfl_loss

        return dcfl_loss(raw, batch, self.rules)


def make_subset(root: Path, folder: Path) -> Path:
    """Link training images, evenly spread by name, and the whole val split; return the folder."""
    for split, limit in (("train", NUM_IMAGES), ("val", None)):
        images = sorted((root / split / "images").iterdir())
        chosen = images if limit is None else images[:: max(1, len(images) // limit)][:limit]
        for part in ("images", "labelTxt"):
            (folder / split / part).mkdir(parents=True, exist_ok=True)
        for image in chosen:
            label = root / split / "labelTxt" / f"{image.stem}.txt"
            for source, part in ((image, "images"), (label, "labelTxt")):
                target = folder / split / part / source.name
                if not target.exists():
                    target.symlink_to(source.resolve())
    return folder


def detector_of(options: argparse.Namespace, name: str) -> Trial:
    """Return the plug-in for one configuration."""
    config = DcflConfig(
        backbone="mobilenet_v2", channels=64, classes=CLASSES, backbone_weights=options.backbone_weights
    )
    data = DotaData(
        root=str(make_subset(options.data, options.out / "data")),
        image_size=(512, 640),
        ignore=("dontcare",),
        merge={"othervehicle": "car"},
        splits={"train": "train", "val": "val"},
        crop_size=CROP_PX,
    )
    detector = Trial(config, DotaDataset(data, CLASSES))
    detector.rules = CONFIGURATIONS[name]
    return detector


def run(options: argparse.Namespace, name: str, seed: int) -> dict[str, Any]:
    """Train and score one configuration with one seed; return its row, from its file if it is done."""
    import torch

    from compress.runtime.forwards import torch_forward
    from compress.scoring import evaluate
    from compress.training.loop import fit

    folder = options.out / f"{name.replace(' ', '_')}_seed{seed}"
    done = folder / "row.json"
    if done.exists():
        finished: dict[str, Any] = json.loads(done.read_text())
        return finished
    folder.mkdir(parents=True, exist_ok=True)
    detector = detector_of(options, name)
    torch.manual_seed(seed)
    model = detector.build()
    settings = TrainingFields(
        epochs=1 + options.steps * BATCH_SIZE // NUM_IMAGES,
        max_steps=options.steps,
        batch_size=BATCH_SIZE,
        optimizer="adamw",
        lr=5e-4,
        weight_decay=0.05,
        schedule="cosine",
        warmup_steps=50,
        checkpoint_minutes=2,
    )
    begin = time.monotonic()
    result = fit(model, detector=detector, settings=settings, scratch=folder, label=f"{name}, seed {seed}", seed=seed)
    scores = evaluate(detector, torch_forward(model, len(detector.output_names()), "cpu"), "val")
    row = {
        "name": name,
        "seed": seed,
        "rules": asdict(CONFIGURATIONS[name]),
        "map": scores.map,
        "map_interval": scores.map_interval,
        "map75": scores.map75,
        "max_dets": scores.max_dets,
        "map50": scores.map50,
        "map50_interval": scores.map50_interval,
        "ap_method": scores.ap_method,
        "iou_threshold": scores.iou_threshold,
        "ap_per_class": dict(scores.ap_per_class),
        "recall": scores.recall,
        "extra": dict(scores.extra),
        "steps": options.steps,
        "history": result.history,
        "seconds_since_start_or_resume": round(time.monotonic() - begin, 1),
    }
    write_whole(done, json.dumps(row, indent=1, sort_keys=True) + "\n")
    for checkpoint in folder.glob("checkpoint*"):
        shutil.rmtree(checkpoint) if checkpoint.is_dir() else checkpoint.unlink()
    return row


def table(rows: list[dict[str, Any]]) -> str:
    """Return map (where every row has it) and map50 by configuration and seed, and the difference to the default."""
    metrics = [metric for metric in ("map", "map50") if all(row.get(metric) is not None for row in rows)]
    return "\n\n".join(_table_of(metric, rows) for metric in metrics)


def _table_of(metric: str, rows: list[dict[str, Any]]) -> str:
    by_name: dict[str, dict[int, float]] = {}
    for row in rows:
        by_name.setdefault(row["name"], {})[row["seed"]] = row[metric]
    base = by_name.get("default", {})
    lines = [f"{'configuration':45} {metric:5} by seed            minus default (same seeds)"]
    for name, values in by_name.items():
        shared = [values[seed] - base[seed] for seed in values if seed in base]
        difference = f"{sum(shared) / len(shared):+.4f} over {len(shared)}" if shared else "-"
        told = " ".join(f"{seed}: {value:.4f}" for seed, value in sorted(values.items()))
        lines.append(f"{name:45} {told:24} {difference}")
    return "\n".join(lines)


@console()
def main() -> int:
    """Run the command line; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="HIT-UAV in DOTA format")
    parser.add_argument("--out", type=Path, default=Path("out/dcfl_quirks"), help="folder of the runs")
    parser.add_argument(
        "--backbone-weights", help="file with torchvision's MobileNetV2; default: from scratch, for all"
    )
    parser.add_argument("--steps", type=int, default=DEFAULT_STEPS, help="optimizer steps of every run")
    parser.add_argument("--list", action="store_true", help="print the configurations")
    parser.add_argument("--run", choices=CONFIGURATIONS, metavar="NAME", help="one configuration")
    parser.add_argument("--seed", type=int, default=0, help="of --run")
    parser.add_argument("--all", action="store_true", help="every configuration, seed by seed")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="of --all")
    parser.add_argument("--record", type=Path, help="write the finished runs below --out as a record")
    options = parser.parse_args()
    if options.list:
        print("\n".join(CONFIGURATIONS))
        return 0
    try:
        refuse_existing(options.record)
    except CompressError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    wanted = [(options.run, options.seed)] if options.run else []
    if options.all:
        wanted = [(name, seed) for seed in options.seeds for name in CONFIGURATIONS]
    if wanted and options.data is None:
        parser.error("--data is needed to run a configuration")
    for name, seed in wanted:
        run(options, name, seed)
    rows = [json.loads(path.read_text()) for path in sorted(options.out.glob("*/row.json"))]
    print(table(rows))
    if options.record is not None and not rows:
        print(f"error: {options.out}: nothing has been run. Choose --run or --all.", file=sys.stderr)
        return 1
    write_record(options.record, head("dcfl_quirks") | {"configurations": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
