"""Where a graph gets its quantizers: the pattern that ONNX Runtime fuses into integer operators.

Every convolution that is not kept in float reads quantized tensors and has its output (behind a
fusable ReLU) quantized; so do additions, products and concatenations between such tensors, which covers residual
blocks, gates and the FPN. Max-pooling and nearest resizing pass quantized values through and need no
quantizer of their own. One quantizer belongs to one tensor, that is, to one call site: the
convolutions of a head shared by five levels are one module each, their inputs five tensors.

Brevitas' own `graph.quantize.quantize` fails with a KeyError on modules that are called at several
places, and its layer-wise mode leaves the additions in float (4 of 12 convolutions fused). So the
insertion is ours, and only the modules are Brevitas'.
"""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from compress.errors import RecipeError, StageError
from compress.layer_names import unknown_names
from compress.metrics.complexity import has_convolution_weight
from compress.progress import warn
from compress.quantization.gates import (
    hard_sigmoid,
    is_global_mean,
    is_hard_sigmoid,
    is_product,
    is_sigmoid,
    multiply,
    split_gates,
)
from compress.quantization.graph import Tap, fold_batch_norms, module_of, trace
from compress.quantization.layers import ActivationQuantizer, QuantizedConv2d, QuantizedLayer, add
from compress.quantization.settings import QuantizationSettings, Role, saturation_problem
from compress.quantization.standard_layers import convolves_plainly

if TYPE_CHECKING:
    from compress.detector import Detector

QUANTIZERS = "activation_quantizers"  # prefix of the names of all activation quantizers

_RELU_MODULES = (nn.ReLU, nn.ReLU6)
_RELU_FUNCTIONS: tuple[Any, ...] = (F.relu, F.relu6, torch.relu, torch.relu_)
_PASSING_MODULES = (nn.MaxPool2d, nn.Identity, nn.Dropout, Tap)
_PASSING_FUNCTIONS: tuple[Any, ...] = (F.max_pool2d, torch.max_pool2d)
_ADDITIONS: tuple[Any, ...] = (operator.add, operator.iadd, torch.add)
_CONCATENATIONS: tuple[Any, ...] = (torch.cat, torch.concat)


def quantize(
    model: nn.Module, settings: QuantizationSettings, detector: Detector, *, integer_gates: bool = True
) -> fx.GraphModule:
    """Return a fake-quantized copy of a float model; its activation ranges are not set yet.

    Args:
        model: float model; unchanged. Its module names survive, batch norms are folded.
        settings: bit widths and target.
        detector: names the layers whose activations stay float.
        integer_gates: give SiLU, sigmoids and products quantizers of their own (`gates.py`); False for models that
            were stored without.

    Returns:
        Graph in evaluation mode. Call `calibrate` or load a state before using it.

    Raises:
        StageError: the model cannot be traced or the plug-in names a layer that does not exist.
        RecipeError: a layer would get weights that the target computes wrongly.
    """
    islands = float_islands(model, detector)
    graph_module = fold_batch_norms(trace(model, taps=detector.distill_points(model)))
    if integer_gates:
        split_gates(graph_module)
    integer = integer_layers(graph_module, islands, integer_gates=integer_gates)
    tensors = tensors_to_quantize(graph_module, integer, integer_gates=integer_gates)
    _quantize_layers(graph_module, settings, integer)
    _quantize_activations(graph_module, settings, tensors)
    return graph_module.eval()


def float_islands(model: nn.Module, detector: Detector) -> dict[str, str]:
    """Return module name -> reason for the layers that the plug-in keeps in float arithmetic.

    Raises:
        StageError: a named layer does not exist.
    """
    islands = detector.not_quantizable(model)
    names = [name for name, _ in model.named_modules()]
    if (wrong := unknown_names(f"{detector.NAME}.not_quantizable", islands, names)) is not None:
        raise StageError(wrong)
    return islands


def integer_layers(graph_module: fx.GraphModule, islands: Mapping[str, str], *, integer_gates: bool = True) -> set[str]:
    """Return the names of the convolutions that the runtime computes in integers.

    Those are all that are not float islands, and islands between two quantized tensors: the runtime
    fuses these as well, whatever we call them, so they must obey the limits of integer arithmetic.
    """
    calls: dict[str, list[fx.Node]] = defaultdict(list)
    read = _layers_read_elsewhere(graph_module)
    for node in graph_module.graph.nodes:
        layer = module_of(graph_module, node)
        if isinstance(layer, nn.Conv2d) and layer.padding_mode == "zeros" and convolves_plainly(layer):
            calls[str(node.target)].append(node)
    names = {name for name in calls if name not in islands and name not in read}
    while True:
        wanted = set(tensors_to_quantize(graph_module, names, integer_gates=integer_gates))
        enclosed = {
            name
            for name, nodes in calls.items()
            if name not in names
            and name not in read
            and any(
                origin(graph_module, node.all_input_nodes[0]) in wanted and _behind_relu(graph_module, node) in wanted
                for node in nodes
            )
        }
        if not enclosed:
            return names
        for name in sorted(enclosed):
            warn(f"{name} lies between quantized tensors, so it is computed in integers like them.")
        names |= enclosed


