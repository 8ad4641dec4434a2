"""What a training says while it runs: a bar on a terminal, else one plain line in ten seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

from compress.dataset import METRICS, Batch
from compress.progress import say, track
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
        )

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Print the line of a finished epoch."""
        scores = "".join(f" {metric} {row[metric]:.4f}" for metric in METRICS if row.get(metric) is not None)
        say(
            f"{self.label} epoch {row['epoch']}/{self.epochs} done: {_loss_text(row['losses'])}"
            f"{scores} in {row['seconds']:.0f} s"
        )


def _loss_text(losses: Mapping[str, float]) -> str:
    parts = ", ".join(f"{name.removeprefix('loss_')} {value:.3f}" for name, value in losses.items())
    return f"loss {sum(losses.values()):.3f} ({parts})"
