"""Costs that are learnt from measured networks, and plans that are measured again."""

import numpy as np
import pytest
import torch
from lookalike import CUSTOM, PROTECTED, seeded_lookalike

from compress.errors import StageError
from compress.metrics.complexity import measure_complexity
from compress.pruning import probing
from compress.pruning.budget import Budget, Limit
from compress.pruning.measured_cost import (
    BETWEEN,
    LayerShape,
    MeasuredCost,
    MeasuredNetwork,
    fit_non_negative,
    layer_shapes,
)
from compress.pruning.probing import CLOSE, PROBES, plan_by_measuring
from compress.pruning.settings import PruningRules, PruningSettings
from compress.pruning.steps import prune_in_steps
from compress.pruning.structured import prune_step

torch.set_num_threads(1)
RULES = PruningRules(PROTECTED, CUSTOM)
IMAGES = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def test_a_fit_finds_coefficients_and_makes_none_negative():
    rng = np.random.default_rng(0)
    features = np.c_[np.ones(6), rng.uniform(8, 64, (6, 2))]
    true = np.array([0.5, 0.0, 0.02])
    np.testing.assert_allclose(fit_non_negative(features, features @ true, np.ones(6)), true, atol=1e-9)
    falling = fit_non_negative(features, 10 - 0.1 * features[:, 1], np.ones(6))
    assert (falling >= 0).all()
    assert falling[0] > 5  # the mean is what is left
    assert fit_non_negative(features, np.zeros(6), np.ones(6)).tolist() == [0, 0, 0]