def _layers_read_elsewhere(graph_module: fx.GraphModule) -> set[str]:
    """Return the names of modules whose parameters an operator outside of them reads."""
    return {str(node.target).rpartition(".")[0] for node in graph_module.graph.nodes if node.op == "get_attr"}


def _quantize_layers(graph_module: fx.GraphModule, settings: QuantizationSettings, integer_names: set[str]) -> None:
    """Replace every convolution-like layer by its quantized form, under the same name."""
    done: set[str] = set()
    read = _layers_read_elsewhere(graph_module)
    problems: list[str] = []
    for node in graph_module.graph.nodes:
        layer = module_of(graph_module, node)
        name = str(node.target)
        if layer is None or name in done or not has_convolution_weight(layer):
            continue
        done.add(name)
        if isinstance(layer, nn.ConvTranspose2d) or getattr(layer, "padding_mode", "zeros") != "zeros":
            warn(f"{name}: a {type(layer).__name__} that is transposed or pads with other than zeros stays float.")
            continue
        if name in read:
            warn(f"{name}: another operator reads its weight, so it stays float. Give each a weight of its own.")
            continue
        if not isinstance(layer._parameters.get("weight"), nn.Parameter):
            raise StageError(
                f"{name}: the weight of this {type(layer).__name__} is no parameter but computed by a hook. "
                "Let `build()` return the layer with its plain weight."
            )
        plain = convolves_plainly(layer)
        if isinstance(layer, nn.Conv2d) and not plain:
            warn(f"{name}: {type(layer).__name__} does not compute torch's convolution, so it is computed in float.")
        integer = name in integer_names
        role = _role(node, layer) if integer else "island"
        bits = settings.bit_width(name, role)
        if (text := saturation_problem(bits, settings.target, role)) is not None:
            problems.append(f"layer_bit_widths: {name}: {text}")
        quantized = (
            QuantizedConv2d(layer, bit_width=bits, integer=integer) if plain else QuantizedLayer(layer, bit_width=bits)
        )
        graph_module.add_submodule(name, quantized)
    if problems:
        raise RecipeError(problems)


def _role(node: fx.Node, layer: nn.Module) -> Role:
    """Return what an integer convolution is to the choice of its bits."""
    if layer.groups == layer.in_channels == layer.out_channels:
        return "depthwise"
    source = node.args[0]
    return "stem" if isinstance(source, fx.Node) and source.op == "placeholder" else "plain"


def _quantize_activations(graph_module: fx.GraphModule, settings: QuantizationSettings, tensors: list[fx.Node]) -> None:
    for node in tensors:
        relu = is_relu(graph_module, node)
        quantizer = ActivationQuantizer(
            unsigned=relu or is_sigmoid(graph_module, node),
            upper=relu_limit(graph_module, node) if relu else None,
            percentile=settings.activation_percentile,
            learn_range=settings.learn_activation_ranges,
        )
        name = f"{QUANTIZERS}.{node.name}"
        graph_module.add_submodule(name, quantizer)
        with graph_module.graph.inserting_after(node):
            new = graph_module.graph.call_module(name, (node,))
        node.replace_all_uses_with(new, delete_user_cb=lambda user, new=new: user is not new)  # type: ignore[misc]
    _connect_quantizers(graph_module)
    graph_module.graph.lint()
    graph_module.recompile()


def _connect_quantizers(graph_module: fx.GraphModule) -> None:
    """Show every integer convolution and addition the quantizers around it, call site by call site."""
    graph = graph_module.graph
    for node in list(graph.nodes):
        layer = module_of(graph_module, node)
        convolves = isinstance(layer, QuantizedConv2d) and layer.integer
        joins = _integer_join(graph_module, node)
        if not convolves and not (joins and _quantizer_behind(graph_module, node)):
            continue
        inputs = [origin(graph_module, value) for value in node.args if isinstance(value, fx.Node)]
        if not all(isinstance(module_of(graph_module, value), ActivationQuantizer) for value in inputs):
            continue  # a sum of float tensors that is quantized itself: behind SiLU, a gate, a norm that stays
        around = [str(value.target) for value in inputs]
        around.append(str(_quantizer_behind(graph_module, node)))
        with graph.inserting_before(node):
            quantizers = [graph.get_attr(name) for name in around]
        node.args = (*(value for value in node.args if isinstance(value, fx.Node)), *quantizers)
        if not convolves:  # flags like `inplace` say nothing to the integer operator
            node.op, node.target, node.kwargs = "call_function", joins, {}


