"""Everything a training needs to continue after a kill: one safetensors file, replaced by rename."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from compress.whole_file import whole_file

CHECKPOINT = "training.safetensors"


@dataclass
class Position:
    """Where a training stands; JSON-able.

    Attributes:
        fingerprint: settings and structure that the checkpoint belongs to.
        epoch, batch: the next batch to train on is `batch` of `epoch`, both 0-based.
        step: optimizer steps done.
        loss_sums: sum of each loss over the batches of this epoch.
        epoch_seconds, train_seconds: time in this epoch and in all, scoring left out.
        images: images seen in all.
        history: one row an epoch.
        best_map, best_map75, best_map50: of the weights that are kept, None before the first scored epoch.
        best_epoch: the epoch they are of.
        stopped: the training is complete (last epoch, step limit or patience).
    """

    fingerprint: str = ""
    epoch: int = 0
    batch: int = 0
    step: int = 0
    loss_sums: dict[str, float] = field(default_factory=dict)
    epoch_seconds: float = 0.0
    train_seconds: float = 0.0
    images: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    best_map: float | None = None
    best_map75: float | None = None
    best_map50: float | None = None
    best_epoch: int | None = None
    stopped: bool = False


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and persistent buffers by name, detached, sharing memory; each tensor once."""
    persistent = model.state_dict().keys()
    named = [*model.named_parameters(), *model.named_buffers()]
    return {name: tensor.detach() for name, tensor in named if name in persistent}


def copy_of(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a deep copy on the same device."""
    return {name: tensor.clone() for name, tensor in tensors.items()}


def write_into(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Copy values into a model in place.

    Raises:
        KeyError: a tensor of the model has no value.
        RuntimeError: a shape differs.
    """
    with torch.no_grad():
        for name, tensor in tensors_of(model).items():
            tensor.copy_(values[name])


class MovingAverage:
    """Exponential moving average of the floating tensors of a model; the others are copied.

    The decay rises with the step, min(decay, (1 + step) / (10 + step)), so that a short training is not
    dominated by its start.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.values = copy_of(tensors_of(model))

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move the average towards the model after optimizer step `step` (0-based)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, tensor in tensors_of(model).items():
            if tensor.is_floating_point():
                self.values[name].lerp_(tensor, 1 - decay)
            else:
                self.values[name].copy_(tensor)


@contextmanager
def using_values(model: nn.Module, values: Mapping[str, Tensor] | None) -> Iterator[None]:
    """Let the model have other values for a while; None changes nothing."""
    if values is None:
        yield
        return
    own = copy_of(tensors_of(model))
    write_into(model, values)
    try:
        yield
    finally:
        write_into(model, own)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimizer state flat: 'parameter index/name' -> tensor."""
    state = optimizer.state_dict()["state"]
    return {
        f"{index}/{name}": value
        for index, entries in state.items()
        for name, value in entries.items()
        if isinstance(value, Tensor)
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` gave, in the memory format of the parameters."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for key, value in tensors.items():
        index, name = key.split("/", 1)
        parameter = parameters[int(index)]
        own = torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape else value.clone()
        optimizer.state[parameter][name] = own.detach()


def save_checkpoint(scratch: Path, position: Position, parts: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Write a checkpoint whole or not at all.

    Args:
        scratch: folder; created if it is missing.
        position: where the training stands.
        parts: part name -> tensors, e.g. 'model', 'optimizer', 'ema', 'best', 'rng'.

    Raises:
        OSError: the disk is full or not writable; the previous checkpoint stays.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    flat = {
        f"{part}/{name}": tensor.detach().to("cpu").clone(memory_format=torch.contiguous_format)
        for part, tensors in parts.items()
        for name, tensor in tensors.items()
    }
    with whole_file(scratch / CHECKPOINT) as file:
        try:
            save_file(flat, file.name, metadata={"position": json.dumps(asdict(position))})
        except SafetensorError as error:  # safetensors wraps the operating system's error in its own
            code = errno.ENOSPC if f"os error {errno.ENOSPC}" in str(error) else errno.EIO
            raise OSError(code, f"cannot write a checkpoint: {error}") from error


def load_checkpoint(scratch: Path) -> tuple[Position, dict[str, dict[str, Tensor]]] | None:
    """Return the checkpoint of a folder, or None if there is none.

    Raises:
        ValueError: the file is damaged.
    """
    path = scratch / CHECKPOINT
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            position = Position(**json.loads((file.metadata() or {})["position"]))
            parts: dict[str, dict[str, Tensor]] = {}
            for key in file.keys():  # noqa: SIM118  safe_open is no mapping
                part, name = key.split("/", 1)
                parts.setdefault(part, {})[name] = file.get_tensor(key)
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    return position, parts
