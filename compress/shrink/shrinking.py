"""From a network, pictures and a judge to a small network: observe, choose the form, choose the size."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np
import onnx

from compress import codec
from compress.number_text import size_text
from compress.post_training.ranges import least_error_range
from compress.progress import say
from compress.rate_rounding.choice import LayerChooser
from compress.rate_rounding.layer import Rounded
from compress.rate_rounding.search import Priced, round_network, round_to_bytes
from compress.runtime.latency import measure_interleaved
from compress.shrink.activations import activation_costs
from compress.shrink.choosing import Rung, islands
from compress.shrink.form import Form, rounded_tensors
from compress.shrink.given.form import GivenForm
from compress.shrink.importance import OutputDistance, importances
from compress.shrink.judge.verdict import Judge, Kind, Verdict
from compress.shrink.kernels import milliseconds_by_op
from compress.shrink.network import Network
from compress.shrink.observe import Feeds, Seen, float_tensors, observe, ranges_of, session_of
from compress.shrink.rounding import choosers
from compress.shrink.target import Target
from compress.whole_file import write_whole

FINE = 1e-10  # price at which weights keep all the bits that they may have
COMPARED = 8  # pictures that forms are compared on
DEAREST: dict[Kind, float] = {"labels": 0.3, "agreement": 3.0, "outputs": 3.0}
"""Points, or percent of the outputs, that integers between layers may cost where nothing is said; else half of what may
be lost. Agreement and outputs hear what labels do not: ONNX Runtime's own integers lose 18 points of a FastestDet."""
SLOWER = 0.97  # of the float time: integers that save less are not worth their error


@dataclass(frozen=True)
class Chosen:
    """The form, and why.

    Attributes:
        form: it.
        verdict: with all the bits that weights may have.
        weights_verdict: likewise, with integer weights alone.
        float_ms, integers_ms: of an image; None if not timed.
        costs: tensor -> error of the outputs if it alone is rounded.
        tried: integers with more and more tensors in float.
        kernels: 'float' and 'integers' -> operator -> milliseconds; empty if not timed.
        why: in words.
    """

    form: Form | GivenForm
    verdict: Verdict
    weights_verdict: Verdict
    float_ms: float | None
    integers_ms: float | None
    costs: Mapping[str, float]
    tried: tuple[Rung, ...]
    kernels: Mapping[str, Mapping[str, float]]
    why: str


@dataclass(frozen=True)
class Made:
    """A small network, its weights, and what it comes to.

    Attributes:
        model: it.
        rounded: its weights.
        price: loss that a bit was worth.
        packed_bytes: of its file.
        verdict: of the judge.
    """

    model: onnx.ModelProto
    rounded: Mapping[str, Rounded]
    price: float
    packed_bytes: int
    verdict: Verdict

    @property
    def loss(self) -> float:
        """Return points or percent that were lost."""
        return self.verdict.loss

    @property
    def error(self) -> float:
        """Return the mean relative error of the outputs."""
        return float(np.mean(list(self.verdict.relative_errors.values())))


