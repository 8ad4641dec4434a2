"""What one forward pass shows: the channels of layers, of tables of values, and of integers that count channels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from compress.layer_widths import widths_of
from compress.pruning.channels.call import compact
from compress.pruning.channels.classes import FIXED, ChannelClasses
from compress.pruning.reasons import ONE_CHANNEL, Reason, called_elsewhere, size_of_different, size_of_others

LARGEST_TABLE = 100_000  # values of a parameter that is followed value by value


class ChannelTrace:
    """What one forward pass showed.

    Attributes:
        classes: of all channels.
        sides: (module name, 'out' or 'in') -> labels of the layer's channels, (width,).
        tables: parameter or buffer name -> labels of its values, its shape.
        sizes: place of an integer -> labels of the channels that it counts.
        fixed: name of a layer that passes its channels on -> why those that it reads stay.
        roots: names of the layers that make new channels, in the order of the model.
    """

    def __init__(self, model: nn.Module, custom: Mapping[type, Any]) -> None:
        self.classes = ChannelClasses()
        self.sides: dict[tuple[str, str], Tensor] = {}
        self.tables: dict[str, Tensor] = {}
        self.sizes: dict[str, Tensor] = {}
        self.roots: list[str] = []
        self.custom = custom
        self.flexible: int | None = None
        self.fixed: dict[str, Reason] = {}
        self._labels: Any = WeakIdKeyDictionary()
        self._why: Any = WeakIdKeyDictionary()
        self._read: set[int] = set()  # parameters that operators without a rule for weights got
        self._owners: dict[int, list[tuple[str, nn.Module, str]]] = defaultdict(list)
        for name, module in model.named_modules():
            # A buffer that is not saved comes whole from the constructor: what is cut out of it would not stay so.
            unsaved = module._non_persistent_buffers_set
            saved = [(key, tensor) for key, tensor in module.named_buffers(recurse=False) if key not in unsaved]
            for key, tensor in [*module.named_parameters(recurse=False), *saved]:
                self._owners[id(tensor)].append((name, module, key))

    def labels_of(self, tensor: Tensor) -> Tensor | None:
        """Return the labels of a tensor with frozen classes as 0, None if all of it is fixed."""
        labels = self._labels.get(tensor)
        if id(tensor) in self._owners:
            self._read.add(id(tensor))
        if labels is None and id(tensor) in self._owners:
            labels = self._table(tensor)
        if labels is None:
            return None
        labels = compact(self.classes.canonical(labels))
        return labels if bool(labels.any()) else None

    def set_labels(self, tensor: Tensor, labels: Tensor | None) -> None:
        """Remember the labels of a tensor."""
        if labels is None:
            self._labels.pop(tensor, None)
        else:
            self._labels[tensor] = labels

    def reason_of(self, tensor: Tensor) -> Reason | None:
        """Return why the channels of a tensor without labels stay; None if it never had channels."""
        if (known := self._why.get(tensor)) is not None:
            return known  # type: ignore[no-any-return]
        labels = self._labels.get(tensor)
        if labels is None or not bool(labels.any()):
            return None
        return self.classes.reason(labels[labels != FIXED][:1])

    def inherit(self, tensor: Tensor, reason: Reason | None) -> None:
        """Remember why the channels of a tensor without labels stay."""
        if reason is not None:
            self._why[tensor] = reason

    def explain(self, name: str, tensor: Tensor) -> None:
        """Remember why a layer keeps its channels, if the tensor that it reads has none that may go."""
        if (reason := self.reason_of(tensor)) is not None:
            self.fixed.setdefault(name, reason)

    def _table(self, tensor: Tensor) -> Tensor | None:
        """Number the values of a parameter that no layer's rule reads."""
        (name, module, key), *others = self._owners[id(tensor)]
        if others or not 1 < tensor.numel() <= LARGEST_TABLE or widths_of(module):
            return None
        full = f"{name}.{key}" if name else key
        if full not in self.tables:
            self.tables[full] = self.classes.new(tensor.numel()).view(tensor.shape)
        return self.tables[full]

    def layer(self, tensor: Tensor | None) -> tuple[str, nn.Module] | None:
        """Return name and module of the layer with widths that owns a weight alone."""
        owners = self._owners.get(id(tensor), []) if tensor is not None else []
        if len(owners) != 1 or not widths_of(owners[0][1]):
            return None
        return owners[0][:2]

    def layer_with(self, tensor: Tensor | None, ins: int, outs: int) -> tuple[str, nn.Module] | None:
        """Return `layer` if its widths are those of an operator, None for a weight that it reads in its own way."""
        layer = self.layer(tensor)
        if layer is None:
            return None
        widths = widths_of(layer[1])
        own = [widths.get(f"{side}_channels", widths.get(f"{side}_features")) for side in ("in", "out")]
        return layer if own == [ins, outs] else None

    def owns_unread_weight(self, name: str) -> bool:
        """Return whether a module's weight is a parameter of no other, and no operator has read it."""
        return any(
            [(owner, key) for owner, _, key in owners] == [(name, "weight")] and tensor not in self._read
            for tensor, owners in self._owners.items()
        )

    def side(self, name: str, side: str, labels: Tensor) -> Tensor:
        """Remember the channels of one side of a layer; every call of the layer has the same."""
        known = self.sides.setdefault((name, side), labels)
        if known is not labels:
            self.classes.unite(known, labels, called_elsewhere(name))
        return known

    def new_channels(self, name: str, number: int) -> Tensor:
        """Return the labels of a layer's own output channels."""
        if (name, "out") not in self.sides:
            self.sides[name, "out"] = self.classes.new(number)
            self.roots.append(name)
            if number == 1:
                self.classes.freeze(self.sides[name, "out"], ONE_CHANNEL)
        return self.sides[name, "out"]

    def bind(self, place: str, labels: Tensor) -> None:
        """Let an integer count the channels of some labels."""
        known = self.sizes.setdefault(place, labels)
        if known is labels:
            return
        if known.shape == labels.shape:
            self.classes.unite(known, labels, size_of_others(place))
        else:
            for both in (known, labels):
                self.classes.freeze(both, size_of_different(place))
