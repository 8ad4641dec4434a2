"""Rounding by price against rounding without it, and against NNCodec's own quantizer, on trained networks.

    bash scripts/setup_codec.sh                # NNCodec, into .venv-codec
    .venv-codec/bin/python benchmarks/rate_rounding.py recipes/dcfl_mbv2_hituav.yaml --set data.root=/path/to/hit-uav
    ... --model pruned=out/dcfl_mbv2_hituav/06_finetune        a float model of a run beside the checkpoint
    ... --only errors                                          no NNCodec, nothing scored, a few minutes

What it does
  errors   Expected loss of the network (second order, see compress/rate_rounding) against the bits of the integers,
           without feedback: each weight to its nearest integer, steps by high-rate theory; and by error and bits, each
           for itself. With feedback and price: the stage's own. Bytes at equal loss come from these curves.
  scores   Files of several sizes: Krimp's packed file, whole, which ONNX Runtime runs in integers; NNCodec's bitstream
           of all parameters, its decoded weights in the float network. map of the split, and bytes at equal map.
           NNCodec's bytes hold no graph, and its network no integer activations: both are to its advantage.

Nothing is trained. Choose by val; read test once.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import math
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

if __name__ == "__main__":  # run as a file: make the repository importable, not the folder of this script
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch
from torch import nn

from benchmarks.post_training import calibration_images, load_float
from benchmarks.record_file import head, refuse_existing, write_record
from compress import codec
from compress.actions.size_rounding import weigh_errors
from compress.detector import Detector
from compress.errors import CompressError
from compress.export import export_onnx
from compress.model_copy import copy_of
from compress.model_folder import load_model
from compress.plugins import make_detector
from compress.progress import console, say
from compress.quantization import QuantizationSettings, quantize
from compress.quantization.post_training import post_train
from compress.quantization.rate_rounding import layer_choosers, set_rounded
from compress.quantization.settings import PostTraining
from compress.rate_rounding.choice import LayerChooser
from compress.rate_rounding.layer import Rounded, steps_of
from compress.rate_rounding.search import round_network
from compress.rate_rounding.statistics import LayerStatistics
from compress.recipe.loading import load_recipe
from compress.runtime.forwards import onnx_forward
from compress.scoring import evaluate
from compress.stage import StageContext

PRICES = tuple(float(price) for price in np.geomspace(1e-10, 4e-8, 6))
STEP_SIZES = (-32, -28, -24, -20, -18, -16)  # NNCodec's qp: four of them double the step
CALIBRATION = 64
_DEFAULTS = {"nonweight_qp": -75, "use_dq": True, "row_skipping": True, "verbose": False}  # of nncodec.nn.encode
_UNUSED = (
    "applications", "applications.utils", "applications.datasets", "applications.models", "tensorflow_model",
)  # fmt: skip


def prepared(model: nn.Module, detector: Detector, bits: int, images: int) -> tuple[nn.Module, dict[str, Any]]:
    """Return a calibrated network whose weights are not rounded yet, and what its layers see."""
    quantized = quantize(copy_of(model), QuantizationSettings(weight_bit_width=bits), detector)
    batches = calibration_images(detector, CALIBRATION, 0)
    post_train(quantized, lambda: batches, PostTraining(rounding="nearest", correct_bias=False))
    with tempfile.TemporaryDirectory() as folder:
        context = StageContext("benchmark", Path(folder), Path(folder), {}, detector, 0, "cpu", {})
        return quantized, weigh_errors(quantized, context, images=images, label="benchmark")


def without_feedback(chooser: LayerChooser, price: float, *, by_bits: bool) -> Rounded:
    """Return a layer rounded weight by weight: to the nearest integers, or by error and bits."""
    codes, exponents = chooser.alone(price, by_bits=by_bits)
    return Rounded(codes, exponents, chooser.layer.loss(codes, steps_of(exponents)))


def errors(choosers: Mapping[str, LayerChooser]) -> dict[str, list[dict[str, float]]]:
    """Return points (price, bytes, loss) of each way of rounding."""
    ways: dict[str, Callable[[LayerChooser, float], Rounded]] = {
        "nearest": lambda one, price: without_feedback(one, price, by_bits=False),
        "by_bits": lambda one, price: without_feedback(one, price, by_bits=True),
        "krimp": lambda one, price: one.choose(price),
    }
    found: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    for name, way in ways.items():
        for price in PRICES:
            layers = [way(one, price) for one in choosers.values()]
            size, loss = sum(one.bits for one in layers) / 8, sum(one.loss for one in layers)
            found[name].append({"price": price, "bytes": size, "loss": loss})
            say(f"  {name} at {price:.2g}: {size:,.0f} bytes, expected loss {loss:.4g}")
    return found


def bytes_at(points: Sequence[Mapping[str, float]], value: float, of: str, *, log: bool) -> float | None:
    """Return the bytes at which a curve has a value, None outside of it.

    Args:
        points: of the curve.
        value: of the field `of`.
        of: 'loss', which falls with the bytes, or 'map', which rises.
        log: straight lines between logarithms of the values too; bytes always are.
    """
    scale = math.log if log else float
    ordered = sorted((scale(point[of]), math.log(point["bytes"])) for point in points)
    values = [entry[0] for entry in ordered]
    if not values[0] <= scale(value) <= values[-1]:
        return None
    return math.exp(float(np.interp(scale(value), values, [entry[1] for entry in ordered])))


def monotone(points: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """Return points from small to large files without those that a smaller file beats by map."""
    kept: list[dict[str, float]] = []
    for point in sorted(points, key=lambda one: one["bytes"]):
        if not kept or point["map"] > kept[-1]["map"]:
            kept.append(dict(point))
    return kept


def krimp_files(
    model: nn.Module, statistics: Mapping[str, LayerStatistics], detector: Detector, split: str
) -> list[dict[str, float]]:
    """Return price, bytes and scores of packed files."""
    choosers, found = layer_choosers(model, statistics), []
    with tempfile.TemporaryDirectory() as folder:
        for price in PRICES:
            path = Path(folder) / f"{price}.onnx"
            export_onnx(
                set_rounded(copy_of(model), round_network(choosers, price), statistics), path, detector=detector
            )
            size = codec.pack_file(path, path.with_suffix(".krimp")).packed_bytes
            found.append({"price": price, "bytes": float(size)} | _scores(path, detector, split))
            say(f"  krimp at {price:.2g}: {size:,} bytes, map {found[-1]['map']:.4f}")
    return found


def nncodec_files(model: nn.Module, detector: Detector, split: str) -> list[dict[str, float]]:
    """Return qp, bytes and scores of NNCodec's bitstreams, its defaults but for qp."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for qp in STEP_SIZES:
            stream, coded = nncodec_coded(model, qp, Path(folder))
            path = Path(folder) / f"{qp}.onnx"
            export_onnx(coded, path, detector=detector)
            found.append({"qp": float(qp), "bytes": float(len(stream))} | _scores(path, detector, split))
            say(f"  nncodec at qp {qp}: {len(stream):,} bytes, map {found[-1]['map']:.4f}")
    return found


