"""Writes a model as one ONNX file: standard operators, int8 initializers once each, deploy metadata."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import onnx
import onnx_ir
import torch
from torch import nn

from compress.errors import CompressError, StageError
from compress.export.deploy_graph import deploy_graph
from compress.export.operators import DeformForm, translations
from compress.onnx_graph.channel_order import order_channels
from compress.onnx_graph.dead_channels import remove_dead_channels
from compress.onnx_graph.rewrites import rewrite_for_runtime
from compress.onnx_graph.short_names import shorten_names
from compress.onnx_graph.tidy import sweep, tidy
from compress.plugins import deploy_metadata
from compress.whole_file import write_whole

if TYPE_CHECKING:
    from compress.detector import Detector

METADATA_KEY = "krimp.deploy"
INPUT_NAME, BATCH_NAME = "images", "batch"
_CURE = (
    "torch.export must follow the forward pass with a free number of images: no branch on values, no size or number of "
    "groups made of `x.shape[0]`."
)

Names = Literal["auto", "full", "short"]


def export_onnx(
    model: nn.Module,
    path: Path,
    *,
    detector: Detector,
    opset: int = 19,
    deform: DeformForm = "DeformConv",
    rewrite: bool = True,
    names: Names = "auto",
) -> dict[str, Any]:
    """Export a model and check the file; the same model gives the same bytes.

    Batch norms are folded, training outputs are cut off, filters that compute nothing are removed. The batch axis is
    dynamic, height and width are those of the plug-in's example input. A quantized model gets QuantizeLinear /
    DequantizeLinear pairs and int8 weights.

    Args:
        model: float model, or a calibrated one from `quantize`; unchanged.
        path: file to write; replaced whole.
        detector: gives example input, output names and metadata.
        opset: 19 or 20 (DeformConv came with 19).
        deform: operator for deformable convolutions; 'GridSample' runs in ONNX Runtime before 1.25.
        rewrite: give integer layers the shapes that ONNX Runtime's kernels are fast with (`rewrites.py`).
        names: 'short': layers and constants get short names, see `short_names.py`; 'auto': in a quantized model.

    Returns:
        onnx_bytes, initializer_bytes, opset, num_nodes, num_initializers, rewritten (a `Rewrite` each, as a dict),
        removed (a `Removal` each, as a dict), names (short -> full; empty with full names).

    Raises:
        StageError: the model cannot be exported, or the file breaks a rule that it must keep.
    """
    example = detector.example_input(2)  # a batch of one would be folded into the graph
    outputs = detector.output_names()
    graph = deploy_graph(model, len(outputs), example)
    translated = _translate(graph, example, outputs, opset, deform)
    tidy(translated)
    proto = _serialized(translated)
    if removed := remove_dead_channels(proto):
        proto = _swept(proto)
    if order_channels(proto):
        proto = _swept(proto)
    if rewritten := rewrite_for_runtime(proto.graph) if rewrite else []:
        proto = _swept(proto)
    is_short = names == "short" or (names == "auto" and _is_quantized(proto))
    shortened = shorten_names(proto.graph) if is_short else {}
    metadata = json.dumps(deploy_metadata(detector), sort_keys=True, separators=(",", ":"))
    onnx.helper.set_model_props(proto, {METADATA_KEY: metadata})
    _check(proto, outputs)
    data = proto.SerializeToString(deterministic=True)
    write_whole(path, data)
    return {
        "onnx_bytes": len(data),
        "initializer_bytes": sum(onnx.numpy_helper.to_array(t).nbytes for t in proto.graph.initializer),
        "opset": opset,
        "num_nodes": len(proto.graph.node),
        "num_initializers": len(proto.graph.initializer),
        "rewritten": [asdict(one) for one in rewritten],
        "removed": [asdict(one) for one in removed],
        "names": shortened,
    }


def _translate(
    graph: nn.Module, example: torch.Tensor, names: tuple[str, ...], opset: int, deform: DeformForm
) -> onnx_ir.Model:
    """Run torch's exporter with our translations.

    Raises:
        CompressError: of the network itself, which refuses to be exported.
        StageError: torch's exporter failed; says why.
    """
    with _quiet(), torch.no_grad():
        try:
            batch = torch.export.Dim(BATCH_NAME)
            program = torch.export.export(graph, (example,), dynamic_shapes=({0: batch},), strict=False)
            exported = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=opset,
                input_names=[INPUT_NAME],
                output_names=list(names),
                dynamic_shapes=({0: BATCH_NAME},),  # for the name: the program has one of its own
                custom_translation_table=translations(deform, opset),
                optimize=False,
                verbose=False,
            )
        except CompressError as error:
            error.args = (_own_words(error),)
            raise
        except Exception as error:
            words = _own_words(first_cause(error)).rstrip(".")
            raise StageError(f"export to ONNX opset {opset} failed: {words}. {_CURE}") from error
    assert exported is not None
    return exported.model


def first_cause(error: BaseException) -> BaseException:
    """Return the error that the others were raised from; torch's exporter wraps it several times."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _own_words(error: BaseException) -> str:
    """Return the message without what torch.fx adds to it on the way."""
    return str(error).partition("\n\nWhile executing ")[0]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch from telling of its own parts: classes it deprecates, operators of torchvision without types."""
    logger = logging.getLogger("torch.onnx._internal.exporter._schemas")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", UserWarning)
            yield
    finally:
        logger.setLevel(level)


def _is_quantized(proto: onnx.ModelProto) -> bool:
    return any(node.op_type == "QuantizeLinear" for node in proto.graph.node)


def _serialized(model: onnx_ir.Model) -> onnx.ModelProto:
    """Return a model as it stands in the file: without the shapes of the values between the nodes."""
    proto = onnx_ir.to_proto(model)
    del proto.graph.value_info[:]
    return proto


def _swept(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model after edits: equal constants and nodes once, no unused ones, names that count up."""
    model = onnx_ir.from_proto(proto)
    sweep(model)
    return _serialized(model)


def _check(proto: onnx.ModelProto, names: tuple[str, ...]) -> None:
    """Refuse a file that breaks what we promise of it."""
    onnx.checker.check_model(proto, full_check=True)
    graph = proto.graph
    if foreign := sorted({node.domain for node in graph.node} - {"", "ai.onnx"}):
        raise StageError(f"the ONNX graph uses operators of {foreign}. Expected standard operators only.")
    if [value.name for value in graph.input] != [INPUT_NAME]:
        raise StageError(
            f"the ONNX graph has the inputs {[v.name for v in graph.input]}. Expected {INPUT_NAME!r} only."
        )
    if [value.name for value in graph.output] != list(names):
        raise StageError(f"the ONNX graph has the outputs {[v.name for v in graph.output]}. Expected {list(names)}.")
