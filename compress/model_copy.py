"""A copy of a model, whatever hangs on its modules."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from torch import nn

ModelT = TypeVar("ModelT", bound="nn.Module")


def copy_of(model: ModelT) -> ModelT:
    """Return a deep copy of a model.

    A weight that is computed before each call (torch's old `weight_norm`) is the result of operations after the first
    one, and torch refuses to copy such a tensor. It is cut loose first, in place: the next call computes it anew.
    """
    from torch import Tensor

    for module in model.modules():
        for name, value in vars(module).items():
            if isinstance(value, Tensor) and not value.is_leaf:
                vars(module)[name] = value.detach()
    return copy.deepcopy(model)