def nncodec_coded(model: nn.Module, qp: int, folder: Path) -> tuple[bytes, nn.Module]:
    """Return NNCodec's bitstream of a network's floating-point state, and the network that it decodes to.

    Raises:
        CompressError: it is not installed, or gave not every tensor back.
    """
    nnc = nncodec()
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
    with contextlib.redirect_stdout(io.StringIO()):
        stream = nnc.compress(dict(state), str(folder / f"{qp}.nnc"), qp=qp, return_bitstream=True, **_DEFAULTS)
        decoded = nnc.decompress(stream)
    missing = state.keys() - decoded.keys()
    if missing:
        raise CompressError(f"NNCodec gave {len(missing)} of {len(state)} tensors not back.")
    coded = copy_of(model)
    coded.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in decoded.items()}, strict=False)
    return stream, coded


def nncodec() -> Any:
    """Return NNCodec's coder of whole networks.

    What it has beside it to train, to load data sets and to read TensorFlow's files asks for a dozen packages; empty
    modules stand in for that.

    Raises:
        CompressError: it is not installed.
    """
    for name in _UNUSED:
        sys.modules.setdefault(f"nncodec.framework.{name}", MagicMock())
    try:
        return importlib.import_module("nncodec.nnc")
    except ImportError as error:
        raise CompressError(f"NNCodec: {error}. Run scripts/setup_codec.sh and .venv-codec/bin/python.") from error


