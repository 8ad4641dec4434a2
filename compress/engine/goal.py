"""Runs the attempts at a recipe's goal: plan, train, look at 'val', and decide what to try next.

'test' is read once, by the report, and only of the attempt that is chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.artifact import Artifact
from compress.engine import pipeline
from compress.engine.decisions import Result
from compress.errors import StageError
from compress.metrics.loss import Loss, loss_of
from compress.metrics.paired import load_resampled
from compress.number_text import size_text
from compress.progress import say
from compress.recipe.goal import FLOAT_LOOK, Attempt, Goal
from compress.recipe.model import Recipe


@dataclass(frozen=True)
class Seen:
    """What an attempt came to on 'val'.

    Attributes:
        attempt: it.
        losses: of each limited metric.
        packed_bytes: of its file.
        latency_ms: of its file, p50.
        size_excess, time_excess: size or time / its limit - 1; at most 0 where the limit holds, or there is none.
    """

    attempt: Attempt
    losses: tuple[Loss, ...]
    packed_bytes: int
    latency_ms: float
    size_excess: float
    time_excess: float

    @property
    def keeps_points(self) -> bool:
        """Return whether no more is lost than may be."""
        return all(loss.holds for loss in self.losses)

    @property
    def keeps_time(self) -> bool:
        """Return whether the time holds."""
        return self.time_excess <= 0

    @property
    def holds(self) -> bool:
        """Return whether every limit of the goal holds."""
        return self.keeps_points and self.size_excess <= 0 and self.keeps_time

    def __str__(self) -> str:
        told = ", ".join(map(str, self.losses))
        verdict = "holds" if self.holds else "misses the goal"
        size = size_text(self.packed_bytes)
        return f"attempt {self.attempt.number}: {size}, {self.latency_ms:.1f} ms, lost on val: {told}: {verdict}"


Load = Callable[[Sequence[Attempt], Attempt | None], Recipe]


def run(load: Load, out: Path, **how: Any) -> list[Result]:
    """Make attempts until one holds or there are no more, then report the best.

    Args:
        load: gives the recipe with these attempts, one of them chosen for the report (None: the last).
        out: folder of all recipes' artifacts.
        how: options of `pipeline.run`. With `until` only the first attempt is made; `start` is of the first attempt, or
            of what comes after the last.

    Returns:
        All stages, in order, those of attempts that were not chosen too.
    """
    recipe = load((), None)
    goal = recipe.goal
    assert goal is not None
    say(f"the goal becomes these stages (`krimp recipes expand` writes them to a file):\n{recipe.written}")
    if how.get("until") is not None:
        return pipeline.run(recipe, out, **how)
    start, how = how.get("start"), {**how, "start": None}
    is_late = start in _labels_behind(recipe, Attempt.first(goal).look)
    first_start, last_start = (None, start) if is_late else (start, None)
    attempts, seen = [Attempt.first(goal)], list[Seen]()
    while True:
        asked = {"until": attempts[-1].look, "start": None if seen else first_start}
        results = pipeline.run(load(attempts, None), out, **{**how, **asked})
        seen.append(judge(goal, attempts[-1], {one.artifact.label: one.artifact for one in results}))
        say(str(seen[-1]))
        following = next_attempt(goal, seen)
        if following is None:
            break
        say(f"attempt {following.number}: {_plan_text(seen[-1].attempt, following)}")
        attempts.append(following)
    best = choose(seen)
    if len(seen) > 1 or not best.holds:
        say("\n".join(["attempts at the goal:", *(f"  {one}" for one in seen)]))
        say(f"chosen: attempt {best.attempt.number}" + ("" if best.holds else "; none holds all limits"))
    return pipeline.run(load(attempts, best.attempt), out, **{**how, "start": last_start})


def _labels_behind(recipe: Recipe, look: str) -> list[str]:
    """Return the labels of the stages that come after an attempt's look at 'val'."""
    labels = [stage.label for stage in recipe.stages]
    return labels[labels.index(look) + 1 :]


