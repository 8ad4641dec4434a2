"""How several processes share the batches of one training."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

from torch import distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader, Sampler

from compress.errors import StageError


class RankBatches(Sampler[list[int]]):
    """The part of every batch that one process takes: items rank, rank + processes, ...

    No item is taken twice, and every process takes as many steps. A batch with fewer items than there are
    processes is left out by all of them (only the last of an epoch can be that small).

    Attributes:
        batches: batches of the whole training, lists of indices.
        rank: of this process.
        processes: how many share a batch.
    """

    def __init__(self, batches: Any, rank: int, processes: int) -> None:
        self.batches, self.rank, self.processes = batches, rank, processes

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the indices of this process, batch by batch."""
        for batch in self.batches:
            if len(batch) >= self.processes:
                yield list(batch[self.rank :: self.processes])

    def __len__(self) -> int:
        """Return the number of batches that are not left out."""
        return len(self.batches) - (self._last_size() < self.processes)

    def _last_size(self) -> int:
        sampler: Sequence[int] | None = getattr(self.batches, "sampler", None)
        size: int | None = getattr(self.batches, "batch_size", None)
        if sampler is None or not size or getattr(self.batches, "drop_last", False):
            return self.processes
        return len(sampler) % size or size


def shard(loader: Any, *, rank: int, processes: int) -> DataLoader:
    """Return a loader of this process's part of every batch of `loader`.

    Raises:
        StageError: the plug-in's loader is no torch DataLoader with batches, or a batch is too small to share.
    """
    if not isinstance(loader, DataLoader) or loader.batch_sampler is None:
        raise StageError(
            f"{type(loader).__name__}: cannot be shared by {processes} processes. Expected a torch DataLoader that "
            "makes batches; run in one process."
        )
    if loader.batch_size is not None and loader.batch_size < processes:
        raise StageError(f"batch_size is {loader.batch_size} for {processes} processes. Give each at least one image.")
    return DataLoader(
        loader.dataset,
        batch_sampler=RankBatches(loader.batch_sampler, rank, processes),
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        worker_init_fn=loader.worker_init_fn,
        generator=loader.generator,
        pin_memory=loader.pin_memory,
    )


def join_group(label: str, *, device: str) -> None:
    """Let the processes of this training meet under a name of their own; nothing without a launcher.

    Each training stage is a new group of new processes, but the launcher's store lives on: a group without a name
    would find the addresses of the stage before there, and fail to connect.

    Args:
        label: of the stage, the same in all processes.
        device: 'cpu' or 'cuda'; decides how they talk.
    """
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    from_launcher = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if not several or not from_launcher or distributed.is_initialized():
        return
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    own = distributed.TCPStore(address, port, is_master=False)  # type: ignore[attr-defined]
    store = distributed.PrefixStore(f"krimp/{label}", own)  # type: ignore[attr-defined]
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    backend = "gloo" if device == "cpu" else "nccl"
    distributed.init_process_group(backend, store=store, rank=rank, world_size=size)


def trains_batch_norm(model: nn.Module) -> bool:
    """Return whether a BatchNorm uses the statistics of its batch, which then are those of one process alone."""
    return any(isinstance(module, _BatchNorm) and module.training for module in model.modules())
