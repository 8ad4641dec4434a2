"""Which of a checkpoint's tables holds the weights, under which names, and what is left: one place for every plug-in.

Looked for, in this order, at the top and below the names that training programs use:

- averaged weights (`ema`, `state_dict_ema`, `model_ema`, `ema_model`): what their programs test and deploy. MMEngine's
  `ema_state_dict` is not one of them: beside it, `state_dict` holds the averaged weights;
- `state_dict`, `model_state_dict`, `model`, `net`, `network`, `weights` and the like;
- the file itself; else its only other table of tensors.

A whole module that was pickled is read as the table that its `state_dict()` would give.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from detectors.weights.pickled import Call, calls_in

EMA = (
    "ema", "state_dict_ema", "model_ema", "ema_model", "ema_network", "ema_weights", "averaged_model", "params_ema",
)  # fmt: skip
MODEL = (
    "state_dict", "model_state_dict", "model_state", "model", "net", "net_state_dict", "network", "network_state_dict",
    "weights", "params", "module", "detector", "state",
)  # fmt: skip
# How names begin whose tables are never weights.
NEVER = ("optim", "scheduler", "lr_sched", "scaler", "param_sched", "message_hub", "amp", "meta", "ema_state_dict")
WRAPPERS = ("module.", "_orig_mod.", "averaged_model.")  # of DataParallel, DDP, torch.compile and their averages
INNER = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")  # parts inside names, of wrapped layers
AVERAGES = ("teacher", "ema", "model_ema", "ema_model", "averaged_model")  # first parts of names beside another copy's
EXTRA = "_extra_state"  # of a module that keeps more than tensors; inference needs none of it
COUNTERS = ("n_averaged", "total_ops", "total_params")  # last parts: of torch's AveragedModel, and thop's counts
_MAX_DEPTH = 4  # of tables in tables
_MAX_MODULES = 100_000

Value = TypeVar("Value")


@dataclass(frozen=True)
class Chosen:
    """The weights of a checkpoint.

    Attributes:
        table: name -> what becomes a tensor.
        taken: where it lies, '' for the file itself.
        left: what else the file holds, in words.
    """

    table: Mapping[str, Any]
    taken: str
    left: tuple[str, ...]

    def text(self) -> str:
        """Return what was taken and left as a line."""
        taken = f"{len(self.table)} tensors{f' of {self.taken!r}' if self.taken else ''}"
        return f"{taken} taken, left: {', '.join(self.left)}" if self.left else f"{taken} taken"


def choose_table(content: Any, is_tensor: Callable[[Any], bool]) -> Chosen | None:
    """Return the weights of a checkpoint, None where it holds no table of tensors or several that nothing tells apart.

    Args:
        content: what the file holds.
        is_tensor: tells what becomes a tensor.
    """
    for where, value in _places(content):
        table = _table(value, is_tensor)
        if table is not None:
            names = without_wrappers(table)
            return Chosen(names, where, tuple(_left(content, where, len(table) - len(names))))
    return None


def without_wrappers(table: Mapping[str, Value]) -> dict[str, Value]:
    """Return a table without the prefixes of wrappers and without the copies that an averaging hook keeps in it.

    >>> without_wrappers({"module.a": 1, "module.b._orig_mod.c": 2})
    {'a': 1, 'b.c': 2}
    """
    table = {name: value for name, value in table.items() if name.rpartition(".")[2] not in COUNTERS}
    while table:
        prefix = next((prefix for prefix in WRAPPERS if all(name.startswith(prefix) for name in table)), None)
        if prefix is None or any(name == prefix for name in table):
            break
        table = {name.removeprefix(prefix): value for name, value in table.items()}
    inner = {".".join(part for part in name.split(".") if part not in INNER): value for name, value in table.items()}
    table = inner if len(inner) == len(table) else table
    # MMCV's EMAHook keeps the other weights as buffers `ema_backbone_conv1_weight`.
    copies = {f"ema_{name.replace('.', '_')}" for name in table}
    return {name: value for name, value in table.items() if name not in copies}


def _places(content: Any) -> Iterator[tuple[str, Any]]:
    """Yield (place, value) of what may be the weights, the likeliest first."""
    if not isinstance(content, Mapping):
        yield "", content
        return
    for names in (EMA, MODEL):
        yield from _below(content, names, "")
    yield "", content
    others = _others(content)
    if len(others) == 1:
        key, value = others[0]
        if isinstance(value, Mapping):
            yield from _below(value, (*EMA, *MODEL), key)
        yield key, value


def _others(content: Mapping[Any, Any]) -> list[tuple[str, Any]]:
    """Return (key, value) of tables under names that say nothing."""
    return [
        (key, value)
        for key, value in content.items()
        if isinstance(key, str) and key not in (*EMA, *MODEL) and not key.startswith(NEVER) and _may_hold(value)
    ]


def tables_of(content: Any, is_tensor: Callable[[Any], bool]) -> list[str]:
    """Return the names of the tables of tensors of which `choose_table` could not tell which holds the weights."""
    others = _others(content) if isinstance(content, Mapping) else []
    return [key for key, value in others if _table(value, is_tensor) is not None]


def _below(content: Mapping[Any, Any], names: tuple[str, ...], place: str) -> Iterator[tuple[str, Any]]:
    for name in names:
        value = content.get(name)
        if not _may_hold(value):
            continue
        where = f"{place}.{name}" if place else name
        if isinstance(value, Mapping) and where.count(".") < _MAX_DEPTH:
            yield from _below(value, MODEL, where)
        yield where, value


def _may_hold(value: Any) -> bool:
    return bool(value) if isinstance(value, Mapping) else isinstance(value, Call)


def _table(value: Any, is_tensor: Callable[[Any], bool]) -> dict[str, Any] | None:
    """Return name -> tensor-to-be if that is what a value is."""
    if isinstance(value, Call):
        found = dict(_of_module(value))
        return found if found and all(map(is_tensor, found.values())) else None
    if not isinstance(value, Mapping) or not value:
        return None
    kept = {name: item for name, item in value.items() if not (isinstance(name, str) and name.endswith(EXTRA))}
    if not kept or not all(isinstance(name, str) and is_tensor(item) for name, item in kept.items()):
        return None
    return kept


def _of_module(call: Call) -> Iterator[tuple[str, Any]]:
    """Yield what the `state_dict()` of a pickled module would hold; nothing for what is no module."""
    waiting, seen = [("", call)], set[int]()
    while waiting and len(seen) < _MAX_MODULES:
        prefix, module = waiting.pop()
        state = module.state
        if id(module) in seen or not isinstance(state, Mapping) or not isinstance(state.get("_modules"), Mapping):
            continue
        seen.add(id(module))
        passing = state.get("_non_persistent_buffers_set")
        left_out = {name for name in (passing.items if isinstance(passing, Call) else []) if isinstance(name, str)}
        for part in ("_parameters", "_buffers"):
            values = state.get(part)
            for name, value in values.items() if isinstance(values, Mapping) else ():
                if isinstance(name, str) and value is not None and name not in left_out:
                    yield f"{prefix}{name}", value
        inner = [(name, m) for name, m in state["_modules"].items() if isinstance(name, str) and isinstance(m, Call)]
        waiting += [(f"{prefix}{name}.", module) for name, module in reversed(inner)]


def _left(content: Any, taken: str, num_copies: int) -> Iterator[str]:
    """Yield what of a checkpoint is not read, with the classes that stay inert placeholders."""
    first = taken.partition(".")[0]
    for key, value in content.items() if taken and isinstance(content, Mapping) else ():
        if key == first or key is None:
            continue
        classes = list(dict.fromkeys(calls_in(value)))[:3]
        yield f"{str(key)[:60]!s}" + (f" ({', '.join(classes)} not built)" if classes else "")
    if num_copies:
        yield f"{num_copies} counters and copies of an averaging hook"
