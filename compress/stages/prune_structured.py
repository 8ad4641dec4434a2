"""Stage prune_structured: remove channels in several steps until every limit of the target holds."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from compress.kind import Kind
from compress.pruning.target import PruningTarget
from compress.stage import Stage
from compress.training.settings import DistillFields, TrainingFields


class RecoveryTraining(TrainingFields):
    """Training after each step."""

    epochs: int = Field(0, ge=0, description="Passes over the split 'train' after each step; 0 trains nothing.")


class PruneStructured(Stage):
    """Remove whole channels, with batch norm re-estimation and a short recovery after each step."""

    NEEDS: ClassVar[tuple[Kind, ...]] = (Kind.MODEL,)
    MAKES: ClassVar[Kind] = Kind.MODEL
    NOT_AFTER: ClassVar[tuple[str, ...]] = ("prune_unstructured", "qat")
    LIBRARIES: ClassVar[tuple[str, ...]] = ("torch", "torchvision", "torch-pruning")
    COSMETIC: ClassVar[frozenset[str]] = frozenset({"training.checkpoint_minutes"})
    TRAINS: ClassVar[bool] = True
    ACTION: ClassVar[str] = "compress.actions.prune_structured"
    CODE_VERSION: ClassVar[int] = 2  # 2: channels followed one by one; group norms lose whole groups

    stage: Literal["prune_structured"] = "prune_structured"
    target: PruningTarget = Field(
        ...,
        description="What stays: macs, params, packed_bytes, latency_ms or speedup, or several that shall all hold.",
    )
    importance: Literal["magnitude", "group_taylor", "bn_scale", "random"] = Field(
        "group_taylor", description="What ranks channels; group_taylor reads gradients of training batches."
    )
    steps: int = Field(1, ge=1, le=50, description="Equal factors of cost; importance is measured anew in each.")
    round_to: int = Field(8, ge=1, description="Kept widths are multiples of it, rounded up.")
    max_pruning_ratio: float = Field(0.8, ge=0, lt=1, description="Largest share of a layer's channels that may go.")
    global_pruning: bool = Field(True, description="Rank all groups together; false: each group loses the same share.")
    isomorphic: bool = Field(False, description="Rank only groups of equal structure together.")
    cost_aware: bool | None = Field(
        None,
        description="Divide importance by what a channel of the group costs; default: where time or bytes are limited.",
    )
    taylor_batches: int = Field(20, ge=1, description="Training batches for importance group_taylor, each step.")
    bn_batches: int = Field(50, ge=0, description="Training batches that re-estimate batch norm, each step; 0 = none.")
    protect: dict[str, str] = Field(
        default_factory=dict, description="Further layers that keep their width: module name -> reason."
    )
    widths: dict[str, int] = Field(
        default_factory=dict,
        description="Layer -> final channels, whatever the ranking says; for layers that cost more time than MACs.",
    )
    training: RecoveryTraining = Field(
        default_factory=RecoveryTraining, description="Recovery after each step; its batch_size is used throughout."
    )
    distill: DistillFields | None = Field(None, description="Learn from a teacher as well during recovery.")

    @property
    def is_cost_aware(self) -> bool:
        """Return whether importance is divided by cost."""
        return self.target.is_measured if self.cost_aware is None else self.cost_aware

    def is_timed(self) -> bool:
        """Return whether the target is a time."""
        return self.target.latency_ms is not None or self.target.speedup is not None

    def key_fields(self) -> dict[str, Any]:
        """Return the fields as they are carried out; measured limits that are not set are left out."""
        target = {"macs": self.target.macs, "params": self.target.params, **self.target.wanted}
        return super().key_fields() | {"target": target, "cost_aware": self.is_cost_aware}

    def references(self) -> tuple[str, ...]:
        """Return the teacher's label, if recovery has one."""
        return (self.distill.teacher,) if self.distill and self.training.epochs else ()

    def splits(self) -> tuple[str, ...]:
        """Return the splits that importance, batch norm and recovery read."""
        reads_train = self.importance == "group_taylor" or self.bn_batches
        return tuple(dict.fromkeys([*(("train",) if reads_train else ()), *self.training.trained_splits()]))
