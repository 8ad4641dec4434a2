"""Opens a stranger's network, float or quantized: what is judged against, and what is learnt from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx

from compress.errors import CodecError
from compress.shrink.given.floats import float_network as float_view
from compress.shrink.given.form import GivenForm
from compress.shrink.given.lifting import lifted
from compress.shrink.given.tidying import tidy_integers
from compress.shrink.given.weights import integer_weights
from compress.shrink.network import (
    LEAST_OPSET,
    Network,
    float_network,
    name_nodes,
    quantized_ops,
    read_model,
    widen,
)
from compress.shrink.observe import session_of

CALLED = "the quantized network as given"


@dataclass(frozen=True)
class Opened:
    """A network.

    Attributes:
        given: what others are judged against and timed beside.
        learning: float; the same, unless it is quantized.
        form: of one that is quantized already; None of a float one.
    """

    given: Network
    learning: Network
    form: GivenForm | None = None


def open_any(path: Path) -> Opened:
    """Read an ONNX file.

    Raises:
        CodecError: it is none, ONNX Runtime does not load it, or it has no weights that can be made small.
    """
    model = read_model(path)
    ops = quantized_ops(model)
    if not ops:
        network = float_network(model, path)
        return Opened(network, network)
    widen(model, path)
    version = next((one.version for one in model.opset_import if one.domain == ""), LEAST_OPSET)
    try:
        session_of(model)
        model = onnx.version_converter.convert_version(model, LEAST_OPSET) if version < LEAST_OPSET else model
        name_nodes(model)
        tidy_integers(model)
        session_of(model)
    except Exception as error:  # of ONNX Runtime and onnx: their classes have no common base
        why = " ".join(str(error).split())[:300]
        raise CodecError(f"{path}: ONNX Runtime does not load it, or not as opset {LEAST_OPSET}: {why}") from error
    floats = lifted(model)
    weights, left = integer_weights(floats)
    view = float_view(floats, weights)
    if not view.linears:
        told = "; ".join(f"{name}: {why}" for name, why in list(left.items())[:4]) or "it has no integer weights"
        raise CodecError(
            f"{path}: quantized already ({', '.join(ops)}), in no form whose integers can be rounded anew ({told}). "
            "Give the float model that it was made of, or make the file small as it is, without loss: krimp pack."
        )
    return Opened(Network(model, CALLED), view, GivenForm(model, weights, left, tuple(ops)))
