"""What a tracker is told of a run: settings, numbers, curves and files, from its sealed folders alone."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.artifact import MANIFEST, Artifact, hash_json, open_artifact
from compress.errors import DataError
from compress.kind import Kind
from compress.report.collect import in_order

_PICTURES = (".png",)
_DOCUMENTS = (".md", ".json", ".html")


@dataclass(frozen=True)
class RunRecord:
    """A run.

    Attributes:
        name: of the recipe.
        digest: of all its artifacts: the same run has the same one.
        settings: field of the recipe -> value as text, from the report; empty without one.
        numbers: 'label/fact' -> number.
        curves: label of a training -> its rows: epoch -> name -> number.
        files: report, charts and pictures.
        tags: what else identifies it.
    """

    name: str
    digest: str
    settings: Mapping[str, str]
    numbers: Mapping[str, float]
    curves: Mapping[str, Mapping[int, Mapping[str, float]]]
    files: tuple[Path, ...]
    tags: Mapping[str, str]

    @property
    def pictures(self) -> list[Path]:
        """Return the files that are pictures."""
        return [path for path in self.files if path.suffix in _PICTURES]


def read_run(folder: Path) -> RunRecord:
    """Return what a run's folder says.

    Args:
        folder: of the run, `out/NAME`.

    Raises:
        DataError: it holds no stage.
    """
    places = sorted(place.parent for place in folder.glob(f"[0-9]*_*/{MANIFEST}"))
    if not places:
        raise DataError(f"{folder}: is no folder of a run: it has no finished stage. Expected out/NAME-OF-THE-RECIPE.")
    artifacts = in_order({place.name: open_artifact(place) for place in places})
    reports = [one for one in artifacts if one.kind is Kind.REPORT]
    document = _document(reports[-1]) if reports else {}
    return RunRecord(
        name=folder.resolve().name,
        digest=hash_json([(one.label, one.key, one.digest) for one in artifacts]),
        settings=dict(flat_texts(document.get("recipe", {}))),
        numbers={name: value for one in artifacts for name, value in numbers_of(one)},
        curves={one.label: curve for one in artifacts if (curve := curve_of(one))},
        files=_files(reports),
        tags=_tags(document),
    )


def numbers_of(artifact: Artifact) -> Iterator[tuple[str, float]]:
    """Yield the finite numbers among the facts of a stage, those of scores and latencies included."""
    facts = {name: value for name, value in artifact.facts.items() if name != "history"}
    scores = facts.pop("scores", None) or {}
    models = facts.pop("models", None) or {}
    flat = {**facts, **scores, "seconds": artifact.seconds, "peak_memory_bytes": artifact.peak_memory_bytes}
    flat |= {f"extra/{name}": value for name, value in (scores.get("extra") or {}).items()}
    flat |= {
        f"{metric}_low": ends[0] for metric in ("map", "map75", "map50") if (ends := scores.get(f"{metric}_interval"))
    }
    flat |= {
        f"{metric}_high": ends[1] for metric in ("map", "map75", "map50") if (ends := scores.get(f"{metric}_interval"))
    }
    if isinstance(models, Mapping):
        flat |= {
            f"{label}/{name}": value
            for label, times in models.items()
            if isinstance(times, Mapping)
            for name, value in times.items()
        }
    for name, value in flat.items():
        if _is_number(value):
            yield f"{artifact.label}/{name}", float(value)


def curve_of(artifact: Artifact) -> dict[int, dict[str, float]]:
    """Return the rows of a training, epoch -> name -> number; empty of a stage that trained nothing."""
    rows = {}
    for row in artifact.facts.get("history") or ():
        values = {f"loss/{name.removeprefix('loss_')}": value for name, value in (row.get("losses") or {}).items()}
        values |= {name: value for name, value in row.items() if name not in ("epoch", "losses")}
        rows[int(row["epoch"])] = {name: float(value) for name, value in values.items() if _is_number(value)}
    return rows


def flat_texts(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield (path, text) of the fields of a recipe; a stage is named by its name, else by its type."""
    if isinstance(value, Mapping):
        for name, below in value.items():
            yield from flat_texts(below, f"{path}.{name}" if path else str(name))
    elif isinstance(value, Sequence) and not isinstance(value, str) and value and isinstance(value[0], Mapping):
        for number, below in enumerate(value):
            label = below.get("name") or below.get("stage") or str(number)
            yield from flat_texts(below, f"{path}.{number:02d}_{label}")
    else:
        yield path, value if isinstance(value, str) else json.dumps(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _document(report: Artifact) -> dict[str, Any]:
    file = report.file("report.json")
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read: {error}. Run the recipe's report again.") from error
    return found if isinstance(found, dict) else {}


def _files(reports: Sequence[Artifact]) -> tuple[Path, ...]:
    wanted = (*_DOCUMENTS, *_PICTURES)
    found = [path for one in reports for path in sorted(one.path.iterdir()) if path.suffix in wanted]
    return tuple(path for path in found if path.name != MANIFEST)


def _tags(document: Mapping[str, Any]) -> dict[str, str]:
    environment = document.get("environment") or {}
    wanted = {
        "krimp.recipe_digest": document.get("recipe_digest"),
        "krimp.created": document.get("created"),
        "krimp.split": document.get("split"),
        "krimp.requirements_met": document.get("requirements_met"),
        "krimp.cpu": environment.get("cpu"),
        "mlflow.source.git.commit": environment.get("commit"),
    }
    return {name: str(value) for name, value in wanted.items() if value is not None}