def _scores(path: Path, detector: Detector, split: str) -> dict[str, float]:
    scores = evaluate(detector, onnx_forward(path, 1), split)
    return {name: float(getattr(scores, name)) for name in ("map", "map75", "map50")}


def saved(ours: Sequence[Mapping[str, float]], theirs: Sequence[Mapping[str, float]], of: str) -> list[dict[str, Any]]:
    """Return by how much each of our points is smaller than the others' curve at the same value."""
    entries = []
    for point in ours:
        size = bytes_at(theirs, point[of], of, log=of == "loss")
        share = None if size is None else 1 - point["bytes"] / size
        entries.append({of: point[of], "bytes": point["bytes"], "other_bytes": size, "saved": share})
    return entries


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure everything and return the record."""
    recipe = load_recipe(options.recipe, options.overrides)
    detector = make_detector(recipe.detector, recipe.data)
    models: dict[str, nn.Module] = {"float": load_float(detector)}
    for entry in options.model:
        label, _, folder = entry.partition("=")
        models[label] = load_model(Path(folder), detector)[0]
    record = head("rate_rounding") | {"recipe": recipe.name, "split": options.split, "models": {}}
    for label, model in models.items():
        say(f"{label}:")
        quantized, statistics = prepared(model, detector, options.bits, options.images)
        found: dict[str, Any] = {}
        if "errors" in options.only:
            curves = errors(layer_choosers(quantized, statistics))
            found["errors"] = curves
            found["saved_at_equal_loss"] = {
                name: saved(curves["krimp"], curves[name], "loss") for name in curves if name != "krimp"
            }
        if "scores" in options.only:
            ours = krimp_files(quantized, statistics, detector, options.split)
            theirs = nncodec_files(model, detector, options.split)
            found |= {
                "krimp": ours,
                "nncodec": theirs,
                "saved_at_equal_map": saved(monotone(ours), monotone(theirs), "map"),
            }
        record["models"][label] = found
        for name, entries in _tables(found):
            for entry in entries:
                say(f"  {name}: " + ", ".join(f"{key} {_text(value)}" for key, value in entry.items()))
    return record


def _tables(found: Mapping[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    tables = [(f"against {name}", entries) for name, entries in found.get("saved_at_equal_loss", {}).items()]
    return tables + ([("against nncodec", found["saved_at_equal_map"])] if "saved_at_equal_map" in found else [])


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}" if value > 100 else f"{value:.4g}"


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("recipe", type=Path, help="recipe whose checkpoint and data are used")
    made.add_argument("--set", dest="overrides", action="append", default=[], metavar="PATH=VALUE")
    made.add_argument("--model", action="append", default=[], metavar="LABEL=FOLDER", help="a float model of a run")
    made.add_argument("--split", default="val", help="that is scored (default: val)")
    made.add_argument("--bits", type=int, default=6, help="widest integers (default: 6)")
    made.add_argument("--images", type=int, default=48, help="that errors are weighed on (default: 48)")
    made.add_argument("--only", nargs="+", choices=("errors", "scores"), default=["errors", "scores"])
    made.add_argument("--record", type=Path, help="file to write; must not exist")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and return the exit code."""
    options = parser().parse_args(arguments)
    with console():
        try:
            refuse_existing(options.record)
            write_record(options.record, measure(options))
        except CompressError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
