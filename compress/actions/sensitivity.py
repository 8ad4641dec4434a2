"""Action of stage sensitivity: which part of a trained network can bear what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from compress.artifact import to_json
from compress.dataset import Scores
from compress.devices import on_device
from compress.model_folder import load_model
from compress.progress import say, warn
from compress.pruning.batches import batch_losses, train_batches
from compress.pruning.reasons import no_score
from compress.pruning.settings import PruningRules, PruningSettings
from compress.pruning.structured import score_channels, tried_coupling
from compress.quantization.calibration import first_images
from compress.report.document import finite
from compress.report.sensitivity import NotMeasured, SensitivityRow
from compress.report.sensitivity import Sensitivity as Found
from compress.report.sensitivity_chart import draw_sensitivity
from compress.sensitivity.changes import change_of
from compress.sensitivity.ledger import Rows, Watch, kept, measured
from compress.sensitivity.losses import loss_row
from compress.sensitivity.measuring import Scorer, errors_of, spread, spread_out
from compress.sensitivity.planning import Whole, activation_steps, in_order, input_ranges, weight_steps, with_freed
from compress.sensitivity.replay import Replay
from compress.sensitivity.steps import Step, channel_steps
from compress.sensitivity.strongest import strongest
from compress.stage import StageContext
from compress.stages.sensitivity import SCORED_SPLIT as SPLIT
from compress.stages.sensitivity import Sensitivity

BATCH_SIZE = 4  # of the importance
UNCHANGED = "unchanged"
FILE = "sensitivity.json"


def run(stage: Sensitivity, context: StageContext) -> dict[str, Any]:
    """Plan the steps, measure errors and losses, and write sensitivity.json and charts."""
    work = _Work(stage, context)
    planned = kept(context.scratch / "steps.json", work.plan)
    steps = [Step.from_json(one) for one in planned["steps"]]
    errors = work.errors(steps)
    scores = work.scores(strongest(steps)) if stage.score else {}
    whole, names = scores.get(UNCHANGED, {}), context.detector.output_names()
    found = Found(
        of=context.source.label,
        importance=stage.importance,
        images=stage.images,
        split=SPLIT if stage.score else None,
        score_images=whole.get("images"),
        metric=whole.get("metric"),
        reference=whole.get("value"),
        rows=[_row(step, errors[step.key], scores.get(step.key, {}), names) for step in steps],
        not_measured=[NotMeasured(part=part, reason=reason) for part, reason in planned["left_out"].items()],
    )
    charts = draw_sensitivity(found, context.folder)
    say(str(found))
    facts: dict[str, Any] = found.model_dump(mode="json") | {"charts": charts}
    context.folder.joinpath(FILE).write_text(to_json(facts, indent=1) + "\n", encoding="utf-8")
    return facts


class _Work:
    """The model with its groups and layers, and what is measured on it."""

    def __init__(self, stage: Sensitivity, context: StageContext) -> None:
        self.stage, self.context, self.detector = stage, context, context.detector
        self.model, _ = load_model(context.source.path, self.detector)
        self.replay = Replay(self.model)
        rules = PruningRules(self.detector.not_prunable(self.model), self.detector.custom_pruners(self.model))
        self.coupling = tried_coupling(self.model, self.detector.example_input(1), rules)

    def plan(self) -> dict[str, Any]:
        """Return the steps in the order of the network, and what is left out."""
        stage, example = self.stage, self.detector.example_input(1)
        whole = Whole.of(self.model, example)
        steps: list[Step] = []
        left_out = dict(whole.left_out)
        if stage.shares:
            scores = self._importance()
            left_out |= {g.root: no_score(stage.importance) for g in self.coupling.groups if g.root not in scores}
            removals = channel_steps(self.coupling.groups, scores, stage.shares)
            say(f"{stage.label}: what each of {len(removals)} removals of channels frees")
            steps += with_freed(removals, self.model, self.coupling, whole, example)
        steps += weight_steps(self.model, whole, stage.weight_bits)
        if stage.activation_bits:
            with on_device(self.model, self.context.device) as device:
                images = (batch.to(device) for batch in self._images())
                ranges = input_ranges(self.model, whole.layers, images)
            steps += activation_steps(whole, ranges, stage.activation_bits)
        return {"steps": [one.to_json() for one in in_order(steps, self.model)], "left_out": left_out}

    def errors(self, steps: Sequence[Step]) -> Rows:
        """Return key of a step -> `each` and `together`."""
        outputs, images = len(self.detector.output_names()), list(self._images())

        def measure(block: list[Step], watch: Watch) -> Rows:
            changes = [change_of(step, self.model, self.coupling) for step in block]
            with on_device(self.model, self.context.device):
                found = errors_of(self.replay, changes, watch(images), outputs=outputs)
            pairs = zip(block, found, strict=True)
            return {step.key: {"each": errors.each, "together": errors.together} for step, errors in pairs}

        label, path = f"{self.stage.label}: errors", self.context.scratch / "errors.jsonl"
        return measured(path, steps, measure, images=len(images), label=label)

    def scores(self, steps: Sequence[Step]) -> Rows:
        """Return key of a step, or `UNCHANGED` -> what `loss_row` says."""
        data, wanted = self.detector.data, self.stage.score_images
        pictures = data.images(SPLIT)
        step, stop = spread(len(pictures), wanted)
        scorer = Scorer(self.replay, self.detector)
        before: list[Scores] = []

        def measure(block: list[Step], watch: Watch) -> Rows:
            changes = [change_of(step, self.model, self.coupling) for step in block]
            with on_device(self.model, self.context.device):
                found = scorer.detections([None, *changes], watch(spread_out(pictures, wanted)))
            if not before:
                before.append(data.score(found[0], scorer.truths))
            after = [*before, *(data.score(detections, scorer.truths) for detections in found[1:])]
            keys = [UNCHANGED, *(step.key for step in block)]
            return {key: loss_row(before[0], one) for key, one in zip(keys, after, strict=True)}

        label, path = f"{self.stage.label}: {SPLIT}", self.context.scratch / "scores.jsonl"
        rows = measured(path, steps, measure, images=len(range(0, stop, step)), label=label)
        if rows and rows[UNCHANGED]["metric"] is None:
            warn(f"{self.stage.label}: no object in the images of {SPLIT!r} that were scored, so no loss is known.")
        return rows

    def _importance(self) -> dict[str, Tensor]:
        stage, reads = self.stage, self.stage.importance == "group_taylor"
        settings = PruningSettings(importance=stage.importance, seed=self.context.seed)
        with on_device(self.model, self.context.device if reads else "cpu"):
            batches = train_batches(
                self.detector,
                count=stage.taylor_batches,
                batch_size=BATCH_SIZE,
                seed=self.context.seed,
                label=f"{stage.label}: importance",
            )
            losses = batch_losses(self.model, self.detector, batches) if reads else iter(())
            return score_channels(self.model, self.coupling.groups, settings, losses)

    def _images(self) -> Iterable[Tensor]:
        return first_images(self.detector, "train", self.stage.images, seed=self.context.seed)


def _row(step: Step, error: Mapping[str, Any], score: Mapping[str, Any], names: Sequence[str]) -> SensitivityRow:
    removes = step.what == "channels"
    fields = {
        "what": step.what,
        "part": step.part,
        "amount": step.amount,
        "channels": len(step.channels) if removes else None,
        "width": step.width if removes else None,
        "error": error["together"],
        "errors": dict(zip(names, error["each"], strict=True)),
        "loss": score.get("loss"),
        "loss_interval": score.get("interval"),
        "params_freed": step.freed.params,
        "macs_freed": step.freed.macs,
        "bytes_freed": step.freed.bytes,
    }
    return SensitivityRow.model_validate(finite(fields))
