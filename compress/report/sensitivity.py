"""What the parts of a network can bear, as data and in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from compress.number_text import DASH, share_text
from compress.sensitivity.strongest import strongest

SHOWN = 8  # parts in a summary, from each end
What = Literal["channels", "weights", "activations"]
TITLES: dict[str, str] = {
    "channels": "channels of a pruning group removed",
    "weights": "weights of a layer rounded",
    "activations": "what enters a layer rounded",
}


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SensitivityRow(_Part):
    """One step on one part, all others as they were."""

    what: What = Field(description="'channels' removed, 'weights' rounded, or the 'activations' that enter a layer.")
    part: str = Field(description="Layer whose output channels number those of a pruning group, or the layer rounded.")
    amount: float = Field(description="Share of the channels that is removed, or bits.")
    channels: int | None = Field(None, description="Channels that are removed.")
    width: int | None = Field(None, description="Channels of the group.")
    error: float | None = Field(
        description="Root of the mean square of `errors`; null: the outputs are no numbers any more."
    )
    errors: dict[str, float | None] = Field(description="By raw output: relative L2 error over all images together.")
    loss: float | None = Field(None, description="Points (hundredths) of the metric; null: not scored.")
    loss_interval: tuple[float, float] | None = Field(None, description="95 % paired bootstrap interval, points.")
    params_freed: float = Field(description="Share of the network's parameters.")
    macs_freed: float = Field(description="Share of the network's MACs.")
    bytes_freed: float = Field(description="Share of what all weights take as integers of 8 bits, ideally coded.")

    @property
    def rank(self) -> float:
        """Return the error, infinite where there is none."""
        return float("inf") if self.error is None else self.error

    @property
    def amount_text(self) -> str:
        """Return '50 %' or '4 bits'."""
        return share_text(self.amount, 0) if self.what == "channels" else f"{self.amount:g} bits"

    @property
    def cost_text(self) -> str:
        """Return the loss with its interval, a dash if it was not scored."""
        if self.loss is None:
            return DASH
        between = "" if self.loss_interval is None else " ({:.1f} to {:.1f})".format(*self.loss_interval)
        return f"{self.loss:.1f}{between}"


class NotMeasured(_Part):
    """A layer or group that was left alone."""

    part: str
    reason: str


class Sensitivity(_Part):
    """What all parts of one network can bear."""

    of: str = Field(description="Label of the model.")
    importance: str = Field(description="What ranked the channels.")
    images: int = Field(description="Of the split 'train', that errors were measured on.")
    split: str | None = Field(None, description="That was scored; null: none.")
    score_images: int | None = Field(None, description="Of that split.")
    metric: str | None = Field(None, description="That losses are of; null: it could not be measured.")
    reference: float | None = Field(None, description="The metric of the model as it is, on these images, 0..1.")
    rows: list[SensitivityRow]
    not_measured: list[NotMeasured] = Field(default_factory=list)

    def of_kind(self, what: str) -> list[SensitivityRow]:
        """Return the rows of a kind, in the order of the network."""
        return [row for row in self.rows if row.what == what]

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def sentence(row: SensitivityRow, metric: str | None) -> str:
    """Return what one step frees and costs, in words."""
    frees = {"of the MACs": row.macs_freed, "of the coded weights": row.bytes_freed}
    freed = [f"{share_text(share)} {of}" for of, share in frees.items() if share > 0]
    text = f"frees {' and '.join(freed)}, " if freed else ""
    error = "outputs are no numbers" if row.error is None else f"output error {share_text(row.error)}"
    return text + error + (f", costs {row.cost_text} points of {metric}" if row.loss is not None else "")


def _lines(found: Sensitivity) -> list[str]:
    scored = ""
    if found.metric is not None and found.reference is not None:
        scored = f"; {found.metric} {found.reference:.3f} on {found.score_images} images of {found.split}"
    lines = [f"sensitivity of {found.of}: errors on {found.images} images of train{scored}"]
    for what, title in TITLES.items():
        rows = sorted(strongest(found.of_kind(what)), key=lambda row: -row.rank)
        if not rows:
            continue
        lines += ["", f"  {title}, most sensitive first:", *_some(rows, found.metric)]
    return lines


def _some(rows: Sequence[SensitivityRow], metric: str | None) -> list[str]:
    """Return lines of the first and the last parts."""
    width = max(len(row.part) for row in rows)
    texts = [f"    {row.part.ljust(width)}  {row.amount_text}: {sentence(row, metric)}" for row in rows]
    if len(texts) <= 2 * SHOWN:
        return texts
    return [*texts[:SHOWN], f"    ... {len(texts) - 2 * SHOWN} between", *texts[-SHOWN:]]
