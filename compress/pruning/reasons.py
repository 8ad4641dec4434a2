"""Why layers keep their channels, each reason with what one can do about it."""

from __future__ import annotations


class Reason(str):
    """Why channels stay, as text that goes into reports, and the cure beside it.

    Attributes:
        cure: what to change so that the channels can go, one sentence.
        is_meant: nobody expects them to go: raw outputs, layers that are protected by name.
    """

    cure: str
    is_meant: bool

    def __new__(cls, text: str, cure: str = "", *, is_meant: bool = False) -> Reason:
        """Return a text with a cure."""
        made = super().__new__(cls, text)
        made.cure, made.is_meant = cure, is_meant
        return made


_SIZES = "Make the size from the tensor (`x.shape[1] // 2`, `chunk(2, 1)`) or keep it as an attribute (`self.c`)."
_NORM = "Use batch norm, or group norm of several groups; without some channels the statistics would change."
_PLAIN_WEIGHT = (
    "Give each layer a weight of its own; remove parametrizations in `build()` (`remove_weight_norm`, "
    "`remove_parametrizations`)."
)
_RULE = "Write it with operators that are known, or make a layer of it and name its class in `custom_pruners`."

FIXED_SIZE = Reason("its size is fixed", _SIZES)
RAW_OUTPUT = Reason(
    "its channels are a raw output or a side input of a layer",
    "Raw outputs keep their channels: put a 1x1 convolution between the block and the output.",
    is_meant=True,
)
ONE_CHANNEL = Reason("it has one channel", "There is nothing to remove.", is_meant=True)
NORM_OVER_CHANNELS = Reason("a norm over all channels reads it", _NORM)
GROUP_NORM = Reason("a group norm reads it", _NORM)
GROUP_NORM_WITHOUT_SCALE = Reason(
    "a group norm without scale of its own reads it", "Give the norm its scale (`affine=True`)."
)
COMPUTED_CONVOLUTION = Reason("a convolution reads it whose weight is computed or shared by two layers", _PLAIN_WEIGHT)
COMPUTED_LINEAR = Reason("a linear layer reads it whose weight is computed or shared by two layers", _PLAIN_WEIGHT)
COMPUTED_WEIGHT = Reason("its weight is computed (weight norm, a parametrization) or used twice", _PLAIN_WEIGHT)
DEFORMABLE_GROUPS = Reason(
    "a deformable convolution with groups or a computed weight reads it",
    "Use a deformable convolution with one group and one offset group, or a rule in `custom_pruners`.",
)
OWN_DEFORMABLE_GROUPS = Reason("a deformable convolution with groups", DEFORMABLE_GROUPS.cure)
ATTENTION_SCALE = Reason(
    "the scale of the attention follows its width",
    "Multiply queries and keys yourself with a scale that the module keeps; values may be pruned as it is.",
)
SHAPE_OF_NUMBER = Reason("a shape is made of its number of channels", _SIZES)
OUTPUT_CHANGES = Reason(
    "an output would change its shape with fewer channels",
    "Put a 1x1 convolution between the block and the output.",
)
COMPUTES_OTHER = Reason(
    "the network computes something else with fewer channels: a size is fixed in its forward pass", _SIZES
)
ALL_TOGETHER = Reason(
    "all its channels go together",
    "Something mixes each of its channels with every other, a norm over windows of channels for instance: replace it.",
)
UNEVEN = Reason("it is cut unevenly", "Cut channels in equal parts (`chunk`), or give each part a layer of its own.")
NO_LAYER = Reason("no layer makes it", "Let a layer make these channels.")
TWO_DIMENSIONS = Reason(
    "a parameter has it in more than one dimension", "Give the parameter one dimension for the channels."
)
OTHERS = Reason("its channels are those of other layers", "See the layers that make them.")
OWN_RULE = Reason("part of a layer with its own pruning rule", "The rule decides.", is_meant=True)
NO_OUTPUT = Reason("no output depends on it", "Leave the layer out.")


def protected(reason: str, name: str = "") -> Reason:
    """Return the reason that plug-in or recipe give for a layer, `name` if one around it was named."""
    return Reason(
        f"{reason} ({name})" if name else reason, "Take it out of `not_prunable` or `protect`.", is_meant=True
    )


def tied(operator: str, because: Reason | None) -> Reason:
    """Return that an operator ties channels to others that stay, and why these do."""
    if because is None:
        return Reason(f"the operator {operator} ties it to a fixed size", _SIZES)
    if because.startswith("the operator ") or because is RAW_OUTPUT:
        return because
    return Reason(f"the operator {operator} ties it to channels that stay: {because}", because.cure)


def mixed(operator: str) -> Reason:
    """Return that an operator makes one value of several channels."""
    return Reason(f"the operator {operator} mixes its channels", "Let a 1x1 convolution to one channel take its place.")


def unknown_operator(operator: str) -> Reason:
    """Return that an operator has no rule."""
    return Reason(f"the operator {operator} is not known to work with fewer channels", _RULE)


def tensors_of_no_layer(operator: str) -> Reason:
    """Return that a norm was given tensors that belong to no layer."""
    return Reason(f"{operator} reads it with tensors of no layer", "Use a module for it (`nn.BatchNorm2d`).")


def grouped(layer: str) -> Reason:
    """Return that a convolution has groups."""
    return Reason(f"{layer} has groups", "Use fewer groups.")


def called_elsewhere(layer: str) -> Reason:
    """Return that a layer is called with other channels in another place."""
    return Reason(f"{layer} is called with other channels elsewhere", "Give each place a layer of its own.")


def size_of_others(place: str) -> Reason:
    """Return that an integer of a module counts other channels as well."""
    return Reason(f"{place} is the size of other channels too", "Give each a size of its own.")


def size_of_different(place: str) -> Reason:
    """Return that an integer of a module counts different channels in different places."""
    return Reason(f"{place} counts different channels in different places", "Give each a size of its own.")


def does_not_run(error: Exception) -> Reason:
    """Return that the network fails without some channels."""
    text = (str(error).splitlines() or [type(error).__name__])[0][:120]
    return Reason(f"the network does not run with fewer channels ({text})", _SIZES)


def no_score(importance: str) -> Reason:
    """Return that an importance says nothing about a group."""
    return Reason(f"importance {importance} gives its group no score", "Use another importance.")
