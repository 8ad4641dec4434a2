"""Which layers must be pruned together: Torch-Pruning's dependency graph, made safe for detectors.

Three things are done around the library. Frozen parameters get gradients while the graph is
traced (it follows autograd). A layer with a custom rule is traced as one opaque operation of its
first input, so that a deformable layer does not tie its features to its sampling field. And every
raw output is protected, as are the side inputs of custom layers (sampling fields, masks).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import lcm
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from compress.errors import StageError
from compress.metrics.complexity import first_tensor

if TYPE_CHECKING:
    import torch_pruning

Side = Literal["out", "in"]


@dataclass(frozen=True)
class Member:
    """One side of one layer in a pruning group.

    Attributes:
        name: module name.
        side: 'out' if output channels go, 'in' if input channels go; 'out' for layers whose
            inputs and outputs are the same channels (depthwise convolution, batch norm).
        channels: positions in this layer, one entry per removable position.
        roots: for each of `channels`, the channel of the group that it belongs to.
    """

    name: str
    side: Side
    channels: tuple[int, ...]
    roots: tuple[int, ...]


@dataclass(frozen=True)
class PruningGroup:
    """Layers that lose the same channels.

    Attributes:
        root: name of the layer whose output channels number the group's channels.
        width: number of channels.
        members: everything that changes with them, the root included.
        channel_groups: 1, or the number of equal parts that must lose the same positions
            (grouped convolution, group norm).
        pattern: equal for groups of the same structure; the scope of isomorphic ranking.
    """

    root: str
    width: int
    members: tuple[Member, ...]
    channel_groups: int
    pattern: str

    @property
    def producers(self) -> tuple[str, ...]:
        """Return the names of the layers that lose output channels."""
        return tuple(member.name for member in self.members if member.side == "out")


@dataclass(frozen=True)
class Coupling:
    """All pruning groups of a model as it is now; stale after the model was pruned.

    Attributes:
        groups: prunable groups.
        not_prunable: layer name -> reason, for every convolution-like or linear layer whose output
            channels stay.
        graph: Torch-Pruning's dependency graph.
    """

    groups: tuple[PruningGroup, ...]
    not_prunable: dict[str, str]
    graph: torch_pruning.DependencyGraph


def trace_coupling(
    model: nn.Module,
    example_input: Tensor,
    *,
    protected: Mapping[str, str],
    custom_pruners: Mapping[type, Any],
) -> Coupling:
    """Find the pruning groups of a model.

    Args:
        model: float model; only read (modes and requires_grad are put back).
        example_input: (N, 3, H, W) on the model's device.
        protected: module name -> reason; these layers and those inside them keep their outputs.
        custom_pruners: exact class -> Torch-Pruning rule.

    Raises:
        StageError: a protected name does not exist, or a custom layer does not return one tensor.
    """
    import torch_pruning as tp

    names = {module: name for name, module in model.named_modules()}
    if unknown := sorted(set(protected) - set(names.values())):
        raise StageError(f"protected layers {unknown} are not in the model.")
    convolutions = (tp.ops.TORCH_CONV, tp.ops.TORCH_LINEAR)
    roots = [*convolutions, *custom_pruners]
    graph = tp.DependencyGraph()
    with _traceable(model, tuple(custom_pruners)) as forward, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph.build_dependency(
            model,
            example_inputs=example_input.detach().clone().requires_grad_(),
            forward_fn=lambda _, images: forward(images),
            customized_pruners=dict(custom_pruners),
            verbose=False,
        )

    groups, reasons = [], {}
    for traced in graph.get_all_groups(root_module_types=tuple(roots)):
        group = _group(traced, graph, names)
        if reason := _protection(group, traced, protected):
            reasons.update({name: reason for name in group.producers if isinstance(_at(model, name), tuple(roots))})
        else:
            groups.append(group)
    inside = {name for name, module in model.named_modules() if isinstance(module, tuple(roots))}
    seen = {name for group in groups for name in group.producers} | reasons.keys()
    owned = {sub for sub in graph.IGNORED_LAYERS_IN_TRACING if isinstance(sub, nn.Module)}
    for name in sorted(inside - seen):
        own = protected.get(name)
        rule = "part of a layer with its own pruning rule" if _at(model, name) in owned else "no output depends on it"
        reasons[name] = own or rule
    return Coupling(tuple(groups), reasons, graph)


def remove_channels(coupling: Coupling, model: nn.Module, removals: Mapping[str, Sequence[int]]) -> None:
    """Remove channels from every layer of the given groups, in place.

    Args:
        coupling: of this very model, unchanged since it was traced.
        model: the traced model.
        removals: group root -> channels to remove.
    """
    model.zero_grad(set_to_none=True)
    modules = dict(model.named_modules())
    for root, channels in removals.items():
        if channels:
            layer = modules[root]
            rule = coupling.graph.get_pruner_of_module(layer)
            coupling.graph.get_pruning_group(layer, rule.prune_out_channels, sorted(channels)).prune()


def _group(traced: Any, graph: Any, names: Mapping[nn.Module, str]) -> PruningGroup:
    members, pattern, parts = [], [], 1
    for item in traced.items:
        module, handler = item.dep.target.module, item.dep.handler
        if module not in names:
            continue  # an operation without weights: addition, resize, concatenation
        side: Side = "out" if graph.is_out_channel_pruning_fn(handler) else "in"
        pattern.append(f"{type(module).__name__}.{side}")
        members.append(Member(names[module], side, tuple(item.idxs), tuple(item.root_idxs)))
        parts = lcm(parts, _equal_parts(module))
    root = names[traced[0].dep.target.module]
    return PruningGroup(root, len(traced[0].idxs), tuple(members), parts, " ".join(pattern))


def _equal_parts(module: nn.Module) -> int:
    if isinstance(module, nn.GroupNorm):
        return module.num_groups
    groups = getattr(module, "groups", 1)
    is_depthwise = groups == getattr(module, "out_channels", None)
    return groups if isinstance(groups, int) and not is_depthwise else 1


def _protection(group: PruningGroup, traced: Any, protected: Mapping[str, str]) -> str | None:
    """Return why a group must keep its width, or None."""
    import torch_pruning as tp

    for producer in group.producers:
        for name, reason in protected.items():
            if producer == name or producer.startswith(name + "."):
                return reason if producer == group.root and len(group.producers) == 1 else f"{reason} ({name})"
    if any(isinstance(item.dep.target.module, tp.ops._OutputOp) for item in traced.items):
        return "its channels are a raw output or a side input of a layer"
    return None


def _at(model: nn.Module, name: str) -> nn.Module:
    return model.get_submodule(name)


class _Opaque(torch.autograd.Function):
    """Gives `value` a graph node whose only predecessor is the node of `features`."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None]:
        raise RuntimeError("this graph exists only to be looked at")


