"""A run into MLflow: a server, a database or a folder."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

from compress.curves import refuse_missing
from compress.errors import StageError
from compress.trackers.run_record import RunRecord

T = TypeVar("T")

DIGEST_TAG = "krimp.digest"
_FOLDERS_ALLOWED = "MLFLOW_ALLOW_FILE_STORE"  # MLflow refuses folders as stores without it
_LONGEST_VALUE = 6000
_LONGEST_NAME = 250
_METRICS_AT_ONCE, _PARAMS_AT_ONCE = 1000, 100
_NOT_IN_NAMES = re.compile(r"[^\w\-. /]")


def to_mlflow(run: RunRecord, uri: str) -> tuple[str, bool]:
    """Write a run into a store of MLflow, under the experiment that is called like its recipe.

    Args:
        run: it.
        uri: http://..., sqlite:///file.db, or a folder.

    Returns:
        Id of MLflow's run, and whether it was written now: the same run is there once.

    Raises:
        StageError: MLflow is not installed, or its store refuses.
    """
    refuse_missing("mlflow")
    if "://" not in uri or uri.startswith("file:"):
        os.environ.setdefault(_FOLDERS_ALLOWED, "true")
    from mlflow.exceptions import MlflowException

    try:
        return _write(run, uri)
    except (MlflowException, OSError) as error:
        text = " ".join(str(error).split())[:300].removesuffix(".")
        raise StageError(f"--mlflow {uri}: {text}. Check the address.") from error


def _write(run: RunRecord, uri: str) -> tuple[str, bool]:
    from mlflow.entities import Metric, Param
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    known = client.get_experiment_by_name(run.name)
    experiment = client.create_experiment(run.name) if known is None else known.experiment_id
    found = client.search_runs([experiment], f"tags.`{DIGEST_TAG}` = '{run.digest}' and attributes.status = 'FINISHED'")
    if found:
        return str(found[0].info.run_id), False
    made = client.create_run(experiment, run_name=run.name, tags={DIGEST_TAG: run.digest, **run.tags})
    identity = str(made.info.run_id)
    now = int(time.time() * 1000)
    metrics = [Metric(mlflow_name(name), value, now, 0) for name, value in run.numbers.items()]
    metrics += [
        Metric(mlflow_name(f"{label}/{name}"), value, now, epoch)
        for label, rows in run.curves.items()
        for epoch, values in rows.items()
        for name, value in values.items()
    ]
    params = [Param(mlflow_name(name), text[:_LONGEST_VALUE]) for name, text in run.settings.items()]
    for part in _parts(params, _PARAMS_AT_ONCE):
        client.log_batch(identity, params=part)
    for part in _parts(metrics, _METRICS_AT_ONCE):
        client.log_batch(identity, metrics=part)
    for path in run.files:
        client.log_artifact(identity, str(path), "report")
    client.set_terminated(identity)
    return identity, True


def mlflow_name(name: str) -> str:
    """Return a name as MLflow takes it: letters, digits and -_. /, at most 250."""
    return _NOT_IN_NAMES.sub("_", name)[:_LONGEST_NAME]


def _parts(items: Sequence[T], size: int) -> Iterator[list[T]]:
    rest: Iterable[Any] = iter(items)
    while part := list(islice(rest, size)):
        yield part
