"""Read the tensors of a file and load them into a network. Strict, no pickle."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from compress.errors import DetectorError

State = dict[str, Tensor]
MAX_LISTED = 8
COUNTER = "num_batches_tracked"  # of BatchNorm; old files and FrozenBatchNorm2d lack it, inference never reads it
FORBIDDEN = re.compile(r"GLOBAL ([\w.]+)")  # in the message with which torch refuses an object


@dataclass(frozen=True)
class Misfit:
    """What keeps a state from fitting a network.

    Attributes:
        missing: names that only the network has; counters of BatchNorm are not missed.
        unexpected: names that only the state has.
        shapes: one 'name is shape, expected shape' each.
    """

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    shapes: tuple[str, ...]

    def __len__(self) -> int:
        """Return how many tensors do not fit."""
        return len(self.missing) + len(self.unexpected) + len(self.shapes)

    def lines(self) -> list[str]:
        """Return one line a tensor."""
        missing = [f"missing {name}" for name in self.missing]
        return [*missing, *(f"unexpected {name}" for name in self.unexpected), *self.shapes]


def read_tensors(path: Path) -> State:
    """Read the tensors of a safetensors or torch file; errors as in `read_file`."""
    return read_file(path)[0]


def read_file(path: Path) -> tuple[State, Mapping[str, Any]]:
    """Read the tensors of a safetensors or torch file, and what the file says about itself.

    Torch files are read with weights_only=True; a dict under 'state_dict' or 'model' is unwrapped.

    Returns:
        Name -> tensor, and the table 'meta' that mmcv stores beside them ({} without).

    Raises:
        DetectorError: missing, damaged, or holding anything but tensors.
    """
    if not path.is_file():
        raise DetectorError(f"{path}: no such file, expected weights (.safetensors or .pth). Correct the path.")
    try:
        if path.suffix == ".safetensors":
            found: Any = load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, UnpicklingError, SafetensorError) as error:
        # The library's own text is left out: it advises to switch the protection off.
        refused = FORBIDDEN.search(str(error))
        what = f"it wants to run {refused[1]}, which is not loaded" if refused else f"damaged ({type(error).__name__})"
        raise DetectorError(
            f"{path}: no readable weights: {what}. Expected a file of tensors only; copy it again, or save its "
            "state dict alone."
        ) from error
    meta = found.get("meta") if isinstance(found, Mapping) else None
    for key in ("state_dict", "model"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        raise DetectorError(f"{path}: holds no plain table of tensors. Expected name -> tensor.")
    return dict(found), meta if isinstance(meta, Mapping) else {}


def misfit(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Misfit:
    """Return what keeps a state from fitting a network.

    Args:
        own: state of the network; shapes alone are read.
        state: what it shall be given.
    """
    return Misfit(
        missing=tuple(name for name in own if name not in state and not name.endswith(COUNTER)),
        unexpected=tuple(name for name in state if name not in own),
        shapes=tuple(
            f"{name} is {tuple(state[name].shape)}, expected {tuple(own[name].shape)}"
            for name in own
            if name in state and state[name].shape != own[name].shape
        ),
    )


def load_strictly(
    module: nn.Module,
    state: Mapping[str, Tensor],
    *,
    where: str,
    check: str,
    hint: str = "",
    unused: Callable[[str], bool] = lambda name: False,
) -> None:
    """Load a state in place.

    Args:
        module: the network, or a part of it.
        state: name -> tensor.
        where: what the message begins with, e.g. the path.
        check: fields of the recipe that decide the shapes, for the message.
        hint: said behind what is wrong.
        unused: tells the names that the network has no place for and that may be left out.

    Raises:
        DetectorError: a tensor is missing, unexpected or of another shape.
    """
    own = module.state_dict()
    known = {name: value for name, value in state.items() if name in own or not unused(name)}
    problems = misfit(own, known).lines()
    if problems:
        listed = "".join(f"\n  {problem}" for problem in problems[:MAX_LISTED])
        more = f"\n  ... and {len(problems) - MAX_LISTED} more" if len(problems) > MAX_LISTED else ""
        raise DetectorError(
            f"{where}: {len(problems)} tensors do not fit the model{hint}. Check {check}.{listed}{more}"
        )
    module.load_state_dict({**own, **known})