@contextmanager
def _traceable(model: nn.Module, custom: tuple[type, ...]) -> Iterator[Callable[[Tensor], list[Tensor]]]:
    """Yield a forward that Torch-Pruning can trace; put the model back afterwards."""
    training = {module: module.training for module in model.modules()}
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    patched = [module for module in model.modules() if type(module) in custom]
    side_inputs: list[Tensor] = []
    for parameter in frozen:
        parameter.requires_grad_(True)
    for module in patched:
        module.forward = _opaque_forward(module, side_inputs)

    def forward(images: Tensor) -> list[Tensor]:
        side_inputs.clear()
        # Only the graph is wanted: keeping no activation saves gigabytes at full image size.
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(lambda _: None, _not_kept):
            outputs = [*_tensors(model(images)), *side_inputs]
            # A node of its own for each output, so that the graph shows which channels are outputs.
            return [output * 1 for output in outputs if output.requires_grad]

    try:
        model.eval()
        yield forward
    finally:
        for module in patched:
            del module.forward
        for parameter in frozen:
            parameter.requires_grad_(False)
        for module, was_training in training.items():
            module.training = was_training


def _not_kept(_: None) -> Tensor:
    raise RuntimeError("this graph exists only to be looked at")


def _opaque_forward(module: nn.Module, side_inputs: list[Tensor]) -> Callable[..., Tensor]:
    original = module.forward

    def forward(*args: Any, **kwargs: Any) -> Tensor:
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        with torch.no_grad():
            value = original(*args, **kwargs)
        if not isinstance(value, Tensor):
            raise StageError(
                f"{type(module).__name__} has a custom pruning rule and returns {type(value).__name__}. "
                "Such a layer must return one tensor."
            )
        side_inputs.extend(tensors[1:])
        opaque: Tensor = _Opaque.apply(tensors[0], value)
        return opaque

    return forward


def _tensors(value: Any) -> list[Tensor]:
    """Return every tensor in a nested tuple, list or dict."""
    if isinstance(value, Mapping):
        return [tensor for entry in value.values() for tensor in _tensors(entry)]
    if isinstance(value, list | tuple):
        return [tensor for entry in value for tensor in _tensors(entry)]
    return [first_tensor(value)]
