"""From a network and pictures to a small one: observe, choose the form, choose the size, prove."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
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
from compress.shrink.choosing import Point, Rung, islands, knee
from compress.shrink.form import Form, rounded_tensors
from compress.shrink.importance import OutputDistance, importances
from compress.shrink.network import Network
from compress.shrink.observe import Feeds, Seen, float_tensors, observe, ranges_of, session_of
from compress.shrink.rounding import choosers
from compress.whole_file import write_whole

FINE = 1e-10  # price at which weights keep all the bits that they may have
CURVE = tuple(10.0**exponent for exponent in (-9, -8, -7, -6.5, -6, -5.5, -5, -4.5, -4))
ISLANDS = 2.0  # errors of integers may be so many times those of integer weights alone; more nodes stay float
SLOWER = 0.97  # of the float time: integers that save less are not worth their error


@dataclass
class Shrinker:
    """A network with what was learnt of it; every step is taken once, when it is first asked for.

    Attributes:
        network: float.
        calibration: what it is fed to learn from.
        judging: what it is fed to be judged by; other pictures.
        folder: takes files that are tried.
        threads: of ONNX Runtime for timing.
    """

    network: Network
    calibration: Feeds
    judging: Feeds
    folder: Path
    threads: int = 1
    timings_ms: dict[str, float] = field(default_factory=dict)

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
    def references(self) -> list[list[np.ndarray]]:
        """Return what the network computes of the pictures that it is judged by."""
        session = session_of(self.network.model)
        return [session.run(self.network.outputs, feed) for feed in self.judging()]

    @cached_property
    def importance(self) -> dict[str, np.ndarray]:
        """Return what errors of each layer cost."""
        say(f"weigh: {len(self.network.linears)} weights are moved a little, one at a time")
        return importances(self.network, self.seen, self.calibration, self.distance)

    @cached_property
    def choosers(self) -> dict[str, LayerChooser]:
        """Return what rounds the layers."""
        return choosers(self.network, self.seen, self.importance)

    @cached_property
    def finest(self) -> Mapping[str, Rounded]:
        """Return the network with all the bits that weights may have."""
        return round_network(self.choosers, FINE)

    def error(self, model: onnx.ModelProto) -> float:
        """Return the mean distance of a model's outputs on the pictures that it is judged by."""
        session = session_of(model)
        errors = [
            self.distance.of(session.run(self.network.outputs, feed), reference)
            for feed, reference in zip(self.judging(), self.references, strict=True)
        ]
        return float(np.mean(errors))

    def build(self, form: Form, rounded: Mapping[str, Rounded]) -> onnx.ModelProto:
        """Return the model in a form."""
        return form.build(self.network, self.seen, rounded, self.importance)

    def packed_bytes(self, model: onnx.ModelProto) -> int:
        """Return the size of a packed model."""
        path = self.folder / "tried.onnx"
        write_whole(path, model.SerializeToString(deterministic=True))
        packed = path.with_suffix(".krimp")
        packed.unlink(missing_ok=True)
        return codec.pack_file(path, packed).packed_bytes

    def choose_form(self, *, weights_only: bool) -> Chosen:
        """Return the fastest form whose integers cost little; floats with integer weights where integers are slower."""
        weights = Form(False)
        bare = self.error(self.build(weights, self.finest))
        float_ms = self.fastest({"float": self.network.model})["float"]
        if weights_only:
            return Chosen(weights, bare, float_ms, None, (), "asked for")
        say("activations: each tensor is rounded alone")
        names = rounded_tensors(self.network, float_tensors(self.network))
        costs = activation_costs(
            self.network, ranges_of(self.seen, least_error_range), self.calibration, self.distance, names
        )
        rung, tried = islands(
            self.network,
            costs,
            lambda nodes: self.error(self.build(Form(True, nodes), self.finest)),
            ISLANDS * bare,
        )
        for one in tried:
            say(f"integers with {len(one.tensors)} tensors in float: error {one.error:.4g}")
        integers = Form(True, rung.nodes)
        times = self.fastest({"float": self.network.model, "integers": self.build(integers, self.finest)})
        told = f"{times['integers']:.1f} ms in integers, {times['float']:.1f} ms in float"
        if times["integers"] > SLOWER * times["float"]:
            return Chosen(
                weights, bare, times["float"], times["integers"], tuple(tried), f"integers are slower: {told}"
            )
        return Chosen(integers, rung.error, times["float"], times["integers"], tuple(tried), told)

    def fastest(self, models: Mapping[str, onnx.ModelProto]) -> dict[str, float]:
        """Return the milliseconds of each model, in turns, of the fastest round."""
        feed = next(iter(self.judging()))
        sessions = {name: session_of(model, threads=self.threads) for name, model in models.items()}
        calls = {name: (lambda one=session: one.run(None, feed)) for name, session in sessions.items()}
        times = measure_interleaved(calls, warmup=2, runs=15)
        return {name: float(one.min()) for name, one in times.items()}

    def at(self, form: Form, price: float, start: Mapping[str, Rounded] | None = None) -> Made:
        """Return the network at a price."""
        rounded = round_network(self.choosers, price, start)
        return self.made(form, rounded, price)

    def made(self, form: Form, rounded: Mapping[str, Rounded], price: float) -> Made:
        """Return a network with its size and error."""
        model = self.build(form, rounded)
        made = Made(model, rounded, Point(price, self.packed_bytes(model), self.error(model)))
        say(f"{size_text(made.point.packed_bytes)} at {price:.3g} a bit: error {made.point.error:.4g}")
        return made

    def to_bytes(self, form: Form, target: int) -> Made:
        """Return the network at a size.

        Raises:
            StageError: it cannot be that small.
        """
        found: Priced = round_to_bytes(
            self.choosers,
            lambda rounded: self.packed_bytes(self.build(form, rounded)),
            target,
        )
        return self.made(form, found.layers, found.price)

    def curve(self, form: Form) -> list[Made]:
        """Return networks from fine to coarse."""
        made: list[Made] = []
        for price in CURVE:
            made.append(self.at(form, price, made[-1].rounded if made else None))
        return made


@dataclass(frozen=True)
class Chosen:
    """The form, and why.

    Attributes:
        form: it.
        error: with all the bits that weights may have.
        float_ms, integers_ms: of an image; the latter None if it was not tried.
        tried: integers with more and more tensors in float.
        why: in words.
    """

    form: Form
    error: float
    float_ms: float
    integers_ms: float | None
    tried: tuple[Rung, ...]
    why: str


@dataclass(frozen=True)
class Made:
    """A small network, its weights, and what it comes to."""

    model: onnx.ModelProto
    rounded: Mapping[str, Rounded]
    point: Point


def chosen_of(curve: list[Made]) -> Made:
    """Return the knee of a curve."""
    best = knee([made.point for made in curve])
    return next(made for made in curve if made.point == best)
