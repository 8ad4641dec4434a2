"""What Optuna does for a sweep: it chooses the values of the trials, and its journal remembers them.

Trials are chosen in batches and told in the order of their numbers, and each choice has a seed of its own. So what is
chosen depends on the file and on what earlier batches came to, never on which worker was faster, nor on a kill.
"""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from compress.artifact import to_json
from compress.errors import RecipeError
from compress.seeds import epoch_seed
from compress.sweep.model import MOST_POINTS, Dimension, Range, Sweep, is_smaller_better

_BATCH = "batch"
_SECONDS = "seconds"
_SIZE = "batch_size"
_IDENTITY = "identity"
_STATES = {"done": TrialState.COMPLETE, "stopped": TrialState.PRUNED, "failed": TrialState.FAIL}


@dataclass(frozen=True)
class Trial:
    """One choice of values.

    Attributes:
        number: from 0.
        batch: the trials of one were chosen together.
        values: field of the recipe -> value.
        state: 'open', 'done', 'stopped' or 'failed'.
    """

    number: int
    batch: int
    values: dict[str, Any]
    state: str


class Study:
    """The trials of a sweep; one process at a time, under the lock of the sweep's folder."""

    def __init__(self, file: Path, sweep: Sweep, identity: dict[str, Any]) -> None:
        """Open or begin the journal.

        Args:
            file: of the journal.
            sweep: what is searched.
            identity: what must not change while a sweep goes on, part by part.

        Raises:
            RecipeError: the journal is of another search under the same name.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        _drop_torn_line(file)
        self._sweep = sweep
        self._dimensions = {path: _distribution(sweep, dimension) for path, dimension in sweep.space.items()}
        self._study = optuna.create_study(
            study_name=sweep.name,
            storage=JournalStorage(JournalFileBackend(str(file), lock_obj=cast(Any, _HeldAlready()))),
            directions=["minimize" if is_smaller_better(name) else "maximize" for name in sweep.objectives],
            load_if_exists=True,
        )
        known = self._study.user_attrs.get(_IDENTITY)
        if known is None:
            self._study.set_user_attr(_SIZE, sweep.batch)
            self._study.set_user_attr(_IDENTITY, identity)
        elif known != identity:
            changed = [name for name in identity if known.get(name) != identity[name]]
            raise RecipeError(
                f"{file.parent}: holds trials of a sweep {sweep.name!r} in which {' and '.join(changed)} differed. "
                "Give this one another `name`, or remove the folder."
            )

    @property
    def trials(self) -> list[Trial]:
        """Return all trials that were chosen, in order."""
        return [self._trial(frozen) for frozen in self._frozen()]

    @property
    def _size(self) -> int | None:
        return cast("int | None", self._study.user_attrs[_SIZE])

    @property
    def seconds(self) -> float:
        """Return how long all runs of the sweep took, as far as it was noted."""
        return float(self._study.user_attrs.get(_SECONDS, 0.0))

    def note_seconds(self, seconds: float) -> None:
        """Note how long all runs of the sweep took together."""
        self._study.set_user_attr(_SECONDS, seconds)

    def fill_batch(self) -> list[Trial]:
        """Return the trials that are open, in order; where none is, a new batch is chosen.

        There is none left when the budget or the grid is used up. A batch is as large as it was when the sweep began.
        """
        self._forget_half_chosen()
        size = self._size
        known = self._frozen()
        batch = known[-1].user_attrs[_BATCH] if known else 0
        if known and not any(frozen.state == TrialState.RUNNING for frozen in known):
            batch += 1
        begun = sum(frozen.user_attrs[_BATCH] == batch for frozen in known)
        is_chosen = any(f.state != TrialState.RUNNING for f in known if f.user_attrs[_BATCH] == batch)
        left = self.most - len(known)
        wanted = left if size is None else min(left, size - begun)
        for index in range(0 if is_chosen else wanted):
            self._choose(len(known) + index, batch)
        return [trial for trial in self.trials if trial.state == "open"]

    def tell(self, number: int, state: str, values: Sequence[float] | None) -> None:
        """Say what a trial came to.

        Args:
            number: of the trial.
            state: 'done', 'stopped' or 'failed'.
            values: of the objectives, if it is done.
        """
        self._study.tell(number, values, state=_STATES[state])

    def best(self) -> list[int]:
        """Return the numbers of the trials that no other one beats in every objective."""
        return sorted(frozen.number for frozen in self._study.best_trials)

    @property
    def most(self) -> int:
        """Return how many trials there can be: the budget, or the whole grid if that is less."""
        points = MOST_POINTS
        if self._sweep.sampler.kind == "grid":
            points = math.prod(len(_choices(dimension)) for dimension in self._dimensions.values())
        return min(points, self._sweep.budget.trials)

    def _choose(self, position: int, batch: int) -> None:
        self._study.sampler = _sampler(self._sweep, self._dimensions, position, self._size)
        self._study.ask(fixed_distributions=self._dimensions).set_user_attr(_BATCH, batch)

    def _frozen(self) -> list[FrozenTrial]:
        return [frozen for frozen in self._study.get_trials(deepcopy=False) if _BATCH in frozen.user_attrs]

    def _forget_half_chosen(self) -> None:
        """Close what a kill left between the number of a trial and its last value."""
        for frozen in self._study.get_trials(deepcopy=False):
            if _BATCH not in frozen.user_attrs and frozen.state == TrialState.RUNNING:
                self._study.tell(frozen.number, state=TrialState.FAIL)

    def _trial(self, frozen: FrozenTrial) -> Trial:
        states = {state: name for name, state in _STATES.items()} | {TrialState.RUNNING: "open"}
        values = {
            path: json.loads(value) if isinstance(self._dimensions[path], CategoricalDistribution) else value
            for path, value in frozen.params.items()
        }
        ordered = {path: values[path] for path in self._sweep.space}
        return Trial(frozen.number, frozen.user_attrs[_BATCH], ordered, states[frozen.state])


class _HeldAlready:
    """The lock of the sweep's folder keeps other processes away, and the kernel frees it after a kill."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None: ...


