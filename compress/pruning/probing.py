"""Widths for limits that only a measurement tells: try some networks, plan, measure the plan, and plan again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from compress.model_copy import copy_of
from compress.progress import say
from compress.pruning.budget import Budget, Meter, cost_text
from compress.pruning.coupling import Coupling
from compress.pruning.importance import Scores, magnitude_scores
from compress.pruning.settings import PruningSettings
from compress.pruning.width_plan import apply_widths
from compress.pruning.widths import Widths, round_up

if TYPE_CHECKING:
    from torch import nn

PROBES = 3  # networks of other widths that are measured before the first plan
MOST_PLANS = 5  # that are measured
SLOPES = 0.25, 4.0  # of a measured cost over what was asked for, that are believed
LEARNING = 2  # first plans that costs are fitted anew after; later ones only ask for less or more
CLOSE = 0.02  # of a limit: a plan that is measured this near to it is taken


def try_widths(
    meter: Meter,
    model: nn.Module,
    coupling: Coupling,
    full: Widths,
    floors: Widths,
    settings: PruningSettings,
    *,
    probes: int = PROBES,
) -> None:
    """Measure a network as it is, and, if it is the only one that the meter has seen, some narrower ones.

    Args:
        meter: learns from them.
        model: unchanged.
        coupling: of this model.
        full: root -> width that is to be planned from.
        floors: root -> narrowest width.
        settings: `round_to`, and the seed of the widths.
        probes: how many narrower ones.
    """
    meter.measure(model)
    if meter.networks > 1:
        return
    scores = magnitude_scores(model, coupling.groups)
    for widths in probe_widths(coupling, full, floors, settings)[:probes]:
        probe = copy_of(model)
        apply_widths(probe, coupling, scores, widths)
        meter.measure(probe)


def probe_widths(coupling: Coupling, full: Widths, floors: Widths, settings: PruningSettings) -> list[Widths]:
    """Return widths that tell what each side of a layer costs: all halfway, then each group for itself at random."""
    rng = np.random.default_rng(settings.seed)
    found = []
    for number in range(PROBES):
        widths = {}
        for group in coupling.groups:
            low, high, unit = floors[group.root], full[group.root], group.unit(settings.round_to)
            share = 0.5 if number == 0 else float(rng.random())
            widths[group.root] = min(max(round_up(low + share * (high - low), unit), low), high)
        found.append(widths)
    return found


def to_ask(answers: Sequence[tuple[float, float]], wanted: float) -> float:
    """Return what to ask for to get what is wanted.

    Args:
        answers: (asked for, got), the latest last.
        wanted: cost.
    """
    asked, got = answers[-1]
    slope = 1.0
    if len(answers) > 1 and answers[-2][0] != asked:
        slope = (got - answers[-2][1]) / (asked - answers[-2][0])
    low, high = SLOPES
    return asked + (wanted - got) / min(max(slope, low), high)


def plan_by_measuring(
    meter: Meter,
    model: nn.Module,
    coupling: Coupling,
    scores: Scores,
    budget: Callable[[], Budget],
    plan: Callable[[Budget], Widths],
) -> tuple[Widths, Budget]:
    """Plan, measure what the plan leaves, and plan again with what was learnt, until a plan is close to its limits.

    A new fit chooses other channels, and plans jump to and fro around a limit. So the fit of the first plans is kept
    for the later ones, and only what these ask for is corrected.

    Args:
        meter: learns from each plan.
        model: unchanged.
        coupling: of this model.
        scores: root -> importance of its channels.
        budget: the limits, by all that was measured so far.
        plan: chooses widths for a budget.

    Returns:
        The widths that came closest, and the budget that knows what they cost.
    """
    tried: list[tuple[float, Widths]] = []
    asked = budget()
    answers: dict[str, list[tuple[float, float]]] = {}
    for number in range(1, MOST_PLANS + 1):
        widths = plan(asked)
        if any(widths == before for _, before in tried):
            break
        probe = copy_of(model)
        apply_widths(probe, coupling, scores, widths)
        meter.measure(probe)
        now = budget()
        used = now.used(widths)
        costs = [(one.name, one.function.cost(widths), one.most) for one in now.limits]
        told = ", ".join(f"{name} {cost_text(name, cost)} of {cost_text(name, most)}" for name, cost, most in costs)
        say(f"plan {number}: {told}")
        tried.append((used, widths))
        if abs(used - 1) <= CLOSE:
            break
        if number <= LEARNING:
            asked = now
            answers = {name: [(cost, cost)] for name, cost, _ in costs}
        else:
            tightest = now.tightest(widths)
            answers[tightest.name].append((asked.most(tightest.name), tightest.function.cost(widths)))
            asked = asked.with_limit(tightest.name, to_ask(answers[tightest.name], tightest.most))
    _, best = min(tried, key=lambda one: (one[0] > 1 + CLOSE, abs(one[0] - 1)))
    if best != tried[-1][1]:  # the meter's last word is about the network that is taken
        probe = copy_of(model)
        apply_widths(probe, coupling, scores, best)
        meter.measure(probe)
    return best, budget()
