"""How each operator carries the channels of its inputs to its output: a table of rules.

An operator without a rule freezes what it reads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from compress.pruning.channels.call import Call
from compress.pruning.channels.elementwise import keeps_channels, pointwise, spatial, unknown
from compress.pruning.channels.mixing import attention, matrix_product, reduced, same_shape_along
from compress.pruning.channels.pieces import cut, gated, indexed, joined, padded, picked, rolled, stacked
from compress.pruning.channels.reshaping import channel_shuffled, moved, reshaped, shuffled_in, shuffled_out


def flow(call: Call) -> Any:
    """Return the labels of each output tensor of a call: a tensor, None (fixed), or a list of these."""
    rule = _RULES.get(call.name)
    if rule is None and call.pointwise:
        rule = pointwise
    if rule is None and keeps_channels(call):
        rule = spatial
    if rule is None:
        rule = unknown
    if all(call.labels_of(tensor) is None for tensor in call.tensors()):
        return None
    return rule(call)


_RULES: dict[str, Callable[[Call], Any]] = {
    **dict.fromkeys(
        ("permute", "transpose", "t", "unsqueeze", "squeeze", "expand", "repeat", "flip", "rot90", "numpy_T"), moved
    ),
    **dict.fromkeys(("view", "reshape", "_unsafe_view", "_reshape_alias"), reshaped),
    **dict.fromkeys(("slice", "split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes"), cut),
    **dict.fromkeys(("select", "unbind"), picked),
    **dict.fromkeys(
        ("mean", "sum", "amax", "amin", "max", "min", "var", "std", "prod", "all", "any", "argmax"), reduced
    ),
    **dict.fromkeys(("norm", "linalg_vector_norm", "logsumexp", "var_mean"), reduced),
    **dict.fromkeys(("_softmax", "_log_softmax", "softmax", "log_softmax", "cumsum"), same_shape_along),
    **dict.fromkeys(("matmul", "bmm", "mm", "addmm", "baddbmm"), matrix_product),
    **dict.fromkeys(("clone", "contiguous", "detach", "alias", "_to_copy", "lift_fresh", "dropout"), pointwise),
    **dict.fromkeys(
        ("gelu", "hardswish", "hardtanh", "leaky_relu", "elu", "mish", "softplus", "threshold", "log_sigmoid"),
        pointwise,
    ),
    **dict.fromkeys(
        ("feature_dropout", "feature_alpha_dropout", "alpha_dropout", "native_dropout", "rrelu"), pointwise
    ),
    **dict.fromkeys(("zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like"), pointwise),
    **dict.fromkeys(("copy", "index_put", "as_strided"), unknown),
    "cat": joined,
    "glu": gated,
    "stack": stacked,
    "scaled_dot_product_attention": attention,
    "pixel_shuffle": shuffled_out,
    "pixel_unshuffle": shuffled_in,
    "channel_shuffle": channel_shuffled,
    "native_channel_shuffle": channel_shuffled,
    "constant_pad_nd": padded,
    "roll": rolled,
    "index_select": indexed,
}


WHOLE = frozenset({*_RULES, "linear", "batch_norm", "group_norm", "layer_norm", "instance_norm"} - {"reshape"})
"""Operators that are looked at before torch takes them apart."""
