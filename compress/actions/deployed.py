"""What a network costs as a file that runs: bytes and milliseconds, of the whole and layer by layer."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from compress import codec
from compress.actions.quiet import quiet
from compress.export import export_onnx
from compress.layer_names import layer_of
from compress.metrics.complexity import measure_complexity
from compress.model_copy import copy_of
from compress.pruning.measured_cost import BETWEEN as NO_LAYER
from compress.pruning.measured_cost import LayerShape, MeasuredCost, MeasuredNetwork, layer_shapes
from compress.quantization import QuantizationSettings, calibrate, quantize
from compress.runtime.latency import measure_interleaved
from compress.runtime.profile import BETWEEN, seconds_by_layer
from compress.runtime.session import open_session
from compress.stages.export_onnx import ExportOnnx

if TYPE_CHECKING:
    from torch import nn

    from compress.detector import Detector
    from compress.pruning.budget import CostFunction
    from compress.pruning.side_widths import SideWidths

WARMUP, MOST_RUNS, LEAST_RUNS = 2, 60, 3
TIMING_S = 8.0  # that all timed rounds take about


def fastest_ms(files: Mapping[str, Path], image: np.ndarray, *, threads: int) -> dict[str, float]:
    """Return the milliseconds of an image for each file, in turns: of the fastest round, for others may be at work.

    One thread is timed by the processor's own count, which leaves out what others took meanwhile.

    Args:
        files: label -> ONNX file.
        image: (1, 3, H, W) float32.
        threads: of ONNX Runtime; 0: one per core.
    """
    if not files:
        return {}
    sessions = {label: open_session(path, threads=threads) for label, path in files.items()}

    def call(label: str) -> None:
        session = sessions[label]
        session.run(None, {session.get_inputs()[0].name: image})

    calls = {label: (lambda label=label: call(label)) for label in files}
    clock_ns = time.process_time_ns if threads == 1 else time.perf_counter_ns
    first = measure_interleaved(calls, warmup=1, runs=1)
    round_s = sum(float(times[0]) for times in first.values()) / 1e3
    runs = int(min(max(TIMING_S / max(round_s, 1e-6), LEAST_RUNS), MOST_RUNS))
    times_ms = measure_interleaved(calls, warmup=WARMUP, runs=runs, clock_ns=clock_ns)
    return {label: float(times.min()) for label, times in times_ms.items()}


def bytes_by_layer(path: Path, layers: Sequence[str]) -> dict[str, float]:
    """Return layer -> bytes of its constants, by their entropy; `BETWEEN` is what belongs to none.

    The codec is within a percent of entropy, but small tensors share a heap.
    """
    sizes: dict[str, float] = {}
    for fact in codec.inspect_file(path):
        layer = layer_of(fact.name, layers) or BETWEEN
        sizes[layer] = sizes.get(layer, 0.0) + fact.entropy_bits_per_weight * fact.elements / 8
    return sizes


@dataclass
class _Seen:
    """One network: the shapes of its layers, and name of a limit -> how it was measured."""

    shapes: Mapping[str, LayerShape]
    measured: Mapping[str, MeasuredNetwork]


class DeployedMeter:
    """Measures float networks as int8 files: quantized with ranges of noise, exported, packed and timed.

    Time hardly depends on weights; bytes are those of the weights as they are, quantized without training.
    """

    def __init__(self, detector: Detector, folder: Path, names: Sequence[str], *, threads: int = 1) -> None:
        """Measure nothing yet.

        Args:
            detector: the plug-in.
            folder: takes files that are not kept; made if it is missing.
            names: of the limits, 'packed_bytes' and 'latency_ms'.
            threads: of ONNX Runtime; 0: one per core.
        """
        self._detector = detector
        self._folder = folder
        self._names = tuple(names)
        self._threads = threads
        self._seen: list[_Seen] = []
        self._float: Path | None = None
        self._float_ms = 0.0

    @property
    def networks(self) -> int:
        """Return how many networks of different widths were measured."""
        return len(self._seen)

    def measure(self, model: nn.Module) -> None:
        """Measure a network, unless one of its widths was; it is the latest in either case."""
        shapes = self._shapes(model)
        for number, one in enumerate(self._seen):
            if one.shapes == shapes:
                self._seen.append(self._seen.pop(number))
                return
        path = self._export(quantize_untrained(model, self._detector), "int8.onnx", names="full")
        self._seen.append(_Seen(shapes, {name: self._network(name, path, shapes) for name in self._names}))

    def costs(self, model: nn.Module) -> dict[str, float]:
        """Return name of a limit -> cost of a network, measured."""
        self.measure(model)
        return {name: one.total for name, one in self._seen[-1].measured.items()}

    def cost_functions(self, model: nn.Module, widths: SideWidths) -> dict[str, CostFunction]:
        """Return name of a limit -> cost of a network by its widths, from all that was measured."""
        shapes = self._shapes(model)
        owners = {name: _owner(name, shapes, widths) for name in shapes}
        return {
            name: MeasuredCost([one.measured[name] for one in self._seen], shapes, widths, owners)
            for name in self._names
        }

    def latency_for(self, speedup: float, model: nn.Module) -> float:
        """Return the milliseconds that are so many times less than those of a network in float.

        From then on networks are timed in turns with that one, as a benchmark times them, and told in its milliseconds.
        """
        self._float = self._export(model, "float.onnx")
        self._float_ms = fastest_ms({"": self._float}, self._image(), threads=self._threads)[""]
        return self._float_ms / speedup

    def _shapes(self, model: nn.Module) -> dict[str, LayerShape]:
        costs = measure_complexity(model, self._detector.example_input(1)).layers
        weights = dict(model.named_modules())
        return layer_shapes(model, {name: one.macs // weights[name].weight.numel() for name, one in costs.items()})

    def _export(self, model: nn.Module, name: str, **form: str) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / name
        with quiet():
            export_onnx(model, path, detector=self._detector, **{**ExportOnnx().form(), **form})
        return path

    def _network(self, name: str, path: Path, shapes: Mapping[str, LayerShape]) -> MeasuredNetwork:
        layers = list(shapes)
        if name == "packed_bytes":
            total = float(codec.pack_file(path, path.with_suffix(".krimp")).packed_bytes)
            parts = bytes_by_layer(path, layers)
        else:
            image = self._image()
            total = self._milliseconds(path, image)
            parts = seconds_by_layer(path, image, threads=self._threads, layer_of=lambda one: layer_of(one, layers))
        return MeasuredNetwork(total, {NO_LAYER if k == BETWEEN else k: v for k, v in parts.items()}, shapes)

    def _milliseconds(self, path: Path, image: np.ndarray) -> float:
        if self._float is None:
            return fastest_ms({"": path}, image, threads=self._threads)[""]
        times = fastest_ms({"float": self._float, "": path}, image, threads=self._threads)
        return times[""] / times["float"] * self._float_ms

    def _image(self) -> np.ndarray:
        image: np.ndarray = self._detector.example_input(1).numpy()
        return image


def quantize_untrained(model: nn.Module, detector: Detector) -> nn.Module:
    """Return a copy with integer weights and activations whose ranges are those of noise."""
    with quiet(), torch.no_grad():
        quantized = quantize(copy_of(model).eval(), QuantizationSettings(), detector)
        calibrate(quantized, [detector.example_input(1)])
    return quantized.eval()


def _owner(name: str, shapes: Mapping[str, LayerShape], widths: SideWidths) -> str:
    """Return the layer whose sides tell a layer's widths: its own, or those of the layer with a rule that it is in."""
    if any(widths.is_narrowed(name, side) for side in ("out", "in")):
        return name
    parts = name.split(".")
    around = [one for length in range(len(parts) - 1, 0, -1) if (one := ".".join(parts[:length])) in shapes]
    return next((one for one in around if any(widths.is_narrowed(one, side) for side in ("out", "in"))), name)
