"""Read the tensors of a file and load them into a network. Strict, and nothing of a file is executed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, nn

from compress.errors import DetectorError
from compress.progress import say
from detectors.weights.choosing import AVERAGES, choose_table, tables_of, without_wrappers
from detectors.weights.pickled import PickleError
from detectors.weights.torch_files import ZIP_SIGNATURE, Stored, TorchFile, array_of

State = dict[str, Tensor]
MAX_LISTED = 8
COUNTER = "num_batches_tracked"  # of BatchNorm; old files and FrozenBatchNorm2d lack it, inference never reads it
ADVICE = "Expected a file of tensors; copy it again, or save its state dict alone."


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
    """Read the weights in a safetensors or torch file, and what the file says about itself.

    Nothing in the file is imported, called or built but containers, numbers, text and tensors. Which of its tables is
    taken, and under which names, stands in `choosing.py`; what is taken and left is said.

    Returns:
        Name -> tensor, and the table 'meta' that mmcv and MMEngine store beside them, as far as it is text, numbers and
        lists of these ({} without).

    Raises:
        DetectorError: missing, damaged, without a table of tensors, or a program.
    """
    if not path.is_file():
        raise DetectorError(f"{path}: no such file, expected weights (.safetensors or .pth). Correct the path.")
    try:
        with path.open("rb") as file:
            start = file.read(9)
        if start[8:] == b"{" and not start.startswith(ZIP_SIGNATURE):
            found: State | None = without_wrappers(load_file(path))
            meta: Mapping[str, Any] = {}
        elif path.suffix == ".safetensors":
            raise PickleError("damaged: no header of safetensors")
        else:
            found, meta = _read_torch(path)
    except Exception as error:  # whatever a stranger's file makes the libraries throw, it is about the file
        raise DetectorError(f"{path}: no readable weights: {_why(error)}. {ADVICE}") from error
    if found is None:
        raise DetectorError(f"{path}: holds no plain table of tensors. Expected name -> tensor.")
    return found, meta


def _read_torch(path: Path) -> tuple[State | None, Mapping[str, Any]]:
    with TorchFile(path) as file:
        chosen = choose_table(file.content, _is_tensor)
        if chosen is None:
            if several := tables_of(file.content, _is_tensor):
                raise PickleError(
                    f"tables of tensors in {', '.join(several[:MAX_LISTED])}, and none is named as weights"
                )
            return None, {}
        if chosen.left:
            say(f"{path}: {chosen.text()}")
        state = {}
        for name, value in chosen.table.items():
            array = array_of(value)
            state[name] = file.tensor(value) if array is None else array
        meta = file.content.get("meta") if isinstance(file.content, Mapping) else None
    return state, _plain(meta)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Stored) or array_of(value) is not None


def _why(error: Exception) -> str:
    """Return what is wrong with a file in a few words of ours: libraries advise to switch protections off."""
    if isinstance(error, PickleError):
        return str(error) or "damaged"
    return f"damaged ({type(error).__name__})"


def _plain(meta: Any) -> Mapping[str, Any]:
    """Return the entries of a table that are text, numbers or flat lists of them."""
    table = meta.items() if isinstance(meta, Mapping) else ()
    return {key: value for key, value in table if isinstance(key, str) and _is_plain(value)}


def _is_plain(value: Any) -> bool:
    simple = str | int | float | bool
    return isinstance(value, simple) or (isinstance(value, list | tuple) and all(isinstance(v, simple) for v in value))


def below_wrapper(state: Mapping[str, Tensor], tops: Collection[str]) -> State:
    """Return the part of a state below a first part of names that is no network's, as of Lightning's `model.`.

    What a program keeps beside it (`criterion.weight`) is left and said. Of two copies of a network the averaged one is
    taken (`teacher.` beside `student.`); where nothing tells them apart, the state is returned as it is.

    Args:
        state: name -> tensor.
        tops: first parts that the names of a network may have.

    >>> below_wrapper({"model.neck.a": 1, "model.head.b": 2}, {"neck", "head"})
    {'neck.a': 1, 'head.b': 2}
    """
    below: dict[str, State] = {}
    for name, value in state.items():
        first, _, rest = name.partition(".")
        below.setdefault(first, {})[rest] = value
    if below.keys() & set(tops):
        return dict(state)
    fitting = [
        first for first, inner in below.items() if {name.partition(".")[0] for name in inner} <= set(tops) - {""}
    ]
    chosen = fitting if len(fitting) == 1 else [first for first in fitting if first in AVERAGES]
    if len(chosen) != 1:
        return dict(state)
    if len(below) > 1:
        left = len(state) - len(below[chosen[0]])
        say(f"the {len(below[chosen[0]])} tensors of {chosen[0]!r} are taken, {left} beside it are left")
    return below[chosen[0]]


def fitted_names(own: Collection[str], state: Mapping[str, Tensor]) -> State:
    """Return a state under the names of a network where wrappers alone keep them apart, else as it is.

    Parts `module` inside names are those of wrapped parts (DataParallel, DDP); a common first part is that of a program
    around the network.
    """
    inner = {".".join(part for part in name.split(".") if part != "module"): value for name, value in state.items()}
    tops = {name.partition(".")[0] for name in own}
    inner = inner if len(inner) == len(state) else dict(state)
    tries = [dict(state), inner, below_wrapper(state, tops), below_wrapper(inner, tops)]
    return max(tries, key=lambda names: sum(name in own for name in names))  # the first of equal ones


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
    state = fitted_names(own.keys(), state)
    known = {name: value for name, value in state.items() if name in own or not unused(name)}
    problems = misfit(own, known).lines()
    if problems:
        listed = "".join(f"\n  {problem}" for problem in problems[:MAX_LISTED])
        more = f"\n  ... and {len(problems) - MAX_LISTED} more" if len(problems) > MAX_LISTED else ""
        raise DetectorError(
            f"{where}: {len(problems)} tensors do not fit the model{hint}. Check {check}.{listed}{more}"
        )
    module.load_state_dict({**own, **known})
