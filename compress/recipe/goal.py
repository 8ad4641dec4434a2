"""A goal instead of stages: how small, how fast, how much may be lost; the stages are planned from it. Pure.

Each attempt is pruning (if time is limited), training at the size, and a look at 'val'. The first aims at the goal; the
next trains longer, then asks for less; see `compress.engine.goal`, which decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel, ByteSize, ConfigDict, Field, model_validator

from compress.guard import DropLimits

MADE_FIRST = ("train", "load_float")  # stages that a recipe with a goal may have itself
FLOAT_FILE = "float_onnx"
FLOAT_LOOK = "float_val"
_EXAMPLE = "{packed_bytes: 330kB, speedup: 2, max_drop: {map: 0.5}}"
_SMALLEST_RATIO = 60.0  # where no size is asked for, rounding starts here and backs off to what may be lost
_BITS = 6
_TIME_MARGIN = 1.05  # the same file differs by so much between processes, and training anew costs far more than pruning
_TAYLOR_BATCHES, _BN_BATCHES = 15, 30


class Goal(BaseModel):
    """What is wanted of the model that ships; every limit shall hold."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    packed_bytes: ByteSize | None = Field(None, gt=0, description="Bytes of the .krimp file: 330000, 330kB, 1.2MB.")
    ratio: float | None = Field(None, gt=1, description="How many times smaller than the float model's parameters.")
    latency_ms: float | None = Field(None, gt=0, description="Milliseconds of an image here, network only, one thread.")
    speedup: float | None = Field(None, gt=1, description="How many times faster than the float file, side by side.")
    max_drop: DropLimits = Field(
        DropLimits(map=0.5), description="Points that may be lost against the float model, e.g. {map: 0.5, map50: 0.5}."
    )
    epochs: int = Field(12, ge=1, description="Of training at the size; recovery from pruning takes half as many.")
    attempts: int = Field(3, ge=1, le=8, description="How often the network is trained anew before the best is taken.")

    @model_validator(mode="after")
    def _one_of_each(self) -> Goal:
        for one, other in (("packed_bytes", "ratio"), ("latency_ms", "speedup")):
            if getattr(self, one) is not None and getattr(self, other) is not None:
                raise ValueError(f"{one} and {other} limit the same thing. Give one of the two, e.g. {_EXAMPLE}.")
        return self

    @property
    def size(self) -> dict[str, float]:
        """Return the limit of the size as the stages take it, {} if there is none."""
        return _given(self, "packed_bytes", "ratio")

    @property
    def time(self) -> dict[str, float]:
        """Return the limit of the time as the stages take it, {} if there is none."""
        return _given(self, "latency_ms", "speedup")


def _given(goal: Goal, *names: str) -> dict[str, float]:
    values = {name: getattr(goal, name) for name in names}
    return {
        name: int(value) if name == "packed_bytes" else value for name, value in values.items() if value is not None
    }


@dataclass(frozen=True)
class Attempt:
    """One way through the stages.

    Attributes:
        number: from 1.
        epochs: of training at the size.
        size: `packed_bytes` or `ratio` that is aimed at, {} if none is.
        time: `latency_ms` or `speedup`, likewise.
    """

    number: int
    epochs: int
    size: dict[str, float]
    time: dict[str, float]

    @classmethod
    def first(cls, goal: Goal) -> Attempt:
        """Return the attempt that aims at the goal itself, with a margin in time."""
        return cls(1, goal.epochs, goal.size, _relaxed(goal.time, 1 / _TIME_MARGIN))

    def longer(self) -> Attempt:
        """Return the next attempt, with twice the training."""
        return replace(self, number=self.number + 1, epochs=2 * self.epochs)

    def easier(self, goal: Goal) -> Attempt:
        """Return the next attempt, which asks for less: a file half as large again, or, without a size, more time."""
        size = _relaxed(self.size, 1.5)
        time = self.time if size else _relaxed(self.time, 1.25)
        return replace(self, number=self.number + 1, epochs=goal.epochs, size=size, time=time)

    def quicker(self, missed_by: float) -> Attempt:
        """Return the next attempt, which aims at less time: that of this one was so many times too long."""
        return replace(self, number=self.number + 1, time=_relaxed(self.time, 1 / (1.02 * missed_by)))

    def label(self, stage: str) -> str:
        """Return the label of a stage of this attempt."""
        return stage if self.number == 1 else f"{stage}_{self.number}"

    @property
    def look(self) -> str:
        """Return the label of the attempt's look at 'val', its last stage."""
        return f"{self.label('pack')}_val"