def _sampler(
    sweep: Sweep, dimensions: dict[str, BaseDistribution], position: int, batch: int | None
) -> optuna.samplers.BaseSampler:
    """Return what chooses the trial at a position: the same values whenever and wherever it is asked."""
    settings = sweep.sampler
    if settings.kind == "grid":
        axes = {name: _choices(dimension) for name, dimension in dimensions.items()}
        grid: optuna.samplers.BaseSampler = optuna.samplers.GridSampler(axes, seed=settings.seed)
        # Its own stops the loop at the end, and there is no loop to stop.
        grid.after_trial = lambda *_: None  # type: ignore[method-assign]
        return grid
    seed = epoch_seed(settings.seed, position)
    if settings.kind == "tpe":
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=max(2, min(10, sweep.budget.trials // 3)))
    return optuna.samplers.NSGAIISampler(population_size=max(2, batch or 2), seed=seed)


def _choices(dimension: BaseDistribution) -> Sequence[Any]:
    return cast("Sequence[Any]", cast(Any, dimension).choices)


def _distribution(sweep: Sweep, dimension: Dimension) -> BaseDistribution:
    """Return a dimension as Optuna takes it; listed values are texts: 1 and true differ, and mappings may be there."""
    if sweep.sampler.kind == "grid" and isinstance(dimension, Range):
        dimension = tuple(dimension.values or ())
    if not isinstance(dimension, Range):
        return CategoricalDistribution([to_json(value) for value in dimension])
    if dimension.is_whole:
        high = dimension.low + (dimension.high - dimension.low) // (dimension.step or 1) * (dimension.step or 1)
        return IntDistribution(int(dimension.low), int(high), log=dimension.log, step=int(dimension.step or 1))
    return FloatDistribution(float(dimension.low), float(dimension.high), log=dimension.log, step=dimension.step)


def _drop_torn_line(file: Path) -> None:
    """Cut off a last line that was not written to its end: the machine went down meanwhile."""
    if not file.is_file():
        return
    with file.open("r+b") as journal:
        content = journal.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            journal.truncate(whole)
            os.fsync(journal.fileno())
