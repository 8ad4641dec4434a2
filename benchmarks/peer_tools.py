"""Other tools at work on the float ONNX file, each as its own documentation says; see `benchmarks/peers.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from benchmarks.peer_job import Job, Made
from benchmarks.post_training import load_float, quantize_with_onnxruntime
from benchmarks.rate_rounding import nncodec_coded
from compress.detector import AdaptsTruth, Detector
from compress.export import export_onnx
from compress.plugins import deploy_of
from compress.predictor import Predictor
from compress.runtime.forwards import onnx_forward

MAX_DROP = 0.005  # map, half a point: the limit that goals of our recipes state
GUARD_IMAGES = 32  # of 'val', evenly spread, that NNCF's control looks at: it does so once for each group of layers
ONNXSIM_BUDGET = 0.02  # greatest relative error of an output, onnxsim's default


def onnxruntime_static(job: Job) -> Made:
    """Quantize with ONNX Runtime's own tool."""
    quantize_with_onnxruntime(job.float_file, job.target, [image[None] for image in job.images])
    return Made(job.target.name)


def nncf_ptq(job: Job) -> Made:
    """Quantize with NNCF, default settings, all images."""
    import nncf
    import onnx

    model = onnx.load(job.float_file)
    onnx.save(nncf.quantize(model, _nncf_images(model, job.images), subset_size=len(job.images)), job.target)
    return Made(job.target.name, note=f"nncf {nncf.__version__}")


def nncf_guarded(job: Job) -> Made:
    """Quantize with NNCF, which takes layers back into float until the loss of map is small."""
    import nncf
    import onnx

    model = onnx.load(job.float_file)
    numbers = spread(len(job.detector.data.images("val")), GUARD_IMAGES)
    quantized = nncf.quantize_with_accuracy_control(
        model,
        _nncf_images(model, job.images),
        nncf.Dataset(numbers),
        lambda changed, chosen: (map_of(job.detector, changed.SerializeToString(), chosen), None),
        max_drop=MAX_DROP,
        drop_type=nncf.DropType.ABSOLUTE,
        subset_size=len(job.images),
    )
    onnx.save(quantized, job.target)
    return Made(job.target.name, note=f"at most {MAX_DROP} map lost on {len(numbers)} images of val")


def onnxsim_auto(job: Job) -> Made:
    """Let onnxsim choose among its schemes what keeps the outputs."""
    import onnx
    import onnxsim

    model = onnx.load(job.float_file)
    name = model.graph.input[0].name
    found = onnxsim.recommend_quantization(
        model, accuracy_budget=ONNXSIM_BUDGET, calibration_data=[{name: np.array(one[None])} for one in job.images]
    )
    onnx.save(found.quantized_model, job.target)
    kept = "kept" if found.meets_budget else f"missed: {found.report.worst_relative_l2:.3f}"
    return Made(job.target.name, note=f"chose {found.config.scheme}, {found.config.dtype}; {ONNXSIM_BUDGET} {kept}")


def modelopt_int8(job: Job) -> Made:
    """Quantize with ModelOpt's tool for ONNX files, in 8 bits, on the CPU."""
    from modelopt.onnx.quantization import quantize

    quantize(
        str(job.float_file),
        quantize_mode="int8",
        calibration_data=np.array(job.images),
        calibration_eps=["cpu"],
        high_precision_dtype="fp32",
        output_path=str(job.target),
    )
    return Made(job.target.name)


def nncodec_at(step: int) -> Callable[[Job], Made]:
    """Return NNCodec at a step size (qp)."""

    def make(job: Job) -> Made:
        stream, coded = nncodec_coded(load_float(job.detector), step, job.folder)
        export_onnx(coded, job.target, detector=job.detector)
        return Made(job.target.name, len(stream), "weights alone, activations in float")

    return make


def spread(total: int, wanted: int) -> list[int]:
    """Return at most so many of the numbers below `total`, evenly spread."""
    return sorted({int(number) for number in np.linspace(0, total - 1, min(wanted, total))})


def map_of(detector: Detector, model: bytes, numbers: Iterable[int]) -> float:
    """Return the map of an ONNX model on some pictures of 'val'."""
    predictor = Predictor(onnx_forward(model, 1), deploy_of(detector))
    adapt = detector.adapt_truth if isinstance(detector, AdaptsTruth) else lambda truth: truth
    wanted = set(numbers)
    chosen = [picture for number, picture in enumerate(detector.data.images("val")) if number in wanted]
    found = [predictor.detect(picture.image) for picture in chosen]
    scores = detector.data.score(found, [adapt(picture.truth) for picture in chosen])
    return 0.0 if scores.map is None else float(scores.map)


def _nncf_images(model: Any, images: np.ndarray) -> Any:
    import nncf

    name = model.graph.input[0].name
    return nncf.Dataset(images, lambda image: {name: np.array(image[None])})
