"""Run the stages of a recipe in order: from the cache where nothing changed, else in a child process.

Folder `out/<recipe name>/`: one sealed folder per stage (`03_qat`), `.new` for the one in the
making, `.scratch` for what survives a kill, `.lock`.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from compress import artifact as artifacts
from compress import progress
from compress.artifact import Artifact, hash_json
from compress.dataset import Preloads
from compress.detector import Detector, RefusesExport
from compress.engine.child import disk_errors_named, run_in_child
from compress.engine.decisions import ASKED, FIRST, NEW, Decision, Result, changes_text, plan_text, reasons_text
from compress.engine.dry_pass import DryPass, dry_pass
from compress.engine.forecast import forecast, read_forecast
from compress.engine.keys import KeyMaker, explain_change
from compress.engine.objects import tell_objects
from compress.engine.sharing import OwnFolder, Workshop
from compress.engine.status import StatusBoard
from compress.errors import CompressError, DataError, RecipeError, suggest
from compress.folder_lock import keep_lock, lock_folder
from compress.kind import Kind
from compress.number_text import duration_text
from compress.plugins import check_metadata, make_detector
from compress.recipe.model import Recipe
from compress.recipe.plan import MODEL_KINDS, PlannedStage, make_plan
from compress.report.forecast import Forecast
from compress.stage import Stage, StageContext
from compress.stages.report import Report


class Run:
    """One recipe with its folder, detector and keys: what deciding and running share."""

    def __init__(self, recipe: Recipe, out: Path, *, start: str | None = None, until: str | None = None) -> None:
        """Resolve the plan.

        Args:
            recipe: from `load_recipe`.
            out: folder of all recipes' artifacts; this one uses `out / recipe.name`.
            start: label of the stage from which on everything runs again, cached or not.
            until: label of the last stage to consider.

        Raises:
            RecipeError: `start` or `until` names no stage, or the order is illegal.
        """
        plan, problems = make_plan(recipe.stages)
        if problems:
            raise RecipeError([f"stages[{problem.origin}]: {problem.text}" for problem in problems])
        first = len(plan) if start is None else _number(plan, start, "--from")
        last = len(plan) - 1 if until is None else _number(plan, until, "--until")
        if start is not None and first > last:
            raise RecipeError(f"--from {start}: it comes after --until {until}, so nothing is left to run. Swap them.")
        self.recipe = recipe
        self.plan = plan[: last + 1]
        self.root = out / recipe.name
        self.detector: Detector = make_detector(recipe.detector, recipe.data)
        self._first_forced = first
        self._keys = KeyMaker(recipe, self.detector)
        self._damage: dict[Path, str | None] = {}

    def decide_all(self) -> list[Decision]:
        """Return what a run would do, without doing it."""
        decisions: dict[str, Decision] = {}
        for planned in self.plan:
            decisions[planned.label] = self.decide(planned, decisions)
        return list(decisions.values())

    def decide(self, planned: PlannedStage, earlier: Mapping[str, Decision]) -> Decision:
        """Return whether a stage is cached, given what was decided for those before it."""
        inputs = {name: earlier[label].artifact for name, label in planned.inputs.items()}
        digests = {name: artifact.digest if artifact else None for name, artifact in inputs.items()}
        parts = self._keys.parts(planned.stage, digests)
        reasons: list[str] = []
        if planned.number >= self._first_forced:
            reasons.append(ASKED)
        reasons += [
            f"input {label}{FIRST}" for name, label in planned.inputs.items() if earlier[label].artifact is None
        ]
        folder = artifacts.find_folder(self.root, planned.label)
        if folder is None:
            return Decision(planned, "run", (NEW,), parts)
        damage = self._check(folder)
        if damage is not None:
            return Decision(planned, "run", (f"damaged: {damage}",), parts)
        artifact = artifacts.open_artifact(folder)
        if artifact.key != hash_json(parts):
            reasons += explain_change(artifact.key_parts or {}, parts, planned.inputs)
        if reasons:
            return Decision(planned, "run", tuple(dict.fromkeys(reasons)), parts)
        return Decision(planned, "cached", (), parts, artifact)

    def check(self, decisions: Sequence[Decision]) -> None:
        """Refuse now what would fail later: metadata out of bounds, an impossible export, a wrong or empty split.

        Only what is to be run is looked at.

        Raises:
            DetectorError: the metadata that model files would carry.
            RecipeError: an export, with its place in the recipe.
            DataError: lists what is wrong with a split, or that it has no object to learn or to measure by.
        """
        planned = [decision.planned for decision in decisions if decision.state == "run"]
        if planned:
            check_metadata(self.detector)
        exports = [one for one in planned if one.stage.MAKES is Kind.ONNX]
        if exports and isinstance(self.detector, RefusesExport):
            refusal = self.detector.export_refusal()
            if refusal is not None:
                raise RecipeError([f"{self.recipe.place_of(one.origin)}: {refusal}" for one in exports])
        for split in dict.fromkeys(split for one in planned for split in one.stage.splits()):
            self.detector.data.check(split)
        refusals, notices = tell_objects(self.detector.data, planned, self.recipe.place_of)
        if refusals:
            raise DataError("\n".join(refusals))
        for notice in notices:
            progress.warn(notice)

    def dry_pass(self, decisions: Sequence[Decision]) -> DryPass | None:
        """Take a fresh network through the stages that are to run; see `compress.engine.dry_pass`."""
        return dry_pass(self.recipe, self.detector, decisions, self.root)

    def forecast(self, decisions: Sequence[Decision]) -> Forecast | str | None:
        """Say what the stages would leave; see `compress.engine.forecast`."""
        return forecast(self.recipe, self.detector, decisions, self.root)

    def context(
        self, planned: PlannedStage, earlier: Mapping[str, Decision], folder: Path, scratch: Path
    ) -> StageContext:
        """Return what the stage may touch."""
        inputs: dict[str, Artifact] = {}
        for name, label in planned.inputs.items():
            artifact = earlier[label].artifact
            assert artifact is not None
            inputs[name] = artifact
        recipe = self.recipe
        record = recipe.model_dump(mode="json", by_alias=True)
        foreseen = read_forecast(self.root)
        return StageContext(
            planned.label,
            folder,
            scratch,
            inputs,
            self.detector,
            recipe.seed,
            recipe.device,
            record,
            None if foreseen is None else foreseen.model_dump(mode="json"),
        )

    def execute(
        self, decision: Decision, earlier: Mapping[str, Decision], root: Path, locks: tuple[int, ...]
    ) -> Artifact:
        """Run one stage in a child and seal what it made.

        Args:
            decision: about the stage.
            earlier: decisions about the stages before it, with their artifacts.
            root: folder to make it in, the run's own or that of a shared stage.
            locks: file descriptors of locks, which the child must not keep; the first is that of `root`.

        Raises:
            CompressError: what the stage raised; nothing is sealed, its scratch folder stays.
        """
        planned, stage = decision.planned, decision.planned.stage
        key = hash_json(decision.parts)
        keep_lock(root, locks[0])
        with disk_errors_named(planned.label, root):
            folder = artifacts.new_folder(root, planned.folder_name)
            scratch = scratch_folder(root, decision)
            context = self.context(planned, earlier, folder, scratch)
            outcome = run_in_child(
                lambda: stage.run(context),
                label=planned.label,
                seed=context.seed,
                result=context.scratch / "result.json",
                close=locks,
                folders=(folder, *(artifact.path for artifact in context.inputs.values())),
            )
            keep_lock(root, locks[0])
            progress.restore_warnings(outcome.warnings)
            facts = {**outcome.facts, "warnings": outcome.warnings} if outcome.warnings else outcome.facts
            old = artifacts.find_folder(root, planned.label)
            draft = Artifact(
                path=folder,
                stage=stage.stage,
                label=planned.label,
                kind=stage.MAKES,
                key=key,
                digest="",
                facts=facts,
                seconds=outcome.seconds,
                peak_memory_bytes=outcome.peak_memory_bytes,
                lineage=planned.lineage,
                key_parts=decision.parts,
                threads=outcome.threads,
            )
            sealed = artifacts.seal(draft, root=root, name=planned.folder_name)
            if old is not None and old != sealed.path:
                artifacts.retire(old, root)
        for left in scratch.parent.glob(f"{planned.label}-????????????????"):
            artifacts.remove(left)
        return sealed

    def rename_folder(self, decision: Decision) -> Artifact:
        """Give a cached artifact the number it has now (a stage was put in or taken out before it)."""
        assert decision.artifact is not None
        target = self.root / decision.planned.folder_name
        if decision.artifact.path != target:
            artifacts.retire(target, self.root)
            decision.artifact.path.rename(target)
        return replace(decision.artifact, path=target)

    def _check(self, folder: Path) -> str | None:
        if folder not in self._damage:
            self._damage[folder] = artifacts.damage(folder)
        return self._damage[folder]


def scratch_folder(root: Path, decision: Decision) -> Path:
    """Return the folder of a stage and key that survives a kill, made if it is not there."""
    return artifacts.make_folder(root / ".scratch" / f"{decision.planned.label}-{hash_json(decision.parts)[:16]}")


def run(
    recipe: Recipe,
    out: Path,
    *,
    start: str | None = None,
    until: str | None = None,
    wait: bool = False,
    rehearse: bool = True,
    foresee: bool = True,
    workshop: Workshop | None = None,
) -> list[Result]:
    """Bring all artifacts of a recipe up to date and return them in order.

    Args:
        recipe: from `load_recipe`.
        out: folder of all recipes' artifacts.
        start: label of the stage from which on everything runs again, cached or not.
        until: label of the last stage to run.
        wait: wait for another run in the same folder instead of refusing.
        rehearse: take a fresh network through all stages first (the dry pass), unless it passed before.
        foresee: say first what the stages should leave, where a report will compare it with what they left.
        workshop: where stages are made and when; default: in the run's own folder, at once.

    Raises:
        CompressError: a stage failed or cannot work on this network, the data is wrong, or the folder is in use. What
            was sealed before stays; the same command resumes.
    """
    progress.clear_warnings()
    workshop = workshop or OwnFolder()
    job = Run(recipe, out, start=start, until=until)
    with lock_folder(job.root, wait=wait) as lock:
        with workshop.at_work():
            artifacts.recover(job.root)
            decisions = _begin(job, rehearse=rehearse, foresee=foresee)
        board = StatusBoard.open(job.root, recipe.name, decisions)
        try:
            with progress.listening(board.hear):
                results = _bring_up_to_date(job, board, workshop, lock)
        except CompressError as error:
            board.close("failed", str(error))
            raise
        except BaseException:
            board.close("interrupted")
            raise
        board.close("done")
        return results


def _bring_up_to_date(job: Run, board: StatusBoard, workshop: Workshop, lock: int) -> list[Result]:
    """Take each stage from the cache or run it."""
    done: dict[str, Decision] = {}
    results: list[Result] = []
    for planned in job.plan:
        with workshop.at_work():
            decision = job.decide(planned, done)
        if decision.state == "cached":
            artifact = job.rename_folder(decision)
            progress.restore_warnings(artifact.facts.get("warnings", ()))
        else:
            progress.say(f"{planned.label}: {reasons_text(decision.reasons)}")
            board.begin(planned.label)
            artifact = workshop.make(decision, job.root, partial(job.execute, decision, done), lock)
            progress.say(f"{planned.label}: done in {duration_text(artifact.seconds)}")
        board.end(planned.label, artifact.seconds, cached=decision.state == "cached")
        done[planned.label] = replace(decision, artifact=artifact)
        results.append(Result(artifact, decision.state == "cached"))
    return results


def _begin(job: Run, *, rehearse: bool, foresee: bool) -> list[Decision]:
    """Say what will run, refuse what cannot, and get ready; return what was decided."""
    decisions = job.decide_all()
    progress.say(plan_text(decisions))
    if (changes := changes_text(decisions)) is not None:
        progress.say(changes)
    job.check(decisions)
    preload(job.detector, [decision.planned.stage for decision in decisions if decision.state == "run"])
    passed = job.dry_pass(decisions) if rehearse else None
    if passed is not None:
        progress.say(str(passed))
    if foresee and any(isinstance(stage, Report) for stage in job.recipe.stages):
        foreseen = job.forecast(decisions)
        if foreseen is not None:
            progress.say(forecast_text(foreseen))
    return decisions


def forecast_text(found: Forecast | str) -> str:
    """Return what the stages should leave, or why nobody knows, for people."""
    return f"forecast: not made: {found}" if isinstance(found, str) else str(found)


def preload(detector: Detector, stages: Sequence[Stage]) -> None:
    """Import what the children need once, here. No torch operation may run in this process.

    Plug-ins (hook `Preloads`) and stages name further modules that are slow to import in a class variable `PRELOAD`.
    """
    if not any(stage.MAKES in MODEL_KINDS or MODEL_KINDS & set(stage.NEEDS) for stage in stages):
        return
    for notice in ("fast_hadamard_transform", "Positional args are being deprecated", "Named tensors"):
        warnings.filterwarnings("ignore", message=notice)  # of libraries; nothing that a user could act on
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # "No CUDA runtime is found"
    of_stages = [name for stage in stages for name in stage.PRELOAD]
    plugins = (detector, detector.data)
    of_plugins = [name for plugin in plugins if isinstance(plugin, Preloads) for name in plugin.PRELOAD]
    required = [name for plugin in plugins for name in plugin.REQUIRES]
    for name in dict.fromkeys(("torch", *required, *of_plugins, *of_stages)):
        if importlib.util.find_spec(name.partition(".")[0]) is not None:
            importlib.import_module(name)


def _number(plan: Sequence[PlannedStage], label: str, option: str) -> int:
    for planned in plan:
        if planned.label == label:
            return planned.number
    raise RecipeError(f"{option} {label}: no stage has that name.{suggest(label, [p.label for p in plan])}")