def judge(goal: Goal, attempt: Attempt, artifacts: Mapping[str, Artifact]) -> Seen:
    """Return what an attempt came to.

    Args:
        goal: what is wanted.
        attempt: whose stages are done.
        artifacts: by label.

    Raises:
        StageError: 'val' cannot tell a limited metric.
    """
    before, after = artifacts[FLOAT_LOOK], artifacts[attempt.look]
    losses = tuple(_loss(metric, limit, before, after) for metric, limit in goal.max_drop.limits.items())
    pack, latency = artifacts[attempt.label("pack")], artifacts[attempt.label("benchmark")].facts
    packed_bytes = pack.file("model.krimp").stat().st_size
    own_ms, float_ms = (latency["models"][name]["latency_ms_p50"] for name in (pack.label, latency["reference"]))
    cost = {
        "packed_bytes": packed_bytes,
        "ratio": packed_bytes / _float_bytes(artifacts),
        "latency_ms": own_ms,
        "speedup": own_ms / float_ms,
    }
    wanted = {**goal.size, **goal.time}
    most = {name: value if name in ("packed_bytes", "latency_ms") else 1 / value for name, value in wanted.items()}
    over = {name: cost[name] / most[name] - 1 for name in most}
    size = max((over[name] for name in goal.size), default=0.0)
    time = max((over[name] for name in goal.time), default=0.0)
    return Seen(attempt, losses, packed_bytes, own_ms, size, time)


def _float_bytes(artifacts: Mapping[str, Artifact]) -> int:
    """Return the bytes of the float model: of the first artifact that tells them."""
    return next(int(one.facts["parameters_bytes"]) for one in artifacts.values() if "parameters_bytes" in one.facts)


def _loss(metric: str, limit: float, before: Artifact, after: Artifact) -> Loss:
    values = [artifact.facts["scores"][metric] for artifact in (before, after)]
    if None in values:
        raise StageError(
            f"goal: max_drop.{metric} cannot be measured on split 'val' of this data set. Expected labelled objects "
            "and that metric; limit another one."
        )
    drawn = [load_resampled(artifact.path, metric) for artifact in (before, after)]
    return loss_of(metric, limit, (float(values[0]), float(values[1])), (drawn[0], drawn[1]))


def next_attempt(goal: Goal, seen: Sequence[Seen]) -> Attempt | None:
    """Return what to try after what was seen; None if the goal is reached or no attempt is left."""
    last = seen[-1]
    if last.holds or len(seen) >= goal.attempts:
        return None
    if last.keeps_points:  # trained well enough, and too slow or too large yet
        return last.attempt.quicker(1 + last.time_excess) if not last.keeps_time else None
    if all(one.attempt.epochs <= goal.epochs for one in seen):
        return last.attempt.longer()
    return last.attempt.easier(goal)


def choose(seen: Sequence[Seen]) -> Seen:
    """Return the best attempt: one that holds; else that keeps the points and misses the rest least; else loses least.

    Of several that hold, the one that loses least.
    """
    lost = {one.attempt.number: max(loss.middle - loss.limit for loss in one.losses) for one in seen}

    def rank(one: Seen) -> tuple[bool, bool, float]:
        over = max(one.size_excess, one.time_excess, 0.0)
        is_small = one.keeps_points and not one.holds
        return not one.holds, not one.keeps_points, over if is_small else lost[one.attempt.number]

    return min(seen, key=rank)


def _plan_text(before: Attempt, now: Attempt) -> str:
    """Say what an attempt does differently."""
    changes = [f"{now.epochs} epochs instead of {before.epochs}"] if now.epochs != before.epochs else []
    for old, new in ((before.size, now.size), (before.time, now.time)):
        changes += [f"{name} {new[name]:,.10g} instead of {old[name]:,.10g}" for name in new if new[name] != old[name]]
    return ", ".join(changes)
