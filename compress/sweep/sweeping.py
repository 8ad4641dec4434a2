"""Runs a sweep: trials are chosen, handed to workers, read from their folders and told, until the budget is used up.

Folder `out/<name of the sweep>/`: `study.journal` (what was chosen and what it came to), `trials/` (a recipe, a task,
an answer, a log and a run folder of links each), `shared/` (the stages themselves), `points/` (a recipe per point of
the front), `front.json` and `front.md`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from compress.artifact import make_folder, to_json
from compress.engine import from_python
from compress.errors import CompressError, StageError
from compress.folder_lock import lock_folder
from compress.number_text import duration_text
from compress.progress import say, warn
from compress.sweep.crew import Crew, Order, log_tail
from compress.sweep.front import Front, Point, make_front, point_text
from compress.sweep.measured import Measured, read_measured
from compress.sweep.reading import LoadedSweep
from compress.sweep.study import Study, Trial
from compress.sweep.trial_recipe import LOOK, Looks, trial_recipe
from compress.sweep.worker import Answer, Task, read_answer
from compress.whole_file import write_whole

MOST_LOSSES = 3  # of one trial: workers that died without an answer


@dataclass(frozen=True)
class _Case:
    """One run of the recipe that is to be made: a trial, or the recipe as it stands (trial is None)."""

    name: str
    trial: Trial | None
    task: Task
    looks: Looks


class Sweeping:
    """A sweep with its folder, study and crew."""

    def __init__(self, loaded: LoadedSweep, out: Path, crew: Crew) -> None:
        """Take what is needed; nothing runs yet.

        Args:
            loaded: from `load_sweep`.
            out: folder of all sweeps and recipes; this one uses `out / name`.
            crew: who runs the trials.
        """
        self._loaded = loaded
        self._sweep = loaded.sweep.model_copy(update={"workers": loaded.sweep.workers or crew.size})
        self._out, self.root = out, out / loaded.sweep.name
        self._crew = crew
        self._cases: dict[str, _Case] = {}
        self._lost: dict[str, int] = {}
        self._began = time.monotonic()
        self._before = 0.0

    def run(self) -> Front:
        """Bring the sweep to its end, from wherever it was stopped.

        Raises:
            CompressError: the recipe cannot work, the folder is in use, or no trial came through.
        """
        with lock_folder(self.root):
            study = Study(self.root / "study.journal", self._sweep, self._loaded.identity())
            self._before = study.seconds
            say(f"{self.root}: {_begin_text(study, self._crew)}")
            baseline = [self._case(None)] if self._sweep.baseline else []
            self._rehearse(baseline[0] if baseline else None)
            try:
                self._search(study, baseline)
            finally:
                self._crew.close()
                study.note_seconds(self._seconds)
            return self._end(study)

    @property
    def _seconds(self) -> float:
        return self._before + time.monotonic() - self._began

    def _is_late(self) -> bool:
        hours = self._sweep.budget.hours
        return hours is not None and self._seconds > hours * 3600

    def _rehearse(self, baseline: _Case | None) -> None:
        """Say now what would fail in every trial: check data, and take a fresh network through the stages once."""
        if baseline is not None and self._answer(baseline) is None:
            task = baseline.task
            plan = from_python.plan(task.recipe, out=task.out, allow_code=task.allow_code, forecast=False)
            if plan.dry_pass is not None:
                say(str(plan.dry_pass))

    def _search(self, study: Study, baseline: Sequence[_Case]) -> None:
        waiting = list(baseline)
        while not self._is_late():
            trials = study.fill_batch()
            if not trials and not waiting:
                return
            self._make([*waiting, *map(self._case, trials)], study)
            waiting = []
            if any(self._answer(self._case(trial)) is None for trial in trials):
                break
            for trial in trials:
                self._tell(study, trial)
            study.note_seconds(self._seconds)
        say(f"the budget of {self._sweep.budget.hours:g} hours is used up; raise budget.hours to go on")

    def _make(self, cases: Sequence[_Case], study: Study) -> None:
        """Have cases run until each has an answer, or the time is up."""
        todo = deque(self._order(case) for case in cases if self._answer(case) is None)
        running = 0
        try:
            while todo or running:
                while todo and running < self._crew.size and not self._is_late():
                    self._crew.start(todo.popleft())
                    running += 1
                if not running:
                    return
                for order in self._crew.wait():
                    running -= 1
                    todo.extend(self._next(self._cases[order.name], order))
                    if self._answer(self._cases[order.name]) is not None:
                        study.note_seconds(self._seconds)
                        say(self._line(self._cases[order.name]) + self._left_text(study))
        except BaseException:
            self._crew.close()
            raise

    def _order(self, case: _Case) -> Order:
        """Return what is to be done next for a case: all of it, or what any machine may do, or the timing."""
        if not self._crew.times_apart or case.looks.reference is None:
            return Order(case.name, self._write_task(case, None))
        is_built = read_answer(Path(case.task.answer), LOOK) is not None
        return Order(case.name, self._write_task(case, None if is_built else LOOK), is_timing=is_built)

    def _next(self, case: _Case, order: Order) -> list[Order]:
        """Return what follows an order that ended: nothing, the timing, or the same again where it was lost."""
        until = None if order.is_timing or not self._crew.times_apart or case.looks.reference is None else LOOK
        if self._answer(case) is not None:
            return []
        if read_answer(Path(case.task.answer), until) is None:
            lost = self._lost[case.name] = self._lost.get(case.name, 0) + 1
            if lost >= MOST_LOSSES:
                text = f"its worker died {lost} times without an answer; last words: {log_tail(order.task)}"
                write_whole(case.task.answer, to_json(asdict(Answer("failed", text, 0.0, 0.0, None))))
                return []
            warn(f"{case.name}: its worker is gone; another one takes over, and sealed stages are kept")
        return [self._order(case)]

    def _answer(self, case: _Case) -> Answer | None:
        return read_answer(Path(case.task.answer), None)

    def _case(self, trial: Trial | None) -> _Case:
        """Return what a trial runs, its recipe written; None is the recipe as it stands."""
        name = self._name(trial)
        if name not in self._cases:
            values = {} if trial is None else trial.values
            text, looks = trial_recipe(self._loaded.recipe_with(values, name), self._sweep)
            folder = make_folder(self.root / "trials")
            recipe = folder / f"{name}.yaml"
            write_whole(recipe, text)
            stop = self._sweep.stop
            task = Task(
                name=name,
                recipe=str(recipe.resolve()),
                out=str(folder.resolve()),
                shared=str((self.root / "shared").resolve()),
                source=str((self._out / self._loaded.base.name).resolve()),
                answer=str((folder / f"{name}.answer.json").resolve()),
                until=None,
                limits=stop.max_drop.limits if stop and trial else {},
                allow_code=self._loaded.allow_code,
                here=str(Path.cwd()),
            )
            self._cases[name] = _Case(name, trial, task, looks)
        return self._cases[name]

    def _write_task(self, case: _Case, until: str | None) -> Path:
        file = Path(case.task.out) / f"{case.name}.task.json"
        write_whole(file, to_json({**asdict(case.task), "until": until}))
        return file

    def _tell(self, study: Study, trial: Trial) -> None:
        point = self._point(self._case(trial))
        values = None
        if point.measured is not None:
            values = [point.measured.value(objective) for objective in self._sweep.objectives]
        study.tell(trial.number, point.state, values)

    def _point(self, case: _Case) -> Point:
        """Return what a case with an answer came to."""
        answer = self._answer(case)
        assert answer is not None
        measured: Measured | None = None
        state, text = answer.state, answer.text
        if state == "done":
            try:
                measured = read_measured(case.task.root, case.looks)
                for objective in self._sweep.objectives:
                    measured.value(objective)
            except CompressError as error:
                state, text, measured = "failed", str(error), None
        number, values = (None, {}) if case.trial is None else (case.trial.number, case.trial.values)
        return Point(number, case.name, values, state, text, measured, answer.seconds, answer.cpu_seconds)

    def _line(self, case: _Case) -> str:
        return point_text(self._point(case), self._sweep.objectives)

    def _left_text(self, study: Study) -> str:
        """Return how many trials have ended, and about how long the others take at this rate."""
        done = sum(case.trial is not None and self._answer(case) is not None for case in self._cases.values())
        done += sum(trial.state != "open" and self._name(trial) not in self._cases for trial in study.trials)
        if not done:
            return ""
        left = duration_text(self._seconds / done * (study.most - done))
        return f" ({done} of {study.most}{f', about {left} left' if done < study.most else ''})"

    def _name(self, trial: Trial | None) -> str:
        return f"{self._sweep.name}_{'recipe' if trial is None else f'{trial.number:03d}'}"

    def _end(self, study: Study) -> Front:
        """Return the front of what was told, its files written."""
        trials = [trial for trial in study.trials if trial.state != "open"]
        points = [self._point(self._case(trial)) for trial in trials]
        failed = [point for point in points if point.state == "failed"]
        if not any(point.measured for point in points):
            reason = failed[0].text if failed else "none was finished" if not points else points[0].text
            raise StageError(f"{self.root}: no trial came through, so there is no front. {reason}")
        baseline = None
        if self._sweep.baseline and self._answer(self._case(None)) is not None:
            baseline = self._point(self._case(None))
            if baseline.measured is None:
                warn(f"the recipe as it stands: {baseline.text}")
        front = make_front(self._sweep, points, study.best(), baseline, seconds=self._seconds)
        for point in front.best:
            recipe = self._loaded.recipe_with(point.values, point.name)
            title = f"# {point_text(point, self._sweep.objectives)}\n"
            how = f"# Run: krimp run {self.root}/points/{point.name}.yaml --out {self.root}/trials\n"
            write_whole(make_folder(self.root / "points") / f"{point.name}.yaml", title + how + recipe.written)
        write_whole(self.root / "front.json", to_json(front.to_json(), indent=1) + "\n")
        write_whole(self.root / "front.md", front.markdown())
        return front


def _begin_text(study: Study, crew: Crew) -> str:
    told = sum(trial.state != "open" for trial in study.trials)
    before = f"{told} trials were finished before, in {duration_text(study.seconds)}; " if told else ""
    return f"{before}{crew.size} at once"