@dataclass
class Shrinker:
    """A network with what was learnt of it; every step is taken once, when it is first asked for.

    Attributes:
        network: float; of one that is quantized already, what it stands for.
        calibration: what it is fed to learn from.
        judge: says what a network lost, on other pictures.
        folder: takes files that are tried.
        finish: gives a model the form in which it is written: names, metadata.
        target: where it will run.
        threads: of ONNX Runtime for timing.
    """

    network: Network
    calibration: Feeds
    judge: Judge
    folder: Path
    finish: Callable[[onnx.ModelProto], onnx.ModelProto]
    target: Target
    threads: int = 1
    _choosers: dict[int, dict[str, LayerChooser]] = field(default_factory=dict)
    _finest: dict[int, Mapping[str, Rounded]] = field(default_factory=dict)
    _compared: list[tuple[dict[str, np.ndarray], list[np.ndarray]]] = field(default_factory=list)

    @cached_property
    def seen(self) -> Seen:
        """Return what was seen on the calibration pictures."""
        say("observe: ranges of tensors, moments of inputs")
        return observe(self.network, self.calibration)

    @cached_property
    def distance(self) -> OutputDistance:
        """Return how far outputs are apart."""
        session = session_of(self.network.model)
        return OutputDistance(session.run(self.network.outputs, feed) for feed in self.calibration())

    @cached_property
    def importance(self) -> dict[str, np.ndarray]:
        """Return what errors of each layer cost."""
        say(f"weigh: {len(self.network.linears)} weights are moved a little, one at a time")
        return importances(self.network, self.seen, self.calibration, self.distance)

    def choosers(self, form: Form | GivenForm) -> dict[str, LayerChooser]:
        """Return what rounds the layers."""
        largest = form.largest_code(self.target)
        if largest not in self._choosers:
            like = next(iter(self._choosers.values()), None)
            self._choosers[largest] = choosers(
                self.network, self.seen, self.importance, largest_code=largest, steps=form.steps, like=like
            )
        return self._choosers[largest]

    def finest(self, form: Form | GivenForm) -> onnx.ModelProto:
        """Return the model with all the bits that weights may have."""
        largest = form.largest_code(self.target)
        if largest not in self._finest:
            self._finest[largest] = round_network(self.choosers(form), FINE)
        return self.build(form, self._finest[largest])

    def distance_of(self, model: onnx.ModelProto) -> float:
        """Return the mean distance of a model's outputs on some calibration pictures."""
        if not self._compared:
            session = session_of(self.network.model)
            feeds = islice(self.calibration(), COMPARED)
            self._compared = [(feed, session.run(self.network.outputs, feed)) for feed in feeds]
        session = session_of(model)
        errors = [self.distance.of(session.run(self.network.outputs, feed), clean) for feed, clean in self._compared]
        return float(np.mean(errors))

    def build(self, form: Form | GivenForm, rounded: Mapping[str, Rounded]) -> onnx.ModelProto:
        """Return the model in a form."""
        return form.build(self.network, self.seen, rounded, self.importance)

    def packed_bytes(self, model: onnx.ModelProto) -> int:
        """Return the size of a packed model, as it will be written."""
        path = self.folder / "tried.onnx"
        write_whole(path, self.finish(model).SerializeToString(deterministic=True), synced=False)
        packed = path.with_suffix(".krimp")
        packed.unlink(missing_ok=True)
        return codec.pack_file(path, packed).packed_bytes

    def as_given(self, form: GivenForm) -> Chosen:
        """Return the form of a network that is quantized already, with all the bits that its weights may have."""
        verdict = self.judge(self.finest(form))
        say(f"integers of the weights anew, all bits: {verdict} lost")
        why = f"{form}. {verdict} lost with all bits: levels between layers fall otherwise as soon as any weight moves"
        return Chosen(form, verdict, verdict, None, None, {}, (), {}, why)

    def choose_form(self, *, weights_only: bool, max_drop: float | None) -> Chosen:
        """Return the fastest form whose integers cost little; floats with integer weights where integers are slower.

        Args:
            weights_only: nothing else is looked at.
            max_drop: that may be lost in all; integers between layers may take half of it.
        """
        weights = Form(False)
        model = self.finest(weights)
        verdict = self.judge(model)
        say(f"integer weights alone, all bits: {verdict} lost")
        if weights_only:
            return Chosen(weights, verdict, verdict, None, None, {}, (), {}, "integer weights alone were asked for")
        say("activations: each tensor is rounded alone")
        names = rounded_tensors(self.network, float_tensors(self.network))
        ranges = ranges_of(self.seen, least_error_range)
        costs = activation_costs(self.network, ranges, self.calibration, self.distance, names)
        allowed = max(DEAREST[self.judge.kind] if max_drop is None else max_drop / 2, verdict.loss)

        def judged_with(nodes: frozenset[str]) -> Verdict:
            found = self.judge(self.finest(self._integers(nodes)))
            say(f"integers with {len(nodes)} of {len(self.network.nodes)} nodes in float: {found} lost")
            return found

        rung, tried = islands(
            self.network,
            costs,
            lambda nodes: self.distance_of(self.finest(self._integers(nodes))),
            judged_with,
            allowed,
        )
        judged = rung.verdict
        assert judged is not None
        told = f"{len(rung.tensors)} tensors stay float, {judged} lost with all bits of the weights"
        integers = self._integers(rung.nodes)
        chosen = Chosen(weights, verdict, verdict, None, None, costs, tuple(tried), {}, "")
        if judged.loss > allowed:
            why = f"integers between layers cost too much: {told}, {verdict} with integer weights alone"
            return replace(chosen, why=why)
        if not self.target.is_here:
            why = f"{told}; how fast {self.target.name} is cannot be measured here"
            return replace(chosen, form=integers, verdict=judged, why=why)
        made = {"float": self.network.model, "integers": self.finest(integers)}
        times = self.fastest(made)
        feed = next(iter(self.calibration()))
        kernels = {name: milliseconds_by_op(model, feed, threads=self.threads) for name, model in made.items()}
        chosen = replace(chosen, float_ms=times["float"], integers_ms=times["integers"], kernels=kernels)
        took = f"{times['integers']:.1f} ms in integers, {times['float']:.1f} ms in float"
        if times["integers"] > SLOWER * times["float"]:
            return replace(chosen, why=f"integers are not faster here: {took}; so only the weights are integers")
        return replace(chosen, form=integers, verdict=judged, why=f"{took}; {told}")

    def _integers(self, nodes: frozenset[str]) -> Form:
        return Form(True, nodes, self.target.symmetric, self.target.half)

    def fastest(self, models: Mapping[str, onnx.ModelProto]) -> dict[str, float]:
        """Return the milliseconds of each model, in turns, of the fastest round.

        One thread is timed by the processor's own count, which leaves out what others took meanwhile.
        """
        feed = next(iter(self.calibration()))
        sessions = {name: session_of(model, threads=self.threads) for name, model in models.items()}
        calls = {name: (lambda one=session: one.run(None, feed)) for name, session in sessions.items()}
        clock_ns = time.process_time_ns if self.threads == 1 else time.perf_counter_ns
        times = measure_interleaved(calls, warmup=2, runs=15, clock_ns=clock_ns)
        return {name: float(one.min()) for name, one in times.items()}

    def at(self, form: Form | GivenForm, price: float) -> Made:
        """Return the network at a price.

        Each search begins anew: from what was found at a finer price it ends with 2 to 3 % more bytes, as much lost.
        """
        return self._made(form, round_network(self.choosers(form), price), price)

    def to_bytes(self, form: Form | GivenForm, target: int) -> Made:
        """Return the network at a size.

        Raises:
            StageError: it cannot be that small.
        """
        found: Priced = round_to_bytes(
            self.choosers(form),
            lambda rounded: self.packed_bytes(self.build(form, rounded)),
            target,
            tell=lambda one: say(f"{size_text(one.num_bytes)} at {one.price:.3g} a bit"),
        )
        return self._made(form, found.layers, found.price)

    def _made(self, form: Form | GivenForm, rounded: Mapping[str, Rounded], price: float) -> Made:
        model = self.build(form, rounded)
        made = Made(model, rounded, price, self.packed_bytes(model), self.judge(model))
        say(f"{size_text(made.packed_bytes)} at {price:.3g} a bit: {made.verdict} lost")
        return made