class Chip:
    """A meter whose truth is known: a layer takes a fixed time, one by what it reads and one by what it computes."""

    def __init__(self, by_read=0.0, by_macs=1e-6, is_odd=False, slow=""):
        self.by_read, self.by_macs, self.is_odd, self.slow = by_read, by_macs, is_odd, slow
        self.seen = []

    def _parts(self, model):
        costs = measure_complexity(model, IMAGES).layers
        modules = dict(model.named_modules())
        shapes = layer_shapes(model, {n: one.macs // modules[n].weight.numel() for n, one in costs.items()})
        parts = {
            name: 0.01
            + self.by_read * shape.in_width
            + self.by_macs * costs[name].macs * (20 if name == self.slow else 1)
            for name, shape in shapes.items()
        }
        if self.is_odd:  # a kernel that is slow where nobody expects it
            parts = {name: value * (1.3 if shapes[name].out_width % 16 else 1) for name, value in parts.items()}
        return MeasuredNetwork(sum(parts.values()) + 0.1, {**parts, BETWEEN: 0.1}, shapes)

    @property
    def networks(self):
        return len(self.seen)

    def measure(self, model):
        found = self._parts(model)
        self.seen = [one for one in self.seen if one.shapes != found.shapes] + [found]

    def costs(self, model):
        self.measure(model)
        return {"latency_ms": self.seen[-1].total}

    def cost_functions(self, model, widths):
        shapes = self._parts(model).shapes
        return {"latency_ms": MeasuredCost(self.seen, shapes, widths, {})}


@pytest.mark.parametrize("chip", [{}, {"by_read": 0.01}, {"by_read": 0.01, "is_odd": True}])
def test_a_time_is_reached_on_a_chip_of_any_taste(chip):
    model, meter = seeded_lookalike(), Chip(**chip)
    full = meter.costs(model)["latency_ms"]
    settings = PruningSettings(round_to=4, cost_aware=True)
    result = prune_step(model, IMAGES, {"latency_ms": 0.7 * full}, rules=RULES, settings=settings, meter=meter)
    real = Chip(**chip).costs(model)["latency_ms"]
    assert real == pytest.approx(0.7 * full, rel=0.05)
    assert result.after["latency_ms"] == pytest.approx(real, rel=1e-6)


def test_channels_go_where_they_cost_time():
    """At equal time more of the network stays where cost is counted, as the slow layer pays for it."""

    def kept(*, cost_aware):
        model, meter = seeded_lookalike(), Chip(slow="head.tower1")
        before = measure_complexity(model, IMAGES)
        target = {"latency_ms": 0.75 * meter.costs(model)["latency_ms"]}
        settings = PruningSettings(round_to=4, cost_aware=cost_aware, max_pruning_ratio=0.9)
        prune_step(model, IMAGES, target, rules=RULES, settings=settings, meter=meter)
        after = measure_complexity(model, IMAGES)
        return after.layers["head.tower1"].macs / before.layers["head.tower1"].macs, after.macs / before.macs

    slow, all_layers = kept(cost_aware=True)
    assert slow < 0.8 * all_layers
    assert all_layers > 1.1 * kept(cost_aware=False)[1]


@pytest.mark.parametrize("steps", [1, 2])
def test_the_first_plan_knows_networks_of_other_widths(steps, caplog):
    """A layer that is slow by what it reads is told from one network by nobody."""
    model, meter = seeded_lookalike(), Chip(by_read=0.05)
    wanted = {"latency_ms": 0.7 * Chip(by_read=0.05).costs(model)["latency_ms"]}
    with caplog.at_level("INFO", logger="krimp"):
        result = prune_in_steps(
            model,
            IMAGES,
            wanted,
            steps=steps,
            rules=RULES,
            settings=PruningSettings(round_to=4, cost_aware=True),
            widths={},
            losses=lambda _: (),
            after_step=lambda _: {},
            label="prune",
            meter=meter,
        )
    plans = [record.getMessage() for record in caplog.records if record.getMessage().startswith("plan ")]
    assert plans[0].startswith("plan 1")
    assert len(plans) == steps  # each is close at once
    assert meter.networks == 1 + PROBES + len(plans)
    assert result.reached["latency_ms"].after == pytest.approx(wanted["latency_ms"], rel=0.02)


class Jumping:
    """A cost of which every new fit believes another slope: alone it would jump around a limit for ever."""

    def __init__(self):
        self.at, self.slopes = 100, [0.45, 0.6]

    def cost(self, kept):
        return self.at + self.slopes[-1] * (kept["a"] - self.at)


def test_plans_come_to_a_limit_even_where_each_new_fit_asks_for_other_channels(monkeypatch):
    fit, full, asked = Jumping(), {"a": 100}, []
    monkeypatch.setattr(probing, "copy_of", lambda model: model)
    monkeypatch.setattr(probing, "apply_widths", lambda model, coupling, scores, widths: asked.append(widths["a"]))

    class Real:
        def measure(self, model):
            fit.at = asked[-1]
            fit.slopes.reverse()

    def budget():
        known = Jumping()
        known.at, known.slopes = fit.at, list(fit.slopes)
        return Budget([Limit("latency_ms", known, 50.0)], full)

    def plan(by):
        return {"a": max(width for width in range(1, 101) if by.used({"a": width}) <= 1 or width == 1)}

    widths, _ = plan_by_measuring(Real(), None, None, {}, budget, plan)
    assert abs(widths["a"] / 50 - 1) <= CLOSE, asked


def test_several_limits_hold_together():
    model, meter = seeded_lookalike(), Chip()
    cost = measure_complexity(model, IMAGES)
    latency_ms = 0.9 * meter.costs(model)["latency_ms"]
    targets = {"macs": 0.8 * cost.macs, "params": 0.5 * cost.params, "latency_ms": latency_ms}
    result = prune_step(model, IMAGES, targets, rules=RULES, settings=PruningSettings(round_to=1), meter=meter)
    after = measure_complexity(model, IMAGES)
    assert after.macs <= targets["macs"] * 1.01
    assert after.params <= targets["params"] * 1.01
    assert result.after["latency_ms"] <= targets["latency_ms"] * 1.03
    assert max(result.after[name] / targets[name] for name in targets) > 0.98  # no more than the tightest asks for


def test_a_time_that_cannot_be_reached_says_how_near_it_gets():
    model, meter = seeded_lookalike(), Chip()
    with pytest.raises(StageError, match=r"target latency_ms 0\.01 ms .* Ask for \d+\.\d\d ms or more"):
        prune_step(model, IMAGES, {"latency_ms": 0.01}, rules=RULES, settings=PruningSettings(), meter=meter)


def test_a_budget_counts_the_limit_that_is_missed_most():
    class Linear:
        def __init__(self, slope):
            self.slope = slope

        def cost(self, kept):
            return self.slope * kept["a"]

    budget = Budget([Limit("x", Linear(1), 50), Limit("y", Linear(2), 400)], {"a": 100})
    assert budget.used({"a": 100}) == 2
    assert budget.tightest({"a": 100}).name == "x"
    assert budget.freed({"a": 90}) == pytest.approx(10 / 50)  # y holds already and counts nothing


def test_a_depthwise_layer_has_one_width():
    model = torch.nn.Sequential(torch.nn.Conv2d(16, 16, 3, groups=16), torch.nn.Conv2d(16, 8, 1))
    assert layer_shapes(model, {"0": 9, "1": 9}) == {"0": LayerShape(1, 16, 9), "1": LayerShape(16, 8, 9)}
