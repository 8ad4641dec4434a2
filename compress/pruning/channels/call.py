"""One operator as it ran, and the labels of tensors: to which channel of which layer each value belongs.

The labels of a tensor have its rank; a dimension along which the channels do not differ has size 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from compress.pruning.channels.classes import ChannelClasses
from compress.pruning.reasons import Reason, tied


@dataclass
class Call:
    """One operator as it ran.

    Attributes:
        name: of the operator, without overload and without the underscore of in-place forms.
        args, kwargs: as it got them.
        out: what it returned.
        labels_of: tensor -> labels, None where everything is fixed.
        classes: of the network.
        reason_of: tensor without labels -> why its channels stay, None if it never had any.
        pointwise: torch says that it works element by element.
        flexible: the dimension of a new shape that follows the number of channels, where the caller said so.
    """

    name: str
    args: Sequence[Any]
    kwargs: dict[str, Any]
    out: Any
    labels_of: Callable[[Tensor], Tensor | None]
    classes: ChannelClasses
    reason_of: Callable[[Tensor], Reason | None]
    pointwise: bool = False
    flexible: int | None = None

    @property
    def fixed_by(self) -> Reason:
        """Return why channels stay that this operator ties to fixed ones."""
        return tied(self.name, self.because())

    def because(self) -> Reason | None:
        """Return why the first of the tensors that it reads keeps its channels, None if none had any."""
        reasons = (self.reason_of(tensor) for tensor in self.tensors() if self.labels_of(tensor) is None)
        return next((reason for reason in reasons if reason is not None), None)

    def tensors(self) -> list[Tensor]:
        """Return all tensors among the arguments."""
        return list(tensors_in([*self.args, *self.kwargs.values()]))

    def arg(self, index: int, name: str, default: Any = None) -> Any:
        """Return an argument by position or name."""
        return self.args[index] if len(self.args) > index else self.kwargs.get(name, default)

    def first(self) -> Tensor | None:
        """Return the labels of the first argument."""
        return self.labels_of(self.args[0])


def tensors_in(value: Any) -> Iterable[Tensor]:
    """Yield every tensor in nested lists and tuples."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_in(item)


def compact(labels: Tensor) -> Tensor:
    """Return labels with size 1 in every dimension along which they do not differ."""
    for dim in range(labels.dim()):
        if labels.shape[dim] > 1:
            one = labels.narrow(dim, 0, 1)
            if labels.stride(dim) == 0 or bool((labels == one).all()):
                labels = one
    return labels


def varying(labels: Tensor) -> set[int]:
    """Return the dimensions along which compact labels differ."""
    return {dim for dim in range(labels.dim()) if labels.shape[dim] > 1}


def collapse(call: Call, labels: Tensor, keep: Iterable[int]) -> Tensor:
    """Unite channels along all dimensions but some, and return the labels, size 1 elsewhere."""
    kept = {dim % labels.dim() for dim in keep}
    for dim in varying(labels) - kept:
        first = labels.narrow(dim, 0, 1)
        call.classes.unite(labels, first.expand_as(labels), call.fixed_by)
        labels = call.classes.canonical(first)
    return labels
