"""The methods that `benchmarks/peers.py` compares, by name: other tools', the classic ones, and Krimp's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from benchmarks.deep_compression import compressed
from benchmarks.peer_job import Job, Made
from benchmarks.peer_tools import (
    modelopt_int8,
    nncf_guarded,
    nncf_ptq,
    nncodec_at,
    onnxruntime_static,
    onnxsim_auto,
)
from benchmarks.peer_training import torch_pruning
from benchmarks.post_training import OURS, load_float
from compress.actions.size_rounding import SizeRounding, weigh_errors
from compress.errors import StageError
from compress.export import export_onnx
from compress.quantization import QuantizationSettings, quantize
from compress.quantization.post_training import post_train
from compress.quantization.settings import PostTraining
from compress.quantization.size_target import SizeTarget

FLOAT = "float"
KRIMP = "krimp_"  # what our rows begin with
WEIGHED = 48  # images that errors are weighed on, as in the stage round_weights

Method = Callable[[Job], Made]


def unchanged(job: Job) -> Made:
    """Leave the float file as it is."""
    return Made(str(job.float_file))


def post_trained(name: str) -> Method:
    """Return our quantization by the settings of that name; see `benchmarks/post_training.py`."""

    def make(job: Job) -> Made:
        settings, wanted = OURS[name]
        quantized = quantize(load_float(job.detector), settings, job.detector)
        post_train(quantized, lambda: job.batches, wanted)
        export_onnx(quantized, job.target, detector=job.detector)
        return Made(job.target.name)

    return make


def rounded_to(num_bytes: int) -> Method:
    """Return what the stages `qat` (no epochs) and `round_weights` make for a size."""

    def make(job: Job) -> Made:
        quantized = quantize(load_float(job.detector), QuantizationSettings(weight_bit_width=6), job.detector)
        post_train(quantized, lambda: job.batches, PostTraining(rounding="nearest", correct_bias=False))
        context = job.context()
        statistics = weigh_errors(quantized, context, images=WEIGHED, label=job.folder.name)
        sizing = SizeRounding(quantized, statistics, context, label=job.folder.name)
        sizing.settle(sizing.to(SizeTarget(packed_bytes=num_bytes), baseline=FLOAT))
        export_onnx(quantized, job.target, detector=job.detector)
        return Made(job.target.name)

    return make


def deep_compression(sparsity: float, bits: int) -> Method:
    """Return Deep Compression's order with a share of zeros and a palette for each convolution, nothing trained."""

    def make(job: Job) -> Made:
        model, size = load_float(job.detector), 0
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim < 2:
                    size += 4 * parameter.numel()
                    continue
                weights, layer_bytes = compressed(parameter.numpy(), sparsity, bits)
                parameter.copy_(torch.from_numpy(weights))
                size += layer_bytes
        size += sum(4 * one.numel() for one in model.buffers() if one.is_floating_point())
        export_onnx(model, job.target, detector=job.detector)
        return Made(job.target.name, size, "weights alone, activations in float")

    return make


def shipped(job: Job) -> dict[str, Method]:
    """Return a method for each packed file of the plug-in that was made from the recipe's checkpoint."""
    checkpoint = job.detector.checkpoint_path()
    if checkpoint is None:
        raise StageError("the recipe names no checkpoint, so there is nothing to compare. Set detector.checkpoint.")
    paths = sorted(checkpoint.parent.glob(f"{checkpoint.stem}*.krimp"))
    return {f"{KRIMP}zoo_{path.stem}": there(path) for path in paths}


def there(path: Path) -> Method:
    """Return what leaves a file as it is."""
    return lambda _job: Made(str(path), note="trained")


UNTRAINED: Mapping[str, Method] = {
    FLOAT: unchanged,
    "onnxruntime_static": onnxruntime_static,
    "nncf": nncf_ptq,
    "onnxsim_auto": onnxsim_auto,
    "modelopt_int8": modelopt_int8,
    "brevitas_7_bits": post_trained("ranges_only_7_bits"),
    "brevitas_8_bits_vnni": post_trained("ranges_only_8_bits_vnni"),
    "deep_compression_30_6": deep_compression(0.3, 6),
    "deep_compression_50_5": deep_compression(0.5, 5),
    "nncodec_-32": nncodec_at(-32),
    "nncodec_-28": nncodec_at(-28),
    "nncodec_-24": nncodec_at(-24),
    f"{KRIMP}8_bits_vnni": post_trained("krimp_8_bits_vnni"),
    f"{KRIMP}7_bits": post_trained("krimp_7_bits"),
    f"{KRIMP}6_bits": post_trained("krimp_6_bits"),
    f"{KRIMP}rounded_870kB": rounded_to(870_000),
    f"{KRIMP}rounded_450kB": rounded_to(450_000),
    "nncf_guarded": nncf_guarded,
}
TRAINED: Mapping[str, Method] = {"torch_pruning_uniform": torch_pruning}