def _integer_join(graph_module: fx.GraphModule, node: fx.Node) -> Callable[..., Tensor] | None:
    """Return what computes a node without weights as the runtime's integer operator does, or None."""
    if _is_addition(node):
        return add
    if not _reads_quantized(graph_module, node):
        return None
    if is_product(node):
        return multiply
    return hard_sigmoid if is_hard_sigmoid(graph_module, node) else None


def _reads_quantized(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    """Return whether everything that a node reads comes from a quantizer."""
    sources = [module_of(graph_module, origin(graph_module, value)) for value in node.all_input_nodes]
    return all(isinstance(source, ActivationQuantizer) for source in sources)


def _quantizer_behind(graph_module: fx.GraphModule, node: fx.Node) -> str | None:
    """Return the name of the quantizer that reads a node, through a ReLU at most."""
    users = list(_behind_relu(graph_module, node).users)
    is_quantizer = len(users) == 1 and isinstance(module_of(graph_module, users[0]), ActivationQuantizer)
    return str(users[0].target) if is_quantizer else None


def tensors_to_quantize(
    graph_module: fx.GraphModule, integer_names: set[str], *, integer_gates: bool = True
) -> list[fx.Node]:
    """Return the nodes whose outputs get a quantizer, in the order of the graph.

    Args:
        graph_module: float graph.
        integer_names: names of the convolutions that are computed in integers.
        integer_gates: sigmoids, products and global means are computed in integers too.
    """
    wanted: set[fx.Node] = set()
    integer: set[fx.Node] = set()  # what integer operators produce, and the image
    for node in graph_module.graph.nodes:
        if node.op == "placeholder":
            integer.add(node)
            continue
        inputs = [origin(graph_module, source) for source in node.all_input_nodes]
        if is_passing(graph_module, node) or is_relu(graph_module, node):
            integer.update([node] if inputs and inputs[0] in integer else [])
            continue
        if integer_gates and (is_sigmoid(graph_module, node) or is_global_mean(graph_module, node)):
            # In integers where it is read in integers: a sigmoid that gives the scores stays float.
            integer.update([node] if inputs and inputs[0] in integer else [])
            continue
        joins = (
            (_is_join(node) or (integer_gates and is_product(node)))
            and bool(inputs)
            and all(source in integer for source in inputs)
        )
        if joins or (node.op == "call_module" and str(node.target) in integer_names):
            integer.add(node)
            wanted.update(inputs)
            wanted.add(_behind_relu(graph_module, node))
    return [node for node in graph_module.graph.nodes if node in wanted]


def origin(graph_module: fx.GraphModule, node: fx.Node) -> fx.Node:
    """Follow max-pooling and nearest resizing back to the node that made the values."""
    while is_passing(graph_module, node):
        node = node.all_input_nodes[0]
    return node


def _behind_relu(graph_module: fx.GraphModule, node: fx.Node) -> fx.Node:
    """Return the ReLU that is the only reader of a node, else the node itself."""
    users = list(node.users)
    return users[0] if len(users) == 1 and is_relu(graph_module, users[0]) else node


def is_relu(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    """Return whether a node is a ReLU or ReLU6."""
    if node.op == "call_module":
        return isinstance(module_of(graph_module, node), _RELU_MODULES)
    return _calls(node, _RELU_FUNCTIONS, ("relu", "relu_"))


def relu_limit(graph_module: fx.GraphModule, node: fx.Node) -> float | None:
    """Return 6 for a ReLU6, None for a ReLU."""
    six = isinstance(module_of(graph_module, node), nn.ReLU6) or node.target is F.relu6
    return 6.0 if six else None


def is_passing(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    """Return whether the output of a node holds only values of its input (and -inf padding)."""
    if node.op == "call_module":
        module = module_of(graph_module, node)
        if isinstance(module, nn.Upsample):
            return module.mode == "nearest"
        return isinstance(module, _PASSING_MODULES)
    if node.op == "call_function" and node.target is F.interpolate:
        return is_nearest(node)
    return _calls(node, _PASSING_FUNCTIONS, ())


def is_nearest(node: fx.Node) -> bool:
    """Return whether an `F.interpolate` node repeats values instead of mixing them."""
    mode = node.kwargs.get("mode", node.args[3] if len(node.args) > 3 else "nearest")
    return mode == "nearest"


def _is_join(node: fx.Node) -> bool:
    """Return whether a node adds or concatenates tensors, and nothing but tensors."""
    return _calls(node, _CONCATENATIONS, ()) or _is_addition(node)


def _is_addition(node: fx.Node) -> bool:
    if not _calls(node, _ADDITIONS, ("add", "add_")):
        return False
    return len(node.args) == 2 and all(isinstance(value, fx.Node) for value in node.args) and not node.kwargs


def _calls(node: fx.Node, functions: tuple[Callable[..., Any], ...], methods: tuple[str, ...]) -> bool:
    if node.op == "call_function":
        return any(node.target is function for function in functions)
    return node.op == "call_method" and node.target in methods