def _relaxed(limit: dict[str, float], factor: float) -> dict[str, float]:
    """Return a limit that is so many times easier."""
    is_most = {"packed_bytes", "latency_ms"}
    eased = {name: value * factor if name in is_most else value / factor for name, value in limit.items()}
    return {name: round(value) if name == "packed_bytes" else round(value, 4) for name, value in eased.items()}


def goal_stages(goal: Goal, attempts: Sequence[Attempt], chosen: Attempt) -> list[dict[str, Any]]:
    """Return the stages, as a recipe writes them, behind those that make the float model.

    Args:
        goal: what is wanted.
        attempts: in order.
        chosen: the one that is compared on 'test' and reported.
    """
    stages: list[dict[str, Any]] = [{"stage": "export_onnx", "name": FLOAT_FILE}]
    stages.append({"stage": "evaluate", "name": FLOAT_LOOK, "from": FLOAT_FILE, "split": "val", "sizes": False})
    for attempt in attempts:
        pruned_before = next((one for one in attempts[: attempt.number - 1] if one.time == attempt.time), None)
        stages += _attempt_stages(goal, attempt, pruned_before)
    pack = chosen.label("pack")
    return [
        *stages,
        {"stage": "evaluate", "name": "float_test", "from": "float", "split": "test", "sizes": False},
        {"stage": "evaluate", "name": "pack_test", "from": pack, "split": "test", "sizes": False},
        {"stage": "report", "split": "test", "every_stage": False, "final": pack, "require": requirements(goal)},
    ]


def _attempt_stages(goal: Goal, attempt: Attempt, pruned_before: Attempt | None) -> list[dict[str, Any]]:
    def named(stage: str, source: str | None, **fields: Any) -> dict[str, Any]:
        label = attempt.label(stage)
        head = {"stage": stage, **({"name": label} if label != stage else {})}
        return {**head, **({"from": source} if source else {}), **fields}

    def training(epochs: int, lr: float, ema_decay: float) -> dict[str, Any]:
        return {
            "epochs": epochs,
            "optimizer": "adamw",
            "lr": lr,
            "weight_decay": 0.01,
            "schedule": "cosine",
            "warmup_steps": 50,
            "ema_decay": ema_decay,
        }

    teacher = {"teacher": "float"}
    stages, source = [], "float"
    if attempt.time:
        source = (pruned_before or attempt).label("finetune")
    if attempt.time and pruned_before is None:
        prune = {"target": dict(attempt.time), "importance": "group_taylor", "steps": 2}
        prune |= {"taylor_batches": _TAYLOR_BATCHES, "bn_batches": _BN_BATCHES}
        recovery = training(max((goal.epochs + 1) // 2, 1), 0.0006, 0.998)
        stages += [
            named("prune_structured", "float", **prune),
            named("finetune", attempt.label("prune_structured"), training=recovery, distill=teacher),
        ]
    at_size = {"rate": dict(attempt.size)} if attempt.size else {}
    learning = training(attempt.epochs, 0.0003, 0.99)
    stages.append(named("qat", source, weight_bit_width=_BITS, **at_size, training=learning, distill=teacher))
    integers = attempt.label("qat")
    if not attempt.size:
        limits = {"target": {"ratio": _SMALLEST_RATIO}, "max_drop": goal.max_drop.limits}
        stages.append(named("round_weights", integers, **limits))
        integers = attempt.label("round_weights")
    pack = attempt.label("pack")
    return [
        *stages,
        named("export_onnx", integers),
        named("pack", attempt.label("export_onnx")),
        named("benchmark", None, models=[FLOAT_FILE, pack], threads=1),
        {"stage": "evaluate", "name": attempt.look, "from": pack, "split": "val", "sizes": False},
    ]


def requirements(goal: Goal) -> dict[str, Any]:
    """Return the goal as limits of the report, losses on its split."""
    limits: dict[str, Any] = {f"max_{metric}_loss": value / 100 for metric, value in goal.max_drop.limits.items()}
    names = {
        "packed_bytes": "max_packed_bytes",
        "ratio": "min_compression_ratio",
        "latency_ms": "max_latency_ms",
        "speedup": "min_speedup",
    }
    return limits | {names[name]: value for name, value in {**goal.size, **goal.time}.items()}
