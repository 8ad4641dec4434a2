"""Channels that stay or go together, as a union-find over numbered channels."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from compress.pruning.reasons import FIXED_SIZE, Reason

FIXED = 0  # label of what is no channel: its size never changes


class ChannelClasses:
    """Numbered channels in classes; a class is removed as a whole, or it is frozen and stays.

    Labels are int64 tensors of channel numbers. Number 0 stands for everything of fixed size.
    """

    def __init__(self) -> None:
        self._parent: list[int] = [FIXED]
        self._table: Any = None
        self._frozen: dict[int, Reason] = {FIXED: FIXED_SIZE}

    def new(self, number: int) -> Tensor:
        """Return (number,) labels of new channels, each a class of its own."""
        start = len(self._parent)
        self._parent.extend(range(start, start + number))
        self._table = None
        return torch.arange(start, start + number)

    def root(self, label: int) -> int:
        """Return the number that stands for a channel's class."""
        parent = self._parent
        while parent[label] != label:
            parent[label] = parent[parent[label]]
            label = parent[label]
        return label

    def unite(self, first: Tensor, second: Tensor, reason: Reason) -> None:
        """Join the classes of two label tensors, element by element; beside a fixed size a class is frozen."""
        if torch.equal(first, second):
            return
        pairs = torch.stack([first.flatten(), second.flatten()], 1)
        for one, other in torch.unique(pairs, dim=0).tolist():
            a, b = self.root(one), self.root(other)
            if a == b:
                continue
            if FIXED in (a, b):
                self._freeze(max(a, b), reason)
                continue
            keep, gone = min(a, b), max(a, b)
            self._parent[gone] = keep
            if gone in self._frozen:
                self._frozen.setdefault(keep, self._frozen.pop(gone))
            self._table = None

    def freeze(self, labels: Tensor, reason: Reason) -> None:
        """Let the classes of these channels stay."""
        for label in torch.unique(labels).tolist():
            self._freeze(self.root(label), reason)

    def _freeze(self, root: int, reason: Reason) -> None:
        if root not in self._frozen:
            self._frozen[root] = reason
            self._table = None

    def reason(self, labels: Tensor) -> Reason | None:
        """Return why the first frozen of these channels stays, None if all may go."""
        for label in labels.flatten().tolist():
            if (why := self._frozen.get(self.root(label))) is not None:
                return why
        return None

    def canonical(self, labels: Tensor) -> Tensor:
        """Return the number of each channel's class, 0 where it is frozen, same shape."""
        if self._table is None:
            table = np.asarray(self._parent)
            while not np.array_equal(shorter := table[table], table):
                table = shorter
            frozen = np.zeros(len(table), bool)
            frozen[list(self._frozen)] = True
            table = np.where(frozen[table], FIXED, table)
            self._table = torch.from_numpy(table)
        return self._table[labels]  # type: ignore[no-any-return]
