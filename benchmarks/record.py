"""Keep the numbers of a run: one file in benchmarks/records/, never edited afterwards.

    python benchmarks/record.py out/dcfl_mbv2_hituav --split test [--note TEXT]

Reads the sealed artifacts of a run (a finished or an unfinished one) and writes its rows, the benchmark's settings,
the recipe and its digest, commit, versions and machine. The README's table of results is made from these files by
`scripts/update_readme.py`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.record_file import RECORDS, write_record
from compress.artifact import MANIFEST, Artifact, damage, file_digest, open_artifact
from compress.errors import CompressError, StageError
from compress.kind import Kind
from compress.machine import describe_machine
from compress.report.collect import collect_rows, float_artifact, in_order, stage_records

FORMAT_VERSION = 1


def make_record(run: Path, *, split: str, recipe: Path | None, note: str) -> dict[str, Any]:
    """Return the record of the artifacts below a run's folder.

    Raises:
        StageError: there is no artifact, or one is damaged.
    """
    folders = sorted(path.parent for path in run.glob(f"*/{MANIFEST}"))
    if not folders:
        raise StageError(f"{run}: no artifact, expected the folder of a run (out/<recipe name>). Run its recipe first.")
    for folder in folders:
        if (reason := damage(folder)) is not None:
            raise StageError(f"{folder}: damaged: {reason}. Run the recipe again; only this stage is rebuilt.")
    artifacts = in_order({artifact.label: artifact for artifact in map(open_artifact, folders)})
    start = float_artifact(artifacts)
    report = _report(artifacts)
    baseline = report.get("baseline_label")
    best = report.get("baseline_labels") or ({"map50": baseline} if baseline else {})
    rows = collect_rows(artifacts, split, list(dict.fromkeys(label for label in best.values() if label)))
    return {
        "format_version": FORMAT_VERSION,
        "name": run.name,
        "date": report.get("created") or datetime.now(UTC).isoformat(timespec="seconds"),
        "note": note,
        "split": split,
        "recipe_sha256": file_digest(recipe) if recipe else None,
        "recipe_digest": report.get("recipe_digest"),
        "recipe": report.get("recipe"),
        "float": start.label if start else None,
        # Of the run where its report says so; else of this moment, which may be another commit.
        "environment": report.get("environment") or describe_machine(),
        "environment_is_of": "run" if report else "record",
        "baseline": baseline,
        "baselines": best,
        "rows": [row.model_dump() for row in rows],
        "latency": [artifact.facts for artifact in artifacts if artifact.kind is Kind.LATENCY],
        "stages": [record.model_dump() for record in stage_records(artifacts)],
    }


def _report(artifacts: Sequence[Artifact]) -> dict[str, Any]:
    """Return report.json of the run, {} if it has none yet."""
    found = [artifact for artifact in artifacts if artifact.kind is Kind.REPORT]
    return json.loads(found[-1].file("report.json").read_text(encoding="utf-8")) if found else {}


def main() -> int:
    """Write the record; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of the run, out/<recipe name>")
    parser.add_argument("--split", default="test", help="split whose scores count (default: test)")
    parser.add_argument("--recipe", type=Path, help="its recipe file, for the digest")
    parser.add_argument("--note", default="", help="what a reader must know, e.g. what was not run")
    parser.add_argument("--out", type=Path, help="file to write (default: benchmarks/records/<date>_<name>.json)")
    options = parser.parse_args()
    try:
        record = make_record(options.run, split=options.split, recipe=options.recipe, note=options.note)
        target = options.out or RECORDS / f"{record['date'][:10]}_{record['name']}.json"
        write_record(target, record)
    except CompressError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
