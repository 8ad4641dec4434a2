"""What a training says while it runs: a bar on a terminal, else one plain line in ten seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

from compress.curves import Curves, curves_of
from compress.dataset import METRICS, Batch
from compress.progress import say, tell, track
from compress.training.checkpoint import Position
from compress.training.settings import TrainingFields

SECONDS_BETWEEN_LINES = 10.0


class TrainingProgress:
    """Progress: a bar on a terminal, else one plain line in ten seconds."""

    def __init__(self, label: str, settings: TrainingFields, total_steps: int, steps_per_epoch: int) -> None:
        self.label, self.epochs = label, settings.epochs
        self.total_steps, self.steps_per_epoch = total_steps, steps_per_epoch
        self.next_line = 0.0
        self.session_started: tuple[float, int] | None = None
        self.curves: Curves | None = curves_of(label)

    def watch(self, batches: Iterator[Batch], position: Position) -> Iterator[Batch]:
        """Wrap the batches of an epoch in a progress bar where somebody watches."""
        if not sys.stdout.isatty():
            return batches
        left = self.steps_per_epoch - position.batch
        return iter(track(batches, f"{self.label} epoch {position.epoch + 1}/{self.epochs}", total=left))

    def step(self, position: Position, losses: Mapping[str, float], rate: float, seconds_per_image: float) -> None:
        """Print the line of a step if it is time."""
        now = time.monotonic()
        if self.session_started is None:
            self.session_started = (now, position.step)
        remark = tell(self.label, position.step, self.total_steps, whole=True)
        if self.curves is not None:
            named = {f"step_loss/{name.removeprefix('loss_')}": value for name, value in losses.items()}
            self.curves.scalars({"step_loss/sum": sum(losses.values()), "step_lr": rate} | named, position.step)
        if now < self.next_line or sys.stdout.isatty():
            return
        self.next_line = now + SECONDS_BETWEEN_LINES
        started, first = self.session_started
        eta = (
            (now - started) / (position.step - first) * (self.total_steps - position.step)
            if position.step > first
            else 0
        )
        say(
            f"{self.label} epoch {position.epoch + 1}/{self.epochs} step {position.batch}/{self.steps_per_epoch} "
            f"{_loss_text(losses)} lr {rate:.2g} {seconds_per_image:.2f} s/img"
            + (f" eta {max(1, round(eta / 60))} min" if eta else "")
            + (f"; {remark}" if remark else "")
        )

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Print the line of a finished epoch, and add it to the curves."""
        if self.curves is not None:
            named = {f"loss/{name.removeprefix('loss_')}": value for name, value in row["losses"].items()}
            named |= {name: row[name] for name in (*METRICS, "lr", "seconds") if row.get(name) is not None}
            self.curves.scalars(named, row["epoch"])
            self.curves.flush()
        scores = "".join(f" {metric} {row[metric]:.4f}" for metric in METRICS if row.get(metric) is not None)
        say(
            f"{self.label} epoch {row['epoch']}/{self.epochs} done: {_loss_text(row['losses'])}"
            f"{scores} in {row['seconds']:.0f} s"
        )


def _loss_text(losses: Mapping[str, float]) -> str:
    parts = ", ".join(f"{name.removeprefix('loss_')} {value:.3f}" for name, value in losses.items())
    return f"loss {sum(losses.values()):.3f} ({parts})"
